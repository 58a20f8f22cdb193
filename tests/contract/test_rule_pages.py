"""The pages of the rules: alive, deaf or noisy in one look, for thousands of series, and text stays text."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from anomalyd.block import Block, fingerprint, make_labels
from anomalyd.clock import HOUR_MS, WEEK_MS
from anomalyd.console.peace import interval_words
from anomalyd.console.rulesview import href
from anomalyd.delivery.hush import MuteWindow
from anomalyd.intervals import Interval
from anomalyd.records import FeedbackLabel, Matcher, Silence, ThresholdChange
from anomalyd.rule import Budget, DetectorSpec, TierPolicy
from anomalyd.score import Tier
from anomalyd.secret import Secret
from anomalyd.settings import Token, Web
from anomalyd.slot import NoticeKind, make_notice
from console_kit import RULE as LATENCY
from console_kit import Client, Console, episode, vote
from life import HISTORY, RULE, START, M, change, recorded
from rules_kit import lived

NASTY = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
PAGE = "/rules/g/Load"


class Strict(HTMLParser):
    """Collects tags, attributes and words as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def words(client: Client, path: str) -> str:
    """What a reader sees of a page, with single spaces."""
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return " ".join(Strict(answer.text).words.split())


def test_a_rule_that_is_well_says_so_in_numbers() -> None:
    """Place in the file, detector, series, newest slot, age of the model and the budget: all in one row."""
    console = lived(rule=replace(RULE, where="rules/first.yml:7")).app_console(60)
    seen = words(console.client(), "/rules")
    assert "The rule is alive" in seen
    for said in ("Load", "g · mad", "rules/first.yml:7", "fine", "0 alerts; budget 9.6", "3 scored",
                 "learned up to 1h 1m ago", "1m ago"):  # fmt: skip
        assert said in seen, said
    assert 'href="http://prom.example' not in console.client().get("/rules").text  # the rule's source is another one
    console.rules = {RULE.id: replace(console.rules[RULE.id], source="p")}
    assert 'href="http://prom.example:9090/graph?g0.expr=load&amp;' in console.client().get("/rules").text
    assert "It is evaluated on time" in words(console.client(), PAGE)


def test_a_rule_without_slots_for_long_is_late() -> None:
    """An hour without a slot of a rule of every minute is told first, as an emergency."""
    console = lived().app_console(120)
    seen = words(console.client(), "/rules")
    assert "The rule needs a look" in seen
    assert "late No slot for 1h 1m; one is due every 1m." in seen


def test_a_rule_in_error_says_why() -> None:
    """The newest slot's reason and detail stand on both pages; the series of the slot before are still counted."""
    built = lived()
    built.life.source.down = {60}
    built.life.live(60, 61)
    client = built.app_console(61).client()
    for path in ("/rules", PAGE):
        assert "The newest slot failed, connect: refused. Nothing opens or resolves by it." in words(client, path), path
    assert "3 scored" in words(client, "/rules")


def test_a_rule_that_is_deaf_says_so() -> None:
    """No series at all, and none with a sample now, are told apart from a rule that is well."""
    block = recorded()
    none = lived(Block(block.labels[:0], block.times, block.values[:0])).app_console(60)
    assert "deaf The expression finds no series" in words(none.client(), "/rules")
    values = block.values.copy()
    values[:, HISTORY + 40 :] = np.nan
    silent = lived(Block(block.labels, block.times, values)).app_console(60)
    assert "deaf None of its series has a sample now." in words(silent.client(), "/rules")


def test_a_rule_that_is_noisy_says_so() -> None:
    """Alerts beyond twice the budget, and alerts that people mostly called false, are told with the figures."""
    weekly = replace(RULE, tiers=(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS, per="rule")),))
    built = lived(rule=weekly)
    told = [episode(f"n{i}", started=START + i * M, rule=RULE.id) for i in range(5)]
    built.console.store.save_episodes(told)
    for one in told:
        built.console.store.add_feedback(vote(one, FeedbackLabel.FALSE, at=START + 50 * M))
    seen = words(built.app_console(60).client(), "/rules")
    assert "noisy 5 alerts in 7 days; the budget has room for 1 false." in seen
    assert "Only 0 of 5 judged alerts were real." in seen
    assert "0 of 5 judged were real (0%)" in seen
    page = words(built.console.client(), PAGE)
    assert "false alarm" in page
    assert "budget 1 per week per rule surprise 4.48: once in 30.24k samples when all is well" in page


def test_the_page_of_a_rule_has_its_past() -> None:
    """Open episodes, steps of the threshold with who and why, notices, silences and windows that apply."""
    block = change(recorded(), 1, 50, 60, 99.0)
    window = Interval(times=((22 * 60, 6 * 60),), weekdays=((0, 4),), timezone="Europe/Madrid")
    built = lived(block, replace(RULE, dont_learn=(window,)))
    store, own = built.console.store, block.labels[1]
    store.save_threshold(ThresholdChange(RULE.id, START, (4.5, 6.0, 9.0), "feedback", fingerprint(own), "ana", "seen"))
    store.add_notices([make_notice(NoticeKind.DRIFT, RULE.id, START, "drifts away", labels=own)])
    mine = (Matcher("rule", "=", RULE.id), Matcher("host", "=", "h1"))
    for name, matchers in (("s1", mine), ("s2", (Matcher("rule", "=", "other/rule"),))):
        store.add_silence(Silence(name, matchers, START, START + 9 * HOUR_MS, name, "disk swap"))
    quiet = MuteWindow("always", (Interval(),), (Matcher("alertname", "=", "Load"),))
    built.console.settings = replace(built.console.settings, mute_windows=(quiet,))
    client = built.app_console(60).client()
    seen = words(client, PAGE)
    for said in (
        "drifts away", "by s1: disk swap", "seen; by ana", "22:00 to 06:00, monday to friday",
        "mute window always now the whole rule (warning, critical): always (UTC)",
        "Nobody is told now: the mute window always (warning, critical).", 'what has host="h1"',
    ):  # fmt: skip
        assert said in seen, said
    assert re.search(r"host=h1 \d\.\d\d 99 .* critical abnormal", seen)
    assert "by s2" not in seen
    (live,) = built.life.evaluator.runs[RULE.id].memory.open_episodes()
    assert f'href="../../episodes/{live.id}"' in client.get(PAGE).text
    assert seen.index("host=h1") < seen.index("host=h0", seen.index("An alert begins") - 400)


def crowd(n: int) -> Block:
    """Many series of few samples, one of them far out."""
    block = recorded(2, minutes=20)
    rng = np.random.default_rng(3)
    values = 10 + rng.normal(size=(n, 260 + 20))
    values[n // 2, -5:] = 99.0
    labels = tuple(make_labels({"__name__": "load", "host": f"h{i}", "path": f"/v1/{'x' * 40}/{i}"}) for i in range(n))
    return Block(labels, block.times[HISTORY - 260 :], values)


def test_five_thousand_series_are_shown_by_the_page() -> None:
    """The most surprising first, fifty at a time, found by words; under a second of CPU, and of bounded size."""
    rule = replace(RULE, max_series=10_000, history_ms=260 * M, admit_after=1)
    client = lived(crowd(5_000), rule, minutes=18).app_console(18).client()
    client.get(PAGE)  # compiles nothing, but imports
    for path in (PAGE, f"{PAGE}?page=77", f"{PAGE}?q=host%3Dh49&page=2", "/rules"):
        began = time.process_time()
        answer = client.get(path)
        assert time.process_time() - began < 1.0, path
        assert (answer.status_code, len(answer.text) < 120_000) == (200, True), path
    seen = words(client, PAGE)
    assert "5,000 found" in seen
    assert "page 2 of 100" in seen
    assert seen.index("host=h2500,") < seen.index("host=h1")
    found = words(client, f"{PAGE}?q=HOST%3Dh499%2C%20x/499")
    assert "host=h499, path=/v1/" in found
    assert "host=h4990" not in found
    assert "No series has these words." in words(client, f"{PAGE}?q=nobody")
    assert words(client, f"{PAGE}?page=none") == seen


def test_rules_are_found_and_paged() -> None:
    """A hundred rules to a page, those in trouble first, found by any of their words."""
    console = Console()
    console.rules = {r.id: r for i in range(250) if (r := replace(LATENCY, name=f"R{i:03d}", expr=f"metric_{i}"))}
    client = console.client()
    seen = words(client, "/rules")
    assert "R099" in seen
    assert "R100" not in seen
    assert "page 2 of 3" in seen
    assert "R249" in words(client, "/rules?page=3")
    assert "R123" in words(client, "/rules?q=METRIC_123")
    assert "No rule has these words" in words(client, "/rules?q=none+such")


def test_an_empty_daemon_says_what_to_do() -> None:
    """Without rules the page names the setting and the command; a rule that is not there is 404."""
    console = Console()
    console.rules = {}
    client = console.client()
    assert "No rules are running Name their files in rule_files" in words(client, "/rules").split("rules ", 1)[1]
    for path in ("/rules/none/such", "/rules/", "/rules/..%2F..", "/rules/%00"):
        answer = client.get(path)
        assert (answer.status_code, "No such rule" in answer.text) == (404, True), path


def test_a_rule_that_has_never_run_is_shown() -> None:
    """Just started, and standing by: neither memory nor slots, and both pages open all the same."""
    client = Console().client()
    assert "new No slot has been evaluated yet; one is due every 1m." in words(client, "/rules")
    assert "Nothing has been scored here yet." in words(client, f"/{href(LATENCY)}")


def test_hostile_text_stays_text() -> None:
    """Fault 96: names, expressions, labels, comments and searches are escaped; no link leads to a script."""
    block = recorded(1)
    block = Block((make_labels({"__name__": "load", "host": NASTY, NASTY: "x"}),), block.times, block.values)
    rule = replace(RULE, name=NASTY, where=NASTY, annotations={"runbook_url": "javascript:alert(1)"})
    built = lived(block, rule)
    mine = (Matcher("rule", "=", rule.id), Matcher("host", "=", NASTY))
    built.console.store.add_silence(Silence("s", mine, START, START + 9 * HOUR_MS, NASTY, NASTY))
    built.console.store.add_notices([make_notice(NoticeKind.FIT, rule.id, START, NASTY, labels=block.labels[0])])
    client = built.app_console(60).client()
    for path in ("/rules", f"/{href(rule)}", f"/{href(rule)}?q=script&page={NASTY}", f"/rules?q={NASTY}"):
        answer = client.get(path)
        page = Strict(answer.text)
        assert answer.status_code == 200, path
        assert not {"script", "img"} & {*page.tags}, path
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        links = [value or "" for name, value in page.attributes if name in ("href", "action")]
        assert not [link for link in links if link.startswith("javascript")]
        assert "<script>alert(1)</script>" in page.words or "?q=%22" in path or "No rule" in page.words
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


@pytest.mark.parametrize("name", ["Load", "a/b c", "../..", ".", "ü%2F?#"])
def test_every_name_has_an_address(name: str) -> None:
    """The link of the list opens the rule, and the links of its page lead back, whatever it is called."""
    console = Console(rule=replace(LATENCY, name=name))
    client = console.client()
    (link,) = re.findall('href="(rules/[^"]+)"', client.get("/rules").text)
    page = client.get("/" + link)
    assert page.status_code == 200
    (back,) = set(re.findall('href="([^"]*page.css)"', page.text))
    assert back.count("../") == link.count("/")


def test_the_pages_ask_as_the_api_does() -> None:
    """Where tokens are asked for, a stranger learns nothing of the rules; a reader's token opens them."""
    console = Console(Web("127.0.0.1", 9640, tokens={"ana": Token(Secret("ana-token"), read_only=True)}))
    for path in ("/rules", f"/{href(LATENCY)}"):
        answer = console.client().get(path)
        assert (answer.status_code, "latency" in answer.text.lower()) == (401, False)
        opened = console.client(headers={"Authorization": "Bearer ana-token"}).get(path)
        assert (opened.status_code, "Latency" in opened.text) == (200, True)


def test_the_front_page_leads_to_the_rules() -> None:
    """The number of rules is a link, an alert leads to its rule; whoever came by a link of a message has neither."""
    console = Console()
    client = console.client()
    assert '<a class="in" href="rules">1 rule</a>' in client.get("/").text
    assert 'href="../rules/shop/Latency"' in client.get("/episodes/e1").text
    assert "rules/shop" not in client.get("/f/" + console.link()).text


def test_times_in_words() -> None:
    """Intervals are told with their zone, whatever they restrict."""
    assert interval_words(Interval()) == "always (UTC)"
    months, madrid = ((1, 3), (12, 12)), "Europe/Madrid"
    full = Interval(((0, 60),), ((5, 6),), ((-1, -1),), months, ((2026, 2026),), madrid, frozenset({1}))
    assert interval_words(full) == (
        "00:00 to 01:00, saturday to sunday, day -1 of the month, january to march and december, 2026, "
        "1 days of a calendar (Europe/Madrid)"
    )


def test_a_joint_rule_shows_its_groups() -> None:
    """What is scored are groups: the page lists those, each with its score, and calls them so."""
    joint = replace(RULE, detector=DetectorSpec("half_space_trees", {"joint": True}), group_by=("site",))
    block = recorded(4)
    labels = tuple(make_labels({"__name__": "load", "host": f"h{i}", "site": f"s{i // 2}"}) for i in range(4))
    client = lived(Block(labels, block.times, block.values), joint).app_console(60).client()
    seen = words(client, PAGE)
    assert "Groups, the most surprising now" in seen
    assert {"site=s0", "site=s1"} <= {word for word in seen.split() if word.startswith("site=")}
    assert "4 scored" in words(client, "/rules")
