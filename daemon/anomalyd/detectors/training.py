"""Training of the small nets with torch (the ``lstm`` extra); scoring needs none of this.

Deterministic: one thread, own random generator, a fixed number of steps, so the same history and seed give the same
weights. Training goes in rounds; after each the net is tried on examples kept aside, and the best weights so far are
those that count. After a quarter of it the net may be given up as hopeless. A limit of time is for safety: where it is
reached training stops at the end of the round, and ``Trained`` says so, since on another machine it might have gone on.
Weights come back as float64 arrays by name, ready to be stored.

A graphics processor is used where there is one (an empty ``CUDA_VISIBLE_DEVICES`` hides it), in full float32; weights
may differ from those of another machine in the last digits. Only the net and one batch at a time are on it, so it may
be small or shared by workers. Where it fails, by lack of memory or otherwise, the same training is done on the ordinary
processor in what is left of the time, and ``Trained`` says why. Nothing touches it before a training does.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
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
SHOWN, LEAST_SHOWN = 0.25, 96
"""Share of the steps, and number at the least, after which a net that is hopeless is given up."""
MOST_PASSES = 128
"""Times that one example is trained on at the most."""
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
    """Weights, and after how many of the rounds the limit of time stopped their training (0: it did not).

    ``given_up``: the round after which it was given up as hopeless (0: it was not). ``trouble``: why a graphics
    processor could not be used; empty where it was, or where there is none.
    """

    weights: Weights
    stopped: int
    rounds: int
    given_up: int = 0
    trouble: str = ""


Hopeless = Callable[[Weights], bool]
"""Whether weights as they are after a part of the training will not do whatever follows; asked once."""


Processors = Callable[[Any], Sequence[Any]]
"""From torch to the devices on which training is tried, one after the other; the last one has to do."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A net to be trained: how it is made, its loss on a batch (on its device), of what arrays [W, ...] batches are,
    how its weights are named, and when it is hopeless.
    """

    build: Callable[[Any], Any]
    loss: Callable[[Any, Any, Sequence[Any]], Any]
    examples: Sequence[F32]
    weights: Callable[[Any], Weights]
    hopeless: Hopeless | None
    rate: float = 5e-3


_TORCH = threading.Lock()
"""Torch's threads, flags and random generator belong to the process, and fits may run in threads of one."""
_under_way: list[ExitStack] = []
"""For each training under way in this process the same: what puts torch back when the last of them is done."""


@contextmanager
def _quiet_torch() -> Iterator[Any]:
    """Torch on one thread, and careful, until the last training in this process is done."""
    import torch

    with _TORCH:
        if not _under_way:
            # Neither TF32, whose ten bits are too few for a recurrence, nor kernels that differ from run to run.
            stack, careful = ExitStack(), {"enabled": True, "deterministic": True, "allow_tf32": False}
            stack.enter_context(torch.backends.cudnn.flags(**careful))
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            _under_way.append(stack)
        else:
            _under_way.append(_under_way[0])
        torch.set_num_threads(1)
    try:
        yield torch
    finally:
        with _TORCH:
            last = _under_way.pop()
            if not _under_way:
                last.close()


@contextmanager
def _seeded(torch: Any, seed: int) -> Iterator[None]:
    """The ordinary processor's random generator begun anew, and put back; those of graphics processors are not used."""
    with _TORCH, torch.random.fork_rng(devices=()):
        torch.random.default_generator.manual_seed(seed)
        yield


def processors(torch: Any) -> Sequence[Any]:
    """The graphics processor, where there is one, and the ordinary one."""
    names = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    return tuple(torch.device(name) for name in names)


def _train(job: _Job, effort: Effort, seed: int, devices: Processors) -> Trained:
    begun, trouble, left = effort.clock.monotonic_s(), "", effort
    with _quiet_torch() as torch:
        *hoped, sure = devices(torch)
        for device in hoped:
            try:
                return replace(_trained_on(torch, device, job, left, seed), trouble=trouble)
            except (RuntimeError, AssertionError) as error:  # torch has no narrower type for all that a device may do
                trouble = str(error).partition("\n")[0][:200] or type(error).__name__
            left = replace(effort, seconds=max(0.0, effort.seconds - (effort.clock.monotonic_s() - begun)))
        return replace(_trained_on(torch, sure, job, left, seed), trouble=trouble)


def _trained_on(torch: Any, device: Any, job: _Job, effort: Effort, seed: int) -> Trained:
    with _seeded(torch, seed):
        net = job.build(torch)
    try:
        net = net.to(device)

        def loss_of(rows: npt.NDArray[np.int64]) -> Any:
            return job.loss(torch, net, [torch.from_numpy(part[rows]).to(device) for part in job.examples])

        def hopeless() -> bool:
            return job.hopeless is not None and job.hopeless(job.weights(net))

        n = len(job.examples[0])
        effort = replace(effort, windows=min(effort.windows, MOST_PASSES * n))
        stopped, rounds, given_up = _descend(torch, net, loss_of, hopeless, n, effort, seed, job.rate)
        return Trained(job.weights(net), stopped, rounds, given_up)
    finally:
        if device.type == "cuda":
            with suppress(RuntimeError):  # it may be what failed
                torch.cuda.empty_cache()  # workers share it: an idle one keeps nothing


def _descend(
    torch: Any, net: Any, loss_of: Callable[[Any], Any], hopeless: Callable[[], bool], n: int, effort: Effort,
    seed: int, rate: float,
) -> tuple[int, int, int]:  # fmt: skip
    """Adam with a cosine-decayed rate over examples drawn in shuffled passes; leaves the best weights in the net.

    Returns the round in which the limit of time stopped it (0: it did not), the number of rounds, and the round after
    which it was given up (0: it was not).
    """
    steps = max(1, effort.windows // BATCH)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(seed)
    batches = _batches(rng.permutation(n), rng)
    aside = next(batches)
    ends = sorted({-(-steps * (i + 1) // ROUNDS) for i in range(ROUNDS)})
    shown = max(SHOWN * steps, LEAST_SHOWN)
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
        if first < shown <= stop < steps and hopeless():
            return 0, len(ends), done
        if stop < steps and effort.clock.monotonic_s() - begun >= effort.seconds:
            net.load_state_dict(best)
            return done, len(ends), 0
    net.load_state_dict(best)
    return 0, len(ends), 0


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


def train_lstm(
    inputs: F32, targets: F32, hidden: int, effort: Effort, seed: int, devices: Processors = processors,
    hopeless: Hopeless | None = None,
) -> Trained:  # fmt: skip
    """Weights ``w_in``, ``w_rec``, ``bias``, ``head`` [K, hidden + 1] of a layer that forecasts targets [W, L, K] from
    inputs [W, L, I].

    A target of NaN does not count.
    """

    def build(torch: Any) -> Any:
        cell = torch.nn.LSTM(inputs.shape[2], hidden, batch_first=True)
        return torch.nn.ModuleList([cell, torch.nn.Linear(hidden, targets.shape[2])])

    def loss(torch: Any, net: Any, batch: Sequence[Any]) -> Any:
        x, y = batch
        known = ~torch.isnan(y)
        known[:, :WARM_UP] = False
        errors = net[1](net[0](x)[0]) - torch.nan_to_num(y)
        return torch.nn.functional.huber_loss(errors * known, torch.zeros_like(errors))

    def weights(net: Any) -> Weights:
        trained, top = _arrays(net[0]), _arrays(net[1])
        return {
            "w_in": trained["weight_ih_l0"],
            "w_rec": trained["weight_hh_l0"],
            "bias": trained["bias_ih_l0"] + trained["bias_hh_l0"],
            "head": np.column_stack([top["weight"], top["bias"]]),
        }

    return _train(_Job(build, loss, (inputs, targets), weights, hopeless), effort, seed, devices)


def train_autoencoder(
    vectors: F32, hidden: int, code: int, effort: Effort, seed: int, devices: Processors = processors,
    hopeless: Hopeless | None = None,
) -> Trained:  # fmt: skip
    """Weights ``w1`` ``b1`` to ``w4`` ``b4`` of a net that rebuilds vectors [W, F] through ``code`` numbers."""
    width = vectors.shape[1]
    sizes = (width, hidden, code, hidden, width)

    def build(torch: Any) -> Any:
        layers = [part for a, b in itertools.pairwise(sizes) for part in (torch.nn.Linear(a, b), torch.nn.Tanh())]
        return torch.nn.Sequential(*layers[:-1])

    def loss(torch: Any, net: Any, batch: Sequence[Any]) -> Any:
        return torch.nn.functional.huber_loss(net(batch[0]), batch[0])

    def weights(net: Any) -> Weights:
        trained = _arrays(net)
        found: Weights = {}
        for layer, place in enumerate((0, 2, 4, 6), start=1):
            found[f"w{layer}"] = trained[f"{place}.weight"]
            found[f"b{layer}"] = trained[f"{place}.bias"]
        return found

    return _train(_Job(build, loss, (vectors,), weights, hopeless), effort, seed, devices)
