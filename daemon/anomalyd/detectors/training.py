"""Training of the small nets with torch (the ``lstm`` extra); scoring needs none of this.

Deterministic: one thread, own random generator, a fixed number of steps. The work is capped by the number of windows,
not by the clock, so the same history and seed give the same weights; on a graphics processor they may differ in the
last digits. Weights come back as float64 arrays by name, ready to be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64

F32 = npt.NDArray[np.float32]
Weights = dict[str, F64]
BATCH = 256
WARM_UP = 8
"""Steps of a window whose forecasts do not count: the state knows nothing yet."""


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


def _descend(torch: Any, net: Any, loss_of: Callable[[Any], Any], n: int, windows: int, seed: int, rate: float) -> None:
    """Adam with a cosine-decayed rate over ``windows`` examples drawn in shuffled passes over n."""
    steps = max(1, windows // BATCH)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(seed)
    order: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(n)])
        rows, order = order[:BATCH], order[BATCH:]
        optimiser.zero_grad()
        loss = loss_of(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def _arrays(module: Any) -> Weights:
    return {name: p.detach().cpu().numpy().astype(np.float64) for name, p in module.named_parameters()}


def train_lstm(inputs: F32, targets: F32, hidden: int, windows: int, seed: int) -> Weights:
    """Weights ``w_in``, ``w_rec``, ``bias``, ``head`` of a layer that forecasts targets [W, L] from inputs [W, L, I].

    A target of NaN does not count.
    """
    with _quiet_torch(seed) as torch:
        device = _device(torch)
        cell = torch.nn.LSTM(inputs.shape[2], hidden, batch_first=True)
        head = torch.nn.Linear(hidden, 1)
        net = torch.nn.ModuleList([cell, head]).to(device)
        x, y = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
        known = ~torch.isnan(y)
        known[:, :WARM_UP] = False
        y = torch.nan_to_num(y)

        def loss_of(rows: npt.NDArray[np.int64]) -> Any:
            at = torch.from_numpy(rows).to(device)
            errors = head(cell(x[at])[0])[..., 0] - y[at]
            return torch.nn.functional.huber_loss(errors * known[at], torch.zeros_like(errors))

        _descend(torch, net, loss_of, len(inputs), windows, seed, 5e-3)
        trained, top = _arrays(cell), _arrays(head)
    return {
        "w_in": trained["weight_ih_l0"],
        "w_rec": trained["weight_hh_l0"],
        "bias": trained["bias_ih_l0"] + trained["bias_hh_l0"],
        "head": np.concatenate([top["weight"][0], top["bias"]]),
    }


def train_autoencoder(vectors: F32, hidden: int, code: int, windows: int, seed: int) -> Weights:
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

        _descend(torch, net, loss_of, len(vectors), windows, seed, 5e-3)
        trained = _arrays(net)
    weights: Weights = {}
    for layer, place in enumerate((0, 2, 4, 6), start=1):
        weights[f"w{layer}"] = trained[f"{place}.weight"]
        weights[f"b{layer}"] = trained[f"{place}.bias"]
    return weights
