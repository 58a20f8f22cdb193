"""``anomalyd feedback``: vote on alerts, look at votes, take them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from anomalyd.ballot import Ballot
from anomalyd.cli.stored import DEFAULT, AsJson, By, Config, opened, person, print_json, print_table
from anomalyd.clock import SystemClock
from anomalyd.console import apiview
from anomalyd.records import VERDICTS, FeedbackLabel
from anomalyd.render import clean, clock_time
from anomalyd.rulefiles.read import load_rules
from anomalyd.store import Store

LABELS = tuple(label.value for label in VERDICTS)
MAX_SHOWN = 1_000

USAGE = """write one of
  anomalyd feedback EPISODE true|false|expected|new_normal [--cause ... --text ... --by ...]
  anomalyd feedback preview EPISODE true|false|expected|new_normal
  anomalyd feedback list [--rule GROUP/NAME]
  anomalyd feedback undo VOTE"""


def feedback(
    words: Annotated[list[str], typer.Argument(help="EPISODE LABEL, preview EPISODE LABEL, list, or undo VOTE.")],
    cause: Annotated[str, typer.Option(help="What it was: a deploy, a backup.")] = "",
    text: Annotated[str, typer.Option(help="Anything worth keeping.")] = "",
    by: By = "",
    rule: Annotated[str, typer.Option(help="With list: votes on this rule only (GROUP/NAME).")] = "",
    as_json: AsJson = False,
    config: Config = DEFAULT,
) -> None:
    """Vote on an alert: true, false, expected or new_normal; list, preview and undo votes.

    EPISODE is the id that `anomalyd alerts` shows. A running daemon takes a vote up within a minute. `preview` says
    what a vote would have spared over the last 30 days and changes nothing.
    """
    with opened(config) as (settings, store):
        rules = {one.id: one for one in load_rules(settings.rule_files, settings).rules}
        ballot = Ballot(store, lambda: rules, settings.feedback)
        match words:
            case ["list"]:
                _list(store, rule, as_json)
            case ["undo", vote]:
                ballot.undo(vote, person(by), _now())
                print("taken back; the thresholds it moved are as they would be without it")
            case ["preview", episode, label] if label in LABELS:
                _preview(ballot, episode, label, as_json)
            case [episode, label] if label in LABELS:
                _vote(ballot, lambda now: (episode, label, person(by), cause, text, now), as_json)
            case _:
                raise typer.BadParameter(USAGE)


def _now() -> int:
    return SystemClock().now_ms()


def _vote(ballot: Ballot, given: Callable[[int], tuple[str, str, str, str, str, int]], as_json: bool) -> None:
    episode, label, who, cause, text, now = given(_now())
    vote = ballot.vote_on(episode, FeedbackLabel(label), who, "cli", now, cause=cause, text=text)
    cast = ballot.cast(vote, now)
    if as_json:
        changes = [apiview.change(row) for row in cast.changes]
        print_json({"feedback": apiview.vote(cast.vote), "changes": changes, "effect": cast.effect})
    else:
        print(f"{cast.vote.id}: {label}, {cast.effect}")


def _preview(ballot: Ballot, episode: str, label: str, as_json: bool) -> None:
    now = _now()
    found = ballot.preview(ballot.vote_on(episode, FeedbackLabel(label), "\0preview", "preview", now), now)
    if as_json:
        print_json(found)
    else:
        print(found.words)


def _list(store: Store, rule: str, as_json: bool) -> None:
    votes = store.feedback(rule=rule or None)[::-1][:MAX_SHOWN]
    if as_json:
        print_json([apiview.vote(vote) for vote in votes])
        return
    now = _now()
    rows = [
        (
            v.id, clock_time(v.at, now), v.label.value + (" (taken back)" if v.undone_at else ""), v.rule,
            v.episode or clean(v.fingerprint, 20), f"{v.who} ({v.via})", v.cause,
        )
        for v in votes
    ]
    print_table(("VOTE", "AT", "LABEL", "RULE", "EPISODE", "WHO", "CAUSE"), rows, "no votes")
