"""``zscore``: distance from the rolling mean, in standard deviations.

Idea
    The old school's rule of three sigmas: mean and standard deviation of the last day, and how many of the latter a
    sample is away. Samples enter the window trimmed at four standard deviations, so one wild value cannot hide the
    next.

Works for
    Steady, roughly Gaussian series, and for comparing with what a team had before.

Fails when
    The series has a rhythm (a contextual anomaly, ordinary at another hour, is invisible: use ``seasonal`` or
    ``stl``), heavy tails (every burst is many sigmas: use ``mad`` or ``iqr``) or a broken baseline of more than a few
    samples. A collective anomaly of ordinary values is invisible too.

Toy stream
    ``5 6 5 7 6 5 6 7 5 6 42 6``: mean 5.8, deviation 0.75, so 42 scores 48.

Reference
    Shewhart, Economic Control of Quality of Manufactured Product (1931).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from anomalyd.detectors import base
from anomalyd.detectors.rolling import Rolling, RollingParams


class ZscoreParams(RollingParams):
    """Parameters of ``zscore``."""


class Zscore(Rolling):
    """Rolling mean and standard deviation over a block; see the module's docstring."""

    name: ClassVar[str] = "zscore"
    Params: ClassVar[type[base.Params]] = ZscoreParams
    windows: ClassVar[tuple[str, ...]] = ("ring",)

    @staticmethod
    def kernel() -> Callable[..., Any]:
        from anomalyd.detectors.kernels.control import rolling_z

        return rolling_z
