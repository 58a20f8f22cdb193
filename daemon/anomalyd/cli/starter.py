"""The texts that ``anomalyd init`` writes: settings, and rules for well-known metrics.

Invariant: whatever combination is written passes ``anomalyd check`` (held by test).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Starter:
    """A group of rules, and the metric whose presence makes it useful."""

    title: str
    metric: str
    yaml: str


SETTINGS = """\
# Settings of anomalyd. Check with `anomalyd check`, run with `anomalyd run --config anomalyd.yml`.
# Paths are relative to this file. Every secret can be read from a file instead: password_file, url_file and so on.

sources:
  default:
    url: {url}
    # kind: prometheus              # or thanos, mimir, victoriametrics
    # timeout: 30s
    # tenant: team-a                # sent as X-Scope-OrgID
    # basic_auth: {{username: anomalyd, password_file: secrets/prometheus}}
    # authorization: {{credentials_file: secrets/token}}
    # oauth2: {{client_id: anomalyd, client_secret_file: secrets/client, token_url: https://login.example.org/token}}
    # tls_config: {{ca_file: ca.pem}}

# Scores, episodes and what still has to be sent. Postgres: postgresql://user@host/anomalyd
database:
  url: sqlite:///anomalyd.db

rule_files:
{rule_files}

# Who is told. A rule that names no receivers tells all of them (or those under route:).
receivers: {{}}
#  team-slack:
#    type: slack
#    webhook_url_file: secrets/slack
#  on-call:
#    type: pagerduty
#    routing_key_file: secrets/pagerduty
#  anything:
#    type: webhook
#    url: http://localhost:8080/anomalies
#    secret_file: secrets/webhook  # signs each request
#  grafana:
#    type: grafana
#    url: http://localhost:3000
#    token_file: secrets/grafana
#
# route:
#   receivers: [team-slack]

web:
  listen: 127.0.0.1:9640            # /metrics, /-/healthy, /-/ready
  # external_url: https://anomalyd.example.org
  # enable_lifecycle: true          # allow POST /-/reload; SIGHUP always works

log:
  level: info
  format: logfmt                    # or json

# remote_write: [{{url: "http://localhost:9090/api/v1/write"}}]   # scores and bands beside the metrics themselves
# executor: {{fit: processes, workers: 2}}
# retention: 90d
"""

HEADER = """\
# First rules, written by `anomalyd init` for the metrics it found. Change them freely; check with `anomalyd check`.
#
# A budget says how many false alarms a tier may cost while nothing is wrong; anomalyd finds the threshold.
# direction, min_deviation and for say what the business does not care about. Every key: `anomalyd schema rules`.
# {found}

groups:
"""

TARGETS = Starter(
    "targets of Prometheus", "up",
    """\
  - name: targets
    interval: 1m
    rules:
      # Every job's number of samples per scrape: half of it gone is half of its metrics gone.
      - anomaly: JobSamplesChanged
        expr: sum by (job) (scrape_samples_scraped)
        history: 7d
        detector: mad
        direction: down
        min_deviation: {relative: 30%}
        for: 5m
        keep_firing_for: 5m
        missing: alert
        tiers:
          warning: {budget: 1 per week}
          critical: {budget: 1 per month, for: 15m}
        group_by: [job]
        annotations:
          summary: "job {{ $labels.job }} gives {{ $value | humanize }} samples, {{ $expected | humanize }} expected"
          runbook: "Look at Status > Targets: which instances are down, or which exporter lost metrics in an update?"

      - anomaly: ScrapeSlow
        expr: max by (job) (scrape_duration_seconds)
        history: 7d
        detector: mad
        direction: up
        min_deviation: {absolute: 0.5, relative: 100%}
        for: 10m
        tiers:
          warning: {budget: 1 per week}
        group_by: [job]
        annotations:
          summary: "scraping {{ $labels.job }} takes {{ $value | humanizeDuration }}"
          runbook: "A slow exporter is an overloaded host or an exporter with too much to tell."
""",
)  # fmt: skip

NODE = Starter(
    "node_exporter", "node_cpu_seconds_total",
    """\
  - name: node
    interval: 1m
    rules:
      # CPU has a daily rhythm: `stl` learns it, so a busy afternoon is normal and a busy night is not.
      - anomaly: NodeCpu
        expr: 1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m]))
        history: 14d
        detector: stl
        direction: up
        min_deviation: {absolute: 0.2}
        for: 10m
        keep_firing_for: 5m
        valid_range: [-0.01, 1.01]
        tiers:
          warning: {budget: 1 per week}
          critical: {budget: 1 per month, for: 20m}
        group_by: [instance]
        suppress: 1h
        annotations:
          summary: >-
            {{ $labels.instance }} is {{ $value | humanizePercentage }} busy,
            {{ $expected | humanizePercentage }} expected
          runbook: "Which process? `top` on the host; compare with the last deploy and the cron jobs."

      - anomaly: NodeMemoryAvailable
        expr: node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes
        history: 7d
        detector: {type: mad, window: 2d}
        direction: down
        min_deviation: {absolute: 0.1}
        for: 5m
        keep_firing_for: 5m
        tiers:
          warning: {budget: 1 per week}
          critical: {budget: 1 per month, for: 15m}
        group_by: [instance]
        suppress: 1h
        annotations:
          summary: "{{ $labels.instance }} has {{ $value | humanizePercentage }} of memory left"
          runbook: "Which process grew? A leak climbs for days, a bad query in minutes."
""",
)  # fmt: skip

HTTP = Starter(
    "HTTP requests", "http_requests_total",
    """\
  - name: http
    interval: 1m
    rules:
      - anomaly: HttpTraffic
        expr: sum by (job) (rate(http_requests_total[5m]))
        history: 14d
        detector: stl
        direction: both
        min_deviation: {absolute: 1, relative: 40%}
        for: 10m
        keep_firing_for: 10m
        tiers:
          warning: {budget: 1 per week}
          critical: {budget: 1 per month, for: 20m}
        group_by: [job]
        annotations:
          summary: "{{ $labels.job }}: {{ $value | humanize }} requests/s, {{ $expected | humanize }} expected"
          runbook: "Fewer: is something in front of it down? More: a campaign, a crawler, or a client that retries?"
""",
)  # fmt: skip

DURATION = Starter(
    "HTTP latency", "http_request_duration_seconds_bucket",
    """\
  - name: http-latency
    interval: 1m
    rules:
      - anomaly: HttpLatencyP99
        expr: histogram_quantile(0.99, sum by (job, le) (rate(http_request_duration_seconds_bucket[5m])))
        history: 14d
        detector: stl
        direction: up
        min_deviation: {absolute: 0.1, relative: 50%}
        for: 5m
        keep_firing_for: 10m
        tiers:
          warning: {budget: 1 per week}
          critical: {budget: 1 per month, for: 15m}
        group_by: [job]
        annotations:
          summary: >-
            p99 of {{ $labels.job }} is {{ $value | humanizeDuration }},
            {{ $expected | humanizeDuration }} expected
          runbook: "Which endpoint, which dependency? Compare with the last deploy."
""",
)  # fmt: skip

PROMETHEUS = Starter(
    "Prometheus itself", "prometheus_tsdb_head_series",
    """\
  - name: prometheus
    interval: 1m
    rules:
      # A label with too many values shows here first.
      - anomaly: PrometheusSeries
        expr: prometheus_tsdb_head_series
        history: 7d
        detector: {type: mad, window: 2d}
        direction: up
        min_deviation: {absolute: 1000, relative: 25%}
        for: 10m
        tiers:
          warning: {budget: 1 per week}
          critical: {budget: 1 per month, for: 30m}
        group_by: [instance]
        annotations:
          summary: "{{ $labels.instance }} holds {{ $value | humanize }} series, {{ $expected | humanize }} expected"
          runbook: "Status > TSDB Status names the metrics and labels with the most series; look for a new label."
""",
)  # fmt: skip

STARTERS = (NODE, HTTP, DURATION, PROMETHEUS)

EXAMPLE = """\

# A rule of your own; take the # away and name your metric:
#
#  - name: my-service
#    interval: 1m
#    rules:
#      - anomaly: OrdersPerMinute
#        expr: sum by (region) (rate(orders_total[5m]))
#        history: 14d
#        detector: stl
#        direction: down
#        min_deviation: {relative: 30%}
#        for: 10m
#        tiers:
#          warning: {budget: 1 per week}
#          critical: {budget: 1 per month, for: 20m}
#        group_by: [region]
#        annotations:
#          summary: "{{ $labels.region }}: {{ $value | humanize }} orders/s, {{ $expected | humanize }} expected"
"""


def settings_text(url: str, alone: bool = True) -> str:
    """The settings file for one Prometheus; where the first rules are not ``alone``, it names them and no others."""
    rules = "  - rules/*.yml" if alone else "  - rules/first.yml\n  # - rules/*.yml   # the other files there, too"
    return SETTINGS.format(url=json.dumps(url), rule_files=rules)


def rules_text(found: Collection[str], note: str) -> str:
    """The rules file for the metrics that were found; ``note`` says how that went."""
    groups = [TARGETS.yaml, *(s.yaml for s in STARTERS if s.metric in found)]
    return HEADER.format(found=" ".join(note.split())) + "\n".join(groups) + EXAMPLE
