"""Kernel that keeps a combined surprise honest: how often it was that high is counted, and it is corrected by that.

Several tails put together say how rare a sample is only about: on noise with heavy tails the sum is too high too often,
on a strong rhythm with little noise too seldom. What a budget promises is alerts in a time, so stretches above ``u``
(at most ``APART`` samples below it between them) are counted, and what their peaks exceed u by. In expectation a
stretch is as rare as 10 ** -u and its excess has the mean ``FAIR``. From what was counted follows what a surprise x > u
is worth, ``u + shift + slope * (x - u)``; x is moved towards that only as far as needed to be within a margin of it. It
stays above u and in order, and below u nothing is changed.

A past that holds real incidents must not make deaf: what exceeds u by ``FAR`` or more is counted, but not how far it
went; shift and slope are bounded; and both begin at what noise of many kinds has shown. ``ONSET`` and ``NEWS`` are the
terms for the two signals of ``auto``.

On noise the paging signal comes as often a sample whatever the step, and the less often the longer a series was seen,
about by the root of its samples. So of the same time, news comes about by the root of the samples a week. From a minute
to five minutes counting copes with that; below and above what is expected before it goes with the step (``FAST``,
``SLOW``). And a young series shows news all the time: it has hardly seen anything yet, and how far a new extreme is
from those before says little. So in its first week news is worth no more than the onset allows, which is honest from
the first day on (``DOUBTED``).

A line [LINE] of one series: samples and stretches counted (fading), the sum of the excesses below the far ones, the
stretches that were far, the highest excess of the latest stretch, samples since it, samples judged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel, leaf

SAMPLES, STRETCHES, EXCESS, BEYOND, PEAK, SINCE, JUDGED = 0, 1, 2, 3, 4, 5, 6
LINE = 7

APART = 10.0
FAIR = 1.0 / math.log(10.0)
MOST_SLOPE = 1.2

FAR, MARGIN, MEAN, WEIGHT, OFTEN, NUMBER, LEAST_SLOPE, LEAST_SHIFT, MOST_SHIFT = 0, 1, 2, 3, 4, 5, 6, 7, 8
"""Slots of the terms: from where on an excess is not measured; what is tolerated, as a logarithm; the mean excess
before anything was counted and the stretches it counts for; the same of the rate, in units of the expected one; the
smallest slope; the bounds of the shift."""
ONSET = np.array([1.5, math.log10(1.5), 0.65, 30.0, 1.0, 10.0, 0.6, -0.3, 0.7])
NEWS = np.array([2.5, math.log10(1.7), 0.5, 30.0, 0.5, 20.0, 0.25, -0.3, 0.7])
"""Those of news are for steps from a minute to five minutes, see ``at_pace``."""
MOST_USUAL, LEAST_USUAL = math.log10(10_080.0), math.log10(2_016.0)
"""Samples a week at one and at five minutes, as logarithms."""
FAST, SLOW = 2.0, 0.5
"""By so many orders for one of the samples a week more news is expected at once at shorter steps, and less at longer
ones. At short ones that is more than comes (0.6 orders), since large news is also more frequent there than it says."""
DOUBTED = 0.3
"""In its first hours news may be twice as surprising as the onset; the more, the older the series."""

PAGE_SLOPE, RARE_SLOPE = 0.9, 0.45
"""Surprise per unit of the paging signal below and above 1: on noise it comes about as often as that says."""
FREQUENT = 0.45
"""Onsets open episodes at cuts so far below that of one a week: budgets of about three a week and more."""


@leaf
def kept(line: Any, x: Any, u: Any, terms: Any) -> Any:
    """The surprise that x > u is worth after what ``line`` has counted."""
    number = line[STRETCHES] - line[BEYOND]
    total = line[EXCESS] + terms[FAR] * line[BEYOND] + terms[WEIGHT] * terms[MEAN]
    slope = min(max(FAIR * (number + terms[WEIGHT]) / total, terms[LEAST_SLOPE]), MOST_SLOPE)
    expected = line[SAMPLES] * 10.0 ** (-u)
    often = (line[STRETCHES] + terms[NUMBER] * terms[OFTEN]) / (expected + terms[NUMBER])
    shift = min(max(-math.log10(often), terms[LEAST_SHIFT]), terms[MOST_SHIFT])
    fair = u + shift + slope * (x - u)
    return max(u, min(max(x, fair - terms[MARGIN]), fair + terms[MARGIN]))


@leaf
def count(line: Any, x: Any, u: Any, fade: Any, far: Any) -> Any:
    """Count a sample; ``fade`` is what older ones weigh of what they did."""
    for k in range(PEAK):
        line[k] *= fade
    line[SAMPLES] += 1.0
    line[SINCE] += 1.0
    line[JUDGED] += 1.0
    if x < u:
        return
    excess = x - u
    if line[SINCE] > APART or line[STRETCHES] == 0.0:
        line[STRETCHES] += 1.0
        line[PEAK] = 0.0
    line[SINCE] = 0.0
    if excess <= line[PEAK]:
        return
    line[EXCESS] += min(excess, far) - min(line[PEAK], far)
    if excess >= far > line[PEAK]:
        line[EXCESS] -= far
        line[BEYOND] += 1.0
    line[PEAK] = excess


@kernel
def keep_block(score: Any, hold: Any, u: Any, fade: Any, lines: Any) -> Any:
    """Correct the surprises [N, T] in place, each by those before it; ``lines`` [N, LINE] go on.

    A series with ``hold`` [N] counts as well: the sample that opens an episode is held, and it is what a budget is
    spent on. An episode is one stretch however long it lasts, and nothing fades in it.
    """
    for i in range(score.shape[0]):
        for t in range(score.shape[1]):
            x = score[i, t]
            if math.isnan(x):
                continue
            if x > u:
                score[i, t] = kept(lines[i], x, u, ONSET)
            count(lines[i], x, u, 1.0 if hold[i] else fade, ONSET[FAR])


@leaf
def surprise_of_page(page: Any, weekly: Any) -> Any:
    """A paging signal as a surprise: 1 is ``weekly``, that of a budget of one a week; 0 or less is none."""
    if page <= 0.0:
        return 0.0
    return weekly + (PAGE_SLOPE if page < 1.0 else RARE_SLOPE) * (page - 1.0)


@leaf
def page_of_surprise(surprise: Any, weekly: Any) -> Any:
    """The inverse of ``surprise_of_page``."""
    return 1.0 + (surprise - weekly) / (PAGE_SLOPE if surprise < weekly else RARE_SLOPE)


@kernel
def at_pace(weekly: Any) -> Any:
    """The terms of news for a step with so many samples a week (a logarithm)."""
    more = FAST * max(weekly - MOST_USUAL, 0.0) + SLOW * min(weekly - LEAST_USUAL, 0.0)
    terms = NEWS.copy()
    terms[OFTEN] *= 10.0**more
    terms[LEAST_SHIFT] -= max(more, 0.0)
    terms[MOST_SHIFT] -= min(more, 0.0)
    return terms


@leaf
def most_news(onset: Any, age: Any) -> Any:
    """The surprise that news is worth at most, at an age in weeks; ``onset`` is that of the same sample."""
    return onset + DOUBTED / (1.0 - age) ** 2 if age < 1.0 else math.inf


@kernel
def keep_pages(page: Any, onset: Any, hold: Any, weekly: Any, known: Any, fade: Any, lines: Any) -> Any:
    """The same for the paging signal [N, T] in its own unit; what is not news stays 0.

    ``onset`` [N, T] is the surprise of the same samples as ``keep_block`` has left it, ``known`` the samples that a
    series has before it is judged. What is worth less because a series is young is counted in full.
    """
    u, terms, week = weekly - PAGE_SLOPE, at_pace(weekly), 10.0**weekly
    for i in range(page.shape[0]):
        for t in range(page.shape[1]):
            if math.isnan(page[i, t]):
                continue
            x = surprise_of_page(page[i, t], weekly)
            if x > u:
                worth = min(kept(lines[i], x, u, terms), most_news(onset[i, t], (lines[i, JUDGED] + known) / week))
                page[i, t] = max(page_of_surprise(worth, weekly), 0.0)
            count(lines[i], x, u, 1.0 if hold[i] else fade, terms[FAR])


@kernel
def openings(page: Any, onset: Any, u: Any, weekly: Any) -> Any:
    """The surprise [N, T] with which an episode may open; 0 where none may.

    There is too little news for budgets that grant several alerts a week: for those an onset above ``u`` opens as well.
    """
    opens = np.full(page.shape, np.nan)
    for i in range(page.shape[0]):
        for t in range(page.shape[1]):
            if not math.isnan(page[i, t]):
                news = surprise_of_page(page[i, t], weekly)
                often = min(onset[i, t], weekly - FREQUENT) if onset[i, t] > u else 0.0
                opens[i, t] = max(news, often)
    return opens
