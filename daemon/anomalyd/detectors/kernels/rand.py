"""Random numbers inside kernels: SplitMix64, so that a seed means the same trees in every process and version.

State: a uint64 array of one element. Reference: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators
(2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import I64
from anomalyd.detectors.kernels.jit import kernel

U64 = npt.NDArray[np.uint64]


@kernel
def draw(state: U64) -> float:
    """Next number, uniform in [0, 1)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) / 9007199254740992.0


@kernel
def draw_below(state: U64, n: int) -> int:
    """Next whole number, uniform in [0, n)."""
    return min(n - 1, int(draw(state) * n))


@kernel
def draw_normal(state: U64) -> float:
    """Next standard normal number (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - draw(state)))
    return float(radius * np.cos(2.0 * np.pi * draw(state)))


@kernel
def draw_sample(state: U64, n: int, k: int, pool: I64) -> None:
    """Put k different numbers below n into the first places of ``pool``, which must hold 0 to n - 1 in any order."""
    for i in range(k):
        j = i + draw_below(state, n - i)
        pool[i], pool[j] = pool[j], pool[i]
