"""Kernel of the nearest-neighbour distance in a small context.

A context is the sample, the means of the last three and twelve, twice the spread of the last twelve (all in units of a
robust spread of the book) and the time of day as a circle of radius two. The book holds contexts of the past, one of
every ``every``, oldest overwritten; the distance to the K-th nearest is the score.

Sixteen contexts that follow each other lie together in a block with a box around them, and few blocks are opened: one
whose box is farther away than the K nearest found so far cannot hold a nearer context. The answer is that of looking
at all contexts, bit for bit, because rounding keeps order: the distance to a box is computed by the same operations.

State of one series: ``book`` [B, WIDTH, BLOCK] the contexts; ``boxes`` [2, WIDTH, B] the least and the greatest of
each block; ``line`` [LINE]: contexts stored, samples seen, unit, and the block that held the nearest context last.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.detectors.kernels.jit import kernel, leaf

WIDTH = 6
BLOCK = 16
STORED, SEEN, UNIT, HINT = 0, 1, 2, 3
LINE = 4
LATEST = 11
"""Samples before the newest that a context is made of."""
YOUNG = 40
RESCALE = 512
NEIGHBOURS = 5
RADIUS = 2.0
SCALED = 4
"""The first coordinates are in units of the book's spread; the others are the circle."""
FARTHEST = np.float32(3e38)
NOWHERE = np.float32(np.inf)
NONE = np.float32(0.0)


def empty(n: int, contexts: int) -> dict[str, npt.NDArray[Any]]:
    """State of n series that have seen nothing, with room for so many contexts each (rounded up to whole blocks)."""
    blocks = -(-contexts // BLOCK)
    return {
        "book": np.zeros((n, blocks, WIDTH, BLOCK), np.float32),
        "boxes": np.zeros((n, 2, WIDTH, blocks), np.float32),
        "nearest": np.zeros((n, LINE)),
    }


@kernel
def around_clock(phases: Any) -> Any:
    """The two coordinates [T, 2] of the times of day, given as phases [T] in radians."""
    clock = np.empty((len(phases), 2))
    for t in range(len(phases)):
        clock[t, 0] = RADIUS * math.sin(phases[t])
        clock[t, 1] = RADIUS * math.cos(phases[t])
    return clock


@leaf
def context(recent: Any, seen: Any, x: Any, east: Any, north: Any, q: Any) -> Any:
    """Fill q [WIDTH] from the sample and the eleven before it (``recent``, newest first, ``seen`` of them known)."""
    known = min(seen, LATEST)
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
    q[4] = east
    q[5] = north


@leaf
def stored_in(book: Any, line: Any) -> Any:
    """Number of contexts in the book."""
    return int(min(line[STORED], float(book.shape[0] * BLOCK)))


@kernel
def rescale(book: Any, line: Any) -> Any:
    """Measure the unit anew from the samples in the book."""
    n = stored_in(book, line)
    if n == 0:
        return
    x = np.empty(n)
    mean = 0.0
    for j in range(n):
        x[j] = book[j // BLOCK, 0, j % BLOCK]
        mean += x[j] / n
    square = 0.0
    for j in range(n):
        square += (x[j] - mean) * (x[j] - mean) / n
    median = np.median(x)
    mad = np.median(np.abs(x - median))
    line[UNIT] = max(1.4826 * mad, 0.1 * math.sqrt(square), 1e-3 * abs(median), 1e-9)


@leaf
def measure_boxes(boxes: Any, blocks: Any, q: Any, inverse: Any, bounds: Any) -> Any:
    """Squared distance of q to each of the first boxes into ``bounds``: no context inside is nearer."""
    q0, q1, q2, q3 = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    q4, q5 = q[4], q[5]
    for b in range(blocks):
        d0 = max(boxes[0, 0, b] * inverse - q0, q0 - boxes[1, 0, b] * inverse, NONE)
        d1 = max(boxes[0, 1, b] * inverse - q1, q1 - boxes[1, 1, b] * inverse, NONE)
        d2 = max(boxes[0, 2, b] * inverse - q2, q2 - boxes[1, 2, b] * inverse, NONE)
        d3 = max(boxes[0, 3, b] * inverse - q3, q3 - boxes[1, 3, b] * inverse, NONE)
        d4 = max(boxes[0, 4, b] - q4, q4 - boxes[1, 4, b], NONE)
        d5 = max(boxes[0, 5, b] - q5, q5 - boxes[1, 5, b], NONE)
        bounds[b] = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5


@leaf
def open_block(book: Any, b: Any, count: Any, q: Any, inverse: Any, apart: Any, best: Any) -> Any:
    """Put what is nearer among the first ``count`` contexts of a block into ``best`` [NEIGHBOURS], least first."""
    q0, q1, q2, q3 = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    q4, q5 = q[4], q[5]
    for j in range(BLOCK):
        d0 = book[b, 0, j] * inverse - q0
        d1 = book[b, 1, j] * inverse - q1
        d2 = book[b, 2, j] * inverse - q2
        d3 = book[b, 3, j] * inverse - q3
        d4 = book[b, 4, j] - q4
        d5 = book[b, 5, j] - q5
        apart[j] = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5
    for j in range(count):
        if apart[j] < best[NEIGHBOURS - 1]:
            k = NEIGHBOURS - 1
            while k > 0 and best[k - 1] > apart[j]:
                best[k] = best[k - 1]
                k -= 1
            best[k] = apart[j]


@leaf
def nearest(book: Any, boxes: Any, line: Any, q: Any, bounds: Any, apart: Any, best: Any) -> Any:
    """Distance of context q to its K-th nearest in the book; NaN while young.

    ``bounds`` [B], ``apart`` [BLOCK] and ``best`` [NEIGHBOURS] are scratch.
    """
    n = stored_in(book, line)
    if n < 4 * NEIGHBOURS or line[SEEN] < YOUNG:
        return np.nan
    inverse = np.float32(1.0 / line[UNIT])
    blocks = (n + BLOCK - 1) // BLOCK
    measure_boxes(boxes, blocks, q, inverse, bounds)
    for k in range(NEIGHBOURS):
        best[k] = FARTHEST
    first = int(line[HINT])
    open_block(book, first, min(n - first * BLOCK, BLOCK), q, inverse, apart, best)
    bounds[first] = NOWHERE
    for b in range(blocks):
        if bounds[b] < best[NEIGHBOURS - 1]:
            before = best[0]
            open_block(book, b, min(n - b * BLOCK, BLOCK), q, inverse, apart, best)
            if best[0] < before:
                first = b
    line[HINT] = first
    return math.sqrt(best[NEIGHBOURS - 1])


@leaf
def store(book: Any, boxes: Any, line: Any, q: Any) -> Any:
    """Put a context in the place of the oldest and draw the block's box anew."""
    row = int(line[STORED]) % (book.shape[0] * BLOCK)
    b = row // BLOCK
    line[STORED] += 1.0
    count = min(stored_in(book, line) - b * BLOCK, BLOCK)
    for k in range(WIDTH):
        book[b, k, row % BLOCK] = q[k]
        low = high = book[b, k, 0]
        for j in range(1, count):
            low, high = min(low, book[b, k, j]), max(high, book[b, k, j])
        boxes[0, k, b] = low
        boxes[1, k, b] = high


@leaf
def keep(book: Any, boxes: Any, line: Any, q: Any, every: Any) -> Any:
    """Count a context and store one of every ``every``; whether the unit must be measured anew."""
    seen = int(line[SEEN])
    if seen % every == 0:
        store(book, boxes, line, q)
    line[SEEN] += 1.0
    young = seen < RESCALE * every and seen % 64 == 0
    return seen + 1 == YOUNG // 2 or young or seen % (RESCALE * every) == 0


@kernel
def note(book: Any, boxes: Any, line: Any, q: Any, every: Any) -> Any:
    """Count a context, store one of every ``every``, and measure the unit now and then."""
    if keep(book, boxes, line, q, every):
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
def copy_contexts(
    books: Any, boxes: Any, lines: Any, lines_before: Any, books_before: Any, boxes_before: Any
) -> Any:  # fmt: skip
    """Put into the books and boxes before the contexts by which those of later are ahead of them."""
    for i in range(books.shape[0]):
        for number in range(int(lines_before[i, STORED]), int(lines[i, STORED])):
            row = number % (books.shape[1] * BLOCK)
            b = row // BLOCK
            for k in range(WIDTH):
                books_before[i, b, k, row % BLOCK] = books[i, b, k, row % BLOCK]
                boxes_before[i, 0, k, b] = boxes[i, 0, k, b]
                boxes_before[i, 1, k, b] = boxes[i, 1, k, b]
    return np.int64(0)


@kernel
def knn_block(
    values: Any, phases: Any, hold: Any, every: Any, recent: Any, books: Any, boxes: Any, lines: Any, score: Any,
    expected: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]; ``recent`` [N, 2 LATEST], ``books``, ``boxes`` and ``lines`` change in place.

    ``recent`` holds the last eleven samples, held or not, as they are what the next context is made of: a series that
    is back to normal must look so. Behind them are the last that were learned: their mean is expected.
    """
    series, samples = values.shape
    clock = around_clock(phases)
    q, bounds = np.zeros(WIDTH, np.float32), np.zeros(books.shape[1], np.float32)
    apart, best = np.zeros(BLOCK, np.float32), np.zeros(NEIGHBOURS, np.float32)
    for i in range(series):
        for t in range(samples):
            line = lines[i]
            seen = int(line[SEEN])
            if seen > 0:
                known = min(seen, LATEST)
                middle = 0.0
                for j in range(known):
                    middle += recent[i, LATEST + j] / known
                expected[i, t] = middle
            x = values[i, t]
            if math.isnan(x):
                continue
            context(recent[i], seen, x, clock[t, 0], clock[t, 1], q)
            score[i, t] = min(nearest(books[i], boxes[i], line, q, bounds, apart, best), 1e12)
            for j in range(LATEST - 1, 0, -1):
                recent[i, j] = recent[i, j - 1]
            recent[i, 0] = x
            if hold[i]:
                continue
            note(books[i], boxes[i], line, q, every)
            for j in range(2 * LATEST - 1, LATEST, -1):
                recent[i, j] = recent[i, j - 1]
            recent[i, LATEST] = x
    return np.int64(0)
