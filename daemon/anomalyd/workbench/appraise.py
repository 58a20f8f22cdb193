"""How good a rule is: the measures of ``quality.py`` on a rule's scores and alerts, beside a dummy that guesses.

A rule's past comes as a ``Backtest``: replayed, or put together here from what the daemon has stored. The dummy scores
at random and raises as many alerts as the rule, each as long as one of the rule's, at random times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anomalyd import quality
from anomalyd.block import F32, F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.evaluation.jointly import count_units
from anomalyd.evaluation.registry import registry_of
from anomalyd.rule import Rule
from anomalyd.score import UNOPENED, Observation, Verdicts
from anomalyd.store import Store
from anomalyd.stretch import sheet_of_slot
from anomalyd.threshold import initial_threshold
from anomalyd.workbench.backtest import Backtest, Recorder, of_units
from anomalyd.workbench.report.figures import Alarm, alarms_of, score
from anomalyd.workbench.truth import Truth

VUS_WIDTH_MAX = 100
VUS_SERIES_MAX = 50
SAMPLES_MAX = 2_000_000
"""Ranks are taken of at most this many samples; labelled ones all stay."""
DRAWS = 20

NONE = math.nan


@dataclass(frozen=True, slots=True)
class Labelled:
    """How right a rule was; NaN where there is nothing to measure. Times in milliseconds.

    Attributes:
        events: labelled anomalies in the span; ``found`` of them had an alert.
        alerts: all; ``right`` were on an anomaly, ``unjudged`` are known to be neither right nor wrong.
        delay_ms: median time from the start of an anomaly to its first alert.
        k: samples that ``precision_at_k`` looks at: as many as are labelled.
        vus_width: the widest window of ``vus_pr``, samples.
    """

    events: int
    found: float
    alerts: int
    right: float
    unjudged: int
    precision: float
    recall: float
    f1: float
    delay_ms: float
    average_precision: float
    roc_auc: float
    precision_at_k: float
    k: int
    vus_pr: float
    vus_width: int
    alerts_per_week: float


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """How clearly a rule's scores speak; NaN where there is nothing to measure.

    Attributes:
        flagged: samples above the cut, of ``scored``.
        doubtful: of the samples near or above the cut, the share that a change of the cut by 20 % would turn.
    """

    scored: int
    flagged: int
    separation: float
    doubtful: float
    bimodality: float
    silhouette: float
    alerts_per_week: float


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the rule another version of it is: rank correlation of the scores, and shared flagged samples.

    Where something is known of the span, also how right that version is by itself: F1 by event and VUS-PR.
    """

    name: str
    correlation: float
    overlap: float
    alerts: int
    f1: float = NONE
    vus_pr: float = NONE


# The past ------------------------------------------------------------------------------------------------------------


def stored(store: Store, rule: Rule, start: int, end: int) -> Backtest | None:
    """What the daemon itself said in a span, from its database; None where it said nothing."""
    rows = {row.row: row.labels for row in store.series(rule.id)}
    place = {row: i for i, row in enumerate(sorted(rows))}
    recorder = Recorder(rule, len(rows), start, end)
    seen = 0
    for first in range(start, end + 1, DAY_MS):
        for slot in store.scores(rule.id, first, min(first + DAY_MS, end + 1)):
            recorder.saw(sheet_of_slot(_placed(slot, place)))
            seen += 1
    if not seen:
        return None
    episodes = [e for e in store.episodes(rule=rule.id, start=start, end=end + 1, limit=1_000_000) if e.opened_at]
    labels = tuple(rows[row] for row in sorted(rows))
    nothing = Block((), np.zeros(0, np.int64), np.zeros((0, 0)))
    cut = initial_threshold(rule, max(1, count_units(rule, labels))).lowest
    return Backtest(
        rule, start, end, nothing, labels, tuple(sorted(episodes, key=lambda e: (e.opened_at, e.labels))), (), {},
        recorder.kinds(), of_units(registry_of(rule, store.series(rule.id)), recorder.hits()), recorder.tape(), cut,
    )  # fmt: skip


def _placed(slot: Observation, place: Mapping[int, int]) -> Observation:
    """A slot with rows that count from 0; a series that the registry has forgotten is left out."""
    keep = np.array([row in place for row in slot.series.tolist()], bool)
    rows = np.array([place[row] for row in slot.series[keep].tolist()], np.int64)
    v = slot.verdicts
    # What may open an episode is not stored; that a sample above the cut was no news is.
    opens = np.where(np.isin(v.why, UNOPENED), np.nan, slot.surprise)
    return Observation(
        slot.at, rows, slot.value[keep], slot.expected[keep], slot.lower[keep], slot.upper[keep], slot.surprise[keep],
        Verdicts(v.kind[keep], v.tier[keep], v.why[keep]), opens=opens[keep],
    )  # fmt: skip


# With labels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Scores with what they should have been: [N, C], ``known`` where it can be said."""

    surprise: F32
    real: Bool
    known: Bool


def samples_of(test: Backtest, truth: Truth) -> Samples:
    """Scores and truth, sample by sample; where a column stands for several slots, any of them makes it real."""
    times = test.tape.times
    length = int(times[1] - times[0]) if len(times) > 1 else test.rule.interval_ms
    real: Bool = np.zeros(test.tape.surprise.shape, bool)
    unknown: Bool = ~np.isfinite(test.tape.surprise)
    place = {labels: i for i, labels in enumerate(test.labels)}

    def columns(start: int, end: int) -> slice:
        return slice(int(np.searchsorted(times, start - length, side="right")), int(np.searchsorted(times, end + 1)))

    for span in truth.real:
        rows = [i for labels, i in place.items() if span.holds(labels)]
        real[rows, columns(span.start, span.end)] = True
    if not truth.complete:
        for alarm in alarms_of(test.episodes, test.end):
            if alarm.labels in place and not truth.known(alarm, _slack(test.rule)):
                unknown[place[alarm.labels], columns(alarm.opened_at, alarm.closed_at)] = True
    # A labelled sample without a score is one that the rule did not see: it stays, as the lowest.
    return Samples(test.tape.surprise, real, ~unknown | real)


def _slack(rule: Rule) -> int:
    return rule.for_ms + rule.interval_ms


def appraise(test: Backtest, truth: Truth) -> Labelled:
    """Hold a rule's scores and alerts against what is known."""
    samples = samples_of(test, truth)
    return _held(test, truth, alarms_of(test.episodes, test.end), samples, samples.surprise)


def appraise_alarms(test: Backtest, truth: Truth, raised: Sequence[Alarm]) -> Labelled:
    """The same of other alerts on these scores."""
    samples = samples_of(test, truth)
    return _held(test, truth, raised, samples, samples.surprise)


def appraise_dummy(test: Backtest, truth: Truth) -> Labelled:
    """The same of the dummy: means over several draws."""
    samples = samples_of(test, truth)
    size = max(1, samples.surprise.size)
    rng = np.random.default_rng(test.rule.seed)
    alarms = alarms_of(test.episodes, test.end)
    rounds = [
        _held(test, truth, _elsewhere(test, alarms, rng), samples, rng.random(samples.surprise.shape, np.float32))
        for _ in range(max(1, min(DRAWS, SAMPLES_MAX // size)))
    ]
    return _mean(rounds)


def _elsewhere(test: Backtest, alarms: Sequence[Alarm], rng: np.random.Generator) -> list[Alarm]:
    """As many alarms, as long, at random."""
    moved = []
    for alarm in alarms:
        length = alarm.closed_at - alarm.opened_at
        at = int(rng.integers(test.start, max(test.start + 1, test.end - length + 1)))
        moved.append(Alarm(test.labels[int(rng.integers(len(test.labels)))], at, at + length))
    return moved


def _mean(rounds: Sequence[Labelled]) -> Labelled:
    def mean(name: str) -> float:
        values = [value for one in rounds if math.isfinite(value := getattr(one, name))]
        return sum(values) / len(values) if values else NONE

    return replace(
        rounds[0], found=mean("found"), right=mean("right"), unjudged=round(mean("unjudged")),
        precision=mean("precision"), recall=mean("recall"), f1=mean("f1"), delay_ms=mean("delay_ms"),
        average_precision=mean("average_precision"), roc_auc=mean("roc_auc"), precision_at_k=mean("precision_at_k"),
        vus_pr=mean("vus_pr"),
    )  # fmt: skip


def _held(test: Backtest, truth: Truth, alarms: Sequence[Alarm], samples: Samples, surprise: F32) -> Labelled:
    slack = _slack(test.rule)
    judged = [alarm for alarm in alarms if truth.known(alarm, slack)]
    events = score(judged, truth.real, test.start, test.end, slack)
    precision = NONE if events.precision is None else events.precision
    recall = NONE if events.recall is None else events.recall
    real, scores = _ranked_samples(samples, surprise)
    k, width = int(real.sum()), vus_width(samples.real)
    return Labelled(
        events=events.spans, found=events.found, alerts=len(alarms), right=events.right,
        unjudged=len(alarms) - len(judged), precision=precision, recall=recall,
        f1=quality.f1(0.0 if math.isnan(precision) else precision, recall) if events.spans else NONE,
        delay_ms=NONE if events.delay_ms is None else float(events.delay_ms),
        average_precision=quality.average_precision(real, scores), roc_auc=quality.roc_auc(real, scores),
        precision_at_k=quality.precision_at_k(real, scores, k), k=k,
        vus_pr=_mean_vus(samples, surprise, width), vus_width=width, alerts_per_week=len(alarms) / test.weeks,
    )  # fmt: skip


def _ranked_samples(samples: Samples, surprise: F32) -> tuple[Bool, F64]:
    real, scores = samples.real[samples.known], surprise[samples.known].astype(np.float64)
    if len(real) <= SAMPLES_MAX:
        return real, scores
    keep = real.copy()
    keep[:: -(-len(real) // SAMPLES_MAX)] = True
    return real[keep], scores[keep]


def vus_width(real: Bool) -> int:
    """The widest window: the median length of the labelled runs, in samples."""
    lengths = [b - a + 1 for row in real if row.any() for a, b in zip(*quality.runs(row), strict=True)]
    return int(min(VUS_WIDTH_MAX, max(1, np.median(lengths)))) if lengths else 0


def _mean_vus(samples: Samples, surprise: F32, width: int) -> float:
    """The mean over series with labels, of very many over an even selection."""
    rows = np.nonzero(samples.real.any(axis=1))[0]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), VUS_SERIES_MAX)).astype(np.int64))]
    if not len(rows):
        return NONE
    known = samples.known
    return float(np.mean([quality.vus_pr(samples.real[r, known[r]], surprise[r, known[r]], width) for r in rows]))


# Without labels ------------------------------------------------------------------------------------------------------


def look_at(test: Backtest) -> Unlabelled:
    """How clearly the scores speak."""
    return _clarity(test, test.tape.surprise, test.cut)


def look_at_dummy(test: Backtest) -> Unlabelled:
    """The same of random scores, of which as many are flagged."""
    surprise = test.tape.surprise
    scored = np.isfinite(surprise)
    flagged = int((surprise[scored] > test.cut).sum())
    rng = np.random.default_rng(test.rule.seed)
    guessed = np.where(scored, rng.random(surprise.shape, np.float32), np.nan).astype(np.float32)
    ordered = np.sort(guessed[scored])
    cut = float(ordered[-flagged - 1]) if 0 < flagged < len(ordered) else 1.0
    return _clarity(test, guessed, cut)


def _clarity(test: Backtest, surprise: F32, cut: float) -> Unlabelled:
    scored = np.isfinite(surprise)
    known = surprise[scored]
    return Unlabelled(
        int(scored.sum()), int((known > cut).sum()), quality.separation(known, cut), quality.doubtful(known, cut),
        quality.bimodality(known),
        quality.silhouette(_points(test)[scored], (surprise > cut)[scored]),
        len(test.episodes) / test.weeks,
    )  # fmt: skip


def _points(test: Backtest) -> F64:
    """Each sample as its deviation from the expected value and the change of it, in half bands [N, C, 2]."""
    t = test.tape
    high, low = t.high.astype(np.float64), t.low.astype(np.float64)
    far = np.where(np.abs(high - t.expected) >= np.abs(low - t.expected), high, low) - t.expected
    half = (t.upper.astype(np.float64) - t.lower) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.clip(np.where(half > 0, far / half, np.nan), -50, 50)
    step = np.diff(deviation, axis=1, prepend=deviation[:, :1])
    return np.stack([deviation, np.nan_to_num(step)], axis=2)


def likeness(name: str, test: Backtest, other: Backtest, truth: Truth | None = None) -> Likeness:
    """Compare two versions of a rule over the series that both know; positions in their tapes must agree.

    ``truth`` is what is known of the span, where anything is.
    """
    place = {labels: i for i, labels in enumerate(other.labels)}
    both = [(i, place[labels]) for i, labels in enumerate(test.labels) if labels in place]
    mine: I64 = np.array([pair[0] for pair in both], np.int64)
    theirs: I64 = np.array([pair[1] for pair in both], np.int64)
    one, two = test.tape.surprise[mine].ravel(), other.tape.surprise[theirs].ravel()
    keep = slice(None, None, max(1, -(-len(one) // SAMPLES_MAX)))
    correlation = quality.rank_correlation(one[keep], two[keep])
    shared = quality.overlap(np.nan_to_num(one) > test.cut, np.nan_to_num(two) > other.cut)
    if truth is None:
        return Likeness(name, correlation, shared, len(other.episodes))
    own = appraise(other, truth)
    return Likeness(name, correlation, shared, len(other.episodes), own.f1, own.vus_pr)


def curve(test: Backtest, truth: Truth, points: int = 200) -> list[tuple[float, float]]:
    """Recall and precision by sample at falling cuts, for a plot."""
    samples = samples_of(test, truth)
    real, scores = _ranked_samples(samples, samples.surprise)
    if not real.any():
        return []
    order = np.argsort(-quality.lowest_for_nan(scores), kind="stable")
    found = np.cumsum(real[order])
    at = np.unique(np.geomspace(1, len(order), points).astype(np.int64)) - 1
    return [(float(found[i] / found[-1]), float(found[i] / (i + 1))) for i in at.tolist()]


def histogram(scores: F32, cut: float, bars: int = 60) -> tuple[F64, F64]:
    """Counts and edges of anomaly scores (1 at the cut), from 0 to a little above the largest."""
    known = scores[np.isfinite(scores)].astype(np.float64) / (cut if 0 < cut < math.inf else 1.0)
    top = max(2.0, min(20.0, float(known.max()) if len(known) else 2.0))
    counts, edges = np.histogram(np.minimum(known, top), bins=bars, range=(0.0, top))
    return counts.astype(np.float64), edges
