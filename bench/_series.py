"""Labelled series as the evaluator's data folder keeps them: which there are, and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomalyd.block import F64, I64
from anomalyd.clock import MINUTE_MS, SECOND_MS


def stems(data: Path, name: str) -> list[str]:
    """The files of a set, as paths below its folder without suffix."""
    root = data / name / "data" if name == "nab" else data / name
    pattern = "*/*.csv" if name == "nab" else "*.npz"
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.glob(pattern))


def read_nab(path: Path) -> tuple[I64, F64]:
    """Times in milliseconds, made strictly increasing (some files repeat an hour), and values."""
    import pandas as pd

    table = pd.read_csv(path)
    stamps = pd.to_datetime(table["timestamp"]).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return increasing(stamps), table["value"].to_numpy(np.float64)


def read_npz(folder: Path, name: str) -> tuple[I64, F64]:
    """Times in milliseconds and values of a univariate file."""
    with np.load(folder / f"{name}.npz") as z:
        return increasing(z["timestamps"].astype(np.int64) * SECOND_MS), z["values"].astype(np.float64)


def increasing(times: I64) -> I64:
    """Times that do not go back or stand still, by at least a millisecond."""
    index = np.arange(len(times), dtype=np.int64)
    return np.maximum.accumulate(times - index) + index


def usual_step(times: I64) -> int:
    """The most common distance between the first times: known before scoring, as a rule's interval is."""
    distances, counts = np.unique(np.diff(times[:100]), return_counts=True)
    return int(distances[np.argmax(counts)]) if len(distances) else MINUTE_MS
