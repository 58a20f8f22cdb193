"""Forecasts as series: what rules with a detector that forecasts expect, and when the limit is reached.

Read from what the running rules have learned, nothing is computed ahead: a series and a point cost some hundred
operations. Answers are bounded in series and points, whatever is asked for.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field

from anomalyd.block import F64, I64
from anomalyd.console.parts import BadRequest, Json, Parts
from anomalyd.detectors.base import Forecasting
from anomalyd.durations import parse_duration
from anomalyd.errors import AnomalydError
from anomalyd.evaluation.rulerun import RuleRun

MOST_POINTS = 200
MOST_SERIES = 500
FARTHEST_MS = 366 * 86_400_000


def add_forecast(router: APIRouter, parts: Parts, readers: Sequence[Any]) -> None:
    """The endpoint ``/forecast``."""

    @router.get("/forecast", dependencies=readers, tags=["rules"])
    def forecast(
        rule: Annotated[str, Field(max_length=500)],
        fingerprint: Annotated[str, Query(max_length=64)] = "",
        ahead: Annotated[str, Query(max_length=20)] = "",
        points: Annotated[int, Query(ge=2, le=MOST_POINTS)] = 48,
        coverage: Annotated[float, Query(ge=0.5, le=0.999)] = 0.95,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> Json:
        """What a rule's series will be, as columns: expected, lower, upper at each time, and when the limit is reached.

        Without ``ahead`` up to the detector's own horizon. At most 500 series; ``next`` says which offset goes on.
        """
        run = parts.run(rule)
        if run is None:
            raise NotForecast(f"rule {rule!r} is not running here")
        found = foreseen(run, fingerprint, ahead, points, coverage, offset)
        return Json({"status": "success", "data": found})


class NotForecast(AnomalydError):
    """There is no forecast of what was asked for."""

    reason = "not_found"


def foreseen(
    run: RuleRun, fingerprint: str, ahead: str, points: int, coverage: float, offset: int
) -> dict[str, Any]:
    """The answer: a rule's forecasts from its newest sample on."""
    memory, model = run.memory, run.model
    detector = model.detector
    if not isinstance(detector, Forecasting):
        raise BadRequest(f"the detector {detector.name} of rule {run.rule.id!r} gives no forecasts; use forecast")
    rows = [i for i, row in enumerate(memory.active.tolist())
            if not fingerprint or memory.registry.rows[row].fingerprint == fingerprint]  # fmt: skip
    shown, more = rows[offset : offset + MOST_SERIES], len(rows) > offset + MOST_SERIES
    answer: dict[str, Any] = {
        "rule": run.rule.id, "limit": detector.limit, "when": "above" if detector.upper else "below", "series": [],
        "next": offset + MOST_SERIES if more else None,
    }  # fmt: skip
    if memory.state is None or not shown:
        return answer
    times = _times(memory.state.as_of, _length(ahead, detector.ahead_ms), points)
    found = model.forecast(memory.state.take(shown), times, coverage)
    for i, row in enumerate(shown):
        series = memory.registry.rows[int(memory.active[row])]
        columns = {"expected": found.expected[i], "lower": found.lower[i], "upper": found.upper[i]}
        limit, above = detector.limit, detector.upper
        answer["series"].append({
            "fingerprint": series.fingerprint, "labels": dict(series.labels), "times": times.tolist(),
            **{name: column.tolist() for name, column in columns.items()},
            "reached_at": _reached(times, found.expected[i], limit, above),
            "reached_at_earliest": _reached(times, found.upper[i] if above else found.lower[i], limit, above),
        })  # fmt: skip
    return answer


def _length(ahead: str, own: int) -> int:
    if not ahead:
        return own
    try:
        length = parse_duration(ahead)
    except ValueError:
        length = 0
    if not 0 < length <= FARTHEST_MS:
        raise BadRequest("ahead must be a duration of up to a year, such as 4d")
    return length


def _times(start: int, length: int, points: int) -> I64:
    """Even times after the newest sample, the last one at the end."""
    return start + (np.arange(1, points + 1) * length) // points


def _reached(times: I64, values: F64, limit: float, above: bool) -> int | None:
    """The first time at which a forecast is at the limit or beyond, or None."""
    beyond = np.flatnonzero(values >= limit if above else values <= limit)
    return int(times[beyond[0]]) if len(beyond) else None
