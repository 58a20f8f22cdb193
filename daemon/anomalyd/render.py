"""``Statement`` to ``Rendered``: what a person reads, before a receiver puts it into its own form.

Pure. The first line says how bad, what and where; the second gives the reason in words: the value against what was
expected, the tier and since when. Whatever comes from labels or annotations is cleaned here once (control characters,
terminal codes, marks that turn the direction of text, lone surrogates) and cut; escaping for a markup is the
receiver's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from anomalyd.block import Labels
from anomalyd.clock import DAY_MS
from anomalyd.incident import DATA_FAULTS, NOTICE, NOTICES_RULE, Alert, Channel, Reason, Statement
from anomalyd.rendered import (
    NO_BACKGROUND,
    RUNBOOK,
    Action,
    Actions,
    Background,
    Chart,
    Charts,
    Link,
    Places,
    Rendered,
    Verdict,
)  # fmt: skip
from anomalyd.template import check_template, humanize, render_annotations

__all__ = [
    "NO_BACKGROUND", "RUNBOOK", "Action", "Actions", "Background", "Chart", "Charts", "Link", "Places", "Rendered",
    "Verdict", "channel_text", "check_template", "clean", "clock_time", "cut", "label_text", "number", "render",
    "render_annotations", "rfc3339", "safe_url", "span", "tells_more",
]  # fmt: skip

MAX_LINES = 5
MAX_VALUE = 256
"""Code points of one label value that are shown; its identity is hashed elsewhere from the whole."""
MAX_TEXT = 4_000

_ANSI = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|\x1b.?|\x9b[0-?]*[ -/]*[@-~]")
_LINES = re.compile("[ \t]*(?:\r\n|[\n\r\x0b\x0c\x85\u2028\u2029])")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def render(
    statement: Statement,
    now: int,
    receiver: str = "",
    actions: Actions | None = None,
    chart: Charts | None = None,
    max_lines: int = MAX_LINES,
    *,
    places: Places | None = None,
    background: Background = NO_BACKGROUND,
) -> Rendered:
    """Put a statement into words.

    Args:
        now: the time of sending; it decides only whether times of day need a date.
        actions: gives the buttons and links for feedback; none without it.
        chart: gives the picture; a message without one is complete.
        places: gives links that come before those of the statement.
    """
    annotations = {clean(k, 64): clean(v, MAX_TEXT, lines=True) for k, v in statement.annotations.items()}
    sentence = _sentence(statement, now)
    # At the end of an incident the rule's own words, which tell of the worst, would be taken for how it is now.
    own = "" if statement.resolved else clean(annotations.get("summary", ""), 512)
    summary = own or sentence
    description = "" if statement.resolved else annotations.get("description", "")
    # Notices are spelled out in the description.
    shown = statement.alerts[:max_lines] if statement.total > 1 and statement.rule != NOTICES_RULE else ()
    lines = tuple(_line(alert, statement, now) for alert in shown) or _channel_lines(statement, max_lines)
    more = max(0, statement.total - len(lines)) if shown else 0
    title = cut(_title(statement), 140)
    fields = _fields(statement, now)
    day = "" if statement.resolved else clean(background.day, 200)
    if day:
        fields += (("Day", day),)
    if background.company and not statement.resolved:
        fields += (("Together with", clean(background.company, 400)),)
    if background.past and not statement.resolved:
        fields += (("Before", clean(background.past, 200)),)
    like = "" if statement.resolved else clean(background.like, 200)
    if like:
        fields += (("Votes", like),)
    links = _links(statement, annotations, places(statement, receiver) if places else ())
    return Rendered(
        title=title, summary=summary, sentence=sentence, description=description, fields=fields, lines=lines,
        more=more, links=links, text=_text(title, summary, sentence, description, lines, more, (day, like), links),
        actions=actions(statement, receiver) if actions else (), chart=chart(statement) if chart else None,
        brief=own or _brief(statement, sentence), past=clean(background.past, 200), verdict=background.verdict,
        verdicts=background.verdicts, like=like,
    )  # fmt: skip


_HEADS: Mapping[Reason, str] = {
    Reason.NEW: "{tier}",
    Reason.WORSE: "WORSE, NOW {tier}",
    Reason.MORE: "{tier}, MORE SERIES",
    Reason.REPEAT: "STILL {tier}",
    Reason.ESCALATED: "{tier}, UNACKNOWLEDGED",
    Reason.FLAPPING: "{tier}, FLAPPING",
    Reason.JUDGED: "{tier}",
    Reason.RESOLVED: "RESOLVED",
    Reason.TEST: "TEST",
}


def _title(s: Statement) -> str:
    if s.rule == NOTICES_RULE:
        return f"[NOTICE] {s.total} of models and series" if s.total > 1 else "[NOTICE] " + _own(s.alerts[0], s)
    joined = s.reason == Reason.MORE and s.note  # by an incident of another rule
    head = "{tier}, MORE" if joined else _HEADS[Reason.RESOLVED if s.resolved else s.reason]
    head = head.format(tier=s.tier.word.upper())
    where = _where(s)
    count = f" ({_count(s)} series)" if s.total > 1 else ""
    return f"[{head}] {clean(s.name, 80)}{': ' + where if where else ''}{count}"


def _count(s: Statement) -> str:
    return f"{s.total} of {s.siblings}" if s.siblings >= s.total and not s.resolved else str(s.total)


def _where(s: Statement) -> str:
    """The group's label values; for one series all its own; nothing for a global rule on many series."""
    labels = s.group_labels or (s.alerts[0].labels if s.total == 1 and s.alerts else ())
    values = [clean(v, 60) for k, v in labels if k not in ("__name__", "alertname")]
    return ", ".join(values[:4]) + ("…" if len(values) > 4 else "")


_CLOSED: Mapping[str, str] = {
    "recovered": "is back to normal",
    "ended": "has stopped reporting",
    "new_level": "has stayed at this level for so long that it counts as normal now",
    "rule_removed": "is no longer watched: its rule was removed",
    "new_normal": "was called the new normal by an analyst",
    "dismissed": "was called a false alarm or expected by an analyst",
}


def _sentence(s: Statement, now: int) -> str:
    """The reason in words, in one sentence."""
    if s.reason == Reason.TEST:
        return "This is a test of the receiver; nothing is wrong and nothing has to be done."
    if not s.alerts:
        return f"{clean(s.name, 80)} since {clock_time(s.opened_at, now)}"
    lead = s.alerts[0]
    if s.rule == NOTICES_RULE:
        return "Worth knowing; nothing was paged, and nothing has to be done at once."
    what = " ".join(part for part in (clean(s.name, 80), _where(s) or label_text(lead.labels, 120)) if part)
    if s.resolved:
        lasted = f" after {span(s.at - s.opened_at)}"
        alone = lead.value is not None and not lead.width
        level = f": {_value(lead)}" if alone and lead.close in ("recovered", "") else ""
        return f"{what} {_CLOSED.get(lead.close, 'is back to normal')}{lasted}{level}"
    note = f"; {clean(s.note, 300)}" if s.note else ""
    when = f"({s.tier.word}, since {clock_time(min(a.started_at for a in s.alerts), now)}){note}"
    if s.total == 1:
        return f"{what} {_state(lead)} {when}"
    group = " ".join(part for part in (clean(s.name, 80), _where(s)) if part)
    return f"{group}: {_count(s)} series abnormal; {_own(lead, s)} {_state(lead)} {when}"


def _brief(s: Statement, sentence: str) -> str:
    """The reason for whoever has just read the title."""
    if s.resolved or not s.alerts or s.reason == Reason.TEST or s.rule == NOTICES_RULE:
        return sentence
    lead = s.alerts[0]
    if s.total > 1:
        return f"{_own(lead, s)} {_state(lead)}: the worst of {_count(s)} series"
    state = _state(lead).removeprefix("is ")
    return state[:1].upper() + state[1:]


NOTABLE = 3.0
"""A series this many of its usual deviations away is far from usual by itself."""


def _channel_lines(s: Statement, most: int) -> tuple[str, ...]:
    """The series of a group that was judged as a whole, one a line."""
    if len(s.alerts) != 1 or s.resolved:
        return ()
    return tuple(channel_text(one, s.group_labels) for one in s.alerts[0].channels[:most])


def channel_text(one: Channel, group: Labels) -> str:
    """One series of a group in words: by the labels that it does not share with the group."""
    skip = {name for name, _ in group}
    metric = clean(dict(one.labels).get("__name__", ""), 120)
    own = label_text(tuple((k, v) for k, v in one.labels if k not in skip), 160)
    name = (f"{metric} ({own})" if own else metric) if metric else own or label_text(one.labels, 160)
    if one.value is None:
        return f"{name} has stopped reporting"
    usual = f", usually {number(one.expected)}" if one.expected is not None else ""
    away = f" ({number(round(one.away, 1))} usual deviations away)" if one.away is not None else ""
    return f"{name} is {number(one.value)}{usual}{away}"


def _whole(alert: Alert) -> str:
    """What is wrong with a group that was judged as a whole."""
    if alert.why == "absent":
        return "lacks series that should report"
    if alert.why == "out_of_range":
        return f"has a series outside its valid range, of {alert.width}"
    alone = any((one.away or 0.0) >= NOTABLE for one in alert.channels)
    if alone or not alert.channels:
        return f"is unusual as a whole, {alert.width} series seen together"
    return f"is unusual as a whole: none of its {alert.width} series is far from usual by itself, their combination is"


def _state(alert: Alert) -> str:
    if alert.width:
        return _whole(alert)
    if alert.why == "absent":
        return "has stopped reporting"
    if alert.why in DATA_FAULTS:
        return f"is {DATA_FAULTS[alert.why]}"
    if alert.why == NOTICE:
        return "has a notice"
    if alert.value is None:
        return "does not answer" if alert.why == "source" else "is abnormal"
    outside = ", outside its valid range" if alert.why == "out_of_range" else ""
    young = f", young: learned from {span(alert.learned_ms)}" if alert.learned_ms else ""
    return f"is {_value(alert)}{outside}{young}"


def _value(alert: Alert) -> str:
    return f"{number(alert.value)}{_expected(alert)}"


def _expected(alert: Alert) -> str:
    if alert.lower is not None and alert.upper is not None:
        return f", expected {number(alert.lower)} to {number(alert.upper)}"
    return f", expected {number(alert.expected)}" if alert.expected is not None else ""


def _line(alert: Alert, s: Statement, now: int) -> str:
    own = _own(alert, s)
    state = _CLOSED.get(alert.close, "is back to normal") if alert.status == "resolved" else _state(alert)
    # Those that began with the first are most of them: only what joined later says when.
    later = alert.status != "resolved" and alert.started_at != s.alerts[0].started_at
    since = f", since {clock_time(alert.started_at, now)}" if later else ""
    return f"{own} {state}{since}"


def _own(alert: Alert, s: Statement) -> str:
    """A series by the labels that it does not share with its group."""
    skip = {name for name, _ in s.group_labels}
    own = label_text(tuple((k, v) for k, v in alert.labels if k not in skip), 160) or label_text(alert.labels, 160)
    return own or clean(s.name, 80)


def _fields(s: Statement, now: int) -> tuple[tuple[str, str], ...]:
    fields: list[tuple[str, str]] = []
    lead = s.alerts[0] if s.alerts else None
    if lead is not None and lead.width:
        fields.append(("Series", f"{lead.width}, judged together"))
    elif lead is not None and lead.value is not None and s.total == 1:  # of several the list tells
        fields.append(("Value", number(lead.value)))
        if expected := _expected(lead).removeprefix(", expected "):
            fields.append(("Expected", expected))
    started = min((a.started_at for a in s.alerts), default=s.opened_at)
    fields.append(("Since", f"{clock_time(started, now)} ({span(max(0, s.at - started))})"))
    if lead is not None and not s.resolved and (why := _why(lead)):
        fields.append(("Why", why))
    first = min(s.alerts, key=lambda alert: alert.started_at, default=None)
    if first is not None and lead is not None and first.started_at < lead.started_at and not s.resolved:
        fields.append(("First", f"{_own(first, s)}, {clock_time(first.started_at, now)}"))
    return tuple(fields)


def _why(alert: Alert) -> str:
    if alert.why == "out_of_range":
        return "outside its valid range"
    if alert.why == "absent":
        return "no samples any more"
    if alert.surprise is None:
        return ""
    often = f"once in {humanize(10**alert.surprise)} samples" if alert.surprise < 12 else "practically never"
    score = f" (score {number(alert.anomaly_score)})" if alert.anomaly_score is not None else ""
    return f"seen {often} when all is well{score}"


def tells_more(s: Statement, rendered: Rendered) -> bool:
    """Whether the sentence says what neither the line under the title nor the fields beside it do."""
    return rendered.sentence != rendered.brief and (s.resolved or bool(s.note) or not rendered.fields)


def _links(s: Statement, annotations: Mapping[str, str], places: tuple[Link, ...]) -> tuple[Link, ...]:
    """What to do comes first, then where to look: from the nearest to the rawest."""

    def noted(name: str, text: str) -> list[Link]:
        return [Link(text, url)] if safe_url(url := annotations.get(name, "")) else []

    raw = [Link(clean(name, 40), url) for name, url in s.links.items() if safe_url(url)]
    runbook = [] if s.resolved else noted("runbook_url", RUNBOOK)
    return (*runbook, *places, *noted("dashboard_url", "Dashboard"), *raw)


def _text(
    title: str, summary: str, sentence: str, description: str, lines: tuple[str, ...], more: int,
    asides: tuple[str, ...], links: tuple[Link, ...],
) -> str:  # fmt: skip
    parts = [title, summary]
    if sentence != summary:
        parts.append(sentence)
    if description:
        parts.append(description)
    parts += [f"- {line}" for line in lines]
    if more:
        parts.append(f"…and {more} more")
    parts += [f"{aside[0].upper()}{aside[1:]}." for aside in asides if aside]
    parts += [f"{link.text}: {link.url}" for link in links]
    return cut("\n".join(parts), MAX_TEXT * 2)


def clean(text: str, limit: int, *, lines: bool = False) -> str:
    """Make untrusted text harmless and short.

    Terminal codes, control and invisible characters and marks that turn the direction of text are removed; lone
    surrogates become U+FFFD; a line break becomes a space unless ``lines``.
    """
    text = _ANSI.sub("", text[: limit * 4 + 64])
    text = _LINES.sub("\n" if lines else " ", text)
    text = _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", text))
    return cut(text.strip(), limit)


def cut(text: str, limit: int) -> str:
    """Cut to ``limit`` code points, the last of them an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def label_text(labels: Labels, limit: int = 400) -> str:
    """Label values as a reader sees them: ``region=eu, instance=a``."""
    pairs = (f"{clean(k, 64)}={clean(v, MAX_VALUE)}" for k, v in labels if k not in ("__name__", "alertname"))
    return cut(", ".join(pairs), limit)


def number(value: float | None) -> str:
    """A value in at most four significant digits, large ones with a metric prefix: 0.3127, 1.235M."""
    if value is None or math.isnan(value):
        return "unknown"
    if 1e-4 <= abs(value) < 1e4 or value == 0:
        return f"{value:.4g}"
    return humanize(value) if abs(value) >= 1 else f"{value:.3g}"


def rfc3339(ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC; years beyond 9999 are cut to the last that can be written."""
    at = datetime.fromtimestamp(min(max(ms, 0), 253_402_300_799_999) / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_time(ms: int, now: int) -> str:
    """A time of day in UTC, with the date unless it is within half a day of ``now``."""
    at = rfc3339(ms)
    return f"{at[11:16]} UTC" if abs(now - ms) < DAY_MS // 2 else f"{at[:10]} {at[11:16]} UTC"


def span(ms: int) -> str:
    """A duration in its two largest units: 1h 5m."""
    minutes = max(0, ms) // 60_000
    days, hours, rest = minutes // 1_440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days}d {hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h {rest}m" if rest else f"{hours}h"
    return f"{rest}m" if minutes else f"{max(0, ms) // 1000}s"


def safe_url(url: str) -> bool:
    """Whether an address may become a link: http or https, short, no spaces or control characters."""
    return bool(re.fullmatch(r"https?://[^\s\x00-\x20<>\"'`\\]{1,2000}", url))
