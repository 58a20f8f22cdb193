"""Kernel of the nearest-neighbour distance in a small context.

A context is the sample, the means of the last three and twelve, twice the spread of the last twelve (all in units of a
robust spread of the book) and the time of day as a circle of radius two. ``book`` [6, M] holds contexts of the past,
one of every ``every``, oldest overwritten; the distance to the K-th nearest is the score. ``line`` [LINE]: contexts
stored, samples seen, unit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel

WIDTH = 6
STORED, SEEN, UNIT = 0, 1, 2
LINE = 3
YOUNG = 40
RESCALE = 512
NEIGHBOURS = 5
RADIUS = 2.0


@kernel
def context(recent: Any, seen: Any, x: Any, phase: Any, q: Any) -> Any:
    """Fill q [WIDTH] from the sample and the eleven before it (``recent``, newest first, ``seen`` of them known)."""
    known = min(seen, 11)
    total, three = x, x
    for j in range(known):
        total += recent[j]
        if j < 2:
            three += recent[j]
    mean = total / (known + 1)
    square = (x - mean) * (x - mean)
    for j in range(known):
        square += (recent[j] - mean) * (recent[j] - mean)
    q[0] = x
    q[1] = three / (min(known, 2) + 1)
    q[2] = mean
    q[3] = 2.0 * math.sqrt(square / (known + 1))
    q[4] = RADIUS * math.sin(phase)
    q[5] = RADIUS * math.cos(phase)


@kernel
def rescale(book: Any, line: Any) -> Any:
    """Measure the unit anew from the samples in the book."""
    n = int(min(line[STORED], book.shape[1]))
    if n == 0:
        return
    x = np.empty(n)
    mean = 0.0
    for j in range(n):
        x[j] = book[0, j]
        mean += x[j] / n
    square = 0.0
    for j in range(n):
        square += (x[j] - mean) * (x[j] - mean) / n
    median = np.median(x)
    mad = np.median(np.abs(x - median))
    line[UNIT] = max(1.4826 * mad, 0.1 * math.sqrt(square), 1e-3 * abs(median), 1e-9)


@kernel
def nearest(book: Any, line: Any, q: Any, distance: Any) -> Any:
    """Distance of context q to its K-th nearest in the book; NaN while young. ``distance`` [M] is scratch."""
    n = int(min(line[STORED], book.shape[1]))
    if n < 4 * NEIGHBOURS or line[SEEN] < YOUNG:
        return np.nan
    inverse = np.float32(1.0 / line[UNIT])
    q0, q1, q2, q3 = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    q4, q5 = q[4], q[5]
    for j in range(n):
        d0 = book[0, j] * inverse - q0
        d1 = book[1, j] * inverse - q1
        d2 = book[2, j] * inverse - q2
        d3 = book[3, j] * inverse - q3
        d4 = book[4, j] - q4
        d5 = book[5, j] - q5
        distance[j] = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5
    best = np.full(NEIGHBOURS, np.float32(3e38))
    for j in range(n):
        if distance[j] < best[NEIGHBOURS - 1]:
            k = NEIGHBOURS - 1
            while k > 0 and best[k - 1] > distance[j]:
                best[k] = best[k - 1]
                k -= 1
            best[k] = distance[j]
    return math.sqrt(best[NEIGHBOURS - 1])


@kernel
def note(book: Any, line: Any, q: Any, every: Any) -> Any:
    """Count a context, store one of every ``every``, and measure the unit now and then."""
    seen = int(line[SEEN])
    if seen % every == 0:
        row = int(line[STORED]) % book.shape[1]
        for k in range(WIDTH):
            book[k, row] = q[k]
        line[STORED] += 1.0
    line[SEEN] += 1.0
    young = seen < RESCALE * every and seen % 64 == 0
    if seen + 1 == YOUNG // 2 or young or seen % (RESCALE * every) == 0:
        rescale(book, line)


@kernel
def nearest_vectors(vectors: Any, kept: Any, stored: Any, neighbours: Any, present: Any, score: Any) -> Any:
    """Distance of each vector [N, T, W], where present, to its k-th nearest of the first ``stored`` [N] of ``kept``.

    Per root of the width, so that it does not grow with the number of channels.
    """
    width = vectors.shape[2]
    best = np.empty(neighbours, np.float64)
    for i in range(vectors.shape[0]):
        if stored[i] < neighbours:
            continue
        for t in range(vectors.shape[1]):
            if not present[i, t]:
                continue
            best[:] = np.inf
            for row in range(stored[i]):
                apart = 0.0
                for c in range(width):
                    d = float(vectors[i, t, c]) - float(kept[i, row, c])
                    apart += d * d
                k = neighbours - 1
                if apart < best[k]:
                    while k > 0 and best[k - 1] > apart:
                        best[k] = best[k - 1]
                        k -= 1
                    best[k] = apart
            score[i, t] = math.sqrt(best[neighbours - 1] / width)
    return np.int64(0)


@kernel
def copy_contexts(books: Any, lines: Any, lines_before: Any, books_before: Any) -> Any:
    """Put into ``books_before`` [N, WIDTH, M] the contexts by which ``books`` are ahead of them."""
    for i in range(books.shape[0]):
        for number in range(int(lines_before[i, STORED]), int(lines[i, STORED])):
            row = number % books.shape[2]
            for k in range(WIDTH):
                books_before[i, k, row] = books[i, k, row]
    return np.int64(0)


@kernel
def knn_block(
    values: Any, phases: Any, hold: Any, every: Any, recent: Any, books: Any, lines: Any, score: Any,
    expected: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]; ``recent`` [N, 11], ``books`` [N, WIDTH, M] and ``lines`` [N, LINE] change in place."""
    series, samples = values.shape
    q = np.zeros(WIDTH, np.float32)
    distance = np.zeros(books.shape[2], np.float32)
    for i in range(series):
        for t in range(samples):
            line = lines[i]
            seen = int(line[SEEN])
            if seen > 0:
                known = min(seen, 11)
                middle = 0.0
                for j in range(known):
                    middle += recent[i, j] / known
                expected[i, t] = middle
            x = values[i, t]
            if math.isnan(x):
                continue
            context(recent[i], seen, x, phases[t], q)
            score[i, t] = min(nearest(books[i], line, q, distance), 1e12)
            if hold[i]:
                continue
            note(books[i], line, q, every)
            for j in range(10, 0, -1):
                recent[i, j] = recent[i, j - 1]
            recent[i, 0] = x
    return np.int64(0)
