"""The composition root: what a reload changes under a running daemon."""

from __future__ import annotations

from pathlib import Path

from anomalyd.app import App, build
from anomalyd.clock import VirtualClock
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import load_settings
from fakes.statements import START, a_statement

WRITES = """\
sources: {default: {url: 'http://127.0.0.1:9'}}
rule_files: [r.yml]
database: {url: 'sqlite://'}
executor: inline
remote_write:
  - {name: one, url: 'http://127.0.0.1:9/one', what: [score]}
  - {name: two, url: 'http://127.0.0.1:9/two'}
"""
SETTINGS = """\
sources: {default: {url: 'http://127.0.0.1:9'}}
rule_files: [r.yml]
database: {url: 'sqlite://'}
web: {external_url: 'http://anomalyd.example'}
receivers:
  draws: {type: grafana, url: 'https://GRAFANA.example', token: t, dashboard_uid: old}
"""


def dashboards(app: App) -> list[str]:
    """Where a message of the running deliverer leads to in Grafana."""
    words = app.daemon.deliverer.words
    assert words.places is not None
    links = words.places(a_statement(), "draws")
    return [link.url.partition("?")[0] for link in links if link.text == "Grafana"]


def test_links_to_dashboards_follow_a_reload(tmp_path: Path) -> None:
    """A dashboard that moved is linked to where it is now; one that is gone is linked to no more."""
    file = tmp_path / "anomalyd.yml"
    (tmp_path / "r.yml").write_text("groups: [{name: g, rules: [{anomaly: A, expr: up, detector: mad}]}]\n")
    file.write_text(SETTINGS.replace("GRAFANA", "one"))
    settings = load_settings(file)
    app = build(settings, load_rules(settings.rule_files, settings), VirtualClock(START), inline=True)
    try:
        assert dashboards(app) == ["https://one.example/d/old"]
        file.write_text(SETTINGS.replace("GRAFANA", "two").replace("old", "new"))
        assert app.reload()
        assert dashboards(app) == ["https://two.example/d/new"]
        file.write_text(SETTINGS.replace("GRAFANA", "two").replace(", dashboard_uid: old", ""))
        assert app.reload()
        assert dashboards(app) == []
    finally:
        app.close()


def test_targets_of_remote_write_follow_a_reload(tmp_path: Path) -> None:
    """One that is as it was goes on; one that changed, came or went does so, and what went leaves no cursor."""
    file = tmp_path / "anomalyd.yml"
    (tmp_path / "r.yml").write_text("groups: [{name: g, rules: [{anomaly: A, expr: up, detector: mad}]}]\n")
    file.write_text(WRITES)
    settings = load_settings(file)
    app = build(settings, load_rules(settings.rule_files, settings), VirtualClock(START))
    try:
        before = dict(app.daemon.remotes)
        app.daemon.lead()
        for lane in app.daemon.lanes():
            assert app.daemon.write(lane) is None
        assert app.store.exports.cursors("two") == {"g/A": 0}
        file.write_text(WRITES.replace("name: two", "name: three").replace("[score]", "[score, band]"))
        assert app.reload()
        assert set(app.daemon.remotes) == {"one", "three"}
        assert app.daemon.remotes["one"] is not before["one"]
        app.daemon.maintain()
        assert app.store.exports.cursors("two") == {}
        assert app.store.exports.cursors("one") == {"g/A": 0}
        kept = app.daemon.remotes["one"]
        assert app.reload()
        assert app.daemon.remotes["one"] is kept
    finally:
        app.close()
