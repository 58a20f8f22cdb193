"""How the API shows what the store holds: names in words, times as RFC 3339, numbers or null."""

from __future__ import annotations

from typing import Any

from anomalyd.ballot import base_cuts
from anomalyd.block import Labels
from anomalyd.console.parts import Parts
from anomalyd.detectors.base import Choice
from anomalyd.durations import format_duration
from anomalyd.episode import Episode
from anomalyd.evaluation.rulerun import Attendance
from anomalyd.feedback.alike import Alike
from anomalyd.feedback.cuts import faded, moved_cuts, moved_of, read_detail
from anomalyd.incident import Channel, Incident
from anomalyd.records import Feedback, OutboxRow, Silence, ThresholdChange
from anomalyd.render import rfc3339
from anomalyd.rule import Rule
from anomalyd.score import TIERS, Kind
from anomalyd.slot import Notice
from anomalyd.threshold import NEVER

MAX_CELLS = 200_000
MAX_FAULTY = 1_000
"""Scores in one answer."""


def _time(ms: int) -> str | None:
    return rfc3339(ms) if ms else None


def _labels(labels: Labels) -> dict[str, str]:
    return dict(labels)


def _cuts(cuts: tuple[float, float, float]) -> dict[str, float]:
    return {tier.word: round(cut, 4) for tier, cut in zip(TIERS, cuts, strict=True) if cut < NEVER}


def notice(n: Notice) -> dict[str, Any]:
    return {
        "id": n.id, "kind": n.kind.value, "rule": n.rule, "at": _time(n.at), "since": _time(n.since),
        "fingerprint": n.fingerprint, "labels": _labels(n.labels), "text": n.text,
    }  # fmt: skip


def episode(e: Episode) -> dict[str, Any]:
    return {
        "id": e.id, "rule": e.rule, "fingerprint": e.fingerprint, "labels": _labels(e.labels), "phase": e.phase.value,
        "tier": e.tier.word, "why": e.why.name.lower(), "started_at": _time(e.started_at),
        "opened_at": _time(e.opened_at), "closed_at": _time(e.closed_at), "close": e.close.value if e.close else None,
        "value": e.value, "expected": e.expected, "lower": e.lower, "upper": e.upper, "surprise": e.surprise,
        "peak": {
            "at": _time(e.peak_at), "value": e.peak_value, "expected": e.peak_expected, "surprise": e.peak_surprise,
        },
        "incident": e.incident or None, "model": e.model, "learned_seconds": e.learned_ms / 1000 or None,
    }  # fmt: skip


def incident(i: Incident) -> dict[str, Any]:
    return {
        "id": i.id, "key": i.key, "rule": i.rule, "labels": _labels(i.group_labels), "tier": i.tier.word,
        "open": i.open, "opened_at": _time(i.opened_at), "closed_at": _time(i.closed_at), "episode_count": i.episodes,
    }  # fmt: skip


def notification(row: OutboxRow) -> dict[str, Any]:
    n, s = row.notification, row.notification.statement
    return {
        "id": n.id, "receiver": n.receiver, "incident": s.incident, "rule": s.rule, "kind": s.reason.value,
        "tier": s.tier.word, "series": s.total, "created_at": _time(n.created_at), "state": row.state.value,
        "reason": row.reason or None, "message": row.message or None, "attempts": row.attempts,
        "in_doubt": row.in_doubt, "settled_at": _time(row.settled_at),
    }  # fmt: skip


def vote(v: Feedback) -> dict[str, Any]:
    return {
        "id": v.id, "label": v.label.value, "rule": v.rule, "episode": v.episode or None,
        "fingerprint": v.fingerprint or None, "start": _time(v.start), "end": _time(v.end), "at": _time(v.at),
        "who": v.who, "via": v.via, "cause": v.cause, "text": v.text, "undone_at": _time(v.undone_at),
    }  # fmt: skip


def change(row: ThresholdChange) -> dict[str, Any]:
    detail = read_detail(row)
    return {
        "id": row.id, "rule": row.rule, "fingerprint": row.fingerprint or None, "at": _time(row.at),
        "before": _cuts(detail.before), "after": _cuts(row.cuts), "factor": detail.factor or None, "why": detail.why,
        "reason": row.reason, "who": row.who, "feedback": row.feedback or None, "undone_at": _time(row.undone_at),
    }  # fmt: skip


def channel(c: Channel) -> dict[str, Any]:
    return {"labels": _labels(c.labels), "value": c.value, "expected": c.expected, "away": c.away}


def alike(x: Alike | None) -> dict[str, Any] | None:
    """What people called earlier ones like it; null where nobody judged any."""
    if x is None:
        return None
    return {
        "judged": x.judged, "label": x.label.value, "count": x.count, "last_at": _time(x.at), "last_by": x.who,
        "words": x.words,
    }  # fmt: skip


def silence(s: Silence) -> dict[str, Any]:
    return {
        "id": s.id, "matchers": [{"name": m.name, "op": m.op, "value": m.value} for m in s.matchers],
        "starts_at": rfc3339(s.starts_at), "ends_at": rfc3339(s.ends_at), "created_by": s.created_by,
        "comment": s.comment, "created_at": _time(s.created_at),
    }  # fmt: skip


def rule(r: Rule, parts: Parts) -> dict[str, Any]:
    """A rule with its own cuts, and those that feedback has moved, by series."""
    base, now, policy = base_cuts(parts.store, r), parts.clock.now_ms(), parts.ballot.policy
    moved = moved_of(parts.store.thresholds(r.id))
    exceptions = parts.ballot.exceptions(r)
    return {
        "id": r.id, "name": r.name, "group": r.group, "expr": r.expr, "source": r.source,
        "detector": {"type": r.detector.type, "params": dict(r.detector.params)},
        "interval": format_duration(r.interval_ms), "mode": r.mode, "labels": dict(r.labels),
        "annotations": dict(r.annotations), "receivers": list(r.receivers), "cuts": _cuts(base),
        "moved": {name or "*": _cuts(moved_cuts(base, faded(m, now, policy), policy)) for name, m in moved.items()},
        "exceptions": [
            {"fingerprint": x.fingerprint, "when": x.words, "until": _time(x.until), "feedback": x.feedback}
            for x in exceptions
        ],
        "series": _attendance(parts.attendance(r.id)),
    }  # fmt: skip


def _attendance(a: Attendance | None) -> dict[str, Any] | None:
    if a is None:
        return None
    faulty = [{"labels": _labels(labels), "faults": list(faults)} for labels, faults in a.faulty[:MAX_FAULTY]]
    return {
        "watched": a.watched, "waiting": a.waiting, "limited": a.limited, "duplicate": a.duplicate,
        "faulty": len(a.faulty), "worst": faulty,
        "models": [_choice(c) for c in a.choices[:MAX_FAULTY]], "model": a.model, "fitted_at": _time(a.fitted_at),
    }  # fmt: skip


def _choice(c: Choice) -> dict[str, Any]:
    words = {"runs": c.runs, "learned": c.learned, "why": str(c), "stopped": bool(c.stopped)}
    return {"group": _labels(c.labels), **words}


def scores(parts: Parts, rule_id: str, start: int, end: int, fingerprint: str) -> dict[str, Any]:
    """Scores as columns, one entry a series; stops at ``MAX_CELLS`` and says so in ``truncated``."""
    known = {s.row: s for s in parts.store.series(rule_id) if not fingerprint or s.fingerprint == fingerprint}
    seen = parts.store.scores(rule_id, start, end, sorted(known)) if known else []
    columns: dict[int, dict[str, list[Any]]] = {}
    cells, truncated = 0, False
    for o in seen:
        if truncated := cells + len(o.series) > MAX_CELLS:
            break
        cells += len(o.series)
        for i, row in enumerate(o.series.tolist()):
            column = columns.setdefault(row, {name: [] for name in _COLUMNS})
            for name, value in zip(_COLUMNS, (o.at, *(float(getattr(o, n)[i]) for n in _COLUMNS[1:-1])), strict=False):
                column[name].append(value)
            column["verdict"].append(Kind(int(o.verdicts.kind[i])).name.lower())
    found = [
        {"fingerprint": known[row].fingerprint, "labels": _labels(known[row].labels), **column}
        for row, column in sorted(columns.items())
    ]
    return {"rule": rule_id, "series": found, "truncated": truncated}


_COLUMNS = ("times", "value", "expected", "lower", "upper", "surprise", "verdict")
