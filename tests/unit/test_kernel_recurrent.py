"""The nets' steps equal torch's; a net is used only where it beats the linear model; training is seeded."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.detectors.base import Grid
from anomalyd.detectors.kernels.recurrent import dense, lstm_step, pca_rebuild, turned
from anomalyd.detectors.lstm import Lstm
from anomalyd.detectors.lstm_joint import cut_windows
from anomalyd.detectors.registry import make_detector
from anomalyd.rule import DetectorSpec

torch = pytest.importorskip("torch", reason="the lstm extra is not installed")
START, STEP = 1_760_054_400_000, 300_000


def block(values: np.ndarray) -> Block:
    """Series at five minutes."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, START + STEP * np.arange(values.shape[1]), values)


def make(name: str, **params: object) -> object:
    """A small detector."""
    return make_detector(DetectorSpec(name, params), Grid(STEP))


def test_lstm_step_equals_torch() -> None:
    """Fifty steps of our kernel are torch's in float64, within 1e-12."""
    torch.manual_seed(3)
    cell = torch.nn.LSTM(3, 12, batch_first=True).double()
    x = torch.randn(1, 50, 3, dtype=torch.float64)
    wanted = cell(x)[0][0].detach().numpy()
    weights = {name: p.detach().numpy() for name, p in cell.named_parameters()}
    h, c, gates = np.zeros(12), np.zeros(12), np.empty(48)
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    for t in range(50):
        lstm_step(x[0, t].numpy(), h, c, turned(weights["weight_ih_l0"]), turned(weights["weight_hh_l0"]), bias, gates)
        np.testing.assert_allclose(h, wanted[t], atol=1e-12, rtol=0)


def test_dense_and_plane_equal_numpy() -> None:
    """A layer is tanh(Wx + b); the plane is the orthogonal projection."""
    rng = np.random.default_rng(1)
    x, w, b, out = rng.normal(size=5), rng.normal(size=(3, 5)), rng.normal(size=3), np.empty(3)
    dense(x, w, b, True, out)
    np.testing.assert_allclose(out, np.tanh(w @ x + b), rtol=1e-13)
    mean, basis, back = rng.normal(size=5), np.linalg.qr(rng.normal(size=(5, 2)))[0].T.copy(), np.empty(5)
    pca_rebuild(x, mean, basis, back)
    np.testing.assert_allclose(back, mean + basis.T @ (basis @ (x - mean)), rtol=1e-12)


def bursts(series: int, samples: int, seed: int) -> np.ndarray:
    """The logistic map: the next sample is a parabola of this one, no linear forecast can follow it."""
    x = np.random.default_rng(seed).uniform(0.1, 0.9, size=(series, samples))
    for t in range(1, samples):
        x[:, t] = 3.8 * x[:, t - 1] * (1 - x[:, t - 1])
    return x


def test_net_runs_only_if_it_beats_the_linear_forecast() -> None:
    """On a nonlinear series the net wins and runs; on a linear one the linear forecast runs; the verdict says so."""
    wins = make("lstm", hidden=24, window=16, windows=60_000)
    loses = make("lstm", hidden=4, window=16, windows=512)
    assert isinstance(wins, Lstm)
    assert isinstance(loses, Lstm)
    ahead = wins.fit(block(bursts(4, 1500, 1)), 1)
    assert ahead.arrays["gate"][0] < 0.9 * ahead.arrays["gate"][1]
    assert str(wins.choices(ahead)[0]).startswith("the net runs")
    rng = np.random.default_rng(2)
    walk = np.zeros((3, 1200))
    for t in range(1, 1200):
        walk[:, t] = 0.9 * walk[:, t - 1] + rng.normal(size=3)
    behind = loses.fit(block(walk), 1)
    assert behind.arrays["gate"][2] == 0
    assert "linear forecast runs" in str(loses.choices(behind)[0])
    young = loses.fit(block(walk[:, :20]), 1)
    assert loses.choices(young)[0].why == "there is not enough history to train on"
    raw, _ = loses.score(young, Block(young_labels(3), START + STEP * np.arange(20, 25), walk[:, 20:25]))
    assert np.isnan(raw.score).all()


def young_labels(n: int) -> tuple[tuple[tuple[str, str], ...], ...]:
    """The labels ``block`` gives."""
    return tuple(make_labels({"i": str(i)}) for i in range(n))


def test_missed_reset_of_a_sawtooth_scores_high() -> None:
    """The drop is forecast; the sample at which it does not come scores highest, whichever forecast runs."""
    rng = np.random.default_rng(5)
    values = np.tile(np.arange(12.0), (3, 120)) + rng.normal(size=(3, 1440)) * 0.1
    values[0, 1404:1406] = 12, 13
    data = block(values)
    detector = make("lstm", hidden=16, window=24, windows=20_000)
    assert isinstance(detector, Lstm)
    raw, _ = detector.score(detector.fit(data.window(0, 1296), 1), data.window(1296))
    assert np.nanargmax(raw.score[0]) in range(1404 - 1296, 1408 - 1296)
    assert raw.score[0, 1404 - 1296] > 8


def test_windows_are_cut_from_the_samples_before_their_target() -> None:
    """An input is the sample before its target, or the last one present; the time of day is the target's."""
    z = np.arange(40.0)[None] / 10
    z[0, 20] = np.nan
    civil = STEP * np.arange(40)
    inputs, targets = cut_windows(z[None], civil, 16, 50, np.random.default_rng(1))
    for window, target in zip(inputs, targets, strict=True):
        last = round(float(target[-1, 0]) * 10) if not np.isnan(target[-1, 0]) else 20
        before = 19 if last - 1 == 20 else last - 1
        assert window[-1, 0] == pytest.approx(before / 10)
        assert window[-1, 1] == pytest.approx(np.sin(2 * np.pi * last * STEP / 86_400_000), abs=1e-6)


def test_joint_autoencoder_finds_a_channel_that_leaves_the_pattern() -> None:
    """Six channels driven by two factors: a time at which one follows neither scores highest, the same in every row."""
    rng = np.random.default_rng(7)
    factors = rng.normal(size=(2, 1200))
    values = rng.normal(size=(6, 2)) @ factors + rng.normal(size=(6, 1200)) * 0.05
    values[2, 1150] += 1.5
    data = block(values)
    detector = make("autoencoder", joint=True, code=2, windows=20_000)
    state = detector.fit(data.window(0, 1100), 1)
    raw, _ = detector.score(state, data.window(1100))
    assert np.argmax(raw.score[0]) == 50
    np.testing.assert_array_equal(raw.score[0], raw.score[5])
    assert state.arrays["gate"][2] in (0, 1)


def test_training_leaves_torch_as_it_was() -> None:
    """The number of threads and the global random state are the same after a fit."""
    torch.manual_seed(11)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    make("autoencoder", windows=512).fit(block(bursts(2, 400, 1)), 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads
