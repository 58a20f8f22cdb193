"""Drift: noted once, never paged, and where the rule's detector learns in fits, a fit is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import F64, Block
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.drift import Watch, new_drifts
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.slot import NoticeKind
from life import START, Life, M, hosts

MINUTES = 15 * 60
PAST = 3 * 24 * 60
RULE = Rule(
    "Load", "g", "load", detector=DetectorSpec("lof"), history_ms=4 * DAY_MS, query_delay_ms=0,
    receivers=("hook",), refit_every_ms=30 * DAY_MS, tiers=(TierPolicy(Tier.WARNING, surprise=6),),
)  # fmt: skip
WATCH = Watch(M)


def chances(n: int, minutes: int, seed: int = 0) -> F64:
    """Surprises as they are while a model fits: -log10 of even numbers."""
    drawn: F64 = -np.log10(np.random.default_rng(seed).uniform(size=(n, minutes)))
    return drawn


def times(minutes: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return START + M * np.arange(minutes, dtype=np.int64)


def test_nothing_is_found_while_a_model_fits() -> None:
    """200 series for two weeks: none drifts, nor does one whose surprise swings between night and day."""
    surprise = chances(200, 14 * 24 * 60)
    surprise[100:] *= 1 + 0.6 * np.sin(2 * np.pi * times(surprise.shape[1]) / DAY_MS)
    after = WATCH.take_in(WATCH.empty(200), surprise, times(surprise.shape[1]))
    assert not after["found"].any()


def test_a_lasting_rise_is_found_once_and_again_only_after_calm() -> None:
    """Surprise that averages 1.3 from the third day on is found within hours, with its beginning; once."""
    minutes = 9 * 24 * 60
    surprise = chances(1, minutes)
    surprise[:, PAST : 2 * PAST] *= 3
    after = WATCH.take_in(WATCH.empty(1), surprise, times(minutes))
    (found,) = after["found"][0][after["found"][0] > 0].tolist()
    late = (found - START) / M - PAST
    assert 0 < late < 8 * 60
    assert abs(found - after["spans"][0, 0] - START - PAST * M) <= 4 * HOUR_MS
    again = chances(1, PAST, seed=1) * 3
    more = WATCH.take_in(after, again, times(minutes + PAST)[minutes:])
    assert (more["found"][0] > 0).sum() == 2


def test_samples_can_come_one_by_one() -> None:
    """Blocks of any length leave the same state; held series and missing samples are left out."""
    surprise = chances(3, 500)
    surprise[1, 100:300] = np.nan
    hold = np.array([False, False, True])
    whole = WATCH.take_in(WATCH.empty(3), surprise, times(500), hold)
    parts = WATCH.empty(3)
    at = 0
    for stop in (1, 2, 33, 60, 61, 200, 499, 500):
        parts = WATCH.take_in(parts, surprise[:, at:stop], times(500)[at:stop], hold)
        at = stop
    for name, array in whole.items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)
        np.testing.assert_array_equal(array[2], WATCH.empty(3)[name][2], err_msg=name)


def widening(n: int = 3, minutes: int = MINUTES) -> Block:
    """Noise around 10; from the second hour the first series swings three times as far, which is no anomaly."""
    before = RULE.history_ms // M
    stamps = START + np.arange(-before, minutes) * M
    values = 10 + np.random.default_rng(1).normal(size=(n, len(stamps)))
    values[0, before + 2 * 60 :] = 10 + (values[0, before + 2 * 60 :] - 10) * 3
    return Block(hosts(n), stamps, values)


@pytest.mark.parametrize("refit", [True, False])
def test_a_drift_is_noted_pages_nobody_and_asks_for_a_fit(refit: bool) -> None:
    """The series that drifts has one notice and no alert; the rule is fitted anew hours later if it may be."""
    life = Life(widening(), replace(RULE, refit_on_drift=refit))
    fits = set()
    for minute in range(MINUTES):
        life.live(minute, minute + 1)
        fits.add(life.evaluator.runs[RULE.id].memory.fitted_at)
    notices = life.store.notices(rule=RULE.id)
    assert [(n.kind, dict(n.labels)["host"]) for n in notices] == [(NoticeKind.DRIFT, "h0")]
    (notice,) = notices
    assert 2 * 60 < (notice.at - START) // M < 12 * 60
    assert abs(notice.since - START - 2 * HOUR_MS) < 4 * HOUR_MS
    assert life.told() == []
    fitted = sorted((at - START) // M for at in fits if at > START)
    if refit:
        (again,) = fitted
        due = max(360, (notice.at - START) // M + 180)
        assert due - 1 <= again + 1 <= due + 10, "six hours after the last fit, three after the drift was noted"
    else:
        assert not fitted


def test_adwin_says_when_the_level_has_moved() -> None:
    """ADWIN's own drifts are notices too: a level twice the noise away, after a week that taught what is normal."""
    n, late = 9 * 288, 8 * 288
    values = np.random.default_rng(2).normal(size=(2, n)) + 10
    values[1, late:] += 2
    block = Block(hosts(2), START + 5 * M * np.arange(n), values)
    model = Model(DetectorSpec("adwin"), Grid(5 * M))
    before = model.fit(block.window(0, late - 10))
    after = model.score(before, block.window(late - 10), 6.0)[1]
    found = [drift for drift in new_drifts(before, after) if drift.of_level]
    assert {drift.row for drift in found} == {1}
    assert late <= (found[0].at - START) // (5 * M) <= late + 100
    assert found[0].since == 0
    assert new_drifts(after, after) == ()
