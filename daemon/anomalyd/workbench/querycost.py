"""What a rule's queries cost its source, measured on the source: series, samples and time, per tick and per warm-up."""

from __future__ import annotations

from dataclasses import dataclass

from anomalyd.clock import HOUR_MS, Clock
from anomalyd.errors import SourceError
from anomalyd.evaluation.fits import HISTORY_SAMPLES_MAX
from anomalyd.rule import Rule
from anomalyd.sources import Source

MEASURED_MS = 6 * HOUR_MS
"""A warm-up longer than this is measured on its newest part and scaled."""
SLOW_SHARE = 0.5
"""A tick that takes more of its interval than this is called slow."""
HEAVY_TICK = 5_000_000
"""Samples read by one tick above which the expression should be recorded; Prometheus refuses 50 million."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query: series and samples it returns, samples the server read for it (None: it does not say), seconds."""

    series: int
    samples: int
    read: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one rule costs.

    Attributes:
        tick: one evaluation.
        warm_up: the history; ``scaled`` is how many times the measured part it is (1: measured whole).
        verdicts: what is beyond a cap or a share, with what to do about it; none where all is well.
        over: the rule cannot work as it is written.
    """

    rule: str
    tick: Query | None
    warm_up: Query | None
    scaled: float
    verdicts: tuple[str, ...]
    over: bool

    @property
    def word(self) -> str:
        return "over" if self.over else "heavy" if self.verdicts else "ok"


def measure(rule: Rule, source: Source, now: int, clock: Clock, whole: bool = False) -> Cost:
    """Ask what a rule would ask: at its newest slot, and over its history (its newest part unless ``whole``)."""
    at = (now - rule.query_delay_ms) // rule.interval_ms * rule.interval_ms
    try:
        tick = _ask(rule, source, at, at, clock)
        span = rule.history_ms if whole else min(rule.history_ms, MEASURED_MS)
        span = max(rule.interval_ms, span // rule.interval_ms * rule.interval_ms)
        part = _ask(rule, source, at - span + rule.interval_ms, at, clock)
    except SourceError as error:
        return Cost(rule.id, None, None, 1.0, (f"not measured: {error}",), over=True)
    scaled = rule.history_ms / span
    read = None if part.read is None else round(part.read * scaled)
    warm_up = Query(part.series, round(part.samples * scaled), read, part.seconds * scaled)
    return _judged(rule, tick, warm_up, scaled)


def _ask(rule: Rule, source: Source, start: int, end: int, clock: Clock) -> Query:
    began = clock.monotonic_s()
    one = start == end
    reply = source.instant(rule.expr, end) if one else source.range(rule.expr, start, end, rule.interval_ms)
    seconds = clock.monotonic_s() - began
    values = reply.block.values
    samples = int((values == values).sum())
    touched = getattr(source, "touched", None)
    return Query(len(reply.block), samples, _touched(touched, rule, start, end), seconds)


def _touched(touched: object, rule: Rule, start: int, end: int) -> int | None:
    if not callable(touched):
        return None
    try:
        found = touched(rule.expr, start, end, rule.interval_ms)
    except SourceError:
        return None  # the query itself was answered: a server that dislikes the extra parameter is no reason to fail
    return found if isinstance(found, int) else None


def _judged(rule: Rule, tick: Query, warm_up: Query, scaled: float) -> Cost:
    verdicts: list[str] = []
    series = max(tick.series, warm_up.series)
    if not series:
        verdicts.append("no series answer: check the metric's name and the labels")
    beyond = tick.series - rule.max_series
    if beyond > 0:
        verdicts.append(f"{beyond} series beyond max_series {rule.max_series} are not scored; aggregate or raise it")
    slots = rule.history_ms // rule.interval_ms
    if series * slots > HISTORY_SAMPLES_MAX:
        days = HISTORY_SAMPLES_MAX // series * rule.interval_ms / 86_400_000
        verdicts.append(f"history is shortened to {days:.1f} d: {HISTORY_SAMPLES_MAX:,} samples at most")
    if tick.seconds * 1000 > SLOW_SHARE * rule.interval_ms:
        verdicts.append(f"a tick takes {tick.seconds:.1f} s of {rule.interval_ms / 1000:g} s; slots will be skipped")
    if (tick.read or 0) > HEAVY_TICK:
        verdicts.append(f"each tick reads {tick.read:,} samples: record the expression and name the recorded series")
    return Cost(rule.id, tick, warm_up, scaled, tuple(verdicts), over=not series or beyond > 0)
