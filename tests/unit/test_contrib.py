"""What stands in contrib/ works with what the daemon is: alerts, compose, systemd unit."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalyd.metrics import Metrics
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import load_settings
from anomalyd.settingsmodel import DEFAULT_LISTEN, split_listen

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "contrib"
ALERTS = CONTRIB / "alerts" / "anomalyd.rules.yml"
UNIT = CONTRIB / "systemd" / "anomalyd.service"
PORT = split_listen(DEFAULT_LISTEN)[1]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((CONTRIB / "compose/compose.yml").read_text()))


@pytest.mark.server("prometheus")
def test_alert_rules_fire_when_they_should_and_only_then() -> None:
    """promtool runs the rules' own tests."""
    test = CONTRIB / "alerts" / "anomalyd.test.yml"
    done = subprocess.run(["promtool", "test", "rules", str(test)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_queries_what_exists_and_has_a_runbook() -> None:
    """Each alert fires in a test, names metrics of the daemon, and links a heading of the operations page."""
    tests = yaml.safe_load((CONTRIB / "alerts" / "anomalyd.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    exposed = {name for names in Metrics().registry._collector_to_names.values() for name in names}
    runbook = (ROOT / "docs" / "operations.md").read_text()
    for alert in alerts():
        assert alert["alert"] in fired
        assert set(re.findall(r"anomalyd_\w+", alert["expr"])) <= exposed
        page, anchor = alert["annotations"]["runbook_url"].split("#")
        assert page == "docs/operations.md"
        assert anchor == alert["alert"].lower()
        assert f"### {alert['alert']}\n" in runbook


def test_compose_runs_anomalyd_locked_down_and_on_loopback_only() -> None:
    """No port is published beyond the machine; the daemon's root file system is read-only, capabilities dropped."""
    services = compose()["services"]
    assert set(services) == {"prometheus", "node-exporter", "anomalyd", "grafana"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "privileged" not in service, name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"].rsplit("/", 1)[-1], name
    assert services["anomalyd"]["read_only"] is True
    assert services["anomalyd"]["tmpfs"] == ["/tmp"]
    assert f"127.0.0.1:{PORT}:{PORT}" in services["anomalyd"]["ports"]


def test_compose_mounts_what_exists_into_declared_volumes() -> None:
    """Every relative mount is a file of the repository; every named one is declared."""
    made = compose()
    for service in made["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (CONTRIB / "compose" / source).exists(), source
            elif not source.startswith("/"):
                assert source in made["volumes"], source


def test_compose_settings_and_rules_are_valid_and_fit_the_containers() -> None:
    """The daemon's own loader takes them, and addresses agree between the files."""
    settings = load_settings(CONTRIB / "compose" / "anomalyd.yml")
    rules = load_rules([str(CONTRIB / "compose" / "rules.yml")], settings)
    assert len(rules.rules) == 3
    assert settings.sources["default"].url == "http://prometheus:9090"
    assert (settings.web.host, settings.web.port) == ("0.0.0.0", PORT)
    assert settings.database.get().startswith("sqlite:////data/")
    scrape = yaml.safe_load((CONTRIB / "compose" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in scrape["scrape_configs"]}
    assert jobs["anomalyd"]["static_configs"] == [{"targets": [f"anomalyd:{PORT}"]}]
    assert jobs["anomalyd"]["honor_labels"] is True
    assert 'job="anomalyd"' in alerts()[0]["expr"]


@pytest.mark.server("prometheus")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    """promtool accepts the compose file's Prometheus configuration beside the alert rules."""
    shutil.copy(CONTRIB / "compose" / "prometheus.yml", tmp_path)
    shutil.copy(ALERTS, tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def test_unit_stops_reloads_and_restarts_as_the_daemon_expects() -> None:
    """SIGHUP reloads, stopping has more than the daemon's ten seconds, a wrong configuration is not retried."""
    made = unit()
    assert made["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert made["ExecStart"][0].startswith("/opt/anomalyd/bin/anomalyd run --config /etc/anomalyd/anomalyd.yml")
    assert int(made["TimeoutStopSec"][0].removesuffix("s")) > 10
    assert made["RestartPreventExitStatus"] == ["2"]
    assert made["DynamicUser"] == ["yes"]
    assert "NUMBA_CACHE_DIR=/var/cache/anomalyd" in made["Environment"][0]
    assert made["CacheDirectory"] == ["anomalyd"]
    assert "MemoryDenyWriteExecute" not in made


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, and the exposure is at most 2.0."""
    here = tmp_path / "anomalyd.service"
    here.write_text(UNIT.read_text().replace("/opt/anomalyd/bin/anomalyd", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(here)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(here)], capture_output=True, text=True, check=False
    )
    found = re.search(r"exposure level for anomalyd.service: ([0-9.]+)", judged.stdout)
    assert found, judged.stdout + judged.stderr
    assert float(found[1]) <= 2.0
