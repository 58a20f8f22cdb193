"""What the page of an episode says: an episode and its past as words for the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.console.chart import episode_chart
from anomalyd.console.parts import Parts
from anomalyd.console.places import dashboard_links, graph_url
from anomalyd.console.rulesview import href
from anomalyd.console.snooze import SNOOZES
from anomalyd.delivery.past import WORDS, similar
from anomalyd.episode import Episode, Phase
from anomalyd.explain import channels_at_worst
from anomalyd.feedback.votes import labels_of
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.render import Link, channel_text, clean, clock_time, label_text, number, rfc3339, safe_url, span
from anomalyd.rule import Rule
from anomalyd.score import Why

PAGES = Path(__file__).parent / "pages"
SIMILAR = 8
CHART_BEFORE_MS = 6 * HOUR_MS
CHART_MAX_MS = 3 * DAY_MS

def environment() -> Environment:
    """Templates with escaping on; an unknown name is an error and not an empty string."""
    return Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def gone(templates: Environment, title: str, words: str) -> str:
    """A page that only says why there is nothing to see."""
    return templates.get_template("gone.html").render(title=title, words=words, root="../")


def view_of(
    parts: Parts, episode: Episode, is_mine: Callable[[str, str], bool], *, may_act: bool, asks_name: bool,
    choice: str, said: str,
) -> dict[str, Any]:  # fmt: skip
    """All that the template of an episode shows, but for what protects the form."""
    store, now = parts.store, parts.clock.now_ms()
    rule = parts.rules().get(episode.rule)
    votes = store.feedback(episode=episode.id)
    name = episode.rule.partition("/")[2]
    return {
        "title": f"{name}: {label_text(episode.labels, 80)}",
        "name": clean(name, 120),
        "tier": episode.tier.word,
        "state": _state(episode, now),
        "labels": [(clean(k, 64), clean(v, 256)) for k, v in episode.labels if k != "__name__"][:30],
        "sentence": _sentence(episode, rule),
        "chart": Markup(_chart(parts, episode)),  # noqa: S704 - made of numbers by us
        "facts": _facts(parts, episode, rule, now),
        "votes": [_vote(vote, now, is_mine(vote.who, vote.via)) for vote in votes][-30:],
        "others": _others(parts, episode),
        "similar": _similar(parts, episode, now),
        "expr": clean(rule.expr, 2_000, lines=True) if rule else "",
        "links": [*_links(parts, rule, episode), *_own_page(rule, asks_name)],
        "may_act": may_act,
        "snoozes": [] if episode.phase == Phase.CLOSED else [(one.id, one.text) for one in SNOOZES],
        "asks_name": asks_name,
        "choice": choice,
        "effect": _effect(parts, episode, now),
        "notice": _notice(parts, votes, said, episode),
    }


def _state(episode: Episode, now: int) -> str:
    since = clock_time(episode.started_at, now)
    if episode.phase == Phase.CLOSED:
        return f"{since}, over after {span(episode.closed_at - episode.started_at)}"
    return f"since {since}, {span(max(0, now - episode.started_at))} so far"


def _sentence(e: Episode, rule: Rule | None) -> str:
    joint = rule is not None and rule.detector.joint
    if e.why == Why.ABSENT:
        return "A series of the group has stopped reporting." if joint else "The series has stopped reporting."
    verb = "was" if e.phase == Phase.CLOSED else "is"
    if joint:
        score = e.peak_value if e.phase == Phase.CLOSED else e.value
        return f"The group as a whole {verb} unusual: its score {verb} {number(score)}, an alert begins at 1."
    value, expected = (e.peak_value, e.peak_expected) if e.phase == Phase.CLOSED else (e.value, e.expected)
    if e.phase == Phase.CLOSED:
        return f"The value {verb} {number(value)} at its worst, expected {number(expected)}."
    return f"The value {verb} {number(value)}, expected {number(e.lower)} to {number(e.upper)}."


def _chart(parts: Parts, episode: Episode) -> str:
    last = episode.closed_at or episode.seen_at
    before = min(max(CHART_BEFORE_MS, 2 * (last - episode.started_at)), CHART_MAX_MS)
    start, end = episode.started_at - before, min(last + HOUR_MS, episode.started_at + CHART_MAX_MS)
    row = next((s.row for s in parts.store.series(episode.rule) if s.fingerprint == episode.fingerprint), None)
    if row is None:
        return ""
    seen = parts.store.scores(episode.rule, start, end, [row])
    return episode_chart(seen, episode.started_at, last)


def _facts(parts: Parts, e: Episode, rule: Rule | None, now: int) -> list[tuple[str, str]]:
    joint = rule is not None and rule.detector.joint
    expected = "" if joint else f", expected {number(e.peak_expected)}"
    facts = [("Worst", f"{number(e.peak_value)} at {clock_time(e.peak_at, now)}{expected}")]
    facts += [("Furthest from usual", channel_text(one, e.labels)) for one in channels_at_worst(parts.store, rule, e)]
    often = f"{e.peak_surprise:.1f}: seen once in {number(10 ** min(e.peak_surprise, 15))} samples when all is well"
    facts.append(("Surprise", often))
    if rule is not None:
        facts.append(("Detector", rule.detector.type))
        facts += [("Day", day)] if (day := rule.day_at(e.peak_at)) else []
    if (real := parts.ballot.real(e, now)) is not None:
        facts.append(("By the votes so far", f"{real:.0%} likely real"))
    if (like := parts.ballot.alike(e, now)) is not None:
        facts.append(("Like it", like.words))
    if e.learned_ms:
        facts.append(("Young", f"learned from {span(e.learned_ms)}, so it is a warning at the most"))
    around = parts.store.notices(
        rule=e.rule, fingerprint=e.fingerprint, start=e.started_at - 7 * DAY_MS, end=(e.closed_at or now) + 1, limit=3
    )
    facts += [("Noted", f"{clock_time(one.at, now)}, {one.kind.value}: {one.text}") for one in around]
    facts.append(("Rule", e.rule))
    facts.append(("Episode", e.id))
    return [(name, clean(value, 300)) for name, value in facts]


def _vote(vote: Feedback, now: int, mine: bool) -> dict[str, Any]:
    return {
        "id": vote.id, "label": vote.label.value, "word": WORDS[vote.label], "who": _shown_who(vote),
        "at": clock_time(vote.at, now), "cause": vote.cause, "text": vote.text, "undone": bool(vote.undone_at),
        "mine": mine,
    }  # fmt: skip


def _shown_who(vote: Feedback) -> str:
    if vote.via != "link":
        return f"{vote.who} ({vote.via})"
    name, _, receiver = vote.who.rpartition("@")
    return f"{name} (link sent to {receiver})"


def _others(parts: Parts, episode: Episode) -> list[str]:
    """The other series of the incident; empty for one of its own."""
    if not episode.incident:
        return []
    members = parts.store.episodes(incident=episode.incident, limit=51)
    found = [e for e in members if e.id != episode.id]
    return [f"{label_text(e.labels, 160)}: {number(e.peak_value)} ({e.tier.word})" for e in found]


def _similar(parts: Parts, episode: Episode, now: int) -> list[dict[str, str]]:
    found = []
    for e in similar(parts.store, episode.rule, episode.fingerprint, episode.started_at, SIMILAR):
        given = [vote for vote in parts.store.feedback(episode=e.id) if not vote.undone_at]
        label = labels_of(given).get(e.id)
        found.append({
            "when": rfc3339(e.started_at)[:16].replace("T", " "),
            "words": f"{number(e.peak_value)}, {e.tier.word}, {span((e.closed_at or e.seen_at) - e.started_at)}",
            "verdict": WORDS[label] if label else "",
            "label": label.value if label else "",
        })  # fmt: skip
    return found


def _links(parts: Parts, rule: Rule | None, e: Episode) -> list[Link]:
    named = (("runbook_url", "Runbook"), ("dashboard_url", "Dashboard"))
    notes = rule.annotations if rule else {}
    found = [Link(text, notes[key]) for key, text in named if safe_url(notes.get(key, ""))]
    found += dashboard_links(parts.settings(), e.started_at, e.closed_at or e.seen_at)
    graph = graph_url(parts.settings(), rule) if rule else ""
    return [*found, Link("Prometheus", graph)] if graph else found


def _own_page(rule: Rule | None, by_link: bool) -> list[Link]:
    """The rule's page; whoever came by a link of a message may see that one alert and no more."""
    return [Link("Rule", f"../{href(rule)}")] if rule is not None and not by_link else []


def _effect(parts: Parts, episode: Episode, now: int) -> str:
    """What a vote of "false alarm" would do, before it is given."""
    if episode.rule not in parts.rules():
        return "The rule is not running any more; a vote is kept and moves nothing."
    vote = parts.ballot.vote_on(episode.id, FeedbackLabel.FALSE, "\0preview", "preview", now)
    found = parts.ballot.preview(vote, now)
    return f"With one more false alarm, the votes on this rule {found.words}."


def _notice(parts: Parts, votes: Sequence[Feedback], said: str, episode: Episode) -> str:
    """The answer to what was just done; the words come from us, the address only picks them."""
    if said == "undone":
        return "The vote was taken back, and what it changed is undone."
    what, _, until = said.partition(" ")
    if what == "snoozed" and until.isascii() and until.isdigit() and len(until) < 15:
        return f"Snoozed until {clock_time(int(until), parts.clock.now_ms())}: nobody is told about it before."
    vote = next((v for v in votes if v.id == said), None)
    if vote is None:
        return ""
    cut = next((c for c in reversed(parts.store.thresholds(episode.rule)) if c.feedback == vote.id), None)
    moved = f" This series is now told from a surprise of {min(cut.cuts):.1f} on." if cut else ""
    return f"Thank you. Counted: {WORDS[vote.label]}.{moved}"
