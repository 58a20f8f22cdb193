"""Training of the small nets with torch (the ``lstm`` extra); scoring needs none of this.

Deterministic: one thread, own random generator, a fixed number of steps, so the same history and seed give the same
weights; on a graphics processor, which is used where there is one, they may differ in the last digits. Training goes in
rounds; after each the net is tried on examples kept aside, and the best weights so far are those that count. A limit of
time is for safety: where it is reached training stops at the end of the round, and ``Trained`` says so, since on
another machine it might have gone on. Weights come back as float64 arrays by name, ready to be stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64
from anomalyd.clock import Clock, SystemClock

F32 = npt.NDArray[np.float32]
Weights = dict[str, F64]
BATCH = 256
WARM_UP = 8
"""Steps of a window whose forecasts do not count: the state knows nothing yet."""
ROUNDS = 20
ASIDE, MOST_ASIDE = 0.05, 512
"""Share of the examples, and number at most, that are kept aside to tell which round's weights are best."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much training may cost: so many examples in all, and so many seconds at the most."""

    windows: int
    seconds: float = math.inf
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """Weights, and after how many of the rounds the limit of time stopped their training (0: it did not)."""

    weights: Weights
    stopped: int
    rounds: int


@contextmanager
def _quiet_torch(seed: int) -> Iterator[Any]:
    """Torch on one thread with a seed of its own; both are put back afterwards."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield torch
    finally:
        torch.set_num_threads(threads)


def _device(torch: Any) -> Any:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _descend(
    torch: Any, net: Any, loss_of: Callable[[Any], Any], n: int, effort: Effort, seed: int, rate: float
) -> tuple[int, int]:
    """Adam with a cosine-decayed rate over examples drawn in shuffled passes; leaves the best weights in the net.

    Returns the round in which the limit of time stopped it (0: it did not), and the number of rounds.
    """
    steps = max(1, effort.windows // BATCH)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(seed)
    batches = _batches(rng.permutation(n), rng)
    aside = next(batches)
    ends = sorted({-(-steps * (i + 1) // ROUNDS) for i in range(ROUNDS)})
    begun, least, best = effort.clock.monotonic_s(), math.inf, net.state_dict()
    for done, (first, stop) in enumerate(itertools.pairwise([0, *ends]), start=1):
        for _ in range(first, stop):
            optimiser.zero_grad()
            loss = loss_of(next(batches))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            tried = float(loss_of(aside))
        if tried < least:
            least, best = tried, {name: value.detach().clone() for name, value in net.state_dict().items()}
        if stop < steps and effort.clock.monotonic_s() - begun >= effort.seconds:
            net.load_state_dict(best)
            return done, len(ends)
    net.load_state_dict(best)
    return 0, len(ends)


def _batches(order: npt.NDArray[np.int64], rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """First the examples that are kept aside, then without end batches of the others in shuffled passes."""
    kept = min(MOST_ASIDE, max(1, int(len(order) * ASIDE))) if len(order) > 1 else 0
    yield order[:kept] if kept else order
    others, left = order[kept:], order[:0]
    while True:
        if len(left) < BATCH:
            left = np.concatenate([left, rng.permutation(others)])
        rows, left = left[:BATCH], left[BATCH:]
        yield rows


def _arrays(module: Any) -> Weights:
    return {name: p.detach().cpu().numpy().astype(np.float64) for name, p in module.named_parameters()}


def train_lstm(inputs: F32, targets: F32, hidden: int, effort: Effort, seed: int) -> Trained:
    """Weights ``w_in``, ``w_rec``, ``bias``, ``head`` [K, hidden + 1] of a layer that forecasts targets [W, L, K] from
    inputs [W, L, I].

    A target of NaN does not count.
    """
    with _quiet_torch(seed) as torch:
        device = _device(torch)
        cell = torch.nn.LSTM(inputs.shape[2], hidden, batch_first=True)
        head = torch.nn.Linear(hidden, targets.shape[2])
        net = torch.nn.ModuleList([cell, head]).to(device)
        x, y = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
        known = ~torch.isnan(y)
        known[:, :WARM_UP] = False
        y = torch.nan_to_num(y)

        def loss_of(rows: npt.NDArray[np.int64]) -> Any:
            at = torch.from_numpy(rows).to(device)
            errors = head(cell(x[at])[0]) - y[at]
            return torch.nn.functional.huber_loss(errors * known[at], torch.zeros_like(errors))

        stopped, rounds = _descend(torch, net, loss_of, len(inputs), effort, seed, 5e-3)
        trained, top = _arrays(cell), _arrays(head)
    weights = {
        "w_in": trained["weight_ih_l0"],
        "w_rec": trained["weight_hh_l0"],
        "bias": trained["bias_ih_l0"] + trained["bias_hh_l0"],
        "head": np.column_stack([top["weight"], top["bias"]]),
    }
    return Trained(weights, stopped, rounds)


def train_autoencoder(vectors: F32, hidden: int, code: int, effort: Effort, seed: int) -> Trained:
    """Weights ``w1`` ``b1`` to ``w4`` ``b4`` of a net that rebuilds vectors [W, F] through ``code`` numbers."""
    width = vectors.shape[1]
    with _quiet_torch(seed) as torch:
        device = _device(torch)
        bend = torch.nn.Tanh
        net = torch.nn.Sequential(
            torch.nn.Linear(width, hidden),
            bend(),
            torch.nn.Linear(hidden, code),
            bend(),
            torch.nn.Linear(code, hidden),
            bend(),
            torch.nn.Linear(hidden, width),
        ).to(device)
        x = torch.from_numpy(vectors).to(device)

        def loss_of(rows: npt.NDArray[np.int64]) -> Any:
            part = x[torch.from_numpy(rows).to(device)]
            return torch.nn.functional.huber_loss(net(part), part)

        stopped, rounds = _descend(torch, net, loss_of, len(vectors), effort, seed, 5e-3)
        trained = _arrays(net)
    weights: Weights = {}
    for layer, place in enumerate((0, 2, 4, 6), start=1):
        weights[f"w{layer}"] = trained[f"{place}.weight"]
        weights[f"b{layer}"] = trained[f"{place}.bias"]
    return Trained(weights, stopped, rounds)
