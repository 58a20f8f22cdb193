"""What series are like as data, in numbers: known, moving before a fault is told, and the worst of a rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import F64
from anomalyd.console.dataview import seen_of
from anomalyd.evaluation.datafeatures import features_of, worst_of
from anomalyd.evaluation.dataquality import Quality, observe
from life import START, Life, M
from unit.test_dataquality import WATCHED, gappy, long, repeated, spoiled, statements


def seen(values: F64) -> Quality:
    """What is known of series after these samples."""
    block = long(len(values), 0)
    block = replace(block, times=START + np.arange(values.shape[1]) * M, values=values)
    return observe(WATCHED, Quality().grown(len(values)), block)[0]


def test_each_feature_says_what_it_is_called() -> None:
    """Noise, a constant, a series that comes every second slot, and one that was never seen."""
    noise = np.random.default_rng(1).normal(size=1024 + 32)
    sparse = np.where(np.arange(len(noise)) % 2, np.nan, noise)
    f = features_of(seen(np.array([noise, np.full(len(noise), 7.0), sparse, np.full(len(noise), np.nan)])), M)
    assert f.entropy[0] > 0.97
    assert np.allclose(f.repeat_share[:2], [0.0, 1.0], atol=1e-3)
    assert f.gap_share[2] == pytest.approx(0.5, abs=0.02)
    assert f.silence_s[2] == 60
    assert (f.low[0], f.high[0]) == (pytest.approx(noise.min(), abs=0.5), pytest.approx(noise.max(), abs=0.5))
    assert (f.low[1], f.high[1]) == (7, 7)
    assert all(np.isnan(getattr(f, name)[3]) for name in ("gap_share", "entropy", "low", "silence_s"))
    few = features_of(seen(np.resize([1.0, 2.0, 3.0, 4.0], (1, 1024 + 32))), M)
    assert few.entropy[0] == pytest.approx(np.log(4) / np.log(32), abs=0.02)
    assert few.entropy_usual[0] == pytest.approx(np.log(4) / np.log(64), abs=0.02)


def test_the_worst_of_a_rule_is_one_number_and_nothing_is_no_number() -> None:
    """The largest share and silence, the least entropy; without series none."""
    noise = np.random.default_rng(1).normal(size=1056)
    worst = worst_of(features_of(seen(np.array([noise, np.resize([1.0, 2.0], 1056)])), M))
    assert worst["entropy"] == pytest.approx(np.log(2) / np.log(32), abs=0.02)
    assert worst["gap_share"] == 0
    assert all(np.isnan(value) for value in worst_of(features_of(Quality(), M)).values())


@pytest.mark.parametrize(("fault", "feature"), [(gappy, "gap_share"), (repeated, "repeat_share")])
def test_a_feature_moves_before_the_fault_is_told(fault: object, feature: str) -> None:
    """Whoever looks at the number sees it leave what was usual minutes before the message."""
    life = Life(spoiled(long(), fault, 70, 150), WATCHED)  # type: ignore[arg-type]
    left = 0
    for minute in range(150):
        life.live(minute, minute + 1)
        f = features_of(life.evaluator.runs[WATCHED.id].memory.quality, M)
        usual = getattr(f, f"{feature}_usual")[1]
        if not left and getattr(f, feature)[1] > usual + 0.1:
            left = minute
    told = (statements(life)[0].at - START) // M
    assert 70 <= left < told
    answer = seen_of(life.evaluator.runs[WATCHED.id], 0)
    assert answer["series"][0]["labels"]["host"] == "h1"
    assert len(answer["series"]) == 4
    assert answer["next"] is None
