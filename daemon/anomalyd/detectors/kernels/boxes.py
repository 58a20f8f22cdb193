"""Boxes around blocks of contexts, and hulls around boxes: what tells, of few bytes, which contexts may be near.

Memory is what a search of many series costs, so an edge of a box is a byte: the number of a cell. The first
coordinates' cells are a sixteenth of the book's unit wide, around its median; those of the circle share its width. A
context lies in the cells of its block's box, and a box in its hull's. What lies outside the grid is in its first or
last cell, which have no end. When the unit or the median has moved far the grid is laid anew.

Invariant: the distance to a box is never greater than that to any context in it as ``knn`` computes it, in float32
with all its rounding: ``aim`` widens the boxes by what that may be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.detectors.kernels.bits import below
from anomalyd.detectors.kernels.jit import leaf, seldom

WIDTH = 6
"""Coordinates of a context: sample, two means, a spread, and two of the circle."""
SCALED = 4
"""The first coordinates are in units of the book's spread; the others are the circle."""
SPREAD = 3
"""The coordinate that is never negative."""
RADIUS = 2.0
BLOCK = 16
LANES = 16
"""Boxes that lie side by side: the compiler compares them all at a time, which it does not do with eight."""
LEAST, GREATEST = 0, 1
STORED, SEEN, UNIT, HINT, MIDDLE, STEP = 0, 1, 2, 3, 4, 5
"""Slots of ``line``: contexts stored, samples seen, unit, block that held the nearest context last; of the grid the
middle and the width of a cell."""
LINE = 6
CELLS = 256
FIRST_CELL, LAST_CELL = 0, 255
PER_UNIT = 16.0
DRIFT, STRETCH = 2.0, 2.0
"""The grid is laid anew where the median has moved by so many units, or the unit by such a factor."""
CLOCK_ORIGIN, CLOCK_STEP = -1.005 * RADIUS, 2.01 * RADIUS / CELLS
AIM_LOW, AIM_HIGH, AIM_SCALE = 0, 1, 2
AIM = 3
WIDENS = 1e-3
"""Cells by which boxes are widened for the rounding of cells."""
ROUNDING = 2.0**-22
"""Twice what two roundings to float32 may be, as a share of the numbers that are rounded."""
SHRINKS = 1.0 - 1e-5
"""For the rounding of the sum of squares."""
ENDLESS, MOST_CELLS = np.float32(3e38), 1e37
"""Where the outermost cells end, and how far away anything may seem: always less."""
NOTHING = np.float32(0.0)


def around_nothing(*shape: int) -> npt.NDArray[np.uint8]:
    """Boxes that hold nothing, and that any context makes its own."""
    boxes = np.empty((*shape, WIDTH, 2, LANES), np.uint8)
    boxes[..., LEAST, :], boxes[..., GREATEST, :] = LAST_CELL, FIRST_CELL
    return boxes


@leaf
def origin_of(line: Any, k: Any) -> Any:
    """Where the cells of coordinate k begin."""
    if k >= SCALED:
        return CLOCK_ORIGIN
    return 0.0 if k == SPREAD else line[MIDDLE] - (CELLS / 2) * line[STEP]


@leaf
def step_of(line: Any, k: Any) -> Any:
    """Width of the cells of coordinate k."""
    return line[STEP] if k < SCALED else CLOCK_STEP


@leaf
def cell_of(line: Any, k: Any, x: Any) -> Any:
    """Number of the cell in which x lies."""
    at = (x - origin_of(line, k)) / step_of(line, k)
    return np.uint8(min(max(at, 0.0), CELLS - 1.0))


@leaf
def aim(line: Any, q: Any, inverse: Any, aims: Any) -> Any:
    """Put into ``aims`` [AIM, WIDTH] where q lies on the grid, as seen from lower and from higher cells, and a scale.

    ``inverse`` is that of the unit. Everything is so much nearer as rounding may make it.
    """
    for k in range(WIDTH):
        origin, step = origin_of(line, k), step_of(line, k)
        at = (q[k] - origin) / step
        margin = WIDENS + ROUNDING * (abs(origin) + CELLS * step + abs(q[k])) / step
        aims[AIM_LOW, k] = min(max(at + margin, -MOST_CELLS), MOST_CELLS)
        aims[AIM_HIGH, k] = min(max(at - margin - 1.0, -MOST_CELLS), MOST_CELLS)
        aims[AIM_SCALE, k] = (step * inverse if k < SCALED else step) * SHRINKS


@leaf
def beside(edges: Any, j: Any, low: Any, high: Any, scale: Any) -> Any:
    """Distance in one coordinate to box j of ``edges`` [2, LANES]."""
    least, greatest = edges[LEAST, j], edges[GREATEST, j]
    from_below = (-ENDLESS if least == FIRST_CELL else np.float32(least)) - low
    from_above = high - (ENDLESS if greatest == LAST_CELL else np.float32(greatest))
    return max(from_below, from_above, NOTHING) * scale


@leaf
def measure(boxes: Any, aims: Any, limit: Any, bounds: Any) -> Any:
    """Squared distance to each of the boxes [WIDTH, 2, LANES] into ``bounds`` [LANES]: nothing inside is nearer.

    Returns a number whose bits are set where that is below the limit; what holds nothing may be among them.
    """
    l0, l1, l2, l3, l4, l5 = aims[0, 0], aims[0, 1], aims[0, 2], aims[0, 3], aims[0, 4], aims[0, 5]
    h0, h1, h2, h3, h4, h5 = aims[1, 0], aims[1, 1], aims[1, 2], aims[1, 3], aims[1, 4], aims[1, 5]
    s0, s1, s2, s3, s4, s5 = aims[2, 0], aims[2, 1], aims[2, 2], aims[2, 3], aims[2, 4], aims[2, 5]
    for j in range(LANES):
        d0, d1 = beside(boxes[0], j, l0, h0, s0), beside(boxes[1], j, l1, h1, s1)
        d2, d3 = beside(boxes[2], j, l2, h2, s2), beside(boxes[3], j, l3, h3, s3)
        d4, d5 = beside(boxes[4], j, l4, h4, s4), beside(boxes[5], j, l5, h5, s5)
        bounds[j] = d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5
    return below(bounds, limit)


@leaf
def stored_in(book: Any, line: Any) -> Any:
    """Number of contexts in the book."""
    return int(min(line[STORED], float(book.shape[0] * BLOCK)))


@leaf
def draw(edges: Any, at: Any, low: Any, high: Any) -> Any:
    """Give a box its edges in one coordinate [2, LANES]."""
    edges[LEAST, at] = low
    edges[GREATEST, at] = high


@leaf
def draw_box(line: Any, k: Any, cells: Any, count: Any, edges: Any, at: Any) -> Any:
    """Draw the box of a block in coordinate k from its contexts' ``cells`` [BLOCK]."""
    low = high = cells[0]
    for j in range(1, count):
        low, high = min(low, cells[j]), max(high, cells[j])
    draw(edges, at, cell_of(line, k, low), cell_of(line, k, high))


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

    They are drawn anew only where what went was at their edge. Without a grid there are no boxes yet.
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
        if line[STEP] == 0.0:
            continue
        box, edges, cell = boxes[group, k], hulls[hull, k], cell_of(line, k, x)
        low, high = box[LEAST, lane], box[GREATEST, lane]
        if replaced and cell_of(line, k, gone) in (low, high):
            draw_box(line, k, book[b, k], count, box, lane)
        elif cell < low or cell > high:
            draw(box, lane, min(low, cell), max(high, cell))
        least, greatest = box[LEAST, lane], box[GREATEST, lane]
        shrunk = least > low or greatest < high
        if shrunk and (edges[LEAST, place] == low or edges[GREATEST, place] == high):
            draw_hull(box, edges, place)
        elif least < edges[LEAST, place] or greatest > edges[GREATEST, place]:
            draw(edges, place, min(edges[LEAST, place], least), max(edges[GREATEST, place], greatest))


@seldom
def lay_grid(book: Any, boxes: Any, hulls: Any, line: Any, middle: Any) -> Any:
    """Lay the grid around the median, for the unit of the line, where it is not nearly so; draw all boxes on it."""
    step, groups = line[UNIT] / PER_UNIT, boxes.shape[0]
    near = abs(middle - line[MIDDLE]) <= DRIFT * line[UNIT]
    if near and step <= STRETCH * line[STEP] and line[STEP] <= STRETCH * step:
        return
    line[MIDDLE], line[STEP] = middle, step
    known = stored_in(book, line)
    for k in range(WIDTH):
        for b in range((known + BLOCK - 1) // BLOCK):
            draw_box(line, k, book[b, k], min(known - b * BLOCK, BLOCK), boxes[b % groups, k], b // groups)
        for g in range(groups):
            draw_hull(boxes[g, k], hulls[g // LANES, k], g % LANES)


@seldom
def copy_boxes(boxes: Any, others: Any) -> Any:
    """Make boxes [-, WIDTH, 2, LANES] equal to others."""
    for g in range(boxes.shape[0]):
        for k in range(WIDTH):
            for edge in range(2):
                for j in range(LANES):
                    boxes[g, k, edge, j] = others[g, k, edge, j]
