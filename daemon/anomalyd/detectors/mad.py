"""``mad``: distance from the rolling median, in robust standard deviations.

Idea
    Keep the last day of samples. A sample's score is |x - median| / (1.4826 · MAD), the robust z-score: half of the
    window may be broken before median and MAD notice. Where more than half of the window is one value, the mean
    distance replaces the MAD, and a floor (a thousandth of the level) replaces both on a flat line.

Works for
    Steady gauges and rates without a strong daily rhythm: error ratios, queue lengths, temperatures, pool sizes.

Fails when
    The series has a rhythm: the night's quiet and the day's peak are one wide distribution, so an anomaly inside that
    range (a contextual anomaly) is invisible. Use ``seasonal`` or ``stl`` there. A collective anomaly of ordinary
    values is invisible too.

Toy stream
    ``5 6 5 7 6 5 6 7 5 6 42 6``: the median is 6, the MAD 1, so 42 scores 36 / 1.48 = 24.

Reference
    Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993). Exact: equal to ``numpy.median`` on the window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from anomalyd.detectors import base
from anomalyd.detectors.rolling import Rolling, RollingParams


class MadParams(RollingParams):
    """Parameters of ``mad``."""


class Mad(Rolling):
    """Rolling exact median and MAD over a block; see the module's docstring."""

    name: ClassVar[str] = "mad"
    Params: ClassVar[type[base.Params]] = MadParams

    @staticmethod
    def kernel() -> Callable[..., Any]:
        from anomalyd.detectors.kernels.order import rolling_mad

        return rolling_mad
