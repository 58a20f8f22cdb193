"""What the page of one rule says: what runs and by what right, where alerts begin, its data, series and past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anomalyd.ballot import base_cuts
from anomalyd.block import Labels
from anomalyd.clock import DAY_MS
from anomalyd.console.parts import Parts
from anomalyd.console.places import dashboard_links
from anomalyd.console.ruleseries import faulty_rows, quality_rows, series_rows
from anomalyd.console.rulestate import RuleState, sight_of, state_of
from anomalyd.console.rulesview import (
    graph_of,
    holds,
    judged_words,
    model_words,
    paged,
    series_words,
    slot_words,
    spent_words,
)
from anomalyd.delivery.past import WORDS
from anomalyd.durations import format_budget, format_duration
from anomalyd.episode import Episode, Phase
from anomalyd.feedback.cuts import moved_of, read_detail
from anomalyd.feedback.votes import labels_of
from anomalyd.records import VERDICTS, Feedback, ThresholdChange
from anomalyd.render import Link, clean, clock_time, label_text, number, safe_url, span
from anomalyd.rule import Rule, TierPolicy
from anomalyd.slot import Notice
from anomalyd.threshold import NEVER

SERIES_A_PAGE = 50
EPISODES = 25
NOTICES = 20
STEPS = 30
MODELS = 20


def rule_view(parts: Parts, rule: Rule, wanted: str, page: int) -> dict[str, Any]:
    """All that the template of a rule shows."""
    sight = sight_of(parts, [rule], rule.id)
    now, state = sight.now, state_of(parts, rule, sight)
    votes = sight.votes.get(rule.id, ())
    history = parts.store.thresholds(rule.id)
    names = _names(state)
    series = series_rows(state, lambda labels: holds(_plain(labels), wanted) if wanted else True)
    shown, pages = paged(series, page, SERIES_A_PAGE, wanted)
    return {
        "title": f"Rule {clean(rule.name, 120)}", "name": clean(rule.name, 120), "group": clean(rule.group, 80),
        "where": clean(rule.where, 300), "mode": rule.mode, "tier": state.worst.tier, "word": state.worst.word,
        "troubles": state.troubles, "links": _links(parts, rule, now), "facts": _facts(state, now),
        "models": _models(state), "cuts": _cuts(parts, rule),
        "steps": [_step(one, names, now) for one in history[::-1][:STEPS]],
        "moved": len(moved_of(history)), "exceptions": [clean(x.words, 200) for x in parts.ballot.exceptions(rule)],
        "quality": quality_rows(state), "faulty": faulty_rows(state), "series": [row.shown() for row in shown],
        "found": len(series), "pages": pages, "wanted": wanted, "joint": rule.detector.joint,
        "episodes": _episodes(parts, rule, votes, now), "notices": _notices(parts, rule, now),
        "peace": state.peace.lines, "expr": clean(rule.expr, 4_000, lines=True),
    }  # fmt: skip


def _plain(labels: Labels) -> str:
    return ",".join(f"{name}={value}" for name, value in labels)


def _names(state: RuleState) -> Mapping[str, Labels]:
    if state.run is None:
        return {}
    return {row.fingerprint: row.labels for row in state.run.memory.registry.rows.values()}


def _links(parts: Parts, rule: Rule, now: int) -> list[Link]:
    named = (("runbook_url", "Runbook"), ("dashboard_url", "Dashboard"))
    found = [Link(text, rule.annotations[key]) for key, text in named if safe_url(rule.annotations.get(key, ""))]
    found += dashboard_links(parts.settings(), now - DAY_MS, now)
    graph = graph_of(parts, rule)
    return [*found, Link("Prometheus", graph)] if graph else found


def _facts(state: RuleState, now: int) -> list[tuple[str, str]]:
    rule, every = state.rule, format_duration(state.rule.interval_ms)
    receivers = ", ".join(rule.receivers) or "none"
    facts = [
        ("Alerts in 7 days", spent_words(state.spent)),
        ("Judged", judged_words(state.judged) or "none yet"),
        ("Series", series_words(state.counts)),
        ("Last slot", f"{slot_words(state, now)}; one every {every}"),
        ("Detector", rule.detector.type + _params(rule)),
        ("Model", model_words(state, now)),
        ("Told", f"{receivers}{' by the routes' if rule.routed else ''}" if rule.mode == "live" else "nobody (shadow)"),
        ("Alerts on", _interest(rule)),
    ]
    if rule.where:
        facts.append(("Written in", rule.where))
    return [(name, clean(value, 500)) for name, value in facts]


def _params(rule: Rule) -> str:
    given = ", ".join(f"{name}: {value}" for name, value in rule.detector.params.items() if name != "members")
    members = ", ".join(member.type for member in rule.detector.members)
    said = "; ".join(part for part in (members and f"of {members}", given) if part)
    return f" ({said})" if said else ""


def _interest(rule: Rule) -> str:
    sides = {"up": "rises only", "down": "falls only", "both": "rises and falls"}
    said = [sides[rule.direction]]
    if rule.min_deviation.absolute:
        said.append(f"by at least {number(rule.min_deviation.absolute)}")
    if rule.min_deviation.relative:
        said.append(f"by at least {rule.min_deviation.relative:.0%} of the expected value")
    if rule.for_ms:
        said.append(f"that last {format_duration(rule.for_ms)}")
    if rule.valid_range is not None:
        said.append(f"and values outside {number(rule.valid_range[0])} to {number(rule.valid_range[1])}")
    return ", ".join(said)


def _models(state: RuleState) -> list[tuple[str, str]]:
    seen = state.run.attendance if state.run is not None else None
    if seen is None:
        return []
    return [(label_text(one.labels, 160), clean(str(one), 600)) for one in seen.choices[:MODELS]]


def _cuts(parts: Parts, rule: Rule) -> list[tuple[str, str, str]]:
    """Tier, what was asked for, and the cut that it gives."""
    cuts, found = base_cuts(parts.store, rule), []
    for policy in rule.tiers:
        cut = cuts[policy.tier - 1]
        often = f"surprise {cut:.2f}: once in {number(10 ** min(cut, 15))} samples when all is well"
        found.append((policy.tier.word, _asked(policy), often if cut < NEVER else ""))
    return found


def _asked(policy: TierPolicy) -> str:
    said, each = [], policy.budget is not None and policy.budget.per == "series"
    if policy.budget is not None:
        said.append(f"budget {format_budget(policy.budget)}" + (" for each series" if each else ""))
    if policy.surprise is not None:
        said.append(f"surprise {policy.surprise:g}")
    if policy.sigma is not None:
        said.append(f"sigma {policy.sigma:g}")
    if policy.spread is not None:
        said.append(f"or {policy.spread:.0%} of the group's series" if said else f"{policy.spread:.0%} of the series")
    return ", ".join(said)


def _step(change: ThresholdChange, names: Mapping[str, Labels], now: int) -> dict[str, str]:
    detail, labels = read_detail(change), names.get(change.fingerprint)
    whole = "the rule" if not change.fingerprint else f"series {change.fingerprint}"
    before, after = (f"{cut:.2f}" if cut < NEVER else "none" for cut in (min(detail.before), min(change.cuts)))
    return {
        "when": clock_time(change.at, now), "series": label_text(labels, 160) if labels else whole,
        "cuts": f"{before} to {after}", "why": clean(detail.why or change.reason, 300), "who": clean(change.who, 80),
        "undone": "taken back" if change.undone_at else "",
    }  # fmt: skip


def _episodes(parts: Parts, rule: Rule, votes: Sequence[Feedback], now: int) -> list[dict[str, str]]:
    found = [e for e in parts.store.episodes(rule=rule.id, limit=4 * EPISODES) if e.opened_at][:EPISODES]
    said = labels_of(vote for vote in votes if not vote.undone_at and vote.label in VERDICTS)

    def row(e: Episode) -> dict[str, str]:
        label = said.get(e.id)
        word = "open for" if e.phase == Phase.OPEN else "lasted"
        return {
            "id": e.id, "tier": e.tier.word, "labels": label_text(e.labels, 200) or "the whole rule",
            "when": clock_time(e.started_at, now), "words": f"{word} {span((e.closed_at or now) - e.started_at)}",
            "worst": number(e.peak_value), "verdict": WORDS[label] if label else "",
            "label": label.value if label else "",
        }  # fmt: skip

    return [row(e) for e in found]


def _notices(parts: Parts, rule: Rule, now: int) -> list[dict[str, str]]:
    def row(n: Notice) -> dict[str, str]:
        labels, text = label_text(n.labels, 160), clean(n.text, 400)
        return {"when": clock_time(n.at, now), "kind": n.kind.value, "labels": labels, "text": text}

    return [row(one) for one in parts.store.notices(rule=rule.id, limit=NOTICES)]
