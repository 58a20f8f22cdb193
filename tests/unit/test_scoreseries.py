"""Scores as series: labels that never collide, and samples only where something is known."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import make_labels
from anomalyd.score import Kind, Observation, Verdicts
from anomalyd.scoreseries import COLUMNS, KINDS, SERIES_HELP, classic, labels_of, samples_of, with_external

OWN = {"rule": "R", "group": "g"}


def test_the_labels_of_the_series_are_kept() -> None:
    """Its name goes, as after any calculation in PromQL."""
    labels = make_labels({"__name__": "up", "job": "node", "instance": "a:1"})
    assert labels_of(labels, OWN) == {"job": "node", "instance": "a:1", **OWN}


def test_a_label_that_is_called_like_ours_is_moved() -> None:
    """As a scrape does it, and again where that name is taken as well."""
    labels = make_labels({"rule": "theirs", "exported_rule": "older", "tier": "web"})
    moved = {"exported_exported_rule": "theirs", "exported_rule": "older", "tier": "web"}
    assert labels_of(labels, OWN) == {**moved, **OWN}
    assert labels_of(labels, {**OWN, "tier": "critical"})["exported_tier"] == "web"


def test_several_names_are_kept_apart() -> None:
    """Two metrics of one rule would else be one series."""
    labels = make_labels({"__name__": "node_load1", "job": "node"})
    assert labels_of(labels, OWN, several=True) == {"job": "node", "metric": "node_load1", **OWN}
    twin = make_labels({"metric": "theirs"})
    assert labels_of(twin, OWN, several=True) == {"metric": "theirs", **OWN}


def test_external_labels_yield() -> None:
    """They are added where the series has none of that name."""
    assert with_external({"region": "eu"}, {"region": "us", "replica": "a"}) == {"region": "eu", "replica": "a"}


def test_names_that_every_server_takes() -> None:
    """Letters, digits and _; where that makes two names one, both are kept."""
    assert classic({"k8s.pod": "a", "k8s_pod": "b", "0x": "c"}) == {
        "k8s_pod": "a", "exported_k8s_pod": "b", "_0x": "c"
    }  # fmt: skip


NAMES = st.sampled_from(["rule", "group", "tier", "exported_rule", "exported_exported_rule", "exported_tier", "a"])


@given(st.dictionaries(NAMES, st.text("xy", min_size=1, max_size=2)))
def test_no_label_is_lost(pairs: dict[str, str]) -> None:
    """Every value of the series is there once more under some name, and ours say what we say."""
    found = labels_of(make_labels(pairs), {**OWN, "tier": "critical"})
    assert {name: found[name] for name in ("rule", "group", "tier")} == {**OWN, "tier": "critical"}
    rest = [value for name, value in found.items() if name not in ("rule", "group", "tier")]
    assert sorted(rest) == sorted(pairs.values())


def test_samples_only_of_what_is_known() -> None:
    """A missing series has none, warming up only the value, infinity is none; the score is surprise by the cut."""
    kind = np.array([Kind.OK, Kind.MISSING, Kind.WARMING_UP], np.int8)
    zeros, nan = np.zeros(3, np.int8), math.nan
    seen = Observation(
        0, np.arange(3), np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, nan]), np.array([-math.inf, 1.0, nan]),
        np.array([4.0, 1.0, nan]), np.array([6.0, 6.0, nan]), Verdicts(kind, zeros, zeros),
    )  # fmt: skip
    found = {name: column.tolist() for name, column in samples_of(seen, 3.0).items()}
    np.testing.assert_equal(found, {
        "anomaly_score": [2.0, nan, nan], "anomaly_value": [1.0, nan, 3.0], "anomaly_expected": [1.0, nan, nan],
        "anomaly_lower": [nan, nan, nan], "anomaly_upper": [4.0, nan, nan],
    })  # fmt: skip
    assert np.isnan(samples_of(seen, 0.0)["anomaly_score"]).all()


def test_every_series_can_be_asked_for() -> None:
    """What may be chosen is all that there is, each once."""
    assert sorted(name for names in KINDS.values() for name in names) == sorted(SERIES_HELP)
    assert set(COLUMNS) < set(SERIES_HELP)
