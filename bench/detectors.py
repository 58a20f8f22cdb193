"""Detectors: our kernels against the libraries used as their documentation shows, in CPU, memory and agreement."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from anomalyd.block import Block, make_labels
from anomalyd.detectors.base import Detector, Grid, State
from anomalyd.detectors.grouped import grouped
from anomalyd.detectors.registry import make_detector
from anomalyd.rule import DetectorSpec
from bench.harness import Context, Figure, best_of, cost, limit, quality, timed

START = 1_760_054_400_000
MINUTE = 60_000


def run(context: Context) -> Iterator[Figure]:
    """All figures; ``FULL=1`` adds STL at one minute with robustness weights and 100,000 series."""
    yield from rolling_mad()
    yield from spike_kept()
    yield from lof()
    yield from forests()
    yield from half_space_trees()
    yield from flatness(context.full)
    yield from stl(context.full)
    yield from lstm()
    yield from shared_net()


def series(n: int, samples: int, period: int, seed: int = 1) -> np.ndarray:
    """Rhythms with noise [n, samples]."""
    rng = np.random.default_rng(seed)
    wave = 100 + 20 * np.sin(2 * np.pi * np.arange(samples) / period)
    return wave + rng.normal(size=(n, samples))


def block(values: np.ndarray, step: int = MINUTE) -> Block:
    """Values as a block."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, START + step * np.arange(values.shape[1]), values)


def make(name: str, step: int = MINUTE, **params: object) -> Detector:
    """A detector by name."""
    return make_detector(DetectorSpec(name, params), Grid(step))


def state_bytes(state: State, n: int) -> float:
    """Bytes per series of what is not shared."""
    return sum(array.nbytes for name, array in state.arrays.items() if name not in state.shared) / n


def half_space_trees() -> Iterator[Figure]:
    """10 trees of height 8: one sample scored and learned; bytes held per series."""
    from river.anomaly import HalfSpaceTrees

    from anomalyd.detectors.half_space_trees import grow_trees
    from anomalyd.detectors.kernels.halfspace import mass_pass, turn_window
    from anomalyd.detectors.kernels.jit import kernel

    @kernel
    def through(x, feature, threshold, latest, reference, scores):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            scores[i] = mass_pass(x[i], feature, threshold, latest, reference, 8, 250)
            if (i + 1) % 250 == 0:
                turn_window(latest, reference)

    x = np.random.default_rng(1).beta(2, 5, size=(20_000, 2))
    feature, threshold = grow_trees(10, 8, 2, 0)
    latest, reference = np.zeros((10, 511), np.uint8), np.zeros((10, 511), np.uint8)
    scores = np.zeros(len(x))
    through(x[:10], feature, threshold, latest, reference, scores)
    ours = best_of(3, lambda: through(x, feature, threshold, latest, reference, scores)).cpu_s / len(x)
    tracemalloc.start()
    model = HalfSpaceTrees(n_trees=10, height=8, window_size=250, seed=0)
    named = [{"z": a, "change": b} for a, b in x[:3000].tolist()]
    model.learn_one(named[0])
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    def library() -> None:
        for row in named:
            model.score_one(row)
            model.learn_one(row)

    library()
    theirs = best_of(3, library).cpu_s / len(named)
    yield cost("Half-Space Trees 10x8, score and learn a sample, CPU us", ours * 1e6, theirs * 1e6, at_least=25)
    state = make("half_space_trees").fit(block(series(100, 10, 10)), 0)
    yield cost("Half-Space Trees 10x8, state per series, bytes", state_bytes(state, 100), held, at_least=100)


def stl(full: bool) -> Iterator[Figure]:
    """14 days decomposed: ours with jumps of a tenth against statsmodels' defaults; agreement at equal jumps."""
    from statsmodels.tsa.seasonal import STL

    from anomalyd.detectors.kernels.stl import stl as kernel

    for name, n, period, robust, target in (
        ("5 min over 14 d, robust", 4032, 288, True, 100),
        ("1 min over 14 d", 20_160, 1440, False, 500),
        *((("1 min over 14 d, robust", 20_160, 1440, True, 500),) if full else ()),
    ):
        y = series(1, n, period)[0]
        trend = int(np.ceil(1.5 * period / (1 - 1.5 / 7))) | 1
        lengths = (7, trend, (period + 1) | 1)
        jumps = tuple(int(np.ceil(length / 10)) for length in lengths)
        out = np.empty((3, n))

        def own(y=y, period=period, lengths=lengths, jumps=jumps, out=out, robust=robust) -> None:  # type: ignore[no-untyped-def]
            kernel(y, period, lengths, (1, 1, 1), jumps, 2 if robust else 5, 15 if robust else 0, *out)

        own()
        ours = best_of(3, own).cpu_s
        with timed() as theirs:
            STL(y, period, robust=robust).fit()
        yield cost(f"STL {name}, CPU s", ours, theirs.cpu_s, at_least=target, note="library with its default jumps")
        same = STL(
            y, period, robust=robust, seasonal_jump=jumps[0], trend_jump=jumps[1], low_pass_jump=jumps[2]
        )
        with timed() as equal:
            reference = same.fit()
        yield cost(f"STL {name}, library with our jumps, CPU s", ours, equal.cpu_s, at_least=3)
        apart = max(np.abs(out[0] - reference.seasonal).max(), np.abs(out[1] - reference.trend).max())
        yield limit(f"STL {name}, largest difference at equal jumps", float(apart), at_most=1e-8)


def spike_kept() -> Iterator[Figure]:
    """Share of a spike of ten noise deviations on the last sample that remains in what is scored."""
    from statsmodels.tsa.seasonal import STL

    values = series(8, 4032, 288)
    spiked = values.copy()
    spiked[:, -1] += 10
    detector = make("stl", 5 * MINUTE)
    state = detector.fit(block(values[:, :-1], 5 * MINUTE), 0)
    rest = []
    for data in (values, spiked):
        raw, _ = detector.score(state, block(data, 5 * MINUTE).window(4031))
        rest.append(data[:, -1] - raw.expected[:, 0])
    library = []
    for plain, wild in zip(values[:3], spiked[:3], strict=True):
        jumps = {"seasonal_jump": 1, "trend_jump": 56, "low_pass_jump": 29}
        library.append(STL(wild, 288, **jumps).fit().resid[-1] - STL(plain, 288, **jumps).fit().resid[-1])
    kept = float((rest[1] - rest[0]).mean() / 10)
    theirs = float(np.mean(library)) / 10
    yield quality("STL, share of a last-sample spike in the score", kept, at_least=0.9, theirs=theirs)


def forests() -> Iterator[Figure]:
    """One Isolation Forest of 100 trees on 256 vectors per series: fit, and score one row per series."""
    from sklearn.ensemble import IsolationForest

    n = 50
    values = series(n, 2050, 288)
    detector = make("isolation_forest", 5 * MINUTE, trees=100, sample=256, lags=11)
    data = block(values, 5 * MINUTE)
    state = detector.fit(data.window(0, 2000).take([0]), 0)
    fit = best_of(2, lambda: detector.fit(data.window(0, 2000), 0)).cpu_s / n
    state = detector.fit(data.window(0, 2000), 0)
    detector.score(state, data.window(2000, 2001))
    tick = best_of(5, lambda: detector.score(state, data.window(2000, 2001))).cpu_s / n
    vectors = np.lib.stride_tricks.sliding_window_view(values[0], 14)[:2000].astype(np.float32)
    model = IsolationForest(n_estimators=100, max_samples=256, random_state=0)
    theirs_fit = best_of(2, lambda: model.fit(vectors)).cpu_s
    theirs_tick = best_of(5, lambda: model.score_samples(vectors[-1:])).cpu_s
    yield cost("Isolation Forest 100x256, fit of one series, CPU ms", fit * 1e3, theirs_fit * 1e3, at_least=30)
    yield cost("Isolation Forest 100x256, score one row, CPU us", tick * 1e6, theirs_tick * 1e6, at_least=100)


def rolling_mad() -> Iterator[Figure]:
    """Rolling median and MAD over 288 samples, exact, per sample; pandas with a function per window."""
    import pandas as pd

    values = series(4, 6000, 288)
    detector = make("mad", window=288)
    data = block(values)
    detector.fit(data.window(0, 300), 0)
    ours = best_of(3, lambda: detector.fit(data, 0)).cpu_s / values.size
    column = pd.Series(values[0][:2000])

    def library() -> None:
        rolling = column.rolling(288)
        rolling.median()
        rolling.apply(lambda w: np.median(np.abs(w - np.median(w))), raw=True)

    theirs = best_of(2, library).cpu_s / 2000
    yield cost("rolling median and MAD over 288, CPU us a sample", ours * 1e6, theirs * 1e6, at_least=50)


def lof() -> Iterator[Figure]:
    """Novelty LOF of 20 neighbours among 512 vectors: one row per series."""
    from sklearn.neighbors import LocalOutlierFactor

    n = 50
    data = block(series(n, 1001, 288), 5 * MINUTE)
    detector = make("lof", 5 * MINUTE)
    state = detector.fit(data.window(0, 1000), 0)
    detector.score(state, data.window(1000))
    ours = best_of(5, lambda: detector.score(state, data.window(1000))).cpu_s / n
    model = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(state.arrays["kept"][0])
    theirs = best_of(5, lambda: model.score_samples(state.arrays["kept"][0][:1])).cpu_s
    yield cost("LOF 512 vectors, score one row, CPU us", ours * 1e6, theirs * 1e6, at_least=10)


def lstm() -> Iterator[Figure]:
    """Training over 14 days at 10 min: one net for all series against one net per series (three trained, scaled)."""
    try:
        import torch
    except ImportError:
        return
    n, samples = 10_000, 2016
    data = block(series(n, samples, 144), 10 * MINUTE)
    detector = make("lstm", 10 * MINUTE)
    with timed() as ours:
        detector.fit(data, 0)
    torch.set_num_threads(1)
    with timed() as three:
        for row in data.values[:3]:
            _one_net(torch, (row - row.mean()) / row.std())
    theirs = three.cpu_s / 3 * n
    yield cost(f"LSTM training for {n:,} series, CPU s", ours.cpu_s, theirs, at_least=100, note="theirs from 3 series")


def shared_net() -> Iterator[Figure]:
    """The same for groups of three channels (``joint``): one net for all of them against one for each (three trained,
    scaled); and a tick of them against as many ticks of one."""
    if find_spec("torch") is None:
        return
    groups, samples, step = 300, 2016, 10 * MINUTE
    load = series(groups, samples + TICKS, 144)
    values = np.stack([load, 2 * load, load**2], axis=1).reshape(3 * groups, -1)
    values *= 1 + 0.01 * np.random.default_rng(2).normal(size=values.shape)
    labels = tuple(make_labels({"i": str(i // 3), "signal": str(i % 3)}) for i in range(len(values)))
    data = Block(labels, START + step * np.arange(samples + TICKS), values)
    detector = grouped(make("lstm", step, joint=True), ("i",))
    past, few = data.window(0, samples), data.take(range(3))
    detector.fit(data.take(range(6)).window(0, 400), 0)  # kernels are compiled
    with timed() as ours:
        state = detector.fit(past, 0)
    with timed() as three:
        alone, *_ = [detector.fit(past.take(range(3 * i, 3 * i + 3)), 0) for i in range(3)]
    yield cost(
        f"LSTM training for {groups} groups of 3, CPU s", ours.cpu_s, three.cpu_s / 3 * groups, at_least=100,
        note="theirs: a net for each group, from 3 groups",
    )  # fmt: skip
    whole, one = (_ticks(detector, begun, fresh) for begun, fresh in ((state, data), (alone, few)))
    yield cost(
        f"LSTM, a tick of {groups} groups of 3, CPU us", whole * 1e6, one * groups * 1e6, at_least=50,
        note="theirs: a tick of one group, so many times",
    )  # fmt: skip


TICKS = 50
"""Ticks of which the quickest counts."""


def _ticks(detector: Detector, state: State, data: Block) -> float:
    """CPU seconds of the quickest of the last ticks."""
    costs = []
    for t in range(len(data.times) - TICKS, len(data.times)):
        with timed() as timing:
            _, state = detector.score(state, data.window(t, t + 1))
        costs.append(timing.cpu_s)
    return min(costs)


def _one_net(torch, z: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """A net per series as in torch's tutorials: five passes over all windows of 32."""
    windows = np.lib.stride_tricks.sliding_window_view(z, 33).astype(np.float32)
    x, y = torch.from_numpy(windows[:, :32, None].copy()), torch.from_numpy(windows[:, 32].copy())
    cell, head = torch.nn.LSTM(1, 32, batch_first=True), torch.nn.Linear(32, 1)
    optimiser = torch.optim.Adam([*cell.parameters(), *head.parameters()])
    for _ in range(5):
        for first in range(0, len(x), 64):
            optimiser.zero_grad()
            out = head(cell(x[first : first + 64])[0][:, -1])[:, 0]
            torch.nn.functional.mse_loss(out, y[first : first + 64]).backward()
            optimiser.step()


ROOM = 4 << 30
"""Bytes that the states of one detector may take while its flatness is measured (two sets of arrays take turns)."""
DISTINCT = 1_000
"""Series with noise of their own; more are these again. Equal ones would let the processor guess every branch."""
LIVES, TICKS = 3, 8
"""Times that each size is measured, in turn, so that a busy machine does not hit one of them; ticks each time."""
FLAT: dict[str, dict[str, object]] = {
    "zscore": {}, "iqr": {}, "mad": {}, "ewma": {}, "cusum": {}, "seasonal": {}, "rls": {}, "extreme": {}, "knn": {},
    "forecast": {"limit": 400.0}, "half_space_trees": {}, "adwin": {}, "matrix_profile": {}, "peer": {},
    "stl": {"period": 288}, "isolation_forest": {}, "extended_isolation_forest": {}, "lof": {}, "auto": {},
}  # fmt: skip


def flatness(full: bool) -> Iterator[Figure]:
    """CPU per series of one tick at many series against 1,000 of them, states one after the other as in a daemon.

    Where 100,000 states do not fit into memory, as many as fit; the name of the figure says how many.
    """
    for name, params in FLAT.items():
        detector = make(name, 5 * MINUTE, **params)
        few = block(series(DISTINCT, 700, 288), 5 * MINUTE)
        state = detector.fit(few.window(0, 600), 0)
        most = 100_000 if full else 20_000
        fit = int(ROOM / (2 * state_bytes(state, DISTINCT))) // 1000 * 1000
        sizes = sorted({1_000, min(10_000, fit), min(most, fit)} if fit > 1_000 else {200, 1_000})
        costs = _tick_costs(detector, state, few, sizes)
        first, last = sizes[0], sizes[-1]
        shown = ", ".join(f"{costs[n] * 1e6:.3g} us at {n:,}" for n in sizes)
        yield limit(
            f"{name}, CPU a series at {last:,} over that at {first:,} series",
            costs[last] / costs[first],
            at_most=1.2,
            note=shown,
        )


def _tick_costs(detector: Detector, state: State, few: Block, sizes: list[int]) -> dict[int, float]:
    """Seconds of CPU per series of one tick for each number of series: the best of many ticks, sizes in turn.

    All sizes live the same ticks, with values that go on as they began: what a tick costs depends on what the series
    have seen by then (a window that was just cut is cheap), and the best of more ticks meets more of that.
    """
    rows = {n: np.arange(n) % DISTINCT for n in sizes}
    labels = {n: tuple(make_labels({"i": str(i)}) for i in range(n)) for n in sizes}
    states = {n: state.take(rows[n]) for n in sizes}
    best = dict.fromkeys(sizes, np.inf)
    for life in range(LIVES):
        for n in sizes:
            current = states.pop(n)
            for tick in range(life * TICKS, (life + 1) * TICKS):
                times = np.array([current.as_of + 5 * MINUTE])
                values = np.ascontiguousarray(few.values[rows[n], 600 + tick][:, None])
                fresh = Block(labels[n], times, values)
                with timed() as timing:
                    _, current = detector.score(current, fresh)
                best[n] = min(best[n], timing.cpu_s / n)
            states[n] = current
            del current
    return best
