"""``anomalyd evaluate`` as a user runs it: on what the daemon has stored, with votes, and on history to replay."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from anomalyd.block import Block
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.store import open_store
from fakes.prometheus import FakePrometheus, FakeSeries
from life import RULE, START, Life, M, change, recorded
from system.command import Done, command
from system.kit import write_config

MINUTES = 240
RULES = {
    "groups": [
        {
            "name": "g",
            "interval": "1m",
            "rules": [
                {
                    "anomaly": "Load", "expr": "load", "detector": {"type": "mad", "window": "4h"}, "history": "12h",
                    "for": "2m", "keep_firing_for": "2m", "tiers": {"warning": {"surprise": 3.5}},
                }
            ],
        }
    ]
}  # fmt: skip


def planted() -> Block:
    block = change(recorded(n=2, minutes=MINUTES), 0, 60, 75, 30.0)
    return change(block, 1, 150, 165, -10.0)


def moment(minute: int) -> str:
    return datetime.fromtimestamp((START + minute * M) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def served(block: Block) -> list[FakeSeries]:
    times = block.times.tolist()
    rows = zip(block.labels, block.values.tolist(), strict=True)
    return [FakeSeries(dict(labels), dict(zip(times, values, strict=True))) for labels, values in rows]


def anomalyd(*arguments: str) -> Done:
    """The command on the recorded span."""
    return command(*arguments, "--since", moment(0), "--until", moment(MINUTES - 1))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings whose source does not answer and whose database does not exist yet."""
    return write_config(tmp_path, "http://127.0.0.1:1", RULES, {}, f"sqlite:///{tmp_path / 'anomalyd.db'}")


def test_what_the_daemon_stored_with_votes(config: Path) -> None:
    """Stored scores are held against votes; labels from a file win over them; the report stands by itself."""
    store = open_store(f"sqlite:///{config.parent / 'anomalyd.db'}")
    life = Life(planted(), RULE, store)
    life.live(0, MINUTES)
    real = next(e for e in store.episodes(rule=RULE.id) if e.peak_value > 25)
    store.add_feedback(Feedback("v", FeedbackLabel.TRUE, RULE.id, START, "ann", "cli", real.id))
    alerts = sum(bool(e.opened_at) for e in store.episodes(rule=RULE.id))
    store.close()
    report = config.parent / "report.html"
    shown = anomalyd("evaluate", "--config", str(config), "--report", str(report))
    assert shown.returncode == 0, shown.stderr
    assert "1 labelled anomaly from feedback" in shown.stdout
    assert all(head in shown.stdout for head in ("as it was", "as it would be now"))
    assert f"{alerts - 1} of {alerts} alerts were judged by nobody" in shown.stdout
    assert "dummy" in shown.stdout
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") >= 6
    assert "http" not in page.replace("http-equiv", "")

    spans = config.parent / "spans.csv"
    spans.write_text(f"rule,series,start,end\nLoad,host=h0,{moment(60)},{moment(74)}\n"
                     f"Load,host=h1,{moment(150)},{moment(164)}\nLoad,host=h7,{moment(9)},{moment(10)}\n")  # fmt: skip
    told = anomalyd("evaluate", "Load", "--config", str(config), "--labels", str(spans), "--json")
    assert told.returncode == 0, told.stderr
    (one,) = json.loads(told.stdout)
    assert (one["labels_from"], one["labels"]["events"], one["labels"]["found"]) == ("labels", 2, 2)
    assert one["labels"]["vus_pr"] > 0.9 > 0.5 > one["labels_dummy"]["vus_pr"]
    assert one["labels"]["alerts"] == alerts == one["labels_dummy"]["alerts"]
    assert one["alerts_now"] == one["labels_now"]["alerts"] == alerts
    assert "1 of 3 labelled spans meet no series" in told.stderr


def test_history_from_the_source(config: Path, tmp_path: Path) -> None:
    """With --replay nothing needs to be stored, and other seeds and detectors are compared."""
    with FakePrometheus(served(planted())) as fake:
        write_config(tmp_path, fake.url, RULES, {}, f"sqlite:///{tmp_path / 'anomalyd.db'}")
        done = anomalyd("evaluate", "--config", str(config), "--replay", "--with", "zscore", "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)
    assert one["labels"] is None
    assert one["scores"]["separation"] > 0.5 > (one["scores_dummy"]["separation"] or 0)
    assert [x["name"] for x in one["versions"]] == ["seed 1", "seed 2", "zscore"]
    assert one["versions"][0]["correlation"] == pytest.approx(1.0)
    assert 0.3 < one["versions"][2]["overlap"] <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 1, "--replay to score history anew"),
        (("--labels", "absent.csv"), 2, "absent.csv: cannot be read"),
        (("--replay", "--with", "madd"), 2, "did you mean 'mad'?"),
        (("--time", "soon"), 2, "--time: 'soon' is not a duration"),
        (("Lode",), 2, "did you mean 'Load'?"),
        (("--replay",), 1, "127.0.0.1"),
    ],
)
def test_what_cannot_be_done_is_said(config: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    """Nothing stored, a missing file, a slip in a name and a source that is away: words and an exit code."""
    done = anomalyd("evaluate", *arguments, "--config", str(config))
    assert (done.returncode, done.stdout.strip()) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
