"""Kernel of the nearest-neighbour distance in a small context.

A context is the sample, the means of the last three and twelve, twice the spread of the last twelve (all in units of a
robust spread of the book) and the time of day as a circle of radius two. The book holds contexts of the past, one of
every ``every``, oldest overwritten; the distance to the K-th nearest is the score.

Sixteen contexts that follow each other lie together in a block with a box around them, and few blocks are opened: one
whose box is farther away than the K nearest found so far cannot hold a nearer context. Blocks that are a fourteenth of
the book apart (a day, where it holds a fortnight: they are of the same time of day) are a group with a hull around
their boxes, and few boxes are looked at for the same reason. The answer is that of looking at all contexts, bit for
bit: nothing in a box is nearer than the box (``boxes``).

State of one series: ``book`` [B, WIDTH, BLOCK] the contexts; ``boxes`` [G, WIDTH, 2, LANES] the cells of the least and
the greatest of each block, b being lane b // G of group b % G; ``hulls`` [-, WIDTH, 2, LANES] the same of each group;
``line`` [LINE] (``boxes``). What is looked at together lies together, so that memory is read in order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.detectors.kernels.bits import below, lowest, without_lowest
from anomalyd.detectors.kernels.boxes import (
    AIM,
    BLOCK,
    HINT,
    LANES,
    LINE,
    RADIUS,
    SEEN,
    STORED,
    UNIT,
    WIDTH,
    aim,
    around_nothing,
    lay_grid,
    measure,
    store,
    stored_in,
)
from anomalyd.detectors.kernels.jit import kernel, leaf, seldom
from anomalyd.detectors.kernels.prefetch import prefetch_row, prefetch_whole

SHARES = 14
"""Blocks of a group at most."""
LATEST = 11
"""Samples before the newest that a context is made of."""
YOUNG = 40
AHEAD = 3
"""Series ahead for which memory is asked."""
RESCALE = 512
NEIGHBOURS = 5
FARTHEST = np.float32(3e38)


def empty(n: int, contexts: int) -> dict[str, npt.NDArray[Any]]:
    """State of n series that have seen nothing, with room for so many contexts each (rounded up to whole blocks)."""
    blocks = -(-contexts // BLOCK)
    groups = -(-blocks // SHARES)
    return {
        "book": np.zeros((n, blocks, WIDTH, BLOCK), np.float32),
        "boxes": around_nothing(n, groups),
        "hulls": around_nothing(n, -(-groups // LANES)),
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


@seldom
def smallest(x: Any, n: Any, k: Any) -> Any:
    """The k-th smallest (from 0) of the first n cells of x, which are put in another order: smaller ones before it."""
    low, high = 0, n - 1
    while low < high:
        pivot, i, j = x[(low + high) // 2], low, high
        while i <= j:
            while x[i] < pivot:
                i += 1
            while x[j] > pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        low, high = (i if k > j else low), (j if k < i else high)
    return x[k]


@seldom
def median(x: Any, n: Any) -> Any:
    """Median of the first n cells of x, which are put in another order; as numpy computes it."""
    upper = smallest(x, n, n // 2)
    if n % 2:
        return upper
    lower = x[0]
    for j in range(1, n // 2):
        lower = max(lower, x[j])
    return (lower + upper) / 2


@seldom
def rescale(book: Any, boxes: Any, hulls: Any, line: Any, x: Any) -> Any:
    """Measure the unit anew from the samples in the book, and fit the grid to it; x [B * BLOCK] is scratch."""
    n = stored_in(book, line)
    if n == 0:
        return
    mean = 0.0
    for j in range(n):
        x[j] = book[j // BLOCK, 0, j % BLOCK]
        mean += x[j] / n
    square = 0.0
    for j in range(n):
        square += (x[j] - mean) * (x[j] - mean) / n
    middle = median(x, n)
    for j in range(n):
        x[j] = abs(x[j] - middle)
    line[UNIT] = max(1.4826 * median(x, n), 0.1 * math.sqrt(square), 1e-3 * abs(middle), 1e-9)
    lay_grid(book, boxes, hulls, line, middle)


@leaf
def open_block(block: Any, count: Any, q: Any, inverse: Any, apart: Any, best: Any) -> Any:
    """Put what is nearer among the first ``count`` contexts of a block into ``best`` [NEIGHBOURS], least first."""
    q0, q1, q2, q3 = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    q4, q5 = q[4], q[5]
    for j in range(BLOCK):
        d0 = block[0, j] * inverse - q0
        d1 = block[1, j] * inverse - q1
        d2 = block[2, j] * inverse - q2
        d3 = block[3, j] * inverse - q3
        d4 = block[4, j] - q4
        d5 = block[5, j] - q5
        apart[j] = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5
    near = below(apart, best[NEIGHBOURS - 1]) & ((1 << count) - 1)
    while near != 0:
        x = apart[lowest(near)]
        near = without_lowest(near)
        for k in range(NEIGHBOURS):  # no branch here: where it belongs, if anywhere, cannot be guessed
            least, x = min(best[k], x), max(best[k], x)
            best[k] = least


@leaf
def look(
    book: Any, boxes: Any, hulls: Any, line: Any, q: Any, aims: Any, bounds: Any, apart: Any, best: Any, near: Any,
    lower: Any,
) -> Any:  # fmt: skip
    """Begin to search the book for what is nearest to context q: which blocks must be opened.

    Their numbers into ``near``, what their contexts are apart at least into ``lower`` [B + 1]; ``best`` [NEIGHBOURS]
    is what the block knows that held the nearest last. ``aims``, ``bounds`` [2, LANES] and ``apart`` [BLOCK] are
    scratch. Returns how many blocks there are; -1 while young.
    """
    n, groups = stored_in(book, line), boxes.shape[0]
    if n < 4 * NEIGHBOURS or line[SEEN] < YOUNG:
        return -1
    inverse, hint = np.float32(1.0 / line[UNIT]), int(line[HINT])
    for k in range(NEIGHBOURS):
        best[k] = FARTHEST
    open_block(book[hint], min(n - hint * BLOCK, BLOCK), q, inverse, apart, best)
    aim(line, q, inverse, aims)
    used, found = (n + BLOCK - 1) // BLOCK, 0
    rounds = used // groups
    more = used - rounds * groups
    filled = groups if rounds > 0 else more
    for h in range(hulls.shape[0]):
        some = measure(hulls[h], aims, best[NEIGHBOURS - 1], bounds[0])
        some &= (1 << min(filled - min(h * LANES, filled), LANES)) - 1
        while some != 0:
            group = h * LANES + lowest(some)
            some = without_lowest(some)
            inside = measure(boxes[group], aims, best[NEIGHBOURS - 1], bounds[1])
            inside &= (1 << (rounds + (group < more))) - 1
            while inside != 0:
                lane = lowest(inside)
                inside = without_lowest(inside)
                b = lane * groups + group
                near[found] = b
                lower[found] = bounds[1, lane]
                found += b != hint
    return found


@leaf
def decide(book: Any, line: Any, q: Any, found: Any, apart: Any, best: Any, near: Any, lower: Any) -> Any:
    """End the search that ``look`` began: the distance of q to its K-th nearest in the book; NaN while young."""
    if found < 0:
        return np.nan
    n, inverse, first = stored_in(book, line), np.float32(1.0 / line[UNIT]), line[HINT]
    for c in range(found):
        if lower[c] < best[NEIGHBOURS - 1]:
            b, before = near[c], best[0]
            count = min(n - b * BLOCK, BLOCK)
            open_block(book[b], count, q, inverse, apart, best)
            if best[0] < before and count >= NEIGHBOURS:  # fewer would bound nothing when the next search begins there
                first = float(b)
    line[HINT] = first
    return math.sqrt(best[NEIGHBOURS - 1])


@leaf
def nearest(
    book: Any, boxes: Any, hulls: Any, line: Any, q: Any, aims: Any, bounds: Any, apart: Any, best: Any, near: Any,
    lower: Any,
) -> Any:  # fmt: skip
    """Distance of context q to its K-th nearest in the book; NaN while young. The rest is as in ``look``."""
    found = look(book, boxes, hulls, line, q, aims, bounds, apart, best, near, lower)
    return decide(book, line, q, found, apart, best, near, lower)


@leaf
def keep(book: Any, boxes: Any, hulls: Any, line: Any, q: Any, every: Any) -> Any:
    """Count a context and store one of every ``every``; whether the unit must be measured anew."""
    seen = int(line[SEEN])
    if seen % every == 0:
        store(book, boxes, hulls, line, q)
    line[SEEN] += 1.0
    young = seen < RESCALE * every and seen % 64 == 0
    return seen + 1 == YOUNG // 2 or young or seen % (RESCALE * every) == 0


@leaf
def note(book: Any, boxes: Any, hulls: Any, line: Any, q: Any, every: Any, samples: Any) -> Any:
    """Count a context, store one of every ``every``, and measure the unit now and then; ``samples`` is scratch."""
    if keep(book, boxes, hulls, line, q, every):
        rescale(book, boxes, hulls, line, samples)


@leaf
def fetch_contexts(books: Any, boxes: Any, hulls: Any, lines: Any, lines_now: Any, i: Any) -> Any:
    """Ask for the memory that ``nearest`` and ``note`` will need of series i, first for the line of one behind it.

    ``lines_now`` are those that it will have then: they know where the nearest context was last.
    """
    prefetch_row(lines, i + AHEAD)
    prefetch_row(lines_now, i + AHEAD)
    if i >= lines.shape[0]:
        return
    hint, row = int(lines_now[i, HINT]), int(lines[i, STORED]) % (books.shape[1] * BLOCK)
    prefetch_whole(books[i, hint])
    if row // BLOCK != hint:
        prefetch_whole(books[i, row // BLOCK])
    prefetch_whole(hulls[i])
    prefetch_whole(boxes[i, hint % boxes.shape[1]])


def rooms(contexts: int) -> tuple[npt.NDArray[Any], ...]:
    """Scratch of a search in a book and of a note in it: context, what ``look`` takes in its order, samples."""
    blocks = -(-contexts // BLOCK) + 1
    return (
        np.zeros(WIDTH, np.float32), np.zeros((AIM, WIDTH), np.float32), np.zeros((2, LANES), np.float32),
        np.zeros(BLOCK, np.float32), np.zeros(NEIGHBOURS, np.float32), np.zeros(blocks, np.int64),
        np.zeros(blocks, np.float32), np.zeros(contexts),
    )  # fmt: skip
