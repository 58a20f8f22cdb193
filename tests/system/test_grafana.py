"""Every panel of the dashboards shows something when a real Prometheus has scraped a daemon's metrics."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import numpy as np
import pytest
from prometheus_client import make_wsgi_app

from anomalyd.block import make_labels
from anomalyd.metrics import Exported, Metrics
from anomalyd.score import Observation, Tier, Verdicts
from servers import running_prometheus, wait_until

DASHBOARDS = Path(__file__).parents[2] / "grafana" / "dashboards"


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def filled() -> Metrics:
    """The metrics of a daemon that has seen everything once, and scores of three series."""
    metrics = Metrics()
    labels = tuple(make_labels({"__name__": "x", "job": "node", "instance": f"host{i}"}) for i in range(3))
    value, zeros = np.array([1.0, 2.0, 3.0]), np.zeros(3, np.int8)
    surprise = np.array([1.0, 2.0, 9.0])
    seen = Observation(0, np.arange(3), value, value, value - 1, value + 1, surprise, Verdicts(zeros, zeros, zeros))
    metrics.export_scores(lambda: [Exported("g", "R", labels, seen, 3.0, ((labels[2], Tier.WARNING),))])
    metrics.slots.labels("g", "ok").inc()
    metrics.slots_missed.labels("g").inc()
    metrics.count_verdicts("g/R", {"ok": 3})
    metrics.rule_errors.labels("g/R", "timeout").inc()
    metrics.duration.labels("g").observe(0.1)
    metrics.last_evaluation.labels("g").set(time.time())
    metrics.source_up.labels("default").set(1)
    metrics.episodes_open.labels("g/R", "warning").set(2)
    metrics.series_limited.labels("g/R").set(0)
    metrics.notifications.labels("slack", "failed", "auth").inc()
    metrics.outbox_pending.labels("slack").set(1)
    metrics.outbox_oldest.labels("slack").set(5)
    metrics.remote_write_lag.labels("long-term").set(0)
    metrics.remote_write_samples.labels("long-term", "ok").inc(5)
    metrics.remote_write_requests.labels("long-term", "ok", "").inc()
    metrics.remote_write_bytes.labels("long-term").inc(500)
    metrics.reload_ok.set(1)
    metrics.store_errors.labels("busy").inc()
    return metrics


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has scraped those metrics a few times."""
    exposed = make_server("127.0.0.1", 0, make_wsgi_app(filled().registry), handler_class=_Quiet)
    thread = threading.Thread(target=exposed.serve_forever, args=(0.05,))
    thread.start()
    target = f"targets: ['127.0.0.1:{exposed.server_port}']"
    config = f"scrape_configs: [{{job_name: anomalyd, honor_labels: true, static_configs: [{{{target}}}]}}]"
    try:
        with running_prometheus(tmp_path_factory.mktemp("prometheus"), config=config) as url:
            wait_until(lambda: len(ask(url, "count_over_time(anomalyd_build_info[1m]) > 3")) > 0, 30, "scraping")
            yield url
    finally:
        exposed.shutdown()
        thread.join()
        exposed.server_close()


def ask(url: str, query: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as answer:
        return list(json.load(answer)["data"]["result"])


def targets() -> list[Any]:
    found = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            name = f"{path.stem}: {panel['title']}"
            shown = panel.get("targets", [])
            found += [pytest.param(target["expr"], id=f"{name} {target['refId']}") for target in shown]
    return found


@pytest.mark.server("prometheus")
@pytest.mark.parametrize("expr", targets())
def test_panel_shows_something(prometheus: str, expr: str) -> None:
    """The query, with all variables at "All", gives at least one series."""
    filled_in = re.sub(r"\$__(rate_interval|range)", "30s", expr)
    assert ask(prometheus, re.sub(r"\$\w+", ".+", filled_in))


@pytest.mark.server("prometheus")
def test_band_panel_shows_the_most_abnormal_series(prometheus: str) -> None:
    """Of the three series of the rule, the one with the highest score is shown, with its band."""
    board = json.loads((DASHBOARDS / "anomalies.json").read_text())
    (panel,) = [panel for panel in board["panels"] if panel["title"] == "$rule"]
    for target in panel["targets"]:
        expr = target["expr"].replace("$__range", "30s").replace("$rule", "R").replace("$group", ".+")
        (series,) = ask(prometheus, expr)
        assert series["metric"]["instance"] == "host2"
        assert series["metric"]["job"] == "node"
