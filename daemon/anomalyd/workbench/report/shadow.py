"""A shadow rule beside its live sibling: which episodes it would gain, lose, open earlier or later; how to promote it.

Pure but for reading the rules files. Promotion is a change of text, so comments and order of the file stay; it is
checked by loading the changed text, and nothing is written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import yaml

from anomalyd.block import Labels
from anomalyd.episode import Episode
from anomalyd.errors import ConfigError, Problem
from anomalyd.rule import Rule
from anomalyd.rulefiles.parse import Names
from anomalyd.rulefiles.read import RuleSet, read_rules
from anomalyd.workbench.report.figures import overlap
from anomalyd.yamlfile import read_yaml

_NAME = re.compile(r"^(\s*anomaly\s*:\s*)(\"[^\"]*\"|'[^']*'|[^#\n]*?)(\s*(?:#.*)?)$")
SUFFIX = re.compile(r"[-_. ]?(shadow|candidate|new|next|v?\d+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pair:
    """The same abnormal span in both rules."""

    live: Episode
    shadow: Episode

    @property
    def later_ms(self) -> int:
        """How much later the shadow rule opened; below 0: earlier."""
        return self.shadow.opened_at - self.live.opened_at


@dataclass(frozen=True, slots=True)
class Beside:
    """A shadow rule beside its live one over a span."""

    live: Rule
    shadow: Rule
    start: int
    end: int
    both: tuple[Pair, ...]
    gained: tuple[Episode, ...]
    lost: tuple[Episode, ...]

    @property
    def earlier(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.both if pair.later_ms < 0)

    @property
    def later(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.both if pair.later_ms > 0)

    @property
    def median_later_ms(self) -> int:
        """By how much the shadow rule opens later in the middle case; 0 without any pair."""
        return int(median([pair.later_ms for pair in self.both])) if self.both else 0


def sibling(rules: RuleSet, shadow: Rule, against: str = "") -> Rule:
    """The live rule that a shadow rule stands beside: the one named, else the one whose name it carries a suffix to.

    Raises ``ConfigError`` when there is none.
    """
    live = [rule for rule in rules.rules if rule.mode == "live"]
    if against:
        named = [rule for rule in live if against in (rule.id, rule.name)]
    else:
        base = SUFFIX.sub("", shadow.name)
        named = [r for r in live if r.name == base] or [r for r in live if shadow.name.startswith(r.name)]
        named.sort(key=lambda r: (r.group != shadow.group, -len(r.name)))
    if not named:
        wanted = f"no live rule is called {against!r}" if against else "no live rule has its name without a suffix"
        message = f"{shadow.id}: {wanted}"
        raise ConfigError([Problem(shadow.where or shadow.id, 0, 0, message, "name one: --against RULE")])
    return named[0]


def beside(
    live: Rule, shadow: Rule, ours: Sequence[Episode], theirs: Sequence[Episode], start: int, end: int
) -> Beside:
    """Pair the episodes (``ours`` of the live rule, ``theirs`` of the shadow rule) that opened in the span."""
    a, b = ([e for e in found if e.opened_at and start <= e.opened_at < end] for found in (ours, theirs))
    by_series: dict[Labels, list[Episode]] = {}
    for episode in b:
        by_series.setdefault(_series(episode), []).append(episode)
    pairs, taken = [], set()
    for episode in sorted(a, key=lambda e: e.opened_at):
        free = (o for o in by_series.get(_series(episode), ()) if o.id not in taken)
        match = next((o for o in free if overlap(episode, o, end)), None)
        if match is not None:
            taken.add(match.id)
            pairs.append(Pair(episode, match))
    known = {pair.live.id for pair in pairs}
    # A further episode inside a span that the other rule told as one is neither gained nor lost.
    gained = tuple(e for e in b if e.id not in taken and not any(_same(e, o, end) for o in a))
    lost = tuple(e for e in a if e.id not in known and not any(_same(e, o, end) for o in b))
    return Beside(live, shadow, start, end, tuple(pairs), gained, lost)


def _series(episode: Episode) -> Labels:
    """Versions of an expression may differ in the metric's name."""
    return tuple(pair for pair in episode.labels if pair[0] != "__name__")


def _same(a: Episode, b: Episode, end: int) -> bool:
    return _series(a) == _series(b) and overlap(a, b, end)


def promote(rules: RuleSet, live: Rule, shadow: Rule, names: Names | None = None) -> str:
    """The change that makes the shadow rule live, as a unified diff of the files; ``ConfigError`` with a reason."""
    files = {rule.id: _file(rules, rule) for rule in (live, shadow)}
    before = {file: Path(file).read_text(encoding="utf-8") for file in dict.fromkeys(files.values())}
    theirs = _item(files[shadow.id], before[files[shadow.id]], shadow)
    ours = _item(files[live.id], before[files[live.id]], live)
    body = _as_live(before[files[shadow.id]].splitlines()[theirs.first : theirs.stop], theirs.indent, ours.indent, live)
    after = dict(before)
    edits: dict[str, list[tuple[int, int, list[str]]]] = {}
    edits.setdefault(files[live.id], []).append((ours.first, ours.stop, body))
    edits.setdefault(files[shadow.id], []).append((theirs.head, theirs.stop, []))
    for file, changes in edits.items():
        lines = after[file].splitlines()
        for first, stop, text in sorted(changes, reverse=True):
            lines[first:stop] = text
        after[file] = "\n".join(lines) + "\n"
    _check(after, live, shadow, names)
    return "".join(_diff(file, before[file], after[file]) for file in before)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where a rule stands: lines ``first`` up to ``stop``, its comments from ``head``, its dash at ``indent``."""

    head: int
    first: int
    stop: int
    indent: int


def _file(rules: RuleSet, rule: Rule) -> str:
    return next(group.file for group in rules.groups if group.name == rule.group)


def _item(file: str, text: str, rule: Rule) -> _Lines:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for group in _entries(_value(root, "groups")):
        if _scalar(_value(group, "name")) != rule.group:
            continue
        for item in _entries(_value(group, "rules")):
            if _scalar(_value(item, "anomaly")) == rule.name:
                return _lines(file, text.splitlines(), item, rule)
    raise ConfigError([Problem(file, 0, 0, f"{rule.id} is not in this file any more", "reload and try again")])


def _lines(file: str, lines: list[str], item: yaml.Node, rule: Rule) -> _Lines:
    first = item.start_mark.line
    indent = lines[first].find("-")
    if getattr(item, "flow_style", False) or indent < 0 or lines[first][:indent].strip():
        message, hint = f"{rule.id} is written on one line", "write it with a key a line, then promote it"
        raise ConfigError([Problem(file, first + 1, 1, message, hint)])
    stop = min(item.end_mark.line, len(lines))
    if item.end_mark.column and stop < len(lines):
        stop += item.end_mark.column > indent
    while stop > first + 1 and (not lines[stop - 1].strip() or lines[stop - 1].lstrip().startswith("#")):
        stop -= 1
    head = first
    while head > 0 and lines[head - 1].lstrip().startswith("#") and lines[head - 1].find("#") >= indent:
        head -= 1
    while head > 0 and not lines[head - 1].strip():
        head -= 1
    return _Lines(head, first, stop, indent)


def _as_live(lines: list[str], indent: int, wanted: int, live: Rule) -> list[str]:
    """The shadow rule's text with the live rule's name, and without its mode."""
    keys = indent + 2 + (len(lines[0]) - len(lines[0][indent + 1 :].lstrip()) - indent - 2)
    out = []
    for i, line in enumerate(lines):
        head, text = (line[: indent + 1], line[indent + 1 :]) if i == 0 else ("", line)
        if re.match(r"\s*mode\s*:", text) and (i == 0 or len(text) - len(text.lstrip()) == keys):
            if i == 0:
                message = "mode is the first key of the shadow rule"
                raise ConfigError([Problem(live.id, 0, 0, message, "put anomaly first")])
            continue
        changed = _NAME.sub(lambda match: match[1] + live.name + match[3], text)
        out.append(_moved(head + changed, wanted - indent))
    return out


def _moved(line: str, by: int) -> str:
    if by >= 0:
        return " " * by + line if line.strip() else line
    return line[min(-by, len(line) - len(line.lstrip())) :]


def _check(after: Mapping[str, str], live: Rule, shadow: Rule, names: Names | None) -> None:
    """The changed text must load, and give the shadow rule under the live rule's name."""
    changed = read_rules([read_yaml(text, file) for file, text in after.items()], names)
    made = changed.rule(live.id)
    wanted = replace(shadow, name=live.name, group=live.group, mode="live", where="")
    same = made is not None and replace(made, where="", interval_ms=0, query_delay_ms=0) == replace(
        wanted, interval_ms=0, query_delay_ms=0
    )
    if not same or changed.rule(shadow.id) is not None:
        message = f"{shadow.id} cannot be promoted by a change of text"
        raise ConfigError([Problem(shadow.where or shadow.id, 0, 0, message, "write the change by hand")])


def _diff(file: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), file, file, lineterm="")
    return "".join(line + "\n" for line in lines)


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if _scalar(name) == key), None)
    return None


def _entries(node: yaml.Node | None) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _scalar(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""
