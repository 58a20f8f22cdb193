"""Rules files: YAML in, ``RuleSet`` out, or every problem at once with file:line:column.

A rule set is complete or it is not there: any problem in any file raises ``ConfigError`` and leaves the old set alone.
``diff`` says what a reload changes and which models survive it.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from anomalyd.errors import ConfigError, Problem
from anomalyd.rule import Rule, RuleGroup
from anomalyd.rulefiles.parse import Names, RulesReader
from anomalyd.yamlfile import Document, read_file


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All groups of all files, in the order of the files; ``notices`` are what is allowed and worth knowing."""

    groups: tuple[RuleGroup, ...]
    files: tuple[str, ...] = ()
    notices: tuple[Problem, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(rule for group in self.groups for rule in group.rules)

    def rule(self, rule_id: str) -> Rule | None:
        """The rule with the id ``group/name``."""
        return next((rule for rule in self.rules if rule.id == rule_id), None)


EMPTY = RuleSet(())


@dataclass(frozen=True, slots=True)
class RuleDiff:
    """What differs between two rule sets, as rule ids.

    Attributes:
        kept: changed, but not in what its model depends on: learned state stays.
        rebuilt: changed so that its model starts anew.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the two sets mean the same."""
        return not (self.added or self.removed or self.kept or self.rebuilt)


def diff(old: RuleSet, new: RuleSet) -> RuleDiff:
    """Compare two rule sets; the lines on which rules stand do not matter."""
    before = {rule.id: replace(rule, where="") for rule in old.rules}
    after = {rule.id: replace(rule, where="") for rule in new.rules}
    both = [i for i in after if i in before]
    changed = [i for i in both if before[i] != after[i]]
    same_model = {i for i in changed if before[i].model_key == after[i].model_key}
    return RuleDiff(
        added=tuple(i for i in after if i not in before),
        removed=tuple(i for i in before if i not in after),
        kept=tuple(i for i in changed if i in same_model),
        rebuilt=tuple(i for i in changed if i not in same_model),
        unchanged=tuple(i for i in both if before[i] == after[i]),
    )


def expand(patterns: Iterable[str]) -> tuple[str, ...]:
    """The files that patterns name, each once, sorted within a pattern; ``ConfigError`` when one names none."""
    files: dict[str, None] = {}
    problems = []
    for pattern in patterns:
        found = sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
        if not found:
            problems.append(Problem(pattern, 0, 0, "no file matches", "rule_files are relative to the settings file"))
        # Tests of rules lie beside them and are not rules.
        files |= dict.fromkeys(f for f in found if not f.endswith((".test.yml", ".test.yaml")))
    if problems:
        raise ConfigError(problems)
    return tuple(files)


def load_rules(patterns: Iterable[str], names: Names | None = None) -> RuleSet:
    """Read the rules files that match; with ``names`` (the settings) sources and receivers are checked and defaulted.

    Raises ``ConfigError`` with all problems of all files.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    for file in expand(patterns):
        try:
            documents.append(read_file(file))
        except ConfigError as error:
            problems += error.problems
    return read_rules(documents, names, problems)


def read_rules(documents: Iterable[Document], names: Names | None = None, problems: Iterable[Problem] = ()) -> RuleSet:
    """Make one rule set of parsed files; raise ``ConfigError`` with the given problems and all that are found."""
    groups: list[RuleGroup] = []
    seen: dict[str, str] = {}
    found, files = list(problems), []
    notices: list[Problem] = []
    for document in documents:
        files.append(document.file)
        file = RulesReader(document, names, seen)
        groups += file.groups()
        notices += file.notices
        try:
            document.raise_problems()
        except ConfigError as error:
            found += error.problems
    if found:
        raise ConfigError(found)
    return RuleSet(tuple(groups), tuple(files), tuple(notices))
