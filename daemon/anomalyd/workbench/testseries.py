"""The series of a rule test: from their notation or from a file, on one grid.

Invariant: whatever they come from, the block that results is what a source would have answered slot by slot, with gaps
where nothing was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import promql_parser
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from anomalyd.block import F64, I64, Block, Bool, Labels, make_labels
from anomalyd.conform import Duration, Flag, Number, PositiveDuration, Section
from anomalyd.durations import format_duration
from anomalyd.errors import ConfigError
from anomalyd.holiday import Holidays
from anomalyd.notation import MAX_SAMPLES, Line, Pulse, Wave, compose, parse_line
from anomalyd.seriesfile import SeriesFile, read_series
from anomalyd.yamlfile import Document, Loc


@dataclass(frozen=True, slots=True)
class Marked:
    """A span that a file labels: the first and the last slot of it, and of which series."""

    series: Labels
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Series on one grid; ``stale`` marks where a series ended and did not merely miss a sample [N, T]."""

    block: Block
    stale: Bool
    marked: tuple[Marked, ...]


def parse_series(text: str) -> Labels:
    """The labels of ``name{a="b"}``; raise ``ValueError``."""
    if text.strip() == "{}":
        return ()
    try:
        tree = promql_parser.parse(text) if len(text) < 4_000 else None
    except ValueError as error:
        raise ValueError(f"{text!r} is no series: {error}") from None
    if not isinstance(tree, promql_parser.VectorSelector) or tree.offset is not None or tree.at is not None:
        raise ValueError(f'{text[:80]!r} is no series; write for example {{instance="a"}}')
    if any(m.op != promql_parser.MatchOp.Equal for m in tree.matchers.matchers):
        raise ValueError("a series has labels, not matchers: use = only")
    labels = {m.name: m.value for m in tree.matchers.matchers}
    return make_labels(labels | ({"__name__": tree.name} if tree.name else {}))


def _series(value: Any) -> Any:
    if isinstance(value, str):
        return parse_series(value)
    raise ValueError("must be text such as '{instance=\"a\"}'")


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{value!r} is no time zone; write for example Europe/Berlin") from None
    return value


SeriesField: TypeAlias = Annotated[Labels, BeforeValidator(_series)]


class SeasonModel(Section):
    """A rhythm: smooth (amplitude, peak) or with edges (at, for, add)."""

    period: PositiveDuration
    amplitude: Number | None = None
    peak: Duration = 0
    add: Number | None = None
    at: Duration = 0
    for_: Duration | None = Field(None, alias="for")
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"

    @model_validator(mode="after")
    def _one_kind(self) -> SeasonModel:
        smooth, edged = self.amplitude is not None, self.add is not None and self.for_ is not None
        if smooth == edged or (smooth and (self.add is not None or self.for_ is not None)):
            raise ValueError("needs either amplitude (and peak), or at, for and add")
        return self

    def made(self) -> Wave | Pulse:
        if self.amplitude is not None:
            return Wave(self.period, self.amplitude, self.peak, self.timezone)
        return Pulse(self.period, self.add or 0.0, self.at, self.for_ or 0, self.timezone)


class SeriesModel(Section):
    """One series: values in notation, or a file of them."""

    series: SeriesField
    values: str = ""
    csv: str = ""
    seasons: list[SeasonModel] = Field(default_factory=list)
    noise: Number = Field(0.0, ge=0)
    holidays: Flag = False

    @model_validator(mode="after")
    def _one_source(self) -> SeriesModel:
        if bool(self.values) == bool(self.csv):
            raise ValueError("needs either values or csv")
        if self.csv and (self.seasons or self.noise):
            raise ValueError("the samples of a csv are as they are: seasons and noise belong to values")
        if self.holidays and not self.seasons:
            raise ValueError("holidays: on the rule's holidays the seasons are those of another day; there are none")
        return self


class RawSeriesModel(SeriesModel):
    """One series as it would be scraped."""

    counter: bool = False

    @model_validator(mode="after")
    def _has_a_name(self) -> RawSeriesModel:
        if "__name__" not in dict(self.series):
            raise ValueError('a raw series has a name: name{instance="a"}')
        return self


@dataclass(frozen=True, slots=True)
class Given:
    """What a series is made of, read: a line of notation or a file."""

    model: SeriesModel
    line: Line | None
    file: SeriesFile | None


def read_given(
    document: Document, loc: Loc, models: Sequence[SeriesModel], interval: int, remedy: str
) -> list[Given] | None:
    """Parse lines and read files; None when there were problems, which the document then holds.

    ``remedy`` is the key that makes the interval that of the file.
    """
    before = len(document.problems)
    given: list[Given] = []
    for i, model in enumerate(models):
        try:
            if model.csv:
                file = read_series(Path(document.file).parent / model.csv)
                if file.step_ms() > interval:
                    apart, mine = format_duration(file.step_ms()), format_duration(interval)
                    document.problem((*loc, i, "csv"), f"csv: samples are {apart} apart, and {mine} is asked for",
                                     f"add {remedy}: {apart}")  # fmt: skip
                given.append(Given(model, None, file))
            else:
                given.append(Given(model, parse_line(model.values, interval), None))
        except ValueError as error:
            document.problem((*loc, i, "values"), f"values: {error}")
        except ConfigError as error:
            document.problems += error.problems
    labels = [model.series for model in models]
    if len(set(labels)) < len(labels):
        document.problem(loc, "two series have the same labels")
    return None if len(document.problems) > before else given


def first_of(given: Sequence[Given], interval: int) -> int | None:
    """The first slot that a file has a sample of; None without files."""
    firsts = [int(one.file.times[0]) for one in given if one.file is not None]
    return -(-min(firsts) // interval) * interval if firsts else None


def record(
    given: Sequence[Given], first: int, interval: int, seed: int, holidays: Holidays | None = None
) -> Recording:
    """Put series on the grid that begins at ``first``; raise ``ValueError`` when that is too much.

    The seasons of series that say so keep the ``holidays``.
    """
    columns = max(_columns(one, first, interval) for one in given)
    if columns * len(given) > 4 * MAX_SAMPLES:
        raise ValueError(f"more than {4 * MAX_SAMPLES:,} samples in all")
    times = first + np.arange(max(columns, 0), dtype=np.int64) * interval
    values = np.full((len(given), len(times)), np.nan)
    stale = np.zeros(values.shape, np.bool_)
    marked: list[Marked] = []
    for i, one in enumerate(given):
        if one.line is not None:
            length = len(one.line.values)
            rng, kept = np.random.default_rng((seed, i)), holidays if one.model.holidays else None
            values[i, :length] = _composed(one, one.line, times[:length], interval, rng, kept)
            stale[i, :length] = one.line.stale
        elif one.file is not None:
            labelled = _place(one.file, first, interval, values[i])
            marked += [Marked(one.model.series, int(times[a]), int(times[b])) for a, b in _runs(labelled)]
    return Recording(Block(tuple(one.model.series for one in given), times, values), stale, tuple(marked))


def _columns(one: Given, first: int, interval: int) -> int:
    if one.line is not None:
        return len(one.line.values)
    assert one.file is not None, "a series is given by a line or by a file"
    return -(-(int(one.file.times[-1]) - first) // interval) + 1


def _composed(
    one: Given, line: Line, times: I64, interval: int, rng: np.random.Generator, holidays: Holidays | None
) -> F64:
    seasons = [season.made() for season in one.model.seasons]
    waves = [s for s in seasons if isinstance(s, Wave)]
    pulses = [s for s in seasons if isinstance(s, Pulse)]
    values = compose(line, times, waves, pulses, one.model.noise, rng, holidays)
    if isinstance(one.model, RawSeriesModel) and one.model.counter:
        # Nothing is known of a gap: the counter stands still in it.
        grown = np.cumsum(np.maximum(np.nan_to_num(values, posinf=0.0, neginf=0.0), 0.0)) * (interval / 1000)
        return np.where(np.isnan(values), np.nan, grown)
    return values


def _place(file: SeriesFile, first: int, interval: int, row: F64) -> Bool:
    """Put the newest sample of each slot into ``row``; return which slots hold a labelled one."""
    slot = -(-(file.times - first) // interval)
    inside = (slot >= 0) & (slot < len(row))
    row[slot[inside]] = file.values[inside]
    labelled = np.zeros(len(row), np.bool_)
    labelled[slot[inside & file.labelled]] = True
    return labelled


def _runs(flags: Bool) -> list[tuple[int, int]]:
    """First and last column of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
