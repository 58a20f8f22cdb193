"""Series from a CSV file: time, value and, if somebody judged it, which samples are anomalous.

    timestamp,value,label
    2026-01-05T00:00:00Z,17.2,0
    2026-01-05T00:05:00Z,93.0,1

The first line names the columns; ``time`` stands for ``timestamp``, ``anomaly`` and ``is_anomaly`` for ``label``. An
empty value is no sample. Other columns are left alone, so exports can be used as they are.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalyd.block import F64, I64, Bool
from anomalyd.durations import read_time
from anomalyd.errors import ConfigError, Problem

TIME_COLUMNS = ("timestamp", "time")
LABEL_COLUMNS = ("label", "anomaly", "is_anomaly")
LABELS = {"": False, "0": False, "0.0": False, "false": False, "no": False,
          "1": True, "1.0": True, "true": True, "yes": True}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFile:
    """What a file holds: times in ms, strictly increasing, values (NaN: none) and which samples are labelled, [T]."""

    times: I64
    values: F64
    labelled: Bool

    def step_ms(self) -> int:
        """The usual distance between samples, 0 for fewer than two."""
        return int(np.median(np.diff(self.times))) if len(self.times) > 1 else 0


def read_series(path: Path) -> SeriesFile:
    """Read a file; raise ``ConfigError`` with the line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(csv.DictReader(file), path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem(str(path), 0, 0, f"cannot be read: {error}")]) from error


def _read(reader: csv.DictReader[str], path: Path) -> SeriesFile:
    names = list(reader.fieldnames or ())
    time_column = next((name for name in TIME_COLUMNS if name in names), "")
    label_column = next((name for name in LABEL_COLUMNS if name in names), "")
    if not time_column or "value" not in names:
        raise ConfigError([Problem(str(path), 1, 1, "the first line must name the columns timestamp and value",
                                   "for example: timestamp,value,label")])  # fmt: skip
    rows: list[tuple[int, float, bool]] = []
    for row in reader:
        try:
            rows.append((read_time(row[time_column] or ""), _value(row["value"]), _label(row, label_column)))
        except ValueError as error:
            raise ConfigError([Problem(str(path), reader.line_num, 1, str(error))]) from None
        if len(rows) > 1 and rows[-1][0] <= rows[-2][0]:
            problem = Problem(str(path), reader.line_num, 1, "the times do not increase", "sort the file by time")
            raise ConfigError([problem])
    if not rows:
        raise ConfigError([Problem(str(path), 1, 1, "has no samples")])
    times, values, labelled = zip(*rows, strict=True)
    return SeriesFile(np.array(times, np.int64), np.array(values, np.float64), np.array(labelled, np.bool_))


def _value(text: str | None) -> float:
    try:
        value = float(text) if text and text.strip() else math.nan
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    return value if math.isfinite(value) else math.nan


def _label(row: Mapping[str, str | None], column: str) -> bool:
    text = (row.get(column) or "").strip().lower() if column else ""
    if text not in LABELS:
        raise ValueError(f"{text!r} is no label; write 1 for an anomalous sample, 0 or nothing for others")
    return LABELS[text]
