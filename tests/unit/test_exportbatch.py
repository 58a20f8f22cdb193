"""What scored slots owe to a target of remote write: samples, and the marks of ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anomalyd.episode import Episode, Phase
from anomalyd.exportbatch import Batch, Family, Sent, batch_of, end_of, whole_windows
from anomalyd.records import ScoredSlot
from anomalyd.score import Observation, Tier, Verdicts
from anomalyd.scoreseries import SERIES_HELP

POD = (("pod", "a"),)


def slot(at: int, rows: Sequence[int] | None, cut: float = 2.0) -> ScoredSlot:
    """A slot with these rows; the value of a row is its number; None: of nothing is known."""
    if rows is None:
        return ScoredSlot(at, "error", 0.0, None)
    values, zeros = np.array(rows, np.float64), np.zeros(len(rows), np.int8)
    ids = np.array(rows, np.int64)
    seen = Observation(at, ids, values, values, values, values, values, Verdicts(zeros, zeros, zeros))
    return ScoredSlot(at, "ok", cut, seen)


def marks(batch: Batch, name: str) -> tuple[list[list[int]], list[list[int]]]:
    """Where the family of a name has samples and where marks of ends, as zeros and ones."""
    [family] = [one for one in (*batch.families, batch.opened, batch.threshold) if one.name == name]
    return family.there.astype(int).tolist(), family.stale.astype(int).tolist()


def episode(opened: int, closed: int = 0, tier: Tier = Tier.WARNING) -> Episode:
    phase = Phase.CLOSED if closed else Phase.OPEN
    return Episode("e", "g/R", "f", POD, phase, tier, opened, opened, opened_at=opened, closed_at=closed)


def test_samples_and_ends_of_several_slots() -> None:
    """A series that goes is marked once, where it went; one that comes back goes on."""
    batch = batch_of([slot(1, [3, 5]), slot(2, [5]), slot(3, [3, 5])], [], Sent(), {"anomaly_value"})
    assert batch.rows.tolist() == [3, 5]
    assert marks(batch, "anomaly_value") == ([[1, 0, 1], [1, 1, 1]], [[0, 1, 0], [0, 0, 0]])
    assert [family.name for family in batch.families] == ["anomaly_value"]
    assert (batch.until, batch.after.rows["anomaly_value"].tolist()) == (3, [3, 5])


def test_an_end_is_known_from_what_was_sent_before() -> None:
    """The first slot is compared with what the target knows, whatever order its rows have."""
    before = batch_of([slot(1, [5, 3])], [], Sent(), set(SERIES_HELP)).after
    batch = batch_of([slot(2, [3])], [], before, set(SERIES_HELP))
    for name in ("anomaly_score", "anomaly_value", "anomaly_expected", "anomaly_lower", "anomaly_upper"):
        assert marks(batch, name) == ([[1], [0]], [[0], [1]])


def test_a_slot_of_which_nothing_is_known_owes_nothing() -> None:
    """No sample and no mark: unknown is not the end."""
    before = batch_of([slot(1, [0])], [], Sent(), {"anomaly_value"}).after
    batch = batch_of([slot(2, None)], [], before, {"anomaly_value"})
    assert (batch.until, batch.times.tolist(), batch.after) == (2, [], before)
    assert not any(family.there.any() or family.stale.any() for family in batch.families)
    both = batch_of([slot(2, None), slot(3, [])], [], before, {"anomaly_value"})
    assert both.times.tolist() == [3]
    assert marks(both, "anomaly_value") == ([[0]], [[1]])


def test_thresholds() -> None:
    """One series a rule; a rule whose cut is infinite has none."""
    batch = batch_of([slot(1, [0]), slot(2, [0], math.inf)], [], Sent(), {"anomaly_threshold"})
    assert marks(batch, "anomaly_threshold") == ([[1, 0]], [[0, 1]])
    assert batch.threshold.values[0, 0] == 2.0
    assert batch.families == ()
    assert not batch.after.cut


def test_episodes_are_series_while_they_are_open() -> None:
    """From the slot that opened it up to the one before it closed, and then the mark."""
    slots = [slot(at, [0]) for at in (1, 2, 3, 4)]
    batch = batch_of(slots, [episode(2, 4)], Sent(), {"anomaly_episode"})
    assert batch.episodes == ((POD, Tier.WARNING),)
    assert marks(batch, "anomaly_episode") == ([[0, 1, 1, 0]], [[0, 0, 0, 1]])


def test_a_worse_tier_is_another_series() -> None:
    """The old one ends where the new one begins."""
    before = batch_of([slot(1, [0])], [episode(1)], Sent(), {"anomaly_episode"}).after
    batch = batch_of([slot(2, [0])], [episode(1, tier=Tier.CRITICAL)], before, {"anomaly_episode"})
    assert batch.episodes == ((POD, Tier.WARNING), (POD, Tier.CRITICAL))
    assert marks(batch, "anomaly_episode") == ([[0], [1]], [[1], [0]])


def test_the_end_of_a_rule() -> None:
    """Everything that the target knows is marked, and nothing else."""
    before = batch_of([slot(1, [3, 5])], [episode(1)], Sent(), set(SERIES_HELP)).after
    batch = end_of(before, 9)
    families: list[Family] = [*batch.families, batch.opened, batch.threshold]
    assert {family.name for family in families} == set(SERIES_HELP)
    assert all(family.stale.all() and not family.there.any() and family.stale.size for family in families)
    assert (batch.until, batch.after.rows, batch.after.open) == (9, {}, frozenset())


def test_only_windows_that_are_over_are_sent_whole() -> None:
    """The newest slots go one by one, so that what is sent again after a crash is what was sent before it."""
    slots = [slot(at, [0]) for at in (17, 18, 19, 20, 21)]
    assert [one.at for one in whole_windows(slots, 10)] == [17, 18, 19]
    assert [one.at for one in whole_windows(slots[3:], 10)] == [20]
    assert [one.at for one in whole_windows(slots[:3], 10)] == [17]
