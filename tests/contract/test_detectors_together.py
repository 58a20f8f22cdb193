"""Every detector works beside ``auto`` in an ensemble: what either finds is found, and each one's part is told."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.detectors.registry import EXTRA_MODULES, detector_info, detector_names
from anomalyd.rule import DetectorSpec

STEP, DAY = 10 * MINUTE_MS, 144
HISTORY, FRESH = 14 * DAY, DAY
START = 1_760_054_400_000
PARAMS: dict[str, dict[str, object]] = {
    "forecast": {"limit": 400.0},
    "lstm": {"hidden": 8, "window": 16, "windows": 8_192},
    "autoencoder": {"window": 12, "windows": 20_000},
    "matrix_profile": {"memory": "4d"},
}


def series() -> Block:
    """Four siblings with a daily rhythm; one has a spike in the last day."""
    rng = np.random.default_rng(9)
    t = np.arange(HISTORY + FRESH)
    values = 100 + 20 * np.sin(2 * np.pi * t / DAY) + rng.normal(size=(4, len(t)))
    values[0, HISTORY + 60] = 175
    labels = tuple(make_labels({"pod": str(i)}) for i in range(4))
    return Block(labels, START + STEP * np.arange(len(t)), values)


@pytest.mark.parametrize("name", [name for name in detector_names() if name != "ensemble"])
@pytest.mark.parametrize("combine", ["mean", "max"])
def test_beside_auto(name: str, combine: str) -> None:
    """A spike is the most surprising sample of its day whoever stands beside ``auto``, and both say their part."""
    needed = EXTRA_MODULES.get(detector_info(name).extra)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{name}: its extra is not installed")
    members = [{"type": "auto"}, {"type": name, "params": PARAMS.get(name, {})}]
    model = Model(DetectorSpec("ensemble", {"members": members, "combine": combine}), Grid(STEP))
    state = model.fit(series().window(0, HISTORY))
    scores, _ = model.score(state, series().window(HISTORY), 3.0)
    assert np.isfinite(scores.surprise).all()
    assert int(np.argmax(scores.surprise[0])) in range(60, 63)
    assert scores.surprise[0, 60] > 3.3
    said = model.opinions(state, series().window(HISTORY))
    assert [one.name.partition(" ")[0] for one in said] == ["auto", name]
