"""Young series: a stand-in that speaks from the first minutes on, and the age below which all is but a warning.

A series that is ten samples old has no rhythm, no tail and no calibration, but it can be seen to break. The stand-in
compares each sample with the middle of the last 32: z is the distance in spreads, and its surprise log10(1 + z⁴ / 6),
the tail of a Student t with four degrees of freedom: nothing less than a break reaches a budget of one false alarm a
week (z of 11 at five minutes, 16 at one). A rhythm does not, however steep: the spread grows with the slope. Where
the last samples are all 0 nothing can be said of the next. It ends for good with the first score of the rule's own
detector.

Until a series is a day old (or as old as the rule's whole history) its detector has not seen what its day is like
either. So whatever is said of it is capped at the tier `warning` (see ``judge``), and told with how much past it was
learned from. And while the stand-in speaks, its series is learned whatever is said of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors.common import clean

Arrays = dict[str, npt.NDArray[Any]]

RING = 32
FEWEST = 10
"""Samples before the first score."""
RELATIVE = 0.03
"""Changes of this share of the level are taken for noise."""
GROWN_MS = DAY_MS
"""Age from which a series is not young."""


@dataclass(frozen=True, slots=True, eq=False)
class Young:
    """What is said of samples [N, T] of young series.

    Attributes:
        surprise, expected, unit: the stand-in's, NaN where it says nothing; the band at surprise s is
            expected ± unit * ``spreads_at(s)``.
        learned: slots of past that was learned from, where something is said by it or by the detector; else 0.
    """

    surprise: F64
    expected: F64
    unit: F64
    learned: I64


def spreads_at(surprise: float) -> float:
    """How many spreads away a sample is that is this surprising."""
    return float((6.0 * (10.0 ** min(max(surprise, 0.0), 70.0) - 1.0)) ** 0.25)


def begin(history: Block) -> Arrays:
    """The state of series with this past (it may be empty)."""
    from anomalyd.detectors.kernels.young import remember

    state: Arrays = {"ring": np.zeros((len(history), RING)), "life": np.zeros((len(history), 3), np.int64)}
    remember(clean(history.values), state["ring"], state["life"])
    return state


def known(state: Mapping[str, npt.NDArray[Any]], hold: Bool | None) -> Bool | None:
    """Which of the held series [N] their detector may be kept from learning: those that it has scored itself.

    Before, a series has shown nothing yet that would have to be kept clean. Were its first noon held because the
    stand-in took it for a break, its detector would know neither the day nor the night, and take both for rare.
    """
    from anomalyd.detectors.kernels.young import SPEAKS

    if hold is None or not state:
        return hold
    scored: Bool = hold & (state["life"][:, SPEAKS] == 1)
    return scored


def waits(state: Mapping[str, npt.NDArray[Any]], hold: Bool | None) -> bool:
    """Whether some of the held series are learned all the same, until their detector scores them."""
    from anomalyd.detectors.kernels.young import SPEAKS

    return hold is not None and bool(state) and bool((hold & (state["life"][:, SPEAKS] == 0)).any())


def unchanged(state: Mapping[str, npt.NDArray[Any]], surprise: F64, hold: Bool | None) -> int:
    """In how many samples, of those with a detector's ``surprise`` [N, T], from the first on who is held is the same.

    Up to the first one, included, with which a series that ``waits`` is scored.
    """
    from anomalyd.detectors.kernels.young import SPEAKS

    every = int(surprise.shape[1])
    if hold is None or not waits(state, hold):
        return every
    waiting = hold & (state["life"][:, SPEAKS] == 0)
    first = np.flatnonzero(~np.isnan(surprise[waiting]).all(axis=0))
    return int(first[0]) + 1 if len(first) else every


def score(
    state: Mapping[str, npt.NDArray[Any]], fresh: Block, surprise: F64, grown: int, hold: Bool | None = None
) -> tuple[Young | None, Arrays]:
    """Score, then learn, samples of young series; ``surprise`` [N, T] is their detector's. None where none is young.

    ``grown`` is the age in slots from which a series that its detector scores is not young any more.
    """
    from anomalyd.detectors.kernels.young import AGE, stand_in

    if bool((state["life"][:, AGE] < 0).all()):
        return None, dict(state)
    after = {name: array.copy() for name, array in state.items()}
    shape = fresh.values.shape
    said = Young(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.int64))
    held = np.zeros(len(fresh), np.bool_) if hold is None else np.ascontiguousarray(hold, np.bool_)
    stand_in(
        clean(fresh.values), np.ascontiguousarray(surprise), held, after["ring"], after["life"], FEWEST, grown,
        RELATIVE, said.surprise, said.expected, said.unit, said.learned,
    )  # fmt: skip
    return said, after
