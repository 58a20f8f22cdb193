"""What a source answers: a block or raw samples, and everything the server said beside them."""

from __future__ import annotations

from dataclasses import dataclass

from anomalyd.block import F64, I64, Block, Labels


@dataclass(frozen=True, slots=True)
class Notes:
    """What came beside the samples.

    Attributes:
        partial: a part of the data may be missing (promise P2: unknown, not normal).
        limited: the server cut the number of series to the ``limit`` that was asked for.
        warnings: of the server, PromQL hints left out; not empty does not always mean partial (``PromQL warning:``).
        infos: hints on the expression, such as "metric might not be a counter".
        duplicates: series dropped because another one of the answer has the same labels; all copies are dropped.
        ambiguous: the label sets of those series, each once.
        nonfinite: samples that were NaN or infinite at the source; NaN in the block.
        disordered: samples not later than the one before them in their series; of two at one time the last counts.
        bytes: size of the decoded body, of all requests together.
    """

    partial: bool = False
    limited: bool = False
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()
    duplicates: int = 0
    ambiguous: tuple[Labels, ...] = ()
    nonfinite: int = 0
    disordered: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Notes):
    """Answer to an instant query (T = 1) or a range query.

    ``block.labels`` is the very same tuple object as in the previous answer to the same expression when the server sent
    the same series in the same order, so ``is`` tells cheaply that nothing has to be mapped anew.
    """

    block: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReply(Notes):
    """Raw stored samples of N series, each with its own times.

    Series ``i`` has ``times[offsets[i]:offsets[i + 1]]`` (ms, strictly increasing) and ``values`` likewise; samples
    that are not finite, such as stale markers, are left out, and every series has at least one.
    """

    labels: tuple[Labels, ...]
    offsets: I64
    times: I64
    values: F64
