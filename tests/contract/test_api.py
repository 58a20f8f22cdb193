"""The REST API: what it answers, who may ask, and that nothing a stranger sends becomes our error."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import make_labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.console.auth import check_listen, is_loopback
from anomalyd.console.pageview import view_of
from anomalyd.detectors.base import Choice
from anomalyd.errors import ConfigError, StoreBusy
from anomalyd.evaluation.rulerun import Attendance
from anomalyd.feedback.cuts import FeedbackPolicy
from anomalyd.records import FeedbackLabel
from anomalyd.secret import Secret
from anomalyd.settings import Token, Web
from anomalyd.slot import NoticeKind, SlotCommit, make_notice
from console_kit import CANARY, NOW, RULE, Console, data, episode, error

TOKENS = {"ana": Token(Secret("ana-token")), "grafana": Token(Secret("look-token"), read_only=True)}
V1 = "/api/v1"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_episodes_and_incidents_are_told_with_their_votes_and_notifications() -> None:
    """An incident shows its episodes, the votes on them, and every notification with the reason of its drop."""
    console = Console()
    client = console.client()
    data(client.post(f"{V1}/feedback", json={"label": "true", "episode": "e1", "cause": "deploy"}), 201)
    shown = data(client.get(f"{V1}/incidents/i1"))
    assert [e["id"] for e in shown["episodes"]] == ["e1", "e2"]
    assert [(v["label"], v["who"], v["cause"]) for v in shown["feedback"]] == [("true", "local", "deploy")]
    assert [(n["state"], n["reason"]) for n in shown["notifications"]] == [("dropped", "silenced")]
    assert data(client.get(f"{V1}/notifications?state=dropped"))["notifications"][0]["id"] == "n1"
    assert data(client.get(f"{V1}/episodes/e1"))["started_at"] == "2026-09-21T11:00:00.000Z"


def test_lists_come_in_pages() -> None:
    """``limit`` and ``next`` walk through all episodes, each once."""
    console = Console()
    for i in range(25):
        console.past(f"p{i:02}", i + 1)
    client, offset, seen = console.client(), 0, []
    while offset is not None:
        page = data(client.get(f"{V1}/episodes?limit=10&offset={offset}"))
        seen += [e["id"] for e in page["episodes"]]
        offset = page["next"]
    assert len(seen) == len(set(seen)) == 27
    assert error(client.get(f"{V1}/episodes?limit=5000"), 400) == "bad_data"


def test_a_vote_moves_the_cut_and_its_undo_moves_it_back() -> None:
    """A first vote, preview, history with before and after, undo: through the API alone."""
    console = Console()
    client = console.client()
    body = {"label": "false", "episode": "e1"}
    promised = data(client.post(f"{V1}/feedback/preview", json=body))
    assert promised["removed"] >= 1
    assert data(client.get(f"{V1}/thresholds?rule={RULE.id}"))["thresholds"] == []
    cast = data(client.post(f"{V1}/feedback", json=body), 201)
    (change,) = cast["changes"]
    assert change["before"]["warning"] == 3.5
    assert change["after"]["warning"] > 4.2
    assert change["who"] == "local"
    assert console.changed == [RULE.id]
    moved = data(client.get(f"{V1}/rules"))["rules"][0]["moved"]
    assert moved[episode("e1").fingerprint]["warning"] == pytest.approx(change["after"]["warning"], abs=1e-3)
    data(client.delete(f"{V1}/feedback/{cast['feedback']['id']}"))
    newest = data(client.get(f"{V1}/thresholds?rule={RULE.id}"))["thresholds"][0]
    assert (newest["reason"], newest["after"]["warning"]) == ("undo", 3.5)
    assert error(client.delete(f"{V1}/feedback/{cast['feedback']['id']}"), 404) == "not_found"


def test_an_episode_tells_what_it_is_like() -> None:
    """What people called earlier ones like it, in numbers, words and on its page; null before anybody judged one."""
    console = Console()
    client = console.client()
    assert data(client.get(f"{V1}/episodes/e1"))["alike"] is None
    console.past("p1", 3, FeedbackLabel.FALSE)
    console.past("p2", 9, FeedbackLabel.FALSE)
    console.past("p3", 4, FeedbackLabel.TRUE, surprise=40.0)
    like = data(client.get(f"{V1}/episodes/e1"))["alike"]
    words = "all 2 like it were called false alarms (last 18 Sep, by ana)"
    assert like == {
        "judged": 2, "label": "false", "count": 2, "last_at": "2026-09-18T12:00:00.000Z", "last_by": "ana",
        "words": words,
    }  # fmt: skip
    assert f"<dt>Like it</dt><dd>{words}</dd>" in client.get("/episodes/e1").text


def test_one_step_of_the_history_can_be_taken_back() -> None:
    """DELETE of a threshold change makes the one before it hold; a second time there is none."""
    console = Console()
    console.past("p1", 3, FeedbackLabel.FALSE)
    client = console.client()
    (change,) = data(client.post(f"{V1}/feedback", json={"label": "false", "episode": "e1"}), 201)["changes"]
    where = f"{V1}/thresholds/{change['id']}?rule={RULE.id}"
    data(client.delete(where))
    assert data(client.get(f"{V1}/rules"))["rules"][0]["moved"] == {}
    assert error(client.delete(where), 404) == "not_found"


def test_a_rule_says_what_became_of_its_series() -> None:
    """How many are watched, wait, are beyond the limit or equal, and what is wrong with whose data; null before."""
    console = Console()
    client = console.client()
    assert data(client.get(f"{V1}/rules"))["rules"][0]["series"] is None
    console.attendance = Attendance(
        7, 2, 1, 3, (((("host", "a"),), ("gaps", "range")),), model="abc-5", fitted_at=5000
    )
    assert data(client.get(f"{V1}/rules"))["rules"][0]["series"] == {
        "watched": 7, "waiting": 2, "limited": 1, "duplicate": 3, "faulty": 1,
        "worst": [{"labels": {"host": "a"}, "faults": ["gaps", "range"]}], "models": [], "model": "abc-5",
        "fitted_at": "1970-01-01T00:00:05.000Z",
    }  # fmt: skip
    choice = Choice("the plane", False, "it is better", (("host", "a"),), 3, 20)
    console.attendance = replace(console.attendance, choices=(choice,))
    assert data(client.get(f"{V1}/rules"))["rules"][0]["series"]["models"] == [
        {"group": {"host": "a"}, "runs": "the plane", "learned": False, "why": str(choice), "stopped": True}
    ]


def test_notices_come_in_pages_and_stand_on_the_page_of_their_series() -> None:
    """Drift is read by rule, series and span; the page of an alert shows what was noted about its series."""
    console = Console()
    told = console.store.episode("e1")
    assert told is not None
    notices = tuple(
        make_notice(
            NoticeKind.DRIFT, told.rule, told.started_at - i * HOUR_MS, f"drifts {i}", since=told.started_at - DAY_MS,
            fingerprint=told.fingerprint, labels=told.labels,
        )
        for i in range(3)
    )  # fmt: skip
    console.store.commit_slot(SlotCommit("other", 1, (), notices=notices))
    client = console.client()
    found = data(client.get(f"{V1}/notices?rule={told.rule}&kind=drift&limit=2"))
    assert [n["text"] for n in found["notices"]] == ["drifts 0", "drifts 1"]
    assert found["next"] == 2
    assert found["notices"][0]["since"] is not None
    assert data(client.get(f"{V1}/notices?fingerprint=0000000000000000"))["notices"] == []
    assert error(client.get(f"{V1}/notices?kind=rumour"), 400) == "bad_data"
    facts = view_of(
        console.parts, told, lambda *_: False, may_act=False, asks_name=False, choice="", said=""
    )["facts"]  # fmt: skip
    noted = [text for name, text in facts if name == "Noted"]
    assert [text.rpartition(", ")[2] for text in noted] == [f"drift: drifts {i}" for i in range(3)]


def test_a_missed_span_is_a_vote() -> None:
    """It needs a series and a time; scores of that time that stand out a little lower the cut."""
    console = Console()
    console.fill_scores(ordinary=2.1)
    start, name = NOW - HOUR_MS - 30 * 60_000, episode("e1").fingerprint
    span = {"start": str(start / 1000), "end": str(start / 1000 + 600), "rule": RULE.id, "fingerprint": name}
    client = console.client()
    cast = data(client.post(f"{V1}/feedback", json={"label": "missed", **span}), 201)
    assert cast["changes"][0]["after"]["warning"] < 3.5
    assert error(client.post(f"{V1}/feedback", json={"label": "missed", "rule": RULE.id}), 400) == "bad_data"


def test_scores_come_as_columns() -> None:
    """Value, band, surprise and verdict of a series over a time."""
    console = Console()
    console.fill_scores()
    first = (NOW - 2 * HOUR_MS) // 1000
    found = data(console.client().get(f"{V1}/scores?rule={RULE.id}&start={first}&end={NOW // 1000}"))
    (series,) = found["series"]
    assert {len(series[name]) for name in ("times", "value", "lower", "upper", "surprise", "verdict")} == {120}
    assert series["verdict"].count("anomalous") == 20
    assert max(series["value"]) == pytest.approx(1.93, abs=1e-5)


def test_silences_are_made_listed_and_ended() -> None:
    """A silence holds until it is ended; one that would quieten everything is refused."""
    client = Console().client()
    ends = str(NOW // 1000 + 3600)
    body = {"matchers": [{"name": "region", "op": "=~", "value": "eu.*"}], "ends_at": ends, "comment": "works"}
    made = data(client.post(f"{V1}/silences", json=body), 201)["silence"]
    assert made["created_by"] == "local"
    assert [s["id"] for s in data(client.get(f"{V1}/silences"))["silences"]] == [made["id"]]
    data(client.delete(f"{V1}/silences/{made['id']}"))
    assert data(client.get(f"{V1}/silences"))["silences"] == []
    assert error(client.delete(f"{V1}/silences/{made['id']}"), 404) == "not_found"
    for bad in ({"name": "x", "op": "!=", "value": "y"}, {"name": "x", "op": "=~", "value": "(a+)+"}):
        assert error(client.post(f"{V1}/silences", json={**body, "matchers": [bad]}), 400) == "bad_data"
    assert error(client.post(f"{V1}/silences", json={**body, "ends_at": "1"}), 400) == "bad_data"


def test_no_secret_is_shown() -> None:
    """Fault 92: passwords, tokens, headers and addresses with credentials are left out of the running settings."""
    web = Web("127.0.0.1", 9640, tokens=TOKENS, signing_secret=Secret(CANARY), slack_signing_secret=Secret(CANARY))
    client = Console(web).client(headers=bearer("ana-token"))
    text = client.get(f"{V1}/status/config").text
    assert CANARY not in text
    assert "ana-token" not in text
    assert "<secret>" in text
    assert "prom.example" in text


def test_tokens_tell_who_may_read_and_who_may_act() -> None:
    """Without a token nobody, with a read-only one no changes; the vote carries the token's name."""
    console = Console(Web("127.0.0.1", 9640, tokens=TOKENS))
    vote = {"label": "false", "episode": "e1"}
    nobody, wrong = console.client(), console.client(headers=bearer("nope"))
    for client in (nobody, wrong):
        answer = client.get(f"{V1}/episodes")
        assert error(answer, 401) == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert error(client.post(f"{V1}/feedback", json=vote), 401) == "unauthorized"
        assert client.get("/episodes/e1").status_code == 401
    looker = console.client(headers=bearer("look-token"))
    data(looker.get(f"{V1}/episodes"))
    assert error(looker.post(f"{V1}/feedback", json=vote), 403) == "forbidden"
    ana = console.client(headers=bearer("ana-token"))
    assert data(ana.post(f"{V1}/feedback", json=vote), 201)["feedback"]["who"] == "ana"
    assert nobody.get("/metrics").status_code == 200
    assert error(console.client(headers={"Authorization": "Basic YTpi"}).get(f"{V1}/rules"), 401) == "unauthorized"


def test_anonymous_readers_may_not_act() -> None:
    """``anonymous_read`` opens reading, on any address; acting needs a token all the same."""
    client = Console(Web("0.0.0.0", 9640, tokens=TOKENS, anonymous_read=True)).client("daemon.example:9640")
    data(client.get(f"{V1}/episodes"))
    assert error(client.post(f"{V1}/feedback", json={"label": "false", "episode": "e1"}), 401) == "unauthorized"


def test_listening_for_others_without_a_token_is_refused() -> None:
    """The error names the file and three ways out; loopback needs none of them."""
    with pytest.raises(ConfigError) as refused:
        check_listen(Web("0.0.0.0", 9640), "anomalyd.yml")
    assert "web.tokens" in str(refused.value)
    check_listen(Web("0.0.0.0", 9640, tokens=TOKENS), "anomalyd.yml")
    check_listen(Web("0.0.0.0", 9640, anonymous_read=True), "anomalyd.yml")
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8", "::ffff:127.0.0.1"):
        assert is_loopback(host)
        check_listen(Web(host, 9640), "anomalyd.yml")
    assert not is_loopback("localhost.example")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://127.0.0.1.evil.example"},
    ],
)  # fmt: skip
def test_another_sites_page_cannot_act_in_the_users_name(headers: dict[str, str]) -> None:
    """Fault 95: a loopback daemon without tokens takes no request that a foreign page sends."""
    console = Console()
    client = console.client(headers=headers)
    assert error(client.post(f"{V1}/feedback", json={"label": "false", "episode": "e1"}), 403) == "forbidden"
    assert console.store.feedback() == []


def test_a_foreign_host_name_is_not_local() -> None:
    """Fault 95, DNS rebinding: a name that somebody else controls and that leads here is not the local user's."""
    assert error(Console().client("rebound.example:9640").get(f"{V1}/episodes"), 403) == "forbidden"
    own = Web("127.0.0.1", 9640, external_url="https://anomalies.example/prefix")
    data(Console(own).client("anomalies.example").get(f"{V1}/episodes"))


def test_votes_have_a_limit_a_day() -> None:
    """Fault 94: beyond it a vote is refused with 429 and nothing is kept."""
    console = Console(policy=FeedbackPolicy(votes_per_person_per_day=3))
    client = console.client()
    for i in range(5):
        console.past(f"p{i}", i + 1)
        console.clock.advance_to(NOW + i)
        answer = client.post(f"{V1}/feedback", json={"label": "false", "episode": f"p{i}"})
        assert answer.status_code == (201 if i < 3 else 429)
    assert len(console.store.feedback()) == 3


def test_large_and_deep_bodies_are_refused() -> None:
    """Fault 93: a body beyond 1 MB, whether it says so or not, deep nesting, and things that are no JSON."""
    client = Console().client()
    json_type = {"Content-Type": "application/json"}
    assert error(client.post(f"{V1}/feedback", content=b"x" * 1_100_000, headers=json_type), 413) == "too_large"

    async def endless() -> Any:
        for _ in range(40):
            yield b" " * 40_000

    assert client.post(f"{V1}/feedback", content=endless(), headers=json_type).status_code in (400, 413)
    for body in (b"[" * 100_000, b"\xff\xfe", b"nul", b'{"label": "true"', b""):
        answer = client.post(f"{V1}/feedback", content=body, headers=json_type)
        assert error(answer, 400) == "bad_data"


def test_a_database_that_does_not_answer_is_503_without_its_words() -> None:
    """The daemon's own trouble is told as such, and its text stays in the log."""
    console = Console()

    class Broken:
        def episodes(self, **_: Any) -> Any:
            raise StoreBusy("locked", f"postgresql://u:{CANARY}@db")

    console.parts = replace(console.parts, store=Broken())  # type: ignore[arg-type]
    answer = console.client().get(f"{V1}/episodes")
    assert error(answer, 503) == "locked"
    assert CANARY not in answer.text


def test_labels_of_any_kind_can_be_shown() -> None:
    """Fault 97: newlines, escape codes, NUL, lone surrogates, 10 kB: JSON in ASCII, and nosniff."""
    console = Console()
    nasty = make_labels({"a": "x\n\x1b[31m\u202e", "b": "\ud800", "c": "z" * 10_000, "d": "<script>alert(1)</script>"})
    console.store.save_episodes([episode("bad", of=nasty)])
    answer = console.client().get(f"{V1}/episodes/bad")
    assert answer.content.isascii()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert data(answer)["labels"]["d"] == "<script>alert(1)</script>"


# What a stranger may send, by the description of the API -----------------------------------------------------------


CONSOLE = Console()
CLIENT = CONSOLE.client()
SPEC = CLIENT.get(f"{V1}/openapi.json").json()
OPERATIONS = sorted((path, method) for path, item in SPEC["paths"].items() for method in item)
TEXT = st.text(max_size=60) | st.sampled_from(
    ["\0", "'; DROP TABLE episodes; --", "../../etc/passwd", "9" * 400, "-1", "NaN", "1e400", "\u0661\u0662", "%00",
     "2026-01-01T00:00:00", "9999-12-31T23:59:59Z", "shop/Latency", "e1", "i1", "\U0001f600"]
)  # fmt: skip
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def body_of(schema: dict[str, Any], draw: Any) -> Any:
    """A body with the right names and, now and then, the right values."""
    if "$ref" in schema:
        schema = SPEC["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    fields = {}
    for name, field in schema.get("properties", {}).items():
        if "enum" in field and draw(st.booleans()):
            fields[name] = draw(st.sampled_from(field["enum"]))
        elif draw(st.integers(0, 3)):
            fields[name] = draw(VALUE)
    return fields if draw(st.integers(0, 9)) else draw(VALUE)


@pytest.mark.parametrize("path", [f"{V1}/episodes//", f"{V1}/episodes/%2F", f"{V1}/rules/"])
def test_a_slash_too_many_is_not_found(path: str) -> None:
    """Nobody is sent elsewhere for a slash: the answer is the API's own, not an empty redirection."""
    assert error(Console().client().get(path), 404) == "not_found"


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_hostile_input_is_never_our_error(choose: st.DataObject) -> None:
    """Law: whatever fills the places that the description names, the answer is below 500 and in the API's shape."""
    path, method = choose.draw(st.sampled_from(OPERATIONS))
    operation = SPEC["paths"][path][method]
    query = {}
    for parameter in operation.get("parameters", []):
        value = choose.draw(TEXT)
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(value, safe="") or "x")
        elif choose.draw(st.booleans()):
            query[parameter["name"]] = value
    more: dict[str, Any] = {}
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        more["content"] = json.dumps(body_of(schema, choose.draw))
        more["headers"] = {"Content-Type": choose.draw(st.sampled_from(["application/json", "text/plain"]))}
    answer = CLIENT.request(method.upper(), path, params=query, **more)
    assert answer.status_code < 500, (path, query, more, answer.text)
    assert answer.json()["status"] in ("success", "error")


def test_the_description_names_every_endpoint() -> None:
    """OpenAPI lists what this page of tests relies on; callbacks and pages are not part of it."""
    paths = set(SPEC["paths"])
    wanted = {"episodes", "episodes/{id}", "incidents", "incidents/{id}", "notifications", "rules", "scores",
              "feedback", "feedback/{id}", "feedback/preview", "thresholds", "silences", "silences/{id}",
              "status/config", "status/buildinfo"}  # fmt: skip
    assert {f"{V1}/{name}" for name in wanted} <= paths
    assert all(path.startswith(V1) for path in paths)
