"""Series from CSV files: what is read, and what is wrong with a file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from anomalyd.errors import ConfigError
from anomalyd.seriesfile import read_series


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    """Times in any of the three forms, an empty value is none, other columns are left alone."""
    path = tmp_path / "a.csv"
    path.write_text(
        "time,host,value,is_anomaly\n2026-01-05T00:00:00Z,a,1.5,0\n1767571500,a,,true\n1767571800000,a,NaN,\n"
        "2026-01-05 00:15:00,a,2e3,1\n"
    )
    read = read_series(path)
    assert [(at - 1767571200000) // 60_000 for at in read.times.tolist()] == [0, 5, 10, 15]
    assert [v if math.isfinite(v) else None for v in read.values.tolist()] == [1.5, None, None, 2000.0]
    assert read.labelled.tolist() == [False, True, False, True]
    assert read.step_ms() == 300_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when,value\n1,2\n", ":1:1: the first line must name the columns timestamp and value"),
        ("timestamp,value\n", ":1:1: has no samples"),
        ("timestamp,value\nsoon,2\n", ":2:1: 'soon' is not a time"),
        ("timestamp,value\n10,2\n10,3\n", ":3:1: the times do not increase (sort the file by time)"),
        ("timestamp,value\n10,many\n", ":2:1: 'many' is not a number"),
        ("timestamp,value,label\n10,1,maybe\n", ":2:1: 'maybe' is no label; write 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    """A test's data are checked like its text."""
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_series(path)
    assert f"a.csv{message}" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message names it."""
    with pytest.raises(ConfigError, match=r"none\.csv: cannot be read"):
        read_series(tmp_path / "none.csv")
