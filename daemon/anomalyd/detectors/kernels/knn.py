"""Kernel of the nearest-neighbour distance in a small context.

A context is the sample, the means of the last three and twelve, twice the spread of the last twelve (all in units of a
robust spread of the book) and the time of day as a circle of radius two. The book holds contexts of the past, one of
every ``every``, oldest overwritten; the distance to the K-th nearest is the score.

Sixteen contexts that follow each other lie together in a block with a box around them, and few blocks are opened: one
whose box is farther away than the K nearest found so far cannot hold a nearer context. Blocks that are a fourteenth of
the book apart (a day, where it holds a fortnight: they are of the same time of day) are a group with a hull around
their boxes, and few boxes are looked at for the same reason. The answer is that of looking at all contexts, bit for
bit, because rounding keeps order: the distance to a box is computed by the same operations.

State of one series: ``book`` [B, WIDTH, BLOCK] the contexts; ``boxes`` [G, WIDTH, 2, LANES] the least and the
greatest of each block, b being lane b // G of group b % G; ``hulls`` [-, WIDTH, 2, LANES] the same of each group;
``line`` [LINE]: contexts stored, samples seen, unit, and the block that held the nearest context last. What is looked
at together lies together, so that memory is read in order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.detectors.kernels.bits import below, lowest, without_lowest
from anomalyd.detectors.kernels.jit import kernel, leaf, seldom
from anomalyd.detectors.kernels.prefetch import prefetch_all, prefetch_row

WIDTH = 6
BLOCK = 16
LANES = 16
"""Boxes that lie side by side: the compiler compares them all at a time, which it does not do with eight."""
SHARES = 14
"""Blocks of a group at most."""
LEAST, GREATEST = 0, 1
STORED, SEEN, UNIT, HINT = 0, 1, 2, 3
LINE = 4
LATEST = 11
"""Samples before the newest that a context is made of."""
YOUNG = 40
AHEAD = 3
"""Series ahead for which memory is asked."""
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
    groups = -(-blocks // SHARES)
    return {
        "book": np.zeros((n, blocks, WIDTH, BLOCK), np.float32),
        "boxes": _around_nothing(n, groups),
        "hulls": _around_nothing(n, -(-groups // LANES)),
        "nearest": np.zeros((n, LINE)),
    }


def _around_nothing(*shape: int) -> npt.NDArray[np.float32]:
    """Boxes that are far from everything, and that any context makes its own."""
    boxes = np.empty((*shape, WIDTH, 2, LANES), np.float32)
    boxes[..., LEAST, :], boxes[..., GREATEST, :] = NOWHERE, -NOWHERE
    return boxes


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
def rescale(book: Any, line: Any, x: Any) -> Any:
    """Measure the unit anew from the samples in the book; x [B * BLOCK] is scratch."""
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


@leaf
def apart_by(low: Any, high: Any, x: Any) -> Any:
    """Distance of x to what lies between two edges."""
    return max(low - x, x - high, NONE)


@leaf
def measure(boxes: Any, q: Any, inverse: Any, limit: Any, bounds: Any) -> Any:
    """Squared distance of q to each of the boxes [WIDTH, 2, LANES] into ``bounds`` [LANES]: nothing inside is nearer.

    Returns a number whose bits are set where that is below the limit.
    """
    q0, q1, q2, q3 = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    q4, q5 = q[4], q[5]
    for j in range(LANES):
        d0 = apart_by(boxes[0, 0, j] * inverse, boxes[0, 1, j] * inverse, q0)
        d1 = apart_by(boxes[1, 0, j] * inverse, boxes[1, 1, j] * inverse, q1)
        d2 = apart_by(boxes[2, 0, j] * inverse, boxes[2, 1, j] * inverse, q2)
        d3 = apart_by(boxes[3, 0, j] * inverse, boxes[3, 1, j] * inverse, q3)
        d4 = apart_by(boxes[4, 0, j], boxes[4, 1, j], q4)
        d5 = apart_by(boxes[5, 0, j], boxes[5, 1, j], q5)
        bounds[j] = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5
    return below(bounds, limit)


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
def nearest(book: Any, boxes: Any, hulls: Any, line: Any, q: Any, bounds: Any, apart: Any, best: Any) -> Any:
    """Distance of context q to its K-th nearest in the book; NaN while young.

    ``bounds`` [2, LANES], ``apart`` [BLOCK] and ``best`` [NEIGHBOURS] are scratch.
    """
    n = stored_in(book, line)
    if n < 4 * NEIGHBOURS or line[SEEN] < YOUNG:
        return np.nan
    inverse = np.float32(1.0 / line[UNIT])
    for k in range(NEIGHBOURS):
        best[k] = FARTHEST
    hint, groups = int(line[HINT]), boxes.shape[0]
    open_block(book[hint], min(n - hint * BLOCK, BLOCK), q, inverse, apart, best)
    first = hint
    for h in range(hulls.shape[0]):
        near = measure(hulls[h], q, inverse, best[NEIGHBOURS - 1], bounds[0])
        while near != 0:
            place = lowest(near)
            near = without_lowest(near)
            if bounds[0, place] < best[NEIGHBOURS - 1]:
                group = h * LANES + place
                inside = measure(boxes[group], q, inverse, best[NEIGHBOURS - 1], bounds[1])
                while inside != 0:
                    lane = lowest(inside)
                    inside = without_lowest(inside)
                    b = lane * groups + group
                    if bounds[1, lane] < best[NEIGHBOURS - 1] and b != hint:
                        before = best[0]
                        open_block(book[b], min(n - b * BLOCK, BLOCK), q, inverse, apart, best)
                        if best[0] < before:
                            first = b
    line[HINT] = first
    return math.sqrt(best[NEIGHBOURS - 1])


@leaf
def draw(edges: Any, at: Any, low: Any, high: Any) -> Any:
    """Give a box its edges in one coordinate [2, LANES]."""
    edges[LEAST, at] = low
    edges[GREATEST, at] = high


@leaf
def draw_box(cells: Any, count: Any, edges: Any, at: Any) -> Any:
    """Draw the box of a block in one coordinate from its contexts' ``cells`` [BLOCK]."""
    low = high = cells[0]
    for j in range(1, count):
        low, high = min(low, cells[j]), max(high, cells[j])
    draw(edges, at, low, high)


@leaf
def draw_hull(boxes: Any, edges: Any, at: Any) -> Any:
    """Draw the hull of a group in one coordinate from its ``boxes`` [2, LANES]."""
    low, high = boxes[LEAST, 0], boxes[GREATEST, 0]
    for j in range(1, LANES):
        low, high = min(low, boxes[LEAST, j]), max(high, boxes[GREATEST, j])
    draw(edges, at, low, high)


@leaf
def store(book: Any, boxes: Any, hulls: Any, line: Any, q: Any) -> Any:
    """Put a context in the place of the oldest; the block's box and the group's hull stay drawn around what they hold.

    They are drawn anew only where what went was at their edge.
    """
    row, groups = int(line[STORED]) % (book.shape[0] * BLOCK), boxes.shape[0]
    b, j = row // BLOCK, row % BLOCK
    group, lane = b % groups, b // groups
    hull, place = group // LANES, group % LANES
    known = stored_in(book, line)
    replaced, count = row < known, min(max(known, row + 1) - b * BLOCK, BLOCK)
    line[STORED] += 1.0
    for k in range(WIDTH):
        x, gone = q[k], book[b, k, j]
        book[b, k, j] = x
        box, edges = boxes[group, k], hulls[hull, k]
        low, high = box[LEAST, lane], box[GREATEST, lane]
        if replaced and gone in (low, high):
            draw_box(book[b, k], count, box, lane)
        else:
            draw(box, lane, min(low, x), max(high, x))
        inside = edges[LEAST, place] < low and high < edges[GREATEST, place]
        if inside or (box[LEAST, lane] <= low and box[GREATEST, lane] >= high):
            least, greatest = box[LEAST, lane], box[GREATEST, lane]
            draw(edges, place, min(edges[LEAST, place], least), max(edges[GREATEST, place], greatest))
        else:
            draw_hull(box, edges, place)


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
        rescale(book, line, samples)


@leaf
def fetch_contexts(books: Any, boxes: Any, hulls: Any, lines: Any, i: Any) -> Any:
    """Ask for the memory that ``nearest`` and ``note`` will need of series i, first for the line of one behind it."""
    prefetch_row(lines, i + AHEAD)
    if i >= lines.shape[0]:
        return
    hint, row = int(lines[i, HINT]), int(lines[i, STORED]) % (books.shape[1] * BLOCK)
    prefetch_all(books[i, hint])
    if row // BLOCK != hint:
        prefetch_all(books[i, row // BLOCK])
    for k in range(WIDTH):
        for h in range(hulls.shape[1]):
            prefetch_all(hulls[i, h, k])
        prefetch_all(boxes[i, hint % boxes.shape[1], k])


def rooms(contexts: int) -> tuple[npt.NDArray[Any], ...]:
    """Scratch of a search in a book and of a note in it: context, bounds, distances, the nearest, samples."""
    return (
        np.zeros(WIDTH, np.float32), np.zeros((2, LANES), np.float32), np.zeros(BLOCK, np.float32),
        np.zeros(NEIGHBOURS, np.float32), np.zeros(contexts),
    )  # fmt: skip


@leaf
def catch_up(
    i: Any, recent: Any, books: Any, boxes: Any, hulls: Any, lines: Any, recent_now: Any, books_now: Any,
    lines_now: Any, q: Any,
) -> Any:  # fmt: skip
    """Bring series i up to date with what is one block later: the contexts that were stored, and all that is small."""
    for number in range(int(lines[i, STORED]), int(lines_now[i, STORED])):
        row = number % (books.shape[1] * BLOCK)
        for k in range(WIDTH):
            q[k] = books_now[i, row // BLOCK, k, row % BLOCK]
        store(books[i], boxes[i], hulls[i], lines[i], q)
    for j in range(recent.shape[1]):
        recent[i, j] = recent_now[i, j]
    for j in range(LINE):
        lines[i, j] = lines_now[i, j]


@leaf
def live(
    i: Any, values: Any, clock: Any, held: Any, every: Any, recent: Any, books: Any, boxes: Any, hulls: Any,
    lines: Any, room: Any, score: Any, expected: Any,
) -> Any:  # fmt: skip
    """Score and learn the samples of series i."""
    q, bounds, apart, best, unsorted = room
    line = lines[i]
    for t in range(values.shape[1]):
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
        score[i, t] = min(nearest(books[i], boxes[i], hulls[i], line, q, bounds, apart, best), 1e12)
        for j in range(LATEST - 1, 0, -1):
            recent[i, j] = recent[i, j - 1]
        recent[i, 0] = x
        if held:
            continue
        note(books[i], boxes[i], hulls[i], line, q, every, unsorted)
        for j in range(2 * LATEST - 1, LATEST, -1):
            recent[i, j] = recent[i, j - 1]
        recent[i, LATEST] = x


@leaf
def knn_block(
    values: Any, clock: Any, hold: Any, every: Any, recent: Any, books: Any, boxes: Any, hulls: Any, lines: Any,
    room: Any, score: Any, expected: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]; ``recent`` [N, 2 LATEST], ``books``, ``boxes``, ``hulls`` and ``lines`` change in place.

    ``clock`` [T, 2] is ``around_clock``, ``room`` is ``rooms``. ``recent`` holds the last eleven samples, held or not,
    as they are what the next context is made of: a series that is back to normal must look so. Behind them are the last
    that were learned: their mean is expected.
    """
    for i in range(values.shape[0]):
        live(i, values, clock, hold[i], every, recent, books, boxes, hulls, lines, room, score, expected)


@leaf
def follow_block(
    values: Any, clock: Any, hold: Any, every: Any, recent: Any, books: Any, boxes: Any, hulls: Any, lines: Any,
    recent_now: Any, books_now: Any, lines_now: Any, room: Any, score: Any, expected: Any,
) -> Any:  # fmt: skip
    """As ``knn_block``, of a state that is one block behind: it is brought up to date in the same pass."""
    room_of = books.shape[1] * BLOCK
    for i in range(values.shape[0]):
        fetch_contexts(books, boxes, hulls, lines, i + AHEAD)
        prefetch_row(recent, i + AHEAD)
        if i + AHEAD < len(lines):
            prefetch_row(recent_now, i + AHEAD)
            prefetch_row(lines_now, i + AHEAD)
            prefetch_all(books_now[i + AHEAD, int(lines[i + AHEAD, STORED]) % room_of // BLOCK])
        catch_up(i, recent, books, boxes, hulls, lines, recent_now, books_now, lines_now, room[0])
        live(i, values, clock, hold[i], every, recent, books, boxes, hulls, lines, room, score, expected)
