"""From samples to messages, in text files: escalation by surprise, duration and spread, and who is told when again."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyd import logs
from anomalyd.workbench.ruletest import run_test
from anomalyd.workbench.testfile import RuleTest, read_tests
from anomalyd.yamlfile import read_file

HERE = Path(__file__).parent
LADDERS = read_tests(read_file(HERE / "escalation" / "rules.test.yml"))
TELLING = read_tests(read_file(HERE / "telling" / "rules.test.yml"))


@pytest.mark.parametrize("test", LADDERS, ids=lambda test: test.name)
def test_an_incident_becomes_worse_and_never_pages_for_less(test: RuleTest) -> None:
    """Each ladder in a text file, lived by the daemon's own evaluation and delivery."""
    passes(test)


@pytest.mark.parametrize("test", TELLING, ids=lambda test: test.name)
def test_settings_decide_who_is_told_and_when_again(test: RuleTest) -> None:
    """Reminders, escalation by time, incidents told together and inhibition, as the settings file of the test says."""
    passes(test)


def passes(test: RuleTest) -> None:
    logs.configure("error")
    verdict = run_test(test)
    assert verdict.passed, "\n".join(verdict.diff)
