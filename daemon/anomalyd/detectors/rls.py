"""``rls``: residual of a forecast that learns with every sample.

Idea
    A linear forecast of the next sample from the last three, the means of the last six and twelve, the same time
    yesterday and the same time last week; its weights follow by recursive least squares that forget slowly. The score
    is the forecast's error in units of its usual error. Errors beyond three usual ones teach no more than three.

Works for
    Onsets: a spike, a drop, the first samples of an outage, with or without rhythm. The best finder of onsets among
    the single detectors.

Fails when
    An anomaly comes slowly, or lasts: after a few samples the forecast has followed it (an open episode is not
    learned). What is odd only as a shape is invisible.

Toy stream
    ``5 5 5 5 9 5 5``: expected 5 at the fifth sample, usual error 0.1, so 9 scores 40; the sixth is expected above 5.

Reference
    Haykin, Adaptive Filter Theory (2002), chapter 13.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import RELATIVE_FLOOR, check_newer, check_series, days_back
from anomalyd.detectors.stepping import Arrays, Learn, advance, begin

LARGEST = 1e30
SLOT_MS = 5 * MINUTE_MS


class RlsParams(base.Params):
    """Parameters of ``rls``."""

    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest usual error, as a share of the level.")


class Rls:
    """Recursive least squares over a block; see the module's docstring."""

    name: ClassVar[str] = "rls"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = RlsParams

    def __init__(self, params: RlsParams, grid: Grid) -> None:
        self.params, self.grid = params, grid
        self.slot_ms = max(SLOT_MS, grid.step_ms)
        self.day_slots = round(DAY_MS / self.slot_ms) if 4 * self.slot_ms <= DAY_MS else 0

    @property
    def min_history(self) -> int:
        return 40

    def fit(self, history: Block, seed: int) -> State:
        """Replay the history; nothing is drawn, so ``seed`` does not matter."""
        from anomalyd.detectors.kernels.rls import empty

        return begin(State(empty(len(history), self.day_slots)), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "recent", fresh)
        return advance(state, fresh, hold, self._learn(fresh.times))

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.rls import rls_block

        slots, back = times // self.slot_ms, days_back(times, self.grid)

        def learn(a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
            rls_block(
                np.clip(values, -LARGEST, LARGEST), slots, back, self.day_slots, hold, self.params.floor,
                a["recent"], a["slots"], a["weights"], a["spread"], a["forecast"], raw.score, raw.expected, raw.unit,
            )  # fmt: skip

        return learn
