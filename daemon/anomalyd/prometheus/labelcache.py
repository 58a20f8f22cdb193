"""Label sets by the very bytes a server wrote them in, so that a series known from before costs a lookup.

Two levels. The *sequence* of an expression: all metrics of its previous answer, joined; when the next answer has the
same bytes in the same order, which is the rule from one tick to the next, the same tuple of labels is used again, the
same object. And the *pieces*: one metric's bytes to its ``Labels``, for answers in which a few series changed.

Invariant: both levels compare bytes, never only a hash. Both are bounded; what falls out is parsed again.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import I64, Labels, make_labels

PIECES = 200_000
SEQUENCE_BYTES = 128 * 1024 * 1024

U8 = npt.NDArray[np.uint8]


class Malformed(ValueError):
    """The answer is JSON, or nearly, but not what the protocol allows; the message says what is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """The metrics of one answer: bytes joined, offsets [N + 1], labels [N], and which rows are unambiguous.

    ``keep`` is None when all label sets differ, as they should.
    """

    joined: U8
    offsets: I64
    labels: tuple[Labels, ...]
    keep: I64 | None = None
    ambiguous: tuple[Labels, ...] = ()


EMPTY = Sequence(np.zeros(0, np.uint8), np.zeros(1, np.int64), ())


class LabelCache:
    """Both levels of one source; safe to use from several threads."""

    def __init__(self, pieces: int = PIECES, sequence_bytes: int = SEQUENCE_BYTES):
        self._pieces = pieces
        self._sequence_bytes = sequence_bytes
        self._young: dict[bytes, Labels] = {}
        self._old: dict[bytes, Labels] = {}
        self._sequences: OrderedDict[str, Sequence] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def labels(self, raw: bytes) -> Labels:
        """The label set of a metric object; raise ``Malformed`` when it is none."""
        known = self._young.get(raw)
        if known is not None:
            return known
        known = self._old.get(raw)
        if known is None:
            known = parse_metric(raw)
        with self._lock:
            if len(self._young) >= self._pieces // 2:
                self._old, self._young = self._young, {}
            self._young[raw] = known
        return known

    def sequence(self, expression: str) -> Sequence:
        """What the previous answer to the expression looked like."""
        with self._lock:
            found = self._sequences.get(expression)
            if found is None:
                return EMPTY
            self._sequences.move_to_end(expression)
            return found

    def remember(self, expression: str, sequence: Sequence) -> None:
        """Keep an answer's metrics for the next one, dropping the expressions not asked for longest."""
        with self._lock:
            old = self._sequences.pop(expression, None)
            self._held -= old.joined.nbytes if old is not None else 0
            self._sequences[expression] = sequence
            self._held += sequence.joined.nbytes
            while self._held > self._sequence_bytes:
                _, dropped = self._sequences.popitem(last=False)
                self._held -= dropped.joined.nbytes


def parse_metric(raw: bytes) -> Labels:
    """Parse one metric object strictly: strings only, no name twice, valid UTF-8."""
    try:
        pairs = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise Malformed("a label is not UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise Malformed(f"a metric is not JSON: {error}") from None
    return check_labels(pairs)


def check_labels(pairs: Any) -> Labels:
    """Make labels of a decoded metric object; raise ``Malformed`` unless it maps strings to encodable strings."""
    if not isinstance(pairs, dict) or not all(isinstance(value, str) for value in pairs.values()):
        raise Malformed("a metric is not an object of strings")
    labels = make_labels(pairs)
    try:
        for name, value in labels:
            name.encode("utf-8")
            value.encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("a label holds half of a character") from None
    return labels


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Object hook for ``json.loads`` that refuses a key given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key is given twice in one object")
    return found


def find_ambiguous(labels: tuple[Labels, ...]) -> tuple[I64 | None, tuple[Labels, ...]]:
    """Rows whose label set is unique (None: all of them), and the label sets that are not."""
    if len(set(labels)) == len(labels):
        return None, ()
    seen: dict[Labels, int] = {}
    for one in labels:
        seen[one] = seen.get(one, 0) + 1
    keep = np.array([row for row, one in enumerate(labels) if seen[one] == 1], np.int64)
    return keep, tuple(one for one, count in seen.items() if count > 1)
