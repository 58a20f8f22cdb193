"""Kernels that say what the own last samples of each of several channels foretell, and what they leave over.

A channel's context is its last two samples and two fading means; its forecast is a weighted sum of them. What is
missing is taken to lie between the two samples around it, once the second is there. Until then nothing moves, and what
nobody saw for a while may be further away by the root of the time. The result is the same however the samples are cut
into blocks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel

MISSED = 4
"""Slot of a channel's ``past`` behind its context of four: samples missing since the last one."""
MOST_MISSED = 1_000.0
"""So many missing samples are as good as any more: nothing older is left in a context."""
SHORT, LONG = 1.0 - 2.0 ** (-1.0 / 5.0), 1.0 - 2.0 ** (-1.0 / 60.0)
"""Steps of the forecast's two means: half-lives of 5 and 60 samples."""


@kernel
def move_on(past: Any, x: Any) -> Any:
    """Move one channel's context on: the last two samples, a short and a long mean."""
    past[1], past[0] = past[0], x
    past[2] += SHORT * (x - past[2])
    past[3] += LONG * (x - past[3])


@kernel
def remember(past: Any, x: Any, there: Any) -> Any:
    """Move one channel's ``past`` [5] on; samples missing before x are taken to lie between the last one and x."""
    if not there:
        past[MISSED] = min(past[MISSED] + 1.0, MOST_MISSED)
        return
    last, missed = past[0], int(past[MISSED])
    for k in range(missed):
        move_on(past, last + (x - last) * (k + 1.0) / (missed + 1.0))
    move_on(past, x)
    past[MISSED] = 0.0


@kernel
def contexts(z: Any, there: Any, out: Any) -> Any:
    """What was known of each channel before each sample, out [C, T, 4] of z [T, C]."""
    past = np.zeros(MISSED + 1)
    for c in range(z.shape[1]):
        past[:] = 0.0
        for t in range(z.shape[0]):
            out[c, t] = past[:MISSED]
            remember(past, z[t, c], there[t, c])


@kernel
def unforeseen(z: Any, there: Any, weights: Any, past: Any) -> Any:
    """What the forecast of each channel leaves over of z [T, C], 0 where it is missing; ``past`` [C, 5] moves on.

    What nobody saw for a while may be further away by the root of the time.
    """
    out = np.zeros(z.shape)
    for c in range(z.shape[1]):
        w = weights[c]
        for t in range(z.shape[0]):
            p = past[c]
            if there[t, c]:
                out[t, c] = z[t, c] - (w[0] * p[0] + w[1] * p[1] + w[2] * p[2] + w[3] * p[3] + w[4])
                if p[MISSED] > 0.0:
                    out[t, c] /= math.sqrt(1.0 + p[MISSED])
            remember(p, z[t, c], there[t, c])
    return out
