"""One alert per source that does not answer."""

from __future__ import annotations

from anomalyd.clock import MINUTE_MS
from anomalyd.incident import Reason
from anomalyd.watch import SourceHealth, SourceSeen, watch

M = MINUTE_MS
DOWN = SourceSeen("main", "connect", "refused")
UP = SourceSeen("main")


def live(slots: list[tuple[int, SourceSeen]]) -> list[tuple[int, Reason]]:
    health, told = SourceHealth(), []
    for minute, seen in slots:
        health, _, outbox = watch(health, seen, minute * M, 5 * M, ["pager"], {})
        told += [(minute, n.statement.reason) for n in outbox]
    return told


def test_a_short_outage_is_nobodys_page() -> None:
    """Less than the hold says nothing, at its begin or its end."""
    assert live([(1, DOWN), (4, DOWN), (5, UP), (6, DOWN), (9, DOWN), (10, UP)]) == []


def test_a_long_outage_is_told_once_and_resolved_once() -> None:
    """After the hold one statement, at the first good answer one more."""
    slots = [(1, UP), *((minute, DOWN) for minute in range(2, 30)), (30, UP), (31, UP)]
    assert live(slots) == [(7, Reason.NEW), (30, Reason.RESOLVED)]


def test_the_statement_says_what_holds_and_why() -> None:
    """The reader learns which source, what went wrong and what follows from it."""
    health, _, _ = watch(SourceHealth(), DOWN, M, 5 * M, ["pager"], {})
    _, incidents, outbox = watch(health, DOWN, 6 * M, 5 * M, ["pager"], {})
    statement = outbox[0].statement
    assert statement.group_labels == (("source", "main"),)
    assert "main does not answer (connect)" in statement.annotations["summary"]
    assert statement.annotations["description"] == "refused"
    assert incidents[0].open
