"""``ensemble``: several detectors, each calibrated by itself, combined on the common scale of surprise.

Idea
    Every member scores the samples and is calibrated against its own past, so that all speak of tail probabilities.
    They are combined by their weighted mean (the default: steadier than the maximum), their maximum, their minimum
    (all must agree) or a quorum (the k-th largest: k members must agree). A maximum is high more often than its members
    are and a mean or a minimum less often, so what comes of it is calibrated again, once the series has a thousand
    samples that all members could judge: budgets hold however members are combined. The expected value is that of the
    first member with a band. Where a member knows news from what goes on, as ``auto`` does, an episode opens by news:
    what members say of news is combined in the same way, and the score counts for its share of what they say at all.
    So with ``min`` and [``auto``, X] an episode opens by ``auto``'s news alone, with ``max`` X may open one too.

Works for
    Rules where one view is not enough and the members are known; a second opinion (``combine: min``) for emergencies.
    What each member said of an alert is told by ``anomalyd explain``, how good each is by ``anomalyd evaluate
    --replay``. Members that are all ``joint`` judge groups of series, as each of them would alone.

Fails when
    Members are nearly alike (their mean is no better than one) or a weak member is added to good ones: its noise is in
    the mean. Members that are ``joint`` are not calibrated again.

Toy stream
    Surprises 4 and 2: mean 3, max 4, min 2. With three members 4, 3 and 0 and a quorum of 2: 3. If the series had a
    mean of 3 once in ten thousand samples, its surprise is 4.

Reference
    Fisher (1932) for adding up logarithms of tail probabilities; measured on labelled series in ``docs/detection.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from anomalyd.block import F64, Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Choice, Detector, Grid, Opinion, Raw, State, with_step
from anomalyd.detectors.calibrate import Calibrator
from anomalyd.detectors.common import check_newer, newest
from anomalyd.errors import DetectorError
from anomalyd.rule import DetectorSpec

CALIBRATED = 1_000
"""Samples that all members have judged, after which what they say together is calibrated."""
BAND_AT = 3.0
"""The surprise at which the members' bands are measured to give the ensemble's unit."""
MOST = 60.0
"""Logarithm of the highest score that is calibrated."""
_TOGETHER = "t.c."


class Member(base.Params):
    """One member: a detector by name, its parameters and its weight in the mean."""

    type: str = Field(description="Name of the detector.")
    params: dict[str, Any] = Field(default_factory=dict, description="Its parameters.")
    weight: float = Field(1.0, gt=0, description="Its weight in the mean.")

    @property
    def name(self) -> str:
        """The member for people: its type and what was given."""
        given = ", ".join(f"{name} {value}" for name, value in self.params.items())
        return f"{self.type} ({given})" if given else self.type


class EnsembleParams(base.Params):
    """Parameters of ``ensemble``."""

    members: tuple[Member, ...] = Field(
        (Member(type="rls"), Member(type="seasonal"), Member(type="knn")), min_length=1, description="The detectors."
    )
    combine: Literal["mean", "max", "min", "quorum"] = Field("mean", description="How surprises are combined.")
    quorum: int = Field(2, ge=1, description="Members that must agree when combined by quorum.")

    @model_validator(mode="after")
    def _sensible(self) -> EnsembleParams:
        if any(member.type == "ensemble" for member in self.members):
            raise ValueError("an ensemble cannot be a member of an ensemble")
        if self.combine == "quorum" and self.quorum > len(self.members):
            raise ValueError(f"a quorum of {self.quorum} cannot be reached by {len(self.members)} members")
        return self


class Ensemble:
    """Calibrated members, combined; see the module's docstring."""

    name: ClassVar[str] = "ensemble"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = True
    Params: ClassVar[type[base.Params]] = EnsembleParams

    def __init__(self, params: EnsembleParams, grid: Grid, members: Sequence[Detector] | None = None) -> None:
        from anomalyd.detectors.model import SETTLING_MS, Model

        self.params = params
        self.grouped = any(spec.joint for spec in DetectorSpec("ensemble", params.model_dump()).members)
        given: Sequence[Detector | None] = members or [None] * len(params.members)
        self.models = [
            Model(DetectorSpec(m.type, m.params), grid, 0, own, member=True)
            for m, own in zip(params.members, given, strict=True)
        ]
        settling = 0 if self.joint else SETTLING_MS // max(1, grid.step_ms)
        self.calibrator = Calibrator(fewest=CALIBRATED, settling=settling)

    @property
    def joint(self) -> bool:
        """Whether the members must be fitted on a cadence (``Model.streaming`` asks): one of them learns in fits."""
        return not all(model.streaming for model in self.models)

    @property
    def rowwise(self) -> bool:
        """Whether no member takes the series together."""
        return all(base.rowwise(model.detector) for model in self.models)

    @property
    def min_history(self) -> int:
        return max(model.min_history for model in self.models)

    def fit(self, history: Block, seed: int) -> State:
        """Fit every member, calibration included, and calibrate what they said together of the history."""
        states, said = [], []
        for model in self.models:
            model.seed = seed
            state, surprise = model.fit_and_say(history)
            states.append(state)
            said.append(surprise)
        together = self.calibrator.empty(len(history))
        if not self.grouped:
            together = self.calibrator.score(together, self._all_said(np.stack(said)), 0.0)[2]
        return _packed(states, together, newest(history))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        scores = []
        after = []
        for model, own in zip(self.models, _unpacked(state, len(self.models)), strict=True):
            member, next_state = model.score(own, fresh, BAND_AT, hold)
            scores.append(member)
            after.append(next_state)
        surprises = np.stack([s.surprise for s in scores])
        lead = next((s for s, m in zip(scores, self.models, strict=True) if m.detector.has_band), scores[0])
        unit = (lead.upper - lead.expected) / BAND_AT
        score, together = self._combined(surprises), _together(state)
        if not self.grouped:
            said, _, together = self.calibrator.score(together, self._all_said(surprises), 0.0, hold)
            score = np.where(np.isnan(said), score, said)
        pages = [s.surprise if s.page is None else s.page for s in scores]
        page = self._opens(score, surprises, np.stack(pages)) if any(s.page is not None for s in scores) else None
        return Raw(score, lead.expected, unit, page), _packed(after, together, newest(fresh, state.as_of))

    def opinions(self, state: State, fresh: Block) -> tuple[Opinion, ...]:
        """What each member says of samples, so that its quality can be seen; the state stays as it is."""
        pairs = zip(self.params.members, self.models, _unpacked(state, len(self.models)), strict=True)
        return tuple(
            Opinion(member.name, member.weight, model.score(own, fresh, BAND_AT)[0].surprise)
            for member, model, own in pairs
        )

    def choices(self, state: State) -> tuple[Choice, ...]:
        """Which models run in those members that have a choice."""
        pairs = zip(self.models, _unpacked(state, len(self.models)), strict=True)
        return tuple(choice for model, own in pairs for choice in model.choices(own))

    def _all_said(self, surprises: F64) -> F64:
        """What the members say together of samples [N, T] where each of them says something; NaN elsewhere.

        As a score with the tail that the calibration takes for the usual one: where the combination is right already,
        its surprise comes out as it went in, also far beyond the past.
        """
        from anomalyd.detectors.kernels.tail import LN10, MOMENTS_SHAPE

        combined = np.where(np.isnan(surprises).any(axis=0), np.nan, self._combined(surprises))
        score: F64 = np.expm1(np.minimum(LN10 * MOMENTS_SHAPE * combined, MOST)) / MOMENTS_SHAPE
        return score

    def _opens(self, score: F64, surprises: F64, pages: F64) -> F64:
        """The surprise with which an episode may open: of what members say together, the share that is news.

        A member that does not know news from what goes on says news only. Where nobody's is none, the score.
        """
        news = np.where(np.isnan(surprises), np.nan, np.minimum(np.nan_to_num(pages), surprises))
        together = self._combined(surprises)
        share = np.where(together > 0.0, self._combined(news) / np.maximum(together, 1e-12), 0.0)
        opens: F64 = score * np.clip(share, 0.0, 1.0)
        return opens

    def _combined(self, surprises: F64) -> F64:
        known = ~np.isnan(surprises)
        low, high = np.where(known, surprises, -1.0), np.where(known, surprises, np.inf)
        if self.params.combine == "mean":
            weights = np.array([m.weight for m in self.params.members])[:, None, None] * known
            total = np.where(known, surprises, 0.0) * weights
            result = total.sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-12)
        elif self.params.combine == "max":
            result = low.max(axis=0)
        elif self.params.combine == "min":
            result = high.min(axis=0)
        else:
            result = np.sort(low, axis=0)[-self.params.quorum]
        enough = known.sum(axis=0) >= (self.params.quorum if self.params.combine == "quorum" else 1)
        combined: F64 = np.where(enough, np.maximum(result, 0.0), np.nan)
        return combined


def _packed(states: Sequence[State], together: Mapping[str, npt.NDArray[Any]], as_of: int) -> State:
    arrays = {f"m{i}.{name}": array for i, s in enumerate(states) for name, array in s.arrays.items()}
    arrays |= {_TOGETHER + name: array for name, array in together.items()}
    shared = frozenset(f"m{i}.{name}" for i, s in enumerate(states) for name in s.shared)
    return with_step(State(arrays, shared, as_of), tuple(s.step for s in states))


def _together(state: State) -> dict[str, npt.NDArray[Any]]:
    """The calibration of what members say together."""
    found = {name: array for name, array in state.arrays.items() if name.startswith(_TOGETHER)}
    if not found:
        raise DetectorError("snapshot", "the state has no calibration of what members say together")
    return {name.removeprefix(_TOGETHER): array for name, array in found.items()}


def _unpacked(state: State, members: int) -> list[State]:
    found = []
    steps = state.step if isinstance(state.step, tuple) else (None,) * members
    for i in range(members):
        start = f"m{i}."
        arrays = {k.removeprefix(start): v for k, v in state.arrays.items() if k.startswith(start)}
        if not arrays:
            raise DetectorError("snapshot", f"the state has no member {i}")
        shared = frozenset(k.removeprefix(start) for k in state.shared if k.startswith(start))
        found.append(with_step(State(arrays, shared, state.as_of), steps[i]))
    return found
