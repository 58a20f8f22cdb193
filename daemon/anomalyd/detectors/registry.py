"""Detectors by their YAML name.

Invariant: naming a detector costs no import; its module (numba, scikit-learn, torch) is loaded when it is first used.
A package outside adds a detector by an entry point in the group ``anomalyd.detectors``; it cannot replace a built-in.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from pydantic import ValidationError

from anomalyd.detectors.base import Detector, DetectorInfo, Grid, Params
from anomalyd.errors import DetectorError
from anomalyd.rule import DetectorSpec

ENTRY_POINTS = "anomalyd.detectors"
EXTRA_MODULES = {"lstm": "torch"}
"""What an optional extra must have installed."""


def _built_in(name: str, class_name: str, summary: str, extra: str = "") -> DetectorInfo:
    return DetectorInfo(name, f"anomalyd.detectors.{name}:{class_name}", summary, extra)


_BUILT_IN = (
    _built_in("adwin", "Adwin", "evidence that the level has changed, by an adaptive window over residuals"),
    _built_in("auto", "Auto", "the default: several detectors that see each series differently, on one scale"),
    _built_in("autoencoder", "Autoencoder", "error with which a narrow net rebuilds a stretch or all channels", "lstm"),
    _built_in("cusum", "Cusum", "control chart of the cumulative sum of residuals"),
    _built_in("ensemble", "Ensemble", "several detectors, each calibrated by itself, combined by their surprise"),
    _built_in("ewma", "Ewma", "control chart of the weighted mean of residuals"),
    _built_in(
        "extended_isolation_forest", "ExtendedIsolationForest", "an isolation forest whose cuts are oblique"
    ),
    _built_in("extreme", "Extreme", "distance beyond everything seen before, at this time of day"),
    _built_in("forecast", "Forecast", "a limit is reached within a horizon"),
    _built_in("half_space_trees", "HalfSpaceTrees", "how empty the place of a residual is, by random half-space trees"),
    _built_in("iqr", "Iqr", "distance from the rolling quartiles in interquartile ranges"),
    _built_in("isolation_forest", "IsolationForest", "how few random cuts isolate a sample with the ones before it"),
    _built_in("knn", "Knn", "distance to the nearest contexts of the past"),
    _built_in("lof", "Lof", "how much lonelier a sample's vector is than its neighbours"),
    _built_in("lstm", "Lstm", "error of a recurrent net's forecast", "lstm"),
    _built_in("mad", "Mad", "distance from the rolling median in robust standard deviations"),
    _built_in("matrix_profile", "MatrixProfile", "how unlike everything before the last stretch of samples is"),
    _built_in("peer", "Peer", "outlier among the siblings of a rule at one time"),
    _built_in("rls", "Rls", "residual of a forecast that learns with every sample"),
    _built_in("seasonal", "Seasonal", "distance from what the best of five experts expects"),
    _built_in("stl", "Stl", "distance from a stored profile that STL has learned, with a level that follows"),
    _built_in("zscore", "Zscore", "distance from the rolling mean in standard deviations"),
)

DETECTORS: dict[str, DetectorInfo] = {info.name: info for info in _BUILT_IN}


@cache
def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in DETECTORS}


def detector_names() -> tuple[str, ...]:
    """All names a rule may use, sorted."""
    return tuple(sorted({*DETECTORS, *_outside()}))


def detector_info(name: str) -> DetectorInfo:
    """What is known of a detector without importing it; raise ``DetectorError`` ("unknown")."""
    if name in DETECTORS:
        return DETECTORS[name]
    point = _outside().get(name)
    if point is None:
        near = difflib.get_close_matches(name, detector_names(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DetectorError("unknown", f"no detector is called {name!r}; {hint}known: {', '.join(detector_names())}")
    distribution = point.dist.name if point.dist else "an outside package"
    return DetectorInfo(name, point.value, f"from {distribution}")


def load_detector(name: str) -> type[Detector]:
    """Import a detector's class; raise ``DetectorError`` ("unknown", "extra" or "broken") with what to do about it."""
    info = detector_info(name)
    _check_extra(info)
    module_name, _, class_name = info.module.partition(":")
    try:
        return cast(type[Detector], getattr(importlib.import_module(module_name), class_name))
    except (ImportError, AttributeError) as error:
        raise DetectorError("broken", f"detector {name!r} cannot be loaded from {info.module}: {error}") from error


def _check_extra(info: DetectorInfo) -> None:
    needed = EXTRA_MODULES.get(info.extra)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise DetectorError(
            "extra",
            f"detector {info.name!r} needs {needed}, which is not installed: pip install 'anomalyd[{info.extra}]'",
        )


def make_detector(spec: DetectorSpec, grid: Grid) -> Detector:
    """Build a detector from what the user wrote; raise ``DetectorError`` ("params") that names each bad parameter."""
    cls = load_detector(spec.type)
    try:
        params = cls.Params.model_validate(dict(spec.params))
    except ValidationError as error:
        raise DetectorError("params", f"detector {spec.type!r}: {_readable(error, cls.Params)}") from error
    return cls(params, grid)


def _readable(error: ValidationError, params: type[Params]) -> str:
    known = list(params.model_fields)
    parts = []
    for problem in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            parts.append(f"unknown parameter {where!r} ({hint})")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            parts.append(f"{where}: {message}, not {problem['input']!r}" if where else message)
    return "; ".join(parts)
