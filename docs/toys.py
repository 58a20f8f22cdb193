"""Toy series for the detectors' pages: one for each detector, with what is planted in it and what comes of that.

Each series shows what its detector is for and, numbered too, what it cannot find by nature. ``played`` runs the real
detector; a scene whose promise does not hold is not drawn (``Broken``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from anomalyd.block import F64, Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec
from anomalyd.score import Scores

STEP_MS = 15 * MINUTE_MS
DAY = DAY_MS // STEP_MS
LEARNED, SHOWN = 28 * DAY, 3 * DAY
START_MS = 1_767_571_200_000
"""A Monday, 00:00 UTC."""
CUT = math.log10(7 * DAY)
"""The surprise that is called anomalous in the pictures: that of a budget of one false alarm a week."""
PARTS = ("raw", "expected", "lower", "upper", "surprise")
STILL_OPEN = 3
"""Samples below the cut after which an episode ends and learning goes on."""

Make = Callable[[np.random.Generator], F64]


@dataclass(frozen=True, slots=True)
class Plant:
    """Something unusual: where it stands in the part that is shown, in samples; what it is; whether it is found.

    ``echo`` is for how many samples it may be heard after its end (a stretch that still holds it).
    """

    at: int
    length: int
    words: str
    found: bool
    echo: int = 4


@dataclass(frozen=True, slots=True)
class Scene:
    """A toy series [N, LEARNED + SHOWN] for one detector.

    Attributes:
        about: what the series is.
        make: draws the values.
        focus: the series that is shown, with its score.
        siblings, panels: the other series are drawn faintly behind it, or each in a panel of its own.
        limit: a level to draw as a line.
    """

    about: str
    make: Make
    plants: tuple[Plant, ...]
    params: Mapping[str, object] = field(default_factory=dict)
    seed: int = 1
    focus: int = 0
    limit: float | None = None
    siblings: bool = False
    panels: bool = False


class Broken(Exception):
    """A scene does not show what it promises."""


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """The part of a scene that is shown, and what the detector said of it."""

    block: Block
    scores: Scores


def played(name: str, scene: Scene) -> Played:
    """Learn the older part, then score sample by sample as the daemon does: what is open is not learned."""
    values = scene.make(np.random.default_rng(scene.seed))
    labels = tuple(make_labels({"instance": str(i)}) for i in range(len(values)))
    block = Block(labels, START_MS + STEP_MS * np.arange(values.shape[1]), values)
    model = Model(DetectorSpec(name, dict(scene.params)), Grid(STEP_MS), seed=7)
    state = model.fit(block.window(0, LEARNED))
    calm = np.full(len(block), STILL_OPEN)
    parts = []
    for t in range(LEARNED, values.shape[1]):
        scores, state = model.score(state, block.window(t, t + 1), CUT, hold=calm < STILL_OPEN)
        calm = np.where(np.nan_to_num(scores.surprise[:, 0]) >= CUT, 0, calm + 1)
        parts.append(scores)
    joined = {name: np.concatenate([getattr(p, name) for p in parts], axis=1) for name in PARTS}
    return Played(block.window(LEARNED), Scores(**joined))


def heard(scene: Scene, surprise: F64) -> list[bool]:
    """Whether each plant was above the cut; raise ``Broken`` where something else was."""
    above = np.nan_to_num(surprise) >= CUT
    answers = []
    quiet = above.copy()
    for plant in scene.plants:
        answers.append(bool(above[plant.at : plant.at + plant.length + 1].any()))
        quiet[plant.at : plant.at + plant.length + plant.echo] = False
    if quiet.any():
        raise Broken(f"a false alarm at sample {int(np.flatnonzero(quiet)[0])}")
    return answers
