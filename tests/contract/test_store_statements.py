"""A failure at every single statement in turn: nothing half-written, nothing left locked, the same call succeeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from anomalyd.incident import Outcome, OutcomeKind
from anomalyd.records import ThresholdChange
from anomalyd.store import Store
from contract.store_kit import MINUTE, RULE, episode, incident, notification, whole_slot


class InjectedError(Exception):
    """What the test puts in the way."""


def picture(store: Store) -> tuple[object, ...]:
    """Everything the calls below may change."""
    return (
        store.last_slot("shop"), len(store.series(RULE)), store.rule_slots(RULE, 0, 2**62), store.episodes(),
        store.open_incidents(), store.notifications(), store.told("slack", "i1"), store.thresholds(RULE),
        store.series_told("slack", RULE, ["fp1"]), store.model(RULE), store.model(RULE, "old"),
    )  # fmt: skip


CALLS: dict[str, Callable[[Store], object]] = {
    "commit_slot": lambda store: store.commit_slot(whole_slot(7)),
    "save_episodes": lambda store: store.save_episodes([episode("x")], [incident("x")], [notification("x", told="x")]),
    "claim": lambda store: store.claim("slack", MINUTE, 100, 5),
    "settle": lambda store: store.settle("n1", 5, Outcome(OutcomeKind.DELIVERED, memory={"ts": "1"})),
    "save_threshold": lambda store: store.save_threshold(ThresholdChange(RULE, 1, (1.0, 2.0, 3.0), "manual")),
    "save_model": lambda store: store.save_model(RULE, "v", "{}", b"x"),
    "drop_models": lambda store: store.drop_models(RULE, "o"),
    "acquire_lease": lambda store: store.acquire_lease("leader", "a", 0, 10),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_statement_may_fail(store: Store, name: str) -> None:
    """For N = 1, 2, ... the N-th statement fails: the picture is the old one; in the end the call goes through."""
    store.commit_slot(whole_slot(1))
    store.save_model(RULE, "old", "{}", b"y")
    before, call = picture(store), CALLS[name]
    for failing in range(1, 100):
        left = failing

        def fail(*_args: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise InjectedError

        events = ("before_cursor_execute", "commit")
        for event in events:
            sa.event.listen(sa.Engine, event, fail)
        try:
            call(store)
            break
        except InjectedError:
            pass
        finally:
            for event in events:
                sa.event.remove(sa.Engine, event, fail)
        assert picture(store) == before, f"statement {failing}"
    else:
        pytest.fail("the call never came through")
    assert failing > 2
    if name != "acquire_lease":
        assert picture(store) != before
