"""Kernel of ``knn`` over blocks: every series' samples scored by its contexts (``knn``) and learned.

State of one series beside the book, its boxes, hulls and line: ``recent`` [2 LATEST], the last samples, held or not, as
they are what the next context is made of (a series that is back to normal must look so), and behind them the last that
were learned: their mean is expected.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.detectors.kernels.boxes import LINE, MIDDLE, SEEN, STEP, copy_boxes, store
from anomalyd.detectors.kernels.jit import leaf
from anomalyd.detectors.kernels.knn import AHEAD, LATEST, context, decide, fetch_contexts, look, nearest, note, rooms
from anomalyd.detectors.kernels.prefetch import prefetch_row, prefetch_whole

MOST_ASKED = 16
"""Blocks that are asked for ahead: of more, where nothing near is known yet, most will not be opened."""


def rooms_in_turn(contexts: int) -> tuple[npt.NDArray[Any], ...]:
    """The same where two searches are on their way at a time: context, best, near and lower are there twice."""
    q, aims, bounds, apart, best, near, lower, unsorted = rooms(contexts)
    both = (np.stack([one, one]) for one in (best, near, lower))
    return (np.stack([q, q]), aims, bounds, apart, *both, unsorted)


@leaf
def push(recent: Any, first: Any, x: Any) -> Any:
    """Put a sample before the ``LATEST`` others of ``recent`` from its cell ``first`` on."""
    for j in range(first + LATEST - 1, first, -1):
        recent[j] = recent[j - 1]
    recent[first] = x


@leaf
def say(recent: Any, line: Any, expected: Any, t: Any) -> Any:
    """What is expected of the next sample: the mean of the last that were learned."""
    seen = int(line[SEEN])
    if seen == 0:
        return
    known = min(seen, LATEST)
    middle = 0.0
    for j in range(known):
        middle += recent[LATEST + j] / known
    expected[t] = middle


@leaf
def learn(
    x: Any, held: Any, every: Any, recent: Any, book: Any, boxes: Any, hulls: Any, line: Any, q: Any, unsorted: Any
) -> Any:  # fmt: skip
    """Learn a sample and its context q; a held one is only what the next contexts are made of."""
    push(recent, 0, x)
    if held:
        return
    note(book, boxes, hulls, line, q, every, unsorted)
    push(recent, LATEST, x)


@leaf
def live(
    first: Any, values: Any, clock: Any, held: Any, every: Any, recent: Any, book: Any, boxes: Any, hulls: Any,
    line: Any, room: Any, score: Any, expected: Any,
) -> Any:  # fmt: skip
    """Score and learn the samples [T] of a series from the ``first`` on."""
    q, aims, bounds, apart, best, near, lower, unsorted = room
    for t in range(first, len(values)):
        say(recent, line, expected, t)
        x = values[t]
        if not math.isnan(x):
            context(recent, int(line[SEEN]), x, clock[t, 0], clock[t, 1], q)
            score[t] = min(nearest(book, boxes, hulls, line, q, aims, bounds, apart, best, near, lower), 1e12)
            learn(x, held, every, recent, book, boxes, hulls, line, q, unsorted)


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
        live(
            0, values[i], clock, hold[i], every, recent[i], books[i], boxes[i], hulls[i], lines[i], room, score[i],
            expected[i],
        )  # fmt: skip


@leaf
def catch_up(
    values: Any, clock: Any, held: Any, every: Any, recent: Any, book: Any, boxes: Any, hulls: Any, line: Any,
    boxes_now: Any, hulls_now: Any, line_now: Any, q: Any,
) -> Any:  # fmt: skip
    """Bring a series up to date by the samples [T] that it lacks, without a search, and by the line it had then.

    What was stored follows from the samples: to compute it is cheaper than to read it from the book it is in.
    """
    for t in range(len(values)):
        x = values[t]
        if math.isnan(x):
            continue
        context(recent, int(line[SEEN]), x, clock[t, 0], clock[t, 1], q)
        push(recent, 0, x)
        if held:
            continue
        if int(line[SEEN]) % every == 0:
            store(book, boxes, hulls, line, q)
        line[SEEN] += 1.0
        push(recent, LATEST, x)
    if line[STEP] != line_now[STEP] or line[MIDDLE] != line_now[MIDDLE]:
        copy_boxes(boxes, boxes_now)
        copy_boxes(hulls, hulls_now)
    for j in range(LINE):
        line[j] = line_now[j]


@leaf
def follow_block(
    past_values: Any, past_clock: Any, past_hold: Any, values: Any, clock: Any, hold: Any, every: Any, recent: Any,
    books: Any, boxes: Any, hulls: Any, lines: Any, boxes_now: Any, hulls_now: Any, lines_now: Any, room: Any,
    rooms: Any, score: Any, expected: Any,
) -> Any:  # fmt: skip
    """As ``knn_block``, of a state that lacks the block ``past_values``, for many series and few samples.

    While one series is scored the next one is brought up to date, its boxes are looked at, and the blocks that must be
    opened are asked for: ``rooms`` is ``rooms_in_turn``. ``boxes_now``, ``hulls_now`` and ``lines_now`` are of the
    state that lacks nothing.
    """
    q, aims, bounds, apart, best, near, lower, unsorted = rooms
    series, found, any_sample = values.shape[0], -1, values.shape[1] > 0
    for i in range(-1, series):
        fetch_contexts(books, boxes, hulls, lines, lines_now, i + AHEAD)
        prefetch_row(recent, i + AHEAD)
        mine, found_mine, other = i & 1, found, (i + 1) & 1
        n = i + 1
        if n < series:
            catch_up(
                past_values[n], past_clock, past_hold[n], every, recent[n], books[n], boxes[n], hulls[n], lines[n],
                boxes_now[n], hulls_now[n], lines_now[n], q[other],
            )  # fmt: skip
            x = np.nan
            if any_sample:
                say(recent[n], lines[n], expected[n], 0)
                x = values[n, 0]
            if not math.isnan(x):
                context(recent[n], int(lines[n, SEEN]), x, clock[0, 0], clock[0, 1], q[other])
                found = look(
                    books[n], boxes[n], hulls[n], lines[n], q[other], aims, bounds, apart, best[other], near[other],
                    lower[other],
                )  # fmt: skip
                for c in range(min(found, MOST_ASKED)):
                    prefetch_whole(books[n, near[other, c]])
        if i >= 0 and any_sample:
            x, line, book = values[i, 0], lines[i], books[i]
            if not math.isnan(x):
                far = decide(book, line, q[mine], found_mine, apart, best[mine], near[mine], lower[mine])
                score[i, 0] = min(far, 1e12)
                learn(x, hold[i], every, recent[i], book, boxes[i], hulls[i], line, q[mine], unsorted)
            live(
                1, values[i], clock, hold[i], every, recent[i], book, boxes[i], hulls[i], line, room, score[i],
                expected[i],
            )  # fmt: skip
