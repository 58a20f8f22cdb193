"""Escalation from samples to messages: by surprise, by duration, by spread; what is not expected fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyd import logs
from anomalyd.ruletest import run_test
from anomalyd.testfile import RuleTest, read_tests
from anomalyd.yamlfile import read_file

TESTS = read_tests(read_file(Path(__file__).parent / "escalation" / "rules.test.yml"))


@pytest.mark.parametrize("test", TESTS, ids=[test.name for test in TESTS])
def test_an_incident_becomes_worse_and_never_pages_for_less(test: RuleTest) -> None:
    """Each ladder in a text file, lived by the daemon's own evaluation and delivery."""
    logs.configure("error")
    verdict = run_test(test)
    assert verdict.passed, "\n".join(verdict.diff)
