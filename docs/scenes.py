"""The scenes of the detectors' pages: for each detector a toy series, what is planted in it, and what comes of that."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from toys import DAY, LEARNED, SHOWN, Plant, Scene

from anomalyd.block import F64

N = LEARNED + SHOWN
T = np.arange(N)
HOUR = DAY // 24


def daily(rng: np.random.Generator, noise: float = 3.0) -> F64:
    """Requests of people: a low night, a hump by day."""
    phase = 2 * np.pi * T / DAY
    values: F64 = 100 - 40 * np.cos(phase - 0.6) - 12 * np.cos(2 * phase) + rng.normal(0, noise, N)
    return values


def steady(rng: np.random.Generator, level: float = 50.0, noise: float = 2.0) -> F64:
    """A gauge around one level."""
    values: F64 = level + rng.normal(0, noise, N)
    return values


def one(values: F64) -> F64:
    return values[None, :]


def _zscore(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 60] = 330
    v[LEARNED + 246 : LEARNED + 250] -= 75
    return one(v)


def _mad(rng: np.random.Generator) -> F64:
    v = steady(rng)
    v[LEARNED + 50] = 78
    v[LEARNED + 130] = 26
    v[LEARNED + 210 : LEARNED + 234] = 50.5
    return one(v)


def _iqr(rng: np.random.Generator) -> F64:
    v = 20 + np.exp(rng.normal(1.5, 0.5, N))
    v[LEARNED + 70 : LEARNED + 72] = 95
    v[LEARNED + 180 : LEARNED + 212] = 24.5
    return one(v)


def _ewma(rng: np.random.Generator) -> F64:
    v = steady(rng)
    v[LEARNED + 60 : LEARNED + 90] += 4
    v[LEARNED + 200] += 8
    return one(v)


def _cusum(rng: np.random.Generator) -> F64:
    v = steady(rng)
    v[LEARNED + 60 : LEARNED + 110] -= 3
    v[LEARNED + 210] += 8
    return one(v)


def _adwin(rng: np.random.Generator) -> F64:
    v = steady(rng)
    v[LEARNED + 40] += 14
    v[LEARNED + 150 :] += 3
    return one(v)


def _seasonal(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 52 : LEARNED + 58] -= 70
    v[LEARNED + 104 : LEARNED + 110] += 60
    v[LEARNED + 150 :] += np.linspace(0, 30, 138)
    return one(v)


def _stl(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 52 : LEARNED + 60] -= 50
    v[LEARNED + 100 : LEARNED + 104] += 60
    v[LEARNED + 192 :] += np.linspace(0, 20, 96)
    return one(v)


def _iforest(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 50 : LEARNED + 54] -= 90
    v[LEARNED + 98 : LEARNED + 102] += 130
    stay = slice(LEARNED + 222, LEARNED + 238)
    v[stay] = v[stay.start] + rng.normal(0, 3, 16)
    v[LEARNED + 238 : LEARNED + 248] += np.linspace(-18, 0, 10)
    return one(v)


def _eiforest(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 50 : LEARNED + 54] -= 90
    v[LEARNED + 96 : LEARNED + 100] += 110
    v[LEARNED + 200 ] += 25
    return one(v)


def _extreme(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 60 : LEARNED + 63] += 60
    v[LEARNED + 196 : LEARNED + 202] += 70
    v[LEARNED + 236 : LEARNED + 252] = v[LEARNED + 236 : LEARNED + 252].mean()
    return one(v)


def _rls(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 60 : LEARNED + 76] -= 60
    v[LEARNED + 140 :] += np.linspace(0, 25, 148)
    return one(v)


def _knn(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 62 : LEARNED + 74] -= 105
    v[LEARNED + 104 : LEARNED + 116] += 130
    v[LEARNED + 230 : LEARNED + 240] += 8
    return one(v)


def _lof(rng: np.random.Generator) -> F64:
    busy = (T % DAY >= 32) & (T % DAY < 72)
    v = 50 + rng.normal(0, 1, N) * np.where(busy, 10.0, 0.5)
    v[LEARNED + 104 : LEARNED + 108] += 12
    v[LEARNED + 240 : LEARNED + 244] += 12
    return one(v)


def _hst(rng: np.random.Generator) -> F64:
    v = steady(rng)
    v[LEARNED + 50] += 16
    v[LEARNED + 110 : LEARNED + 120] += rng.normal(0, 10, 10)
    v[LEARNED + 150 :] += np.linspace(0, 6, N - LEARNED - 150)
    return one(v)


def _mp(rng: np.random.Generator) -> F64:
    v = 50 + 20 * np.sin(2 * np.pi * T / 24) + rng.normal(0, 2.0, N)
    v[LEARNED + 60 : LEARNED + 84] = 50 + rng.normal(0, 2.0, 24)
    v[LEARNED + 150 :] += np.linspace(0, 40, 138)
    return one(v)


def _forecast(rng: np.random.Generator) -> F64:
    v = 102.5 - 3 * (N - T) / DAY + rng.normal(0, 0.2, N)
    v[LEARNED + 30 : LEARNED + 34] += 4
    return one(v)


def _peer(rng: np.random.Generator) -> F64:
    common = daily(rng, 1)
    v = np.stack([common * s + rng.normal(0, 3, N) for s in (1.0, 1.1, 0.95, 1.05, 1.0)])
    v[:, LEARNED + 52 : LEARNED + 64] *= 0.45
    v[0, LEARNED + 192 + 8 : LEARNED + 192 + 24] += 40
    return v


def _lstm(rng: np.random.Generator) -> F64:
    rows = []
    for _ in range(4):
        v, level, slope = np.zeros(N), 0.0, 1.0
        for t in range(N):
            if level >= 10:
                level, slope = 0.0, float(rng.uniform(0.6, 1.2))
            level += slope
            v[t] = level
        rows.append(v + rng.normal(0, 0.1, N))
    at = LEARNED + 60 + int(np.argmin(rows[0][LEARNED + 60 : LEARNED + 80]))
    rows[0][at : at + 20] = np.arange(20)
    return np.stack(rows)


def _autoencoder(rng: np.random.Generator) -> F64:
    x, y = daily(rng), 60 + 25 * np.sin(2 * np.pi * T / 40) + rng.normal(0, 2, N)
    z = x + y + rng.normal(0, 2, N)
    z[LEARNED + 60 : LEARNED + 72] -= 40
    for v in (x, y, z):
        v[LEARNED + 200 : LEARNED + 224] = np.nan
    x[LEARNED + 200 : LEARNED + 224], y[LEARNED + 200 : LEARNED + 224] = 100, 60
    z[LEARNED + 200 : LEARNED + 224] = 160
    return np.stack([x, y, z])


def _ensemble(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 60] += 160
    v[LEARNED + 240 : LEARNED + 244] -= 60
    return one(v)


def _auto(rng: np.random.Generator) -> F64:
    v = daily(rng)
    v[LEARNED + 44] += 50
    v[LEARNED + 104 : LEARNED + 112] += 35
    v[LEARNED + 148 : LEARNED + 172] -= 28
    v[LEARNED + 200 :] += np.linspace(0, 15, 88)
    return one(v)


SCENES: Mapping[str, Scene] = {
    "adwin": Scene(
        "a steady gauge",
        _adwin,
        (
            Plant(40, 1, "one wild sample", False),
            Plant(150, 138, "the level is 3 higher, for good", True),
        ),
    ),
    "auto": Scene(
        "requests with a daily rhythm",
        _auto,
        (
            Plant(44, 1, "spike", True),
            Plant(104, 8, "night surge", True),
            Plant(148, 24, "a fifth lost", True),
            Plant(200, 88, "slow drift", False),
        ),
    ),
    "autoencoder": Scene(
        "three channels, the third is the sum of the others",
        _autoencoder,
        (
            Plant(60, 12, "the sum does not fit", True),
            Plant(200, 24, "all stuck, but the sum fits", False),
        ),
        {"joint": True, "code": 2},
        panels=True,
    ),
    "cusum": Scene(
        "a steady gauge",
        _cusum,
        (
            Plant(60, 50, "1.5 spreads lower, for 12 hours", True, 20),
            Plant(210, 1, "one wild sample", False),
        ),
    ),
    "ensemble": Scene(
        "requests with a daily rhythm; members seasonal and mad must agree",
        _ensemble,
        (
            Plant(60, 1, "spike: both see it", True),
            Plant(240, 4, "night's value by day: only seasonal", False),
        ),
        {"members": [{"type": "seasonal"}, {"type": "mad"}], "combine": "min"},
    ),
    "ewma": Scene(
        "a steady gauge",
        _ewma,
        (
            Plant(60, 30, "two spreads higher, for 7 hours", True, 12),
            Plant(200, 1, "one wild sample", False),
        ),
    ),
    "extended_isolation_forest": Scene(
        "requests with a daily rhythm",
        _eiforest,
        (
            Plant(50, 4, "noon breaks down", True, 8),
            Plant(96, 4, "surge at night", True, 8),
            Plant(200, 1, "one feature odd", False),
        ),
    ),
    "extreme": Scene(
        "requests with a daily rhythm",
        _extreme,
        (
            Plant(60, 3, "never so high before", True),
            Plant(196, 6, "noon's value at night", True),
            Plant(236, 16, "stuck among ordinary values", False),
        ),
    ),
    "forecast": Scene(
        "a disk that fills by 3 a day; the limit is 100",
        _forecast,
        (
            Plant(30, 4, "a bulge without a trend", False),
            Plant(108, 180, "full within a day", True),
        ),
        {"limit": 100, "horizon": "1d"},
        limit=100,
    ),
    "half_space_trees": Scene(
        "a steady gauge",
        _hst,
        (
            Plant(50, 1, "spike", True),
            Plant(110, 10, "shaking", True),
            Plant(150, 138, "drift slower than the window", False),
        ),
    ),
    "iqr": Scene(
        "a latency with a long tail",
        _iqr,
        (
            Plant(70, 2, "far outside the box", True),
            Plant(180, 32, "stuck at an ordinary value", False),
        ),
        seed=3,
    ),
    "isolation_forest": Scene(
        "requests with a daily rhythm",
        _iforest,
        (
            Plant(50, 4, "noon breaks down", True),
            Plant(98, 4, "surge at night", True),
            Plant(222, 16, "rests at a level between", False),
        ),
    ),
    "knn": Scene(
        "requests with a daily rhythm",
        _knn,
        (
            Plant(62, 12, "night's value by day", True, 16),
            Plant(104, 12, "surge at night", True, 16),
            Plant(230, 10, "small jump", False),
        ),
    ),
    "lof": Scene(
        "a quiet regime by night, a noisy one by day",
        _lof,
        (
            Plant(104, 4, "+12 in the quiet regime", True),
            Plant(240, 4, "+12 in the noisy one", False),
        ),
    ),
    "lstm": Scene(
        "a sawtooth whose slope changes with every tooth (one of four)",
        _lstm,
        (Plant(60, 44, "the drop does not come", True),),
    ),
    "mad": Scene(
        "a steady gauge",
        _mad,
        (
            Plant(50, 1, "spike", True),
            Plant(130, 1, "dip", True),
            Plant(210, 24, "stuck at an ordinary value", False),
        ),
        seed=3,
    ),
    "matrix_profile": Scene(
        "a job that repeats every six hours",
        _mp,
        (
            Plant(60, 24, "one round is missing", True, 28),
            Plant(150, 138, "the level rises, the shape stays", False),
        ),
    ),
    "peer": Scene(
        "five instances behind a load balancer",
        _peer,
        (
            Plant(52, 12, "all lose traffic", False),
            Plant(200, 16, "one takes more than its siblings", True),
        ),
        siblings=True,
    ),
    "rls": Scene(
        "requests with a daily rhythm",
        _rls,
        (
            Plant(60, 16, "sudden loss", True, 14),
            Plant(140, 148, "slow drift", False),
        ),
    ),
    "seasonal": Scene(
        "requests with a daily rhythm",
        _seasonal,
        (
            Plant(52, 6, "night's value by day", True),
            Plant(104, 6, "surge at night", True),
            Plant(150, 138, "slow drift", False),
        ),
    ),
    "stl": Scene(
        "requests with a daily rhythm",
        _stl,
        (
            Plant(52, 8, "loss by day", True),
            Plant(100, 4, "surge at night", True),
            Plant(192, 96, "slow drift", True),
        ),
    ),
    "zscore": Scene(
        "requests with a daily rhythm",
        _zscore,
        (
            Plant(60, 1, "spike", True),
            Plant(246, 4, "night's value by day", False),
        ),
    ),
}
