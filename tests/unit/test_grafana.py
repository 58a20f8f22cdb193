"""The dashboards are what the code makes, query only what the daemon exposes, and pass a dashboard linter's rules."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import promql_parser
import pytest
import yaml
from prometheus_client.core import Metric

from anomalyd.block import make_labels
from anomalyd.metrics import Exported, Metrics
from anomalyd.score import Observation, Tier, Verdicts

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
OUTSIDE = {"job", "instance", "le"}
"""Labels that Prometheus adds itself."""


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grafana_dashboards", FOLDER / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def boards() -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in FILES}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def exposition() -> dict[str, set[str]]:
    """Metric name to label names of everything a daemon can expose."""
    metrics = Metrics()
    one = np.ones(1)
    verdicts = Verdicts(np.zeros(1, np.int8), np.zeros(1, np.int8), np.zeros(1, np.int8))
    seen = Observation(0, np.zeros(1, np.int64), one, one, one, one, one, verdicts)
    labels = make_labels({"__name__": "x"})
    metrics.export_scores(lambda: [Exported("g", "r", (labels,), seen, 1.0, ((labels, Tier.WARNING),))])
    names: dict[str, set[str]] = {}
    for collector in list(metrics.registry._collector_to_names):  # the registry has no public way to list label names
        known = set(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            for name in sample_names(family):
                names[name] = known | {label for sample in family.samples for label in sample.labels}
    return names


def sample_names(family: Metric) -> set[str]:
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
    return {family.name + suffix for suffix in suffixes}


def plain(expr: str) -> str:
    """A query with Grafana's variables filled in."""
    filled = re.sub(r"\$__(rate_interval|range|interval)", "5m", expr)
    return re.sub(r"\$\{?\w+\}?", ".+", filled)


def queries() -> list[tuple[str, str, str]]:
    """(dashboard, panel, query) of every target and every variable."""
    found = []
    for name, board in boards().items():
        for panel in panels(board):
            found += [(name, panel["title"], target["expr"]) for target in panel["targets"]]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
                assert match, variable["query"]
                found.append((name, variable["name"], f"count by ({match[2]}) ({match[1]})"))
    return found


def test_committed_files_are_what_the_code_makes() -> None:
    """Regenerating gives the same bytes, twice; `--check` says so."""
    module = load_generator()
    made = module.render()
    assert made == module.render()
    assert {path.name: path.read_text() for path in FILES} == made
    assert module.main(["--check"]) == 0


@pytest.mark.parametrize(("board", "panel", "expr"), queries())
def test_every_query_parses_and_names_what_the_daemon_exposes(board: str, panel: str, expr: str) -> None:
    """Every metric of a query exists, with every label that the query matches or groups by."""
    parsed = promql_parser.parse(plain(expr))
    known = exposition()
    selectors = re.findall(r"(anomaly\w*)(?:\{([^}]*)\})?", expr)
    assert selectors, f"{board}: {panel} queries nothing"
    for name, matchers in selectors:
        assert name in known, f"{board}: {panel} queries {name}, which the daemon does not expose"
        used = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", matchers)) - OUTSIDE
        assert used <= known[name], f"{board}: {panel} matches {used - known[name]} of {name}"
    for grouped in re.findall(r"by \(([^)]*)\)", str(parsed)):
        by = {label.strip() for label in grouped.split(",")} - OUTSIDE
        assert by <= set().union(*(known[name] for name, _ in selectors))


def test_the_first_dashboard_shows_value_band_score_and_open_episodes() -> None:
    """What a person on call needs is there."""
    shown = " ".join(expr for name, _, expr in queries() if name == "anomalies.json")
    for metric in ("anomaly_value", "anomaly_expected", "anomaly_lower", "anomaly_upper", "anomaly_score"):
        assert metric in shown
    assert "anomalyd_episodes_open" in shown


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_dashboard_lint(name: str) -> None:
    """The rules of Grafana's dashboard linter: data source by variable, titles, units, rates, not editable."""
    board = boards()[name]
    assert re.fullmatch(r"[a-z0-9-]{8,40}", board["uid"])
    assert board["editable"] is False
    assert board.get("id") is None
    assert "anomalyd" in board["tags"]
    first = board["templating"]["list"][0]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(board):
        where = f"{name}: {panel['title']}"
        assert panel["title"], where
        assert panel["description"], where
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24, where
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), where
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"], where
            assert_counters_are_rated(target["expr"], where)


def assert_counters_are_rated(expr: str, where: str) -> None:
    for window in re.findall(r"(?<!\w)rate\([^[]*\[([^]]+)\]", expr):
        assert window == "$__rate_interval", f"{where}: rate over {window}"
    for match in re.finditer(r"anomalyd_\w+(_total|_bucket)\b", expr):
        before = expr[: match.start()]
        assert re.search(r"(rate|increase)\($", before), f"{where}: counter {match[0]} without rate"


def test_variables_used_are_declared() -> None:
    """No query uses a variable that its dashboard does not have."""
    for name, board in boards().items():
        declared = {variable["name"] for variable in board["templating"]["list"]}
        text = json.dumps([[target["expr"] for target in panel["targets"]] for panel in panels(board)])
        used = {v for v in re.findall(r"\$\{?(\w+)", text) if not v.startswith("__")}
        assert used <= declared, name


def test_annotations_are_queried_by_the_tag_the_receiver_writes() -> None:
    """Both dashboards show the daemon's annotations; the tag is the receiver's."""
    written = (ROOT / "daemon/anomalyd/receivers/grafana.py").read_text()
    for board in boards().values():
        (annotation,) = board["annotations"]["list"]
        assert annotation["target"]["type"] == "tags"
        assert annotation["target"]["matchAny"] is False
        (tag,) = annotation["target"]["tags"]
        assert f'"{tag}"' in written


def test_provisioning_reads() -> None:
    """The provisioning files are YAML of the shape Grafana documents."""
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/anomalyd.yml").read_text())
    assert provider["apiVersion"] == 1
    assert provider["providers"][0]["options"]["path"].startswith("/")
    source = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert (source["type"], source["access"], source["jsonData"]["httpMethod"]) == ("prometheus", "proxy", "POST")


@pytest.mark.server("prometheus")
def test_prometheus_itself_reads_every_query(tmp_path: Path) -> None:
    """promtool accepts each query as the expression of a rule."""
    rules = [{"record": f"q{i}", "expr": plain(expr)} for i, (_, _, expr) in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
