"""Kernel that holds a score in memories of several lengths: what lasts, what is there, and what is new.

Nobody knows how long an incident lasts, so running maxima fade at different rates at once. The result is the same
however the samples are cut into blocks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel

FADES = np.array([0.0, 0.9, 0.99, 0.999])
"""Memories of 1, 10, 100 and 1,000 samples."""
LATELY, RISE = 0.99, 1.05
"""Higher than lately is what exceeds a memory of 100 samples by this factor."""
AVERAGED = 3
"""Samples that are averaged at most, and what is kept for it: one memory, and all of them but the newest."""
GOES_ON = 3
"""An episode goes on while the mean of so many memories is above the cut."""


@kernel
def hold_and_fade(values: Any, average: Any, held: Any) -> Any:
    """What lasts, what is there, and what is new of values [T]; ``held`` [FADES + AVERAGED] moves on.

    Returns [T] each: the mean of all memories, that of the first ``GOES_ON``, the mean of the last ``average`` samples,
    and where that is higher than lately.
    """
    samples, memories = len(values), len(FADES)
    out, short, fresh = np.empty(samples), np.empty(samples), np.empty(samples)
    rises = np.zeros(samples, np.bool_)
    for t in range(samples):
        x = 0.0 if math.isnan(values[t]) else values[t]
        total = 0.0
        for k in range(memories):
            held[k] = max(x, FADES[k] * held[k])
            total += held[k]
            if k == GOES_ON - 1:
                short[t] = total / GOES_ON
        out[t] = total / memories
        recent = x
        for k in range(1, average):
            recent += held[memories + k]
        fresh[t] = recent / average
        rises[t] = fresh[t] > RISE * LATELY * held[memories]
        held[memories] = max(fresh[t], LATELY * held[memories])
        for k in range(AVERAGED - 1, 1, -1):
            held[memories + k] = held[memories + k - 1]
        held[memories + 1] = x
    return out, short, fresh, rises
