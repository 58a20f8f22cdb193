"""``anomalyd alerts``, ``feedback`` and ``silence`` against the store that the settings name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from anomalyd.ballot import Refused
from anomalyd.cli import load_command
from anomalyd.clock import HOUR_MS, SystemClock
from anomalyd.console.parts import BadRequest
from anomalyd.slot import NoticeKind, SlotCommit, make_notice
from anomalyd.store import Store, open_store
from console_kit import RULE, episode

USAGE_ERROR = typer.BadParameter.__bases__[0]
RULES = {"groups": [{"name": "shop", "interval": "1m", "rules": [
    {"anomaly": "Latency", "expr": "latency_seconds", "detector": "mad", "tiers": {"warning": {"surprise": 3.5}}},
]}]}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(RULES))
    path = tmp_path / "anomalyd.yml"
    path.write_text("sources: {p: {url: 'http://localhost:9090'}}\nrule_files: [rules.yml]\n")
    now = SystemClock().now_ms()
    with opened(path) as store:
        store.save_episodes([
            episode("e1", started=now - 5 * HOUR_MS), episode("e2", started=now - 2 * HOUR_MS),
            episode("e3", started=now - HOUR_MS, live=True), episode("other", rule="shop/Other"),
        ])  # fmt: skip
    return path


class opened:
    """The store beside the settings."""

    def __init__(self, config: Path):
        self._store = open_store(f"sqlite:///{config.parent / 'anomalyd.db'}")

    def __enter__(self) -> Store:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def run(config: Path, capsys: pytest.CaptureFixture[str], name: str, *words: str) -> str:
    load_command(name).main([*words, "--config", str(config)], standalone_mode=False)
    return capsys.readouterr().out


def test_results_are_alone_on_stdout(config: Path) -> None:
    """What a vote logs goes elsewhere, so that scripts read JSON and nothing else."""
    words = ["feedback", "e1", "false", "--by", "ana", "--json", "--config", str(config)]
    done = subprocess.run([sys.executable, "-m", "anomalyd", *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["feedback"]["who"] == "ana"
    assert done.stderr == ""


def test_votes_move_the_cut_and_can_be_taken_back(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """alerts shows the ids, preview promises, the first vote moves the cut, list shows who, undo takes back."""
    assert "e1" in run(config, capsys, "alerts")
    promised = "would have removed 3 alerts and no confirmed one in 30 days\n"
    assert run(config, capsys, "feedback", "preview", "e1", "false") == promised
    with opened(config) as store:
        assert store.thresholds(RULE.id) == [], "a preview moves nothing"
    said = run(config, capsys, "feedback", "e1", "false", "--by", "ana", "--cause", "backup")
    assert "now told from a surprise of" in said
    with opened(config) as store:
        assert len(store.thresholds(RULE.id)) == 1
    assert run(config, capsys, "feedback", "preview", "e2", "false") == promised
    run(config, capsys, "feedback", "e2", "false", "--by", "ben")
    listed = json.loads(run(config, capsys, "feedback", "list", "--json"))
    assert [(v["who"], v["via"], v["label"]) for v in listed] == [("ben", "cli", "false"), ("ana", "cli", "false")]
    shown = json.loads(run(config, capsys, "alerts", "--json", "--rule", RULE.id))
    assert [(e["id"], e["verdict"]) for e in shown] == [("e3", None), ("e2", "false"), ("e1", "false")]
    for given in listed:
        run(config, capsys, "feedback", "undo", given["id"])
    assert run(config, capsys, "feedback", "list").count("(taken back)") == 2
    with opened(config) as store:
        newest = store.thresholds(RULE.id)[-1]
    assert (newest.reason, newest.cuts[0]) == ("undo", 3.5)


def test_notices_are_listed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """notices shows what was noted, of one rule on demand, as a table and as JSON."""
    assert run(config, capsys, "notices") == "no notices\n"
    now = SystemClock().now_ms()
    own = (("region", "eu"),)
    drift = make_notice(NoticeKind.DRIFT, RULE.id, now - HOUR_MS, "drifts", since=now - 2 * HOUR_MS, labels=own)
    with opened(config) as store:
        store.commit_slot(SlotCommit("shop", now, (), notices=(drift,)))
    listed = run(config, capsys, "notices")
    assert 'region="eu"' in listed or "region=eu" in listed, listed
    assert "drift" in listed
    (shown,) = json.loads(run(config, capsys, "notices", "--json", "--rule", RULE.id))
    assert (shown["id"], shown["kind"], shown["text"]) == (drift.id, "drift", "drifts")
    assert run(config, capsys, "notices", "--rule", "shop/Other") == "no notices\n"


def test_only_what_is_open(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--open`` leaves out what is over."""
    assert [e["id"] for e in json.loads(run(config, capsys, "alerts", "--open", "--json"))] == ["e3"]


@pytest.mark.parametrize("words", [[], ["e1"], ["e1", "wrong"], ["undo"], ["e1", "missed"], ["a", "b", "c"]])
def test_what_is_no_vote_is_told_how_to_write_one(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Wrong words are a usage error, exit code 2."""
    with pytest.raises(USAGE_ERROR) as told:
        run(config, capsys, "feedback", *words)
    assert told.value.exit_code == 2


def test_unknown_alerts_and_votes_are_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An id that is not there is told as such."""
    for words in (("none", "true"), ("undo", "none")):
        with pytest.raises(Refused, match="there is no"):
            run(config, capsys, "feedback", *words)


def test_silences_are_added_listed_and_ended(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the matchers' text to the store and back."""
    made = json.loads(run(config, capsys, "silence", "add", 'rule="shop/Latency", region=~"e.*"', "--json"))
    assert 'region=~"e.*"' in run(config, capsys, "silence", "list")
    assert run(config, capsys, "silence", "expire", made["id"]) == "ended\n"
    assert run(config, capsys, "silence", "list") == "no silences\n"
    with pytest.raises(BadRequest):
        run(config, capsys, "silence", "add", "x!=y")
    with pytest.raises(USAGE_ERROR):
        run(config, capsys, "silence", "add", "no matcher")
