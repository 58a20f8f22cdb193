"""The detector contract: two pure functions over blocks, and the state that passes between them.

A detector is a recipe (frozen parameters) without memory. What it learned is a ``State``: named numpy arrays, nothing
else, so that it can be sliced, sharded, shipped and stored without knowing the detector. Samples are scored before they
are learned. A detector neither reads the clock nor does I/O, and gives the same result for the same input and seed,
however the samples are cut into blocks.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.errors import DetectorError
from anomalyd.holiday import Holidays

STATE_FORMAT = 1


class Params(BaseModel):
    """Base of all detectors' parameters: frozen, unknown names refused, described for the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What a detector learned.

    Attributes:
        arrays: named arrays; the first axis is the series, except for the names in ``shared`` (trees, weights).
        shared: names of the arrays that all series share.
        as_of: time of the newest sample learned, milliseconds; samples not newer than this are refused.
        step: what led here, so that the next step need not copy (``stepping.py``); no part of the value: a state that
            is sliced, joined, changed, stored or shipped has none.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    shared: frozenset[str] = frozenset()
    as_of: int = 0
    step: object = field(default=None, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (dict(self.arrays), self.shared, self.as_of)

    def take(self, rows: Sequence[int] | I64) -> State:
        """Return the state of the given series, in that order."""
        index = np.asarray(rows, np.int64)
        arrays = {k: v if k in self.shared else v[index] for k, v in self.arrays.items()}
        return State(arrays, self.shared, self.as_of)

    def to_bytes(self) -> bytes:
        """Serialise as NPZ (no pickle) with a JSON header."""
        header = {"format": STATE_FORMAT, "shared": sorted(self.shared), "as_of": self.as_of}
        buffer = io.BytesIO()
        fields: dict[str, Any] = {f"a.{name}": array for name, array in self.arrays.items()}
        np.savez_compressed(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **fields)
        return buffer.getvalue()


def with_step(state: State, step: object) -> State:
    """The state, just made, with what led to it."""
    object.__setattr__(state, "step", step)
    return state


def state_from_bytes(data: bytes) -> State:
    """Read what ``State.to_bytes`` wrote; raise ``DetectorError`` ("snapshot") for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as z:
            header = json.loads(bytes(z["header"]).decode())
            if header["format"] != STATE_FORMAT:
                raise DetectorError("snapshot", f"state snapshot has format {header['format']}, not {STATE_FORMAT}")
            arrays = {name[2:]: z[name] for name in z.files if name.startswith("a.")}
            return State(arrays, frozenset(header["shared"]), int(header["as_of"]))
    except DetectorError:
        raise
    except Exception as error:  # np.load and zipfile raise a dozen types for a cut or foreign file
        raise DetectorError("snapshot", f"state snapshot cannot be read: {error}") from error


def join_states(states: Sequence[State]) -> State:
    """Put the series of several states of one detector under each other; shared arrays come from the first."""
    first = states[0]
    arrays = {
        name: array if name in first.shared else np.concatenate([s.arrays[name] for s in states])
        for name, array in first.arrays.items()
    }
    return State(arrays, first.shared, max(s.as_of for s in states))


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a detector says of samples before calibration; arrays [N, T], NaN where it cannot say.

    Attributes:
        score: larger is more abnormal, never negative, never infinite.
        expected: what would have been normal, in the series' unit; every detector gives one (a median if need be).
        unit: series' unit per unit of score, so that the band at score s is expected ± s * unit; NaN without a band.
        page: only of calibrated detectors that know news from what goes on: the surprise with which an episode may
            open, 0 nearly everywhere, never above ``score``; None where every sample may open one.
        side: of what the score speaks: above 0 of a rise, below 0 of a fall; None where that is the side of
            ``expected`` on which the sample lies.
    """

    score: F64
    expected: F64
    unit: F64
    page: F64 | None = None
    side: F64 | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """What a detector must know of the rule it works for.

    Attributes:
        step_ms: distance of samples.
        timezone: the users' civil time zone (IANA).
        group_by: the labels by whose values the series of a ``joint`` detector are put together.
        direction: the side of what is expected on which a deviation matters: only such deviations make its tail.
        holidays: days that count as another day of the week.
        run_length: samples that may pass between false alarms, by the rule's budget; 0 where no detector of it asks.
    """

    step_ms: int
    timezone: str = "UTC"
    group_by: tuple[str, ...] = ()
    direction: Literal["up", "down", "both"] = "both"
    holidays: Holidays | None = None
    run_length: int = 0


class Detector(Protocol):
    """One algorithm. Class facts are read by the loader, the docs and the contract battery.

    Attributes:
        name: the YAML name.
        streaming: learns with every sample; ``fit`` is then a replay and needs no cadence.
        multivariate: can take the series of a block as the channels of one vector per time.
        has_band: gives ``unit``.
        calibrated: ``Raw.score`` is already a surprise (ensembles); it is not calibrated again.
    """

    name: ClassVar[str]
    streaming: ClassVar[bool]
    multivariate: ClassVar[bool]
    has_band: ClassVar[bool]
    calibrated: ClassVar[bool]
    Params: ClassVar[type[Params]]

    def __init__(self, params: Any, grid: Grid) -> None: ...

    @property
    def min_history(self) -> int:
        """Samples a series needs before its scores mean anything; until then they are NaN (warming up)."""
        ...

    def fit(self, history: Block, seed: int) -> State:
        """Learn from history [N, T] (NaN allowed, T may be 0) and return the state of its N series."""
        ...

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        """Score each sample of ``fresh``, then learn it; series with ``hold`` [N] are scored and not learned.

        What a held series had learned (levels, spreads, windows, weights) stays as it was. Context that only serves
        to see the next sample - lags, the step of a recurrent net - moves on, limited to the usual range.

        A multivariate detector whose parameters say ``joint`` takes the series of a block as the channels of one
        vector per time: the score of a time is the same in every row that has a sample there, ``expected`` is each
        channel's own, and the state cannot be sliced or joined. A held channel holds them all. It is always run by
        ``Grouped``, which gives it the channels of one group and can slice and join.

        Raises ``DetectorError`` ("out_of_order") when a sample is not newer than ``state.as_of``.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Forecasts:
    """Forecasts of N series at T future times, each [N, T], in the series' unit; NaN for a series never seen."""

    expected: F64
    lower: F64
    upper: F64


@runtime_checkable
class Forecasting(Protocol):
    """What a detector that forecasts has besides.

    Attributes:
        limit: the value that must not be reached; ``upper``: whether from below.
        ahead_ms: how far ahead it looks by itself.
    """

    @property
    def limit(self) -> float: ...

    @property
    def upper(self) -> bool: ...

    @property
    def ahead_ms(self) -> int: ...

    def forecast(self, state: State, times: I64, coverage: float = 0.95) -> Forecasts:
        """What the series will be at times [T] after the state, with the interval that holds a share of outcomes."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the models that a detector tried runs.

    Attributes:
        runs: its name.
        learned: whether it is the one that the detector is named after, and not the simpler one it falls back to.
        why: by what right, in words.
        labels: the labels of the group of series that it was made for; empty where it is for all, or for several.
        kind, groups: of a model that several groups share, the channels that each of them has, and how many they are.
        stopped: training was stopped by its limit of time after so many of ``rounds``; 0 where it ran to its end.
        trouble: why a graphics processor that is there could not be used; empty where it could, or where there is none.
    """

    runs: str
    learned: bool
    why: str
    labels: Labels = ()
    stopped: int = 0
    rounds: int = 0
    trouble: str = ""
    kind: str = ""
    groups: int = 0

    @property
    def key(self) -> tuple[Labels, str, str]:
        """What it is for, and what runs: the same from fit to fit unless another model was chosen."""
        return self.labels, self.kind, self.runs

    def __str__(self) -> str:
        of = f" for {self.groups:,} groups of {self.kind}" if self.groups else ""
        cut = f"; training was stopped by its limit of time after {self.stopped} of {self.rounds} rounds"
        ran = f"; it was trained on the ordinary processor, since the graphics processor failed ({self.trouble})"
        return f"{self.runs} runs{of}: {self.why}{cut if self.stopped else ''}{ran if self.trouble else ''}"


@runtime_checkable
class Choosing(Protocol):
    """What a detector has besides that tries more than one model and runs the best, as `lstm` does."""

    def choices(self, state: State) -> tuple[Choice, ...]:
        """Which models run and by what right."""
        ...


@runtime_checkable
class Combining(Protocol):
    """What a detector has besides that asks others and combines what they say, as `ensemble` does."""

    def opinions(self, state: State, fresh: Block) -> tuple[Opinion, ...]:
        """What each of them says of samples."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """What one member of an ensemble says: its surprise [N, T], NaN where it cannot say."""

    name: str
    weight: float
    surprise: F64


@runtime_checkable
class Limited(Protocol):
    """What a detector has besides that may take only so long to learn."""

    def with_share(self, share: float) -> Detector:
        """The same detector with only this share of its time: several are learned one after another."""
        ...


@runtime_checkable
class Alike(Protocol):
    """What a ``joint`` detector has besides whose model can be that of several groups with channels of one kind."""

    def fit_alike(self, history: Block, seed: int, groups: int) -> State:
        """Learn one model from so many groups, the channels of one after those of the other, each with as many.

        ``score`` takes them in the same order; what it says of a group, and then knows of it, depends on no other.
        """
        ...


def rowwise(detector: Detector) -> bool:
    """Whether each series is scored by itself, so that any subset of them can be scored alone with the same result.

    A detector may say so itself by an attribute ``rowwise``; else one that takes series together must say that it does
    not do so here (``joint`` off).
    """
    own = getattr(detector, "rowwise", None)
    if own is not None:
        return bool(own)
    return not detector.multivariate or getattr(getattr(detector, "params", None), "joint", None) is False


@runtime_checkable
class Shaped(Protocol):
    """What a detector has besides whose fit finds out what a series is like, such as its rhythm, before it learns it.

    Scores of models that took a series for something else have another scale; calibrating one by the other is wrong.
    """

    def fit_as(self, history: Block, seed: int, model: State) -> State:
        """Learn from history as ``fit`` does, with what ``model`` (same series) found, as far as the history allows."""
        ...


@runtime_checkable
class Ending(Protocol):
    """What a detector has besides whose scores end somewhere, so that what lies far beyond the known is told apart."""

    def stretched(self, score: F64) -> F64:
        """The scores in the same order on a scale that does not end there: what the calibration sees."""
        ...


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """Where a detector lives, so that naming it costs no import."""

    name: str
    module: str
    summary: str
    extra: str = field(default="")
