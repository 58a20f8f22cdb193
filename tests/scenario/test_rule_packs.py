"""The rule packs' own tests, run as `anomalyd test rules/*.test.yml` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyd import logs
from anomalyd.rulefiles.read import load_rules
from anomalyd.workbench.ruletest import run_test
from anomalyd.workbench.testfile import RuleTest, read_tests
from anomalyd.yamlfile import read_file

FOLDER = Path(__file__).parents[2] / "rules"
PACKS = sorted(path for path in FOLDER.glob("*.yml") if not path.name.endswith(".test.yml"))


def load(pack: Path) -> tuple[RuleTest, ...]:
    return read_tests(read_file(pack.with_suffix(".test.yml")))


ALL = [pytest.param(test, id=f"{pack.stem}: {test.name}") for pack in PACKS for test in load(pack)]


@pytest.mark.parametrize("test", ALL)
def test_a_rule_finds_its_incident_and_stays_quiet_elsewhere(test: RuleTest) -> None:
    """Each rule on a planted incident and on something alike that is none."""
    logs.configure("error")
    verdict = run_test(test)
    assert verdict.passed, "\n".join(verdict.diff)


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_every_rule_of_a_pack_has_a_test_that_finds_something(pack: Path) -> None:
    """A pack's rule without an incident that it finds is a guess."""
    tested = {test.rule.id for test in load(pack) if test.episodes}
    assert {rule.id for rule in load_rules([str(pack)]).rules} - tested == set()


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_every_rule_of_a_pack_leaves_a_known_trap_quiet(pack: Path) -> None:
    """What calls people for nothing is in its series, and is not among what is expected."""
    trapped = {test.rule.id for test in load(pack) if test.traps}
    assert {rule.id for rule in load_rules([str(pack)]).rules} - trapped == set()


def test_the_packs_together_know_all_traps() -> None:
    """Deploy, nightly job, restart, change of the clocks, drop to zero, slow leak, scrape gap, holiday."""
    known = {trap for pack in PACKS for test in load(pack) for trap in test.traps}
    assert known >= {"deploy", "nightly_job", "restart", "dst", "drop_to_zero", "slow_leak", "scrape_gap", "holiday"}
