"""``anomalyd explain``: who found an alert, in which series, by which model."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anomalyd.cli.replay import past_alert
from anomalyd.cli.stored import print_json, print_table
from anomalyd.clock import SystemClock
from anomalyd.explain import Explanation, explain
from anomalyd.incident import Channel
from anomalyd.render import channel_text, number
from anomalyd.replay import Finding
from anomalyd.workbench.htmlreport import label_text, when


def run_explain(
    episode: Annotated[str, typer.Argument(metavar="EPISODE", help="Id of an episode, as notifications name it.")],
    config: Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")] = Path("anomalyd.yml"),
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say of a past alert what each member of an ensemble or of auto found at its worst, which series of a group were
    furthest from usual, which model runs where a fit had a choice, and what people called earlier alerts like it.

    The scores are computed again from the source, as by replay. Exit code 0: explained; 1: what members said cannot be
    known any more, and why; 2: wrong files.
    """
    with past_alert(episode, config) as past:
        result = explain(past.episode, past.rule, past.store, past.source, SystemClock().now_ms(), past.feedback)
    print_json(as_json(result)) if json_out else print_explanation(result)
    if result.replayed.finding == Finding.IMPOSSIBLE:
        raise typer.Exit(1)


def as_json(x: Explanation) -> dict[str, Any]:
    """The explanation for scripts: null where a member could not say."""
    members = [
        {"name": m.name, "weight": m.weight, "surprise": m.surprise if math.isfinite(m.surprise) else None}
        for m in x.members
    ]
    return {
        "episode": x.episode.id, "rule": x.episode.rule, "at": x.at, "surprise": x.episode.peak_surprise,
        "day": x.day, "members": members, "models": list(x.models), "channels": [_channel(one) for one in x.channels],
        "replay": x.replayed.finding.value, "causes": list(x.replayed.causes),
        "alike": None if x.alike is None else {"words": x.alike.words, **asdict(x.alike)},
    }  # fmt: skip


def _channel(one: Channel) -> dict[str, Any]:
    return {"labels": dict(one.labels), "value": one.value, "expected": one.expected, "away": one.away}


def print_explanation(x: Explanation) -> None:
    """The explanation for people."""
    e = x.episode
    print(f"{e.rule}  {label_text(e.labels)}  at its worst {when(x.at)} UTC: {_worst(x)}")
    if x.day:
        print(x.day)
    if x.members:
        rows = [(m.name, number(m.weight), _surprise(m.surprise)) for m in x.members]
        print_table(("MEMBER", "WEIGHT", "SURPRISE"), rows, "")
    for words in x.models:
        print(f"model: {words}")
    if x.channels:
        print("furthest from usual:")
        for one in x.channels:
            print(f"  {channel_text(one, e.labels)}")
    if x.alike is not None:
        print(f"votes: {x.alike.words}")
    if not (x.members or x.models or x.channels) and x.replayed.finding != Finding.IMPOSSIBLE:
        print("The detector is one model and looks at this series alone: what it found has no parts to tell by name.")
    if x.replayed.finding == Finding.DIFFERENT:
        print("The scores come out otherwise now than they were stored, so members may have said something else:")
    for cause in x.replayed.causes:
        print(f"  {cause}")


def _worst(x: Explanation) -> str:
    """Value and what was expected, where there are any (a group that was judged as a whole has none), and surprise."""
    e = x.episode
    words = f"surprise {number(e.peak_surprise)}"
    if x.channels or not (math.isfinite(e.peak_value) and math.isfinite(e.peak_expected)):
        return words
    return f"{number(e.peak_value)}, expected {number(e.peak_expected)}; {words}"


def _surprise(value: float) -> str:
    return number(value) if math.isfinite(value) else "could not say"
