"""The expectation subtracted by detectors that must not see a daily rhythm: arrays and constants for its kernel.

See ``kernels/baseline.py`` for the idea. Its arrays ``line``, ``day`` and ``week`` live in the detector's own state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64
from anomalyd.clock import DAY_MS, WEEK_MS
from anomalyd.detectors.common import ABSOLUTE_FLOOR, RELATIVE_FLOOR

DAY_BINS = 96
WEEK_BINS = 168
NAMES = ("line", "day", "week")


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """Sizes and memories of the baseline at one step.

    Attributes:
        day_bins, week_bins: bins of the two profiles; 1 where the step is too long for a rhythm to show.
        memories: level [samples], rate of the spread, day and week bins [visits],
            samples before the week's profile learns (the day's must have settled).
        floors: smallest spread, relative to the level and absolute.
    """

    day_bins: int
    week_bins: int
    memories: F64
    floors: F64

    def arrays(self, n: int) -> dict[str, npt.NDArray[Any]]:
        """State of n series that have seen nothing."""
        week = np.zeros((n, 2, self.week_bins))
        week[:, 1] = self.memories[3] / 6  # a prior visit: the first week teaches half of what it shows
        return {"line": np.zeros((n, 4)), "day": np.zeros((n, 2, self.day_bins)), "week": week}


def make_baseline(step_ms: int, floor: float = RELATIVE_FLOOR) -> Baseline:
    """The baseline for a step: the level remembers a day, the day's profile a week, the week's six weeks."""
    per_day = DAY_MS / max(1, step_ms)
    day_bins = int(min(DAY_BINS, per_day)) if per_day >= 4 else 1
    week_bins = int(min(WEEK_BINS, 7 * per_day)) if per_day >= 1 else 1
    memories = np.array(
        [
            max(30.0, per_day),
            min(0.05, max(0.005, 6 / per_day)),
            7 * max(1.0, per_day / day_bins),
            6 * max(1.0, per_day * WEEK_MS / DAY_MS / week_bins),
            4 * per_day,
        ]
    )
    return Baseline(day_bins, week_bins, memories, np.array([floor, ABSOLUTE_FLOOR]))
