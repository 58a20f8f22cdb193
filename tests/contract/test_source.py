"""One battery over every kind of source: the strict fake, the real Prometheus, the real VictoriaMetrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from anomalyd.block import Labels, make_labels
from anomalyd.errors import QueryRejected
from anomalyd.prometheus.source import PrometheusSource, SourceSpec
from fakes.prometheus import FakePrometheus, FakeSeries
from servers import Series, openmetrics, running_prometheus, running_victoriametrics

MINUTE = 60_000
BASE = time.time_ns() // 1_000_000 // MINUTE * MINUTE - 180 * MINUTE
END = BASE + 59 * MINUTE
ODD = 'ü "q" \\ \n{}'

RNG = np.random.default_rng(5)
VALUES = RNG.integers(0, 10_000_000, (3, 60)) / 1000  # VictoriaMetrics keeps no more digits of such a mixture
SERIES = (
    Series("work_total", {"job": "a"}, range(BASE, END + 1, MINUTE), VALUES[0].tolist()),
    Series("work_total", {"job": ODD}, range(BASE, END + 1, MINUTE), VALUES[1].tolist()),
    # minutes 15 to 44 are missing
    Series(
        "gap_total",
        {"job": "b"},
        [BASE + i * MINUTE for i in range(60) if not 15 <= i < 45],
        [float(VALUES[2, i]) for i in range(60) if not 15 <= i < 45],
    ),
)
A: Labels = (("__name__", "work_total"), ("job", "a"))
B: Labels = make_labels({"__name__": "work_total", "job": ODD})


@dataclass(frozen=True)
class Place:
    """A server to read from."""

    kind: str
    url: str

    def source(self, **options: object) -> PrometheusSource:
        kind = "victoriametrics" if self.kind == "victoriametrics" else "prometheus"
        return PrometheusSource(SourceSpec("test", self.url, kind=kind, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fake_place() -> Iterator[Place]:
    """The strict fake."""
    series = [
        FakeSeries({"__name__": one.name, **one.labels}, dict(zip(one.times, one.values, strict=True)))
        for one in SERIES
    ]
    with FakePrometheus(series) as fake:
        yield Place("fake", fake.url)


@pytest.fixture(scope="module")
def prometheus_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The real Prometheus behind a route prefix."""
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, blocks=openmetrics(SERIES), prefix="/prom") as url:
        yield Place("prometheus", url)


@pytest.fixture(scope="module")
def victoria_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The real VictoriaMetrics."""
    with running_victoriametrics(tmp_path_factory.mktemp("victoria"), series=SERIES) as url:
        yield Place("victoriametrics", url)


@pytest.fixture(
    params=[
        "fake_place",
        pytest.param("prometheus_place", marks=pytest.mark.server("prometheus")),
        pytest.param("victoria_place", marks=pytest.mark.server("victoria-metrics")),
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


@pytest.fixture
def source(place: Place) -> Iterator[PrometheusSource]:
    """A source on each kind in turn."""
    opened = place.source()
    yield opened
    opened.close()


def test_instant(source: PrometheusSource) -> None:
    """The values at one time, exact, with all labels."""
    reply = source.instant("work_total", BASE + 7 * MINUTE)
    assert set(reply.block.labels) == {A, B}
    assert reply.block.times.tolist() == [BASE + 7 * MINUTE]
    found = dict(zip(reply.block.labels, reply.block.values[:, 0].tolist(), strict=True))
    assert found == {A: VALUES[0, 7], B: VALUES[1, 7]}
    assert (reply.partial, reply.warnings, reply.duplicates, reply.nonfinite) == (False, (), 0, 0)
    assert reply.bytes > 100


def test_instant_is_exact_to_the_millisecond(source: PrometheusSource) -> None:
    """A sample is not seen a millisecond before its time."""
    at = BASE + 8 * MINUTE
    before, then = (source.instant('work_total{job="a"}', ms).block.values[0, 0] for ms in (at - 1, at))
    assert (before, then) == (VALUES[0, 7], VALUES[0, 8])


def test_range(source: PrometheusSource) -> None:
    """The grid asked for, each value at its place."""
    reply = source.range('work_total{job="a"}', BASE, END, MINUTE)
    assert reply.block.times.tolist() == list(range(BASE, END + 1, MINUTE))
    assert reply.block.labels == (A,)
    assert reply.block.values[0].tolist() == VALUES[0].tolist()


def test_range_on_an_odd_grid(source: PrometheusSource) -> None:
    """A grid that does not begin at a multiple of its step stays as it was asked for."""
    start = BASE + 7 * MINUTE + 123
    reply = source.range('work_total{job="a"}', start, start + 60 * 7_500, 7_500)
    assert reply.block.times.tolist() == [start + i * 7_500 for i in range(61)]
    minutes = (reply.block.times - BASE) // MINUTE
    assert reply.block.values[0].tolist() == VALUES[0, minutes].tolist()


def test_a_gap_stays_a_gap(source: PrometheusSource) -> None:
    """Where no sample is within the look-back the block holds NaN, and nothing moves."""
    reply = source.range("gap_total", BASE, END, MINUTE)
    values = reply.block.values[0]
    present = np.r_[0:15, 45:60]
    assert values[present].tolist() == VALUES[2, present].tolist()
    assert np.isnan(values[21:45]).all()


def test_more_than_eleven_thousand_points(source: PrometheusSource) -> None:
    """A long range is read in parts on one grid."""
    start, end = END - 12_500 * 250, END
    reply = source.range('work_total{job="a"}', start, end, 250)
    assert reply.block.times.tolist() == list(range(start, end + 1, 250))
    minutes = (reply.block.times - BASE) // MINUTE
    assert reply.block.values[0].tolist() == VALUES[0, minutes].tolist()


def test_nothing_there(source: PrometheusSource) -> None:
    """Before the first sample, and for names that do not exist, the answer is a success without series."""
    early = BASE - 30 * 24 * 60 * MINUTE
    assert len(source.instant("work_total", early).block) == 0
    reply = source.range("no_such_metric", BASE, END, MINUTE)
    assert reply.block.values.shape == (0, 60)


def test_raw_samples(source: PrometheusSource) -> None:
    """Stored samples come with their own times, the window open on the left."""
    reply = source.samples("gap_total", BASE + 50 * MINUTE, 40 * MINUTE)
    kept = [i for i in range(11, 51) if not 15 <= i < 45]
    assert reply.offsets.tolist() == [0, len(kept)]
    assert reply.times.tolist() == [BASE + i * MINUTE for i in kept]
    assert reply.values.tolist() == VALUES[2, kept].tolist()
    assert reply.labels == ((("__name__", "gap_total"), ("job", "b")),)


def test_same_series_same_labels(source: PrometheusSource) -> None:
    """The next answer with the same series has equal labels."""
    first, second = (source.instant("work_total", BASE + i * MINUTE).block.labels for i in (7, 8))
    assert first == second


@pytest.mark.parametrize("expression", ["work_total{", "work_total[300000ms]"])
def test_bad_expressions(source: PrometheusSource, expression: str) -> None:
    """What does not parse, and what is a range, is the rule's fault."""
    with pytest.raises(QueryRejected) as caught:
        source.instant(expression, BASE + 7 * MINUTE)
    assert caught.value.reason in ("bad_data", "execution")


def test_ready(source: PrometheusSource) -> None:
    """A server that runs is ready, its clock is ours, and it says its version or nothing."""
    source.ready()
    assert source.skew_ms is not None
    assert abs(source.skew_ms) < 5_000
    assert isinstance(source.buildinfo().version, str)


def test_library_calls(source: PrometheusSource) -> None:
    """What prometheus-api-client offers works over our session."""
    assert {"work_total", "gap_total"} <= set(source.all_metrics())


def test_get(place: Place) -> None:
    """Queries work by GET as well."""
    source = place.source(method="GET")
    assert len(source.instant("work_total", BASE + 7 * MINUTE).block) == 2
    source.close()


@pytest.mark.server("prometheus")
class TestPrometheus:
    """What only the real Prometheus can show."""

    def test_long_expression(self, prometheus_place: Place) -> None:
        """An expression of 60 kB goes through, because it travels in the body."""
        source = prometheus_place.source()
        names = "|".join(f"job-{i:05d}" for i in range(6_000))
        assert len(source.instant(f'work_total{{job=~"a|{names}"}}', BASE + 7 * MINUTE).block) == 1
        source.close()

    def test_execution_error(self, prometheus_place: Place) -> None:
        """A match that is not unique is refused with the server's words."""
        source = prometheus_place.source()
        with pytest.raises(QueryRejected, match=r"many-to-many|duplicate series") as caught:
            source.instant("work_total * on() work_total", BASE + 7 * MINUTE)
        assert caught.value.reason == "execution"
        source.close()

    def test_wrong_prefix(self, prometheus_place: Place) -> None:
        """A URL without its prefix is named as such."""
        source = PrometheusSource(SourceSpec("test", prometheus_place.url.removesuffix("/prom")))
        with pytest.raises(QueryRejected, match="prefix") as caught:
            source.ready()
        assert caught.value.reason == "not_found"
        source.close()

    def test_scalar_and_text(self, prometheus_place: Place) -> None:
        """A scalar is a series without labels, a text is refused."""
        source = prometheus_place.source()
        reply = source.instant("21 * 2", BASE)
        assert (reply.block.labels, reply.block.values.tolist()) == (((),), [[42.0]])
        with pytest.raises(QueryRejected, match="text"):
            source.instant("'words'", BASE)
        source.close()

    def test_more_samples_than_the_server_loads(self, tmp_path: Path) -> None:
        """Where the server limits the samples of a query, a range is read in shorter parts."""
        with running_prometheus(
            tmp_path, blocks=openmetrics(SERIES), flags=["--query.max-samples=50"]
        ) as url:
            source = PrometheusSource(SourceSpec("test", url))
            reply = source.range("work_total", BASE, END, MINUTE)
            rows = [reply.block.labels.index(labels) for labels in (A, B)]
            assert reply.block.values[rows].tolist() == VALUES[:2].tolist()
            source.close()

    def test_ten_thousand_series(self, tmp_path: Path) -> None:
        """A large vector and a large matrix take the fast way and come out exact."""
        values = np.random.default_rng(1).random((10_000, 2))
        many = [Series("many", {"i": str(i)}, [BASE, BASE + MINUTE], values[i].tolist()) for i in range(10_000)]
        with running_prometheus(tmp_path, blocks=openmetrics(many)) as url:
            source = PrometheusSource(SourceSpec("test", url))
            first = source.instant("many", BASE)
            second = source.instant("many", BASE + MINUTE)
            assert second.block.labels is first.block.labels
            matrix = source.range("many", BASE, BASE + MINUTE, MINUTE)
            rows = [int(dict(labels)["i"]) for labels in matrix.block.labels]
            assert np.array_equal(matrix.block.values, values[rows])
            order = [int(dict(labels)["i"]) for labels in first.block.labels]
            assert np.array_equal(np.hstack([first.block.values, second.block.values]), values[order])
            source.close()
