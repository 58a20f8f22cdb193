"""``Earlier``: what a series did before the daemon scored it, asked of its source; for the charts of the first alerts.

A daemon that has just started has learned from weeks and stored minutes. A chart of these alone would show an anomaly
without what is usual. It is a courtesy, so whatever goes wrong is an empty answer: a rule of very many series is not
asked about, a source that does not answer soon is not waited for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from anomalyd.block import F64, I64, Labels
from anomalyd.errors import SourceError
from anomalyd.logs import get_logger
from anomalyd.rule import Rule
from anomalyd.sources import Source

POINTS = 400
"""More than a chart on a phone can show."""
SAMPLES_MAX = 400_000
"""The whole query is asked, for a series cannot be picked out of it: it must not cost the source more than this."""
PATIENCE_S = 1.5

log = get_logger("picture")


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Samples of one series: ``times`` [T], milliseconds, and ``values`` [T], NaN where there is none."""

    times: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    values: F64 = field(default_factory=lambda: np.zeros(0))


NOTHING = Stretch()


class Earlier:
    """Asks the source of a rule; one question at a time.

    Args:
        rule_of, sources: the rules and the sources in force.
        patience_s: how long an answer is waited for.
    """

    def __init__(
        self, rule_of: Callable[[str], Rule | None], sources: Callable[[], Mapping[str, Source]],
        patience_s: float = PATIENCE_S,
    ):  # fmt: skip
        self._rule_of, self._sources, self._patience_s = rule_of, sources, patience_s
        self._asking = threading.Lock()

    def __call__(self, rule_id: str, labels: Labels, series: int, start: int, end: int) -> Stretch:
        """What the series with these labels did from ``start`` to before ``end``, a slot of its rule.

        Args:
            series: how many series the rule has.
        """
        rule = self._rule_of(rule_id)
        source = self._sources().get(rule.source) if rule is not None else None
        if rule is None or source is None or rule.detector.joint:
            return NOTHING
        slots = (end - start) // rule.interval_ms
        step = rule.interval_ms * max(1, math.ceil(slots / POINTS))
        points = (end - start) // step
        if points < 1 or points * series > SAMPLES_MAX or not self._asking.acquire(blocking=False):
            return NOTHING
        found: list[Stretch] = []

        def ask() -> None:
            try:
                found.append(_asked(source, rule, labels, end - points * step, end - step, step))
            except SourceError as error:
                log.debug("a chart begins with the daemon's own scores", rule=rule_id, reason=error.reason)
            finally:
                self._asking.release()

        asking = threading.Thread(target=ask, name="earlier", daemon=True)
        asking.start()
        asking.join(self._patience_s)
        return found[0] if found else NOTHING


def _asked(source: Source, rule: Rule, labels: Labels, start: int, end: int, step: int) -> Stretch:
    block = source.range(rule.expr, start, end, step).block
    values = np.full(len(block.times), np.nan)
    for full, samples in zip(block.labels, block.values, strict=True):
        if tuple(pair for pair in full if pair[0] not in rule.drop_labels) == labels:
            values = np.where(np.isfinite(values), values, samples)
    return Stretch(block.times, values)
