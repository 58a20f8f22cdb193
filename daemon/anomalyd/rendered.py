"""``Rendered`` and its parts: a statement in words, as receivers get it to put into their own form. Pure values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from anomalyd.incident import Statement

RUNBOOK = "Runbook"
"""The link that says what to do; all others say where to look."""


@dataclass(frozen=True, slots=True)
class Link:
    """A place to look; ``url`` is http or https and comes from the configuration, never from a label."""

    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Action:
    """Something a reader can do from the message.

    Attributes:
        id: closed set, e.g. ``real``, ``false_alarm``, ``expected``, ``snooze``.
        value: opaque and signed, for receivers whose buttons call back (at most 2,000 characters).
        options: what can be chosen with it (value, text), for a receiver that can show a list; the first is usual.
        url: signed page that asks again before it acts, for all others; empty where the daemon has no public address.
    """

    id: str
    text: str
    value: str = ""
    url: str = ""
    style: str = ""
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of the series around the anomaly: a signed address, the PNG itself, or both.

    Attributes:
        url: of the series that leads; http or https, as people reach the daemon.
        urls: by episode, one for each series that is told.
    """

    url: str = ""
    png: bytes = b""
    alt: str = ""
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody has said about an incident: ``word`` is ours (real, false alarm), ``who`` is theirs.

    ``via`` is the channel it came by: slack, pagerduty, link, console, api, cli.
    """

    word: str
    who: str
    at: int
    via: str = ""


@dataclass(frozen=True, slots=True)
class Background:
    """What is known around a statement when it is sent.

    Attributes:
        past: what was like it before and what people said of it, in one line; empty when there was nothing.
        verdicts: what has been said about this incident, oldest first.
        verdict: what counts of it, in a word; empty while nobody has judged.
        company: other incidents that began together with it, by name.
        like: what people called earlier ones that were like it, in one line; empty where nobody said anything.
        day: of a holiday, which day of the week it counts as and what it is called; empty on any other day.
    """

    past: str = ""
    verdict: str = ""
    verdicts: tuple[Verdict, ...] = ()
    company: str = ""
    like: str = ""
    day: str = ""


NO_BACKGROUND = Background()


@dataclass(frozen=True, slots=True)
class Rendered:
    """One statement in words; plain text everywhere, cleaned and cut, not escaped for any markup.

    Attributes:
        title: how bad, what, where; one line, at most 140 code points.
        summary: the rule's own summary, else (and at the end) the reason sentence; one line.
        sentence: value against expected band, tier and since when; one line.
        description: the rule's own description; may have several lines.
        fields: short facts (name, value) in the order of reading.
        lines: one per alert, most surprising first.
        more: alerts that ``lines`` leaves out.
        text: everything above as plain text.
        past: what was there before on this series.
        like: what people called earlier ones that were like it.
        brief: what stands under the title: the rule's own summary, else what is abnormal, without what the title says.
        verdicts: what people have said about it so far, and ``verdict`` what counts of it.
    """

    title: str
    summary: str
    sentence: str
    description: str
    fields: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    more: int
    text: str
    links: tuple[Link, ...] = ()
    actions: tuple[Action, ...] = ()
    chart: Chart | None = None
    brief: str = ""
    past: str = ""
    verdict: str = ""
    verdicts: tuple[Verdict, ...] = ()
    like: str = ""

    @property
    def home(self) -> str:
        """Where the numbers are: the daemon's own page, else the first place to look; empty when there is none."""
        return next((link.url for link in self.links if link.text != RUNBOOK), "")


Actions = Callable[[Statement, str], tuple[Action, ...]]
"""Gives the actions of a statement for the receiver of that name."""
Charts = Callable[[Statement], Chart | None]
Places = Callable[[Statement, str], tuple[Link, ...]]
"""Gives the daemon's own page, and others that it knows of, for the receiver of that name."""
