"""``iqr``: distance from the middle of the rolling quartiles, in interquartile ranges.

Idea
    Tukey's box plot as a detector: the box holds the middle half of the last day's samples, and a score counts from its
    middle in heights of the box. A score of 2 is Tukey's inner fence (1.5 boxes beyond the box), 3.5 the outer one. A
    quarter of the window may be broken on each side before the box notices.

Works for
    Steady series with skewed or heavy tails: latencies, queue lengths, sizes.

Fails when
    The series has a rhythm (a contextual anomaly, ordinary at another hour, is invisible: use ``seasonal`` or
    ``stl``), or more than a quarter of the window is abnormal. A collective anomaly of ordinary values is invisible.

Toy stream
    ``5 6 5 7 6 5 6 7 5 6 42 6``: the box reaches from 5 to 6, so 42 scores 36.5.

Reference
    Tukey, Exploratory Data Analysis (1977). Quartiles equal ``numpy.quantile`` on the window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from anomalyd.detectors import base
from anomalyd.detectors.rolling import Rolling, RollingParams


class IqrParams(RollingParams):
    """Parameters of ``iqr``."""


class Iqr(Rolling):
    """Rolling exact quartiles over a block; see the module's docstring."""

    name: ClassVar[str] = "iqr"
    Params: ClassVar[type[base.Params]] = IqrParams

    @staticmethod
    def kernel() -> Callable[..., Any]:
        from anomalyd.detectors.kernels.control import rolling_quartiles

        return rolling_quartiles
