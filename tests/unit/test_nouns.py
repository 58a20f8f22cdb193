"""Blocks, labels, thresholds and errors."""

from __future__ import annotations

import inspect
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anomalyd.errors as errors
from anomalyd.block import Block, fingerprint, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS, WEEK_MS, VirtualClock
from anomalyd.rule import Budget, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.threshold import NEVER, Threshold, initial_threshold, sigma_surprise

TEXT = st.text(max_size=12)


@given(st.dictionaries(TEXT, TEXT, max_size=5))
def test_labels_do_not_depend_on_order_and_have_no_empty_values(pairs: dict[str, str]) -> None:
    """A label set is the same however it was written down; an empty label is an absent one."""
    labels = make_labels(pairs)
    assert labels == make_labels(dict(reversed(pairs.items())))
    assert all(value for _, value in labels)
    assert fingerprint(labels) == fingerprint(make_labels(dict(labels)))


def test_fingerprints_do_not_confuse_names_and_values() -> None:
    """Moving a character between name and value, or between pairs, changes the fingerprint."""
    sets = [(("a", "bc"),), (("ab", "c"),), (("a", "b"), ("c", "d")), (("a", "b\xffc\xfed"),), ()]
    assert len({fingerprint(labels) for labels in sets}) == len(sets)


def test_a_block_knows_its_step_over_gaps() -> None:
    """The step is the most common distance."""
    block = Block(((),), np.array([0, 60, 120, 300, 360]), np.zeros((1, 5)))
    assert block.step_ms() == 60
    assert block.window(1, 3).times.tolist() == [60, 120]


def rule(*tiers: TierPolicy, interval: int = MINUTE_MS) -> Rule:
    return Rule("r", "g", "up", interval_ms=interval, tiers=tiers)


def test_a_budget_is_a_probability_per_sample() -> None:
    """One false alarm a week at one sample a minute is one in 10,080."""
    cuts = initial_threshold(rule(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS)))).cuts
    assert cuts[0] == pytest.approx(math.log10(10_080))
    assert cuts[1:] == (NEVER, NEVER)


def test_a_budget_per_rule_is_shared_by_its_series() -> None:
    """A hundred series with one budget have each a hundredth of it."""
    alone = initial_threshold(rule(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS, "rule"))), 1).cuts[0]
    many = initial_threshold(rule(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS, "rule"))), 100).cuts[0]
    assert many == pytest.approx(alone + 2)


def test_cuts_never_fall_from_tier_to_tier() -> None:
    """A critical budget looser than the warning's is lifted to it."""
    loose = rule(TierPolicy(Tier.WARNING, surprise=5), TierPolicy(Tier.CRITICAL, Budget(1, DAY_MS)))
    assert initial_threshold(loose).cuts == (5, 5, NEVER)


def test_three_sigma_is_the_gaussian_tail() -> None:
    """Sigma is translated by the two-sided Gaussian tail and stays finite far out."""
    assert 10 ** -sigma_surprise(3) == pytest.approx(0.0027, rel=1e-3)
    assert math.isfinite(sigma_surprise(60))


def test_a_surprise_at_the_cut_is_normal() -> None:
    """Above the cut is anomalous, at the cut is not."""
    threshold = Threshold((3.0, 6.0, NEVER))
    assert [threshold.tier(s) for s in (3.0, 3.1, 6.1, 1e9)] == [Tier.NONE, Tier.WARNING, Tier.CRITICAL, Tier.CRITICAL]


def every_error() -> list[errors.AnomalydError]:
    samples: list[errors.AnomalydError] = [errors.ConfigError([errors.Problem("f", 1, 2, "wrong", "do so")])]
    for cls in vars(errors).values():
        if inspect.isclass(cls) and issubclass(cls, errors.AnomalydError):
            if cls in (errors.ConfigError,):
                continue
            takes_reason = "reason" in inspect.signature(cls.__init__).parameters
            samples.append(cls("why", "what") if takes_reason else cls("what"))
    return samples


@pytest.mark.parametrize("error", every_error(), ids=lambda e: type(e).__name__)
def test_every_error_survives_a_process_pool(error: errors.AnomalydError) -> None:
    """Pickling keeps type, message and reason: a pool that cannot unpickle an error is dead for good."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.reason) == (type(error), str(error), error.reason)
    assert again.__dict__ == error.__dict__


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("POST https://hooks.slack.com/services/T1/B2/s3cret failed", "POST https://hooks.slack.com/<redacted> failed"),
        ("postgresql+psycopg://bob:pw@db:5432/x", "postgresql+psycopg://db:5432/<redacted>"),
        ("http://prom:9090", "http://prom:9090"),
        ("https://h?token=1", "https://h/<redacted>"),
    ],
)
def test_urls_lose_what_may_be_a_credential(text: str, clean: str) -> None:
    """Path, query and user part go; scheme and host stay."""
    assert errors.redact_urls(text) == clean


def test_a_virtual_clock_moves_only_forward() -> None:
    """Advancing to the past is a mistake of the programmer."""
    clock = VirtualClock(1_000)
    clock.advance_to(2_000)
    with pytest.raises(AssertionError):
        clock.advance_to(1_500)
