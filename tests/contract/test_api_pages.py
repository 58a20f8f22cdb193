"""The page of an episode: links that expire, GET that only shows, forms that cannot be forged, text that stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import make_labels
from anomalyd.clock import HOUR_MS
from anomalyd.console.chart import episode_chart
from anomalyd.console.links import Signer, Ticket, link_actions, link_places, stored_key
from anomalyd.console.pageview import view_of
from anomalyd.incident import Reason
from anomalyd.records import FeedbackLabel
from anomalyd.render import number, rfc3339
from anomalyd.score import Tier
from anomalyd.secret import Secret
from anomalyd.settings import Token, Web
from anomalyd.store import open_store
from console_kit import KEY, NOW, RULE, Client, Console, episode, statement


def field(page: httpx.Response, name: str) -> str:
    """The value of a hidden field of the page's form."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found, page.text
    return found[1]


def press(client: Client, path: str, vote: str, **more: str) -> httpx.Response:
    """Open the page and press one of its buttons, as a browser does."""
    page = client.get(path)
    assert page.status_code == 200, page.text
    form = {"csrf": field(page, "csrf"), "nonce": field(page, "nonce"), "vote": vote, **more}
    return client.post(path, data=form)


def test_a_link_shows_the_alert_and_only_its_form_acts() -> None:
    """GET, with any choice in the address, changes nothing; POST votes once and leads back to the page."""
    console = Console()
    console.fill_scores()
    client, path = console.client(), "/f/" + console.link()
    page = client.get(path + "?choice=false_alarm")
    assert "The value was 1.93 at its worst, expected 0.4." in page.text
    assert "<svg" in page.text
    assert 'class="false chosen"' in page.text
    assert console.store.feedback() == []
    answer = press(client, path, "false_alarm", who="Ana", cause="deploy")
    assert answer.status_code == 303
    (kept,) = console.store.feedback()
    assert (kept.label, kept.who, kept.via, kept.cause) == (FeedbackLabel.FALSE, "Ana@slack", "link", "deploy")
    after = client.get(path + answer.headers["location"])
    assert "Thank you. Counted: false alarm." in after.text
    assert "Ana (link sent to slack)" in after.text


def test_pressing_twice_counts_once() -> None:
    """The same form sent twice, by an impatient finger or a retrying proxy, is one vote."""
    console = Console()
    client, path = console.client(), "/f/" + console.link()
    page = client.get(path)
    form = {"csrf": field(page, "csrf"), "nonce": field(page, "nonce"), "vote": "real"}
    assert [client.post(path, data=form).status_code for _ in range(2)] == [303, 303]
    assert len(console.store.feedback()) == 1


def test_a_vote_on_the_whole_incident() -> None:
    """The box below the buttons votes on every series of the incident, as one act."""
    console = Console()
    assert press(console.client(), "/f/" + console.link(), "expected", scope="incident").status_code == 303
    assert {v.episode for v in console.store.feedback()} == {"e1", "e2"}
    assert len({v.at for v in console.store.feedback()}) == 1


def test_snoozing_silences_the_series_for_the_time_chosen() -> None:
    """A snooze is a silence on that series of that rule; another time than those offered is refused."""
    console = Console()
    console.store.save_episodes([episode("e1", incident="i1", live=True)])
    client, path = console.client(), "/f/" + console.link()
    answer = press(client, path, "snooze", **{"for": "4h"})
    assert answer.status_code == 303
    assert "Snoozed until 16:00 UTC" in client.get(path + answer.headers["location"]).text
    (silence,) = console.store.silences()
    assert silence.ends_at - silence.starts_at == 4 * HOUR_MS
    assert {(m.name, m.value) for m in silence.matchers} == {
        ("__name__", "latency_seconds"), ("region", "eu"), ("rule", RULE.id),
    }  # fmt: skip
    assert press(client, path, "snooze", **{"for": "9999"}).status_code == 400
    assert press(client, path, "delete_all").status_code == 400
    assert len(console.store.silences()) == 1


def test_snoozing_the_whole_incident_is_one_silence_for_what_joins_it_too() -> None:
    """By the rule and the labels of the group, until nine tomorrow where the rule lives."""
    console = Console()
    console.store.save_episodes([episode("e1", incident="i1", live=True)])
    path = "/f/" + console.link()
    assert press(console.client(), path, "snooze", scope="incident", **{"for": "tomorrow"}).status_code == 303
    (silence,) = console.store.silences()
    assert [(m.name, m.value) for m in silence.matchers] == [("rule", RULE.id)]
    assert rfc3339(silence.ends_at)[11:16] == "07:00"  # nine in Madrid in September


def test_what_is_over_is_judged_but_not_snoozed() -> None:
    """The page of an episode that has ended has the verdicts and no snooze; a snooze sent all the same is refused."""
    console = Console()
    client, path = console.client(), "/f/" + console.link()
    page = client.get(path).text
    assert 'value="real"' in page
    assert 'value="snooze"' not in page
    refused = press(client, path, "snooze", **{"for": "1h"})
    assert refused.status_code == 400
    assert "it is over" in refused.text
    assert console.store.silences() == []


def test_a_vote_can_be_taken_back_by_whoever_holds_the_link() -> None:
    """One's own vote has a button to take it back; that of another channel has not, and cannot be taken back here."""
    console = Console()
    client, path = console.client(), "/f/" + console.link()
    press(client, path, "real")
    (kept,) = console.store.feedback()
    assert press(client, path, "undo", id=kept.id).status_code == 303
    assert console.store.feedback()[0].undone_at == NOW
    other = console.ballot.vote_on("e1", FeedbackLabel.FALSE, "ben", "api", NOW)
    console.ballot.cast(other, NOW)
    assert press(client, path, "undo", id=other.id).status_code == 400


def test_a_form_needs_the_cookie_of_its_browser() -> None:
    """Fault 95: a form that another site fills in, without the cookie or from a foreign origin, does nothing."""
    console = Console()
    path = "/f/" + console.link()
    victim = console.client()
    page = victim.get(path)
    form = {"csrf": field(page, "csrf"), "nonce": "x", "vote": "false_alarm"}
    assert console.client().post(path, data=form).status_code == 403
    assert victim.post(path, data={**form, "csrf": "forged"}).status_code == 403
    assert victim.post(path, data={**form, "csrf": "é"}).status_code == 403
    foreign = {"Origin": "https://evil.example"}
    assert victim.post(path, data=form, headers=foreign).status_code == 403
    assert console.store.feedback() == []
    cookie = page.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("path", ["/f/{link}", "/episodes/e1", "/f/none", "/episodes/none"])
def test_nobody_may_frame_the_page_or_run_a_script_in_it(path: str) -> None:
    """Fault 95: frame-ancestors none and no script at all, on every answer."""
    console = Console()
    answer = console.client().get(path.format(link=console.link()))
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "same-origin"


def test_links_expire_and_cannot_be_made() -> None:
    """Expired, altered, cut, foreign: 410 and nothing of the alert; the query cannot prolong it."""
    console = Console()
    client, good = console.client(), console.link()
    foreign = Signer(b"another key, just as long").token(Ticket("i1", "e1", "slack", NOW + HOUR_MS))
    flipped = good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1]
    for bad in (console.link(hours=0), foreign, flipped, good[:-1], good + "A", "v1..", "v2" + good[2:], "v1." * 900):
        answer = client.get(f"/f/{bad}")
        assert answer.status_code in (404, 410), bad
        assert "latency" not in answer.text.lower()


@given(st.text(max_size=200))
def test_no_text_is_a_ticket(text: str) -> None:
    """Law: what was not signed with the key is no ticket, whatever it is, and never an error."""
    assert Signer(KEY).ticket(text, NOW) is None


class Strict(HTMLParser):
    """Collects tags, attributes and text as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


NASTY = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_hostile_text_stays_text() -> None:
    """Fault 96: labels, expressions, names, causes and annotations are escaped; a javascript: link is left out."""
    rule = replace(RULE, expr=NASTY, annotations={"runbook_url": "javascript:alert(1)", "dashboard_url": NASTY})
    console = Console(rule=rule)
    e = episode("bad", of=make_labels({"region": NASTY, NASTY: "x"}))
    console.store.save_episodes([e])
    vote = console.ballot.vote_on("bad", FeedbackLabel.TRUE, NASTY, "slack", NOW, cause=NASTY, text=NASTY)
    console.ballot.cast(vote, NOW)
    page = Strict()
    page.feed(console.client().get("/f/" + console.link("bad") + f"?choice={NASTY}&said={NASTY}").text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for name, value in page.attributes if name in ("href", "action") and "script" in (value or "")]
    assert "<script>alert(1)</script>" in page.words


def test_hostile_characters_are_taken_out_of_what_is_shown() -> None:
    """Fault 97: terminal codes, marks that turn text, NUL and 10 kB of label do not reach the reader."""
    console = Console()
    e = episode("bad", of=make_labels({"region": "a\x1b[31m\u202eb\x00" + "z" * 10_000}))
    console.store.save_episodes([e])
    text = console.client().get("/f/" + console.link("bad")).text
    assert not re.search("[\x00\x1b\u202e]", text)
    assert len(text) < 20_000


def test_a_user_of_the_api_sees_the_page_without_a_signature() -> None:
    """A local user sees and votes under their own name; the page asks for none."""
    console = Console()
    client = console.client()
    page = client.get("/episodes/e1")
    assert 'name="who"' not in page.text
    assert press(client, "/episodes/e1", "real").status_code == 303
    assert [(v.who, v.via) for v in console.store.feedback()] == [("local", "console")]
    assert client.get("/episodes/none").status_code == 404


def test_the_front_page_tells_what_is_open_and_what_was() -> None:
    """The worst first, each with its value and a link to its page; labels stay text; nothing open is said so."""
    console = Console()
    client = console.client()
    assert "Nothing is open" in client.get("/").text
    evil = make_labels({"__name__": "latency_seconds", "region": "<b>eu</b>"})
    console.store.save_episodes([
        episode("calm", live=True, of=evil), replace(episode("bad", region="mx", live=True), tier=Tier.CRITICAL),
    ])  # fmt: skip
    page = client.get("/")
    assert (page.status_code, "2 open alerts" in page.text, "<b>eu" in page.text) == (200, True, False)
    one = episode("bad")
    assert f"; {number(one.peak_value)}, expected {number(one.peak_expected)} at its worst" in page.text
    assert page.text.index("episodes/bad") < page.text.index("episodes/calm") < page.text.index("episodes/e1")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in re.findall('href="([^"]+)"', page.text):
        if "ready" not in path:
            assert client.get("/" + path).status_code == 200, path


def test_the_front_page_is_for_users_of_the_api() -> None:
    """Where tokens are asked for, a stranger learns nothing of what is open."""
    console = Console(Web("127.0.0.1", 9640, tokens={"ana": Token(Secret("ana-token"))}))
    console.store.save_episodes([episode("bad", live=True)])
    answer = console.client().get("/")
    assert (answer.status_code, "bad" in answer.text, "region" in answer.text) == (401, False, False)


def test_the_limit_of_votes_is_told_on_the_page() -> None:
    """Fault 94: the 429 is a page that says so, and nothing is kept beyond the limit."""
    console = Console()
    console.ballot.policy = replace(console.policy, votes_per_person_per_day=1)
    client = console.client()
    assert press(client, "/f/" + console.link(), "real", who="a").status_code == 303
    console.clock.advance_to(NOW + 5)
    refused = press(client, "/f/" + console.link("e2"), "real", who="b")
    assert refused.status_code == 429
    assert "the limit" in refused.text
    assert len(console.store.feedback()) == 1


def test_messages_carry_links_that_open() -> None:
    """The actions of a statement lead to the page; tests, outages and daemons without an address have none."""
    console = Console(Web("127.0.0.1", 9640, external_url="https://a.example/x"))
    actions = link_actions(console.signer, "https://a.example/x", 24 * HOUR_MS, buttons_call_back=False)
    made = actions(statement(console.first), "mail")
    assert [a.id for a in made] == ["real", "false_alarm", "expected", "snooze"]
    assert all(a.url.startswith("https://a.example/x/f/v1.") and not a.value for a in made)
    path = made[1].url.removeprefix("https://a.example/x")
    page = console.client("a.example").get(path)
    assert page.status_code == 200
    assert 'class="false chosen"' in page.text
    assert actions(statement(console.first, Reason.TEST), "mail") == ()
    over = actions(statement(console.first, Reason.RESOLVED), "mail")
    assert [a.id for a in over] == ["real", "false_alarm", "expected"]
    (details,) = link_places(console.signer, "https://a.example/x", 24 * HOUR_MS)(statement(console.first), "mail")
    assert console.client("a.example").get(details.url.removeprefix("https://a.example/x")).status_code == 200
    called = link_actions(console.signer, "https://a.example", 24 * HOUR_MS, buttons_call_back=True)
    assert all(0 < len(a.value) <= 2_000 for a in called(statement(console.first), "slack"))


def test_the_key_is_made_once_and_kept() -> None:
    """Links still work after a restart: the key lies with the data."""
    store = open_store("sqlite://")
    assert stored_key(store) == stored_key(store)
    assert len(stored_key(store)) == 32


def test_the_chart_draws_gaps_and_thins_out_long_spans() -> None:
    """Nothing to draw gives no chart; the picture stays small for many samples and holds numbers only."""
    console = Console()
    console.fill_scores()
    seen = console.store.scores(RULE.id, NOW - 4 * HOUR_MS, NOW, [0])
    assert episode_chart(seen[:1], NOW, NOW) == ""
    assert episode_chart([], NOW, NOW) == ""
    picture = episode_chart(seen, NOW - HOUR_MS, NOW)
    assert picture.count("<polyline") == 1
    assert 'class="band"' in picture
    assert "nan" not in picture
    many = episode_chart([replace(seen[0], at=i) for i in range(50_000)], 0, 9)
    assert len(many) < 60_000


def test_an_open_episode_and_a_rule_that_is_gone_are_told_as_such() -> None:
    """The words of the page fit an alert that goes on, and one whose rule is no longer running."""
    console = Console()
    console.store.save_episodes([episode("live", live=True)])
    view = view_of(console.parts, episode("live", live=True), lambda *_: False, may_act=True, asks_name=False,
                   choice="", said="")  # fmt: skip
    assert view["state"].endswith("so far")
    assert view["sentence"] == "The value is 1.93, expected 0.31 to 0.52."
    console.rules.clear()
    assert "not running" in console.client().get("/episodes/e1").text
