"""``remote_write`` in the settings: what a target becomes, and what is refused with its place."""

from __future__ import annotations

import pytest

from anomalyd.errors import ConfigError
from anomalyd.prometheus.target import QueuePolicy, WriteTarget
from anomalyd.scoreseries import SERIES_HELP
from anomalyd.settings import read_settings
from anomalyd.yamlfile import read_yaml

LEAST = "sources: {p: {url: 'http://localhost:9090'}}\n"


def targets(text: str) -> tuple[WriteTarget, ...]:
    return read_settings(read_yaml((LEAST + "remote_write:\n" + text).encode(), "/etc/anomalyd/a.yml")).remote_write


def test_a_url_is_enough() -> None:
    """All rules, all series, a name from the URL."""
    (one,) = targets("  - url: http://prom:9090/api/v1/write\n")
    assert (one.name, one.url) == ("prom:9090", "http://prom:9090/api/v1/write")
    assert one.takes("any/rule")
    assert one.series == set(SERIES_HELP)
    assert (one.external_labels, one.queue, one.http.timeout_s) == ({}, QueuePolicy(), 30.0)


def test_every_key_becomes_what_it_says() -> None:
    """A target with everything; its query stays in the address."""
    (one,) = targets("""\
  - url: https://mimir/api/v1/push?extra=1
    name: long
    timeout: 5s
    tenant: team-a
    authorization: {credentials: canary}
    tls_config: {ca_file: ca.pem}
    rules: [shop/*, node/Cpu]
    what: [score, band]
    external_labels: {cluster: eu-1}
    queue: {connections: 2, max_samples_per_send: 1000, max_age: 2h, min_backoff: 1s, max_backoff: 10s}
""")
    assert (one.name, one.url) == ("long", "https://mimir/api/v1/push?extra=1")
    assert one.http.url == "https://mimir/api/v1/push"
    assert (one.http.timeout_s, one.http.tenant, one.http.ca_file) == (5.0, "team-a", "/etc/anomalyd/ca.pem")
    assert one.http.bearer is not None
    assert [one.takes(rule) for rule in ("shop/A", "node/Cpu", "node/Disk", "xshop/A")] == [True, True, False, False]
    assert one.series == {"anomaly_score", "anomaly_expected", "anomaly_lower", "anomaly_upper"}
    assert one.external_labels == {"cluster": "eu-1"}
    assert one.queue == QueuePolicy(2, 1000, 7_200_000, 1000, 10_000)
    assert "canary" not in repr(one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  - {name: x}\n", "missing key 'url'"),
        ("  - {url: prom}\n", "the url must be http://"),
        ("  - {url: 'http://u:p@prom/w'}\n", "may not carry credentials"),
        ("  - {url: 'http://prom/w', what: [scores]}\n", "what[0]"),
        ("  - {url: 'http://prom/w', what: []}\n", "must name at least one"),
        ("  - {url: 'http://prom/w', external_labels: {a-b: c}}\n", "is not a label name"),
        ("  - {url: 'http://prom/w', headers: {content-encoding: gzip}}\n", "may not set content-encoding"),
        ("  - {url: 'http://prom/w', headers: {User-Agent: x}}\n", "may not set user-agent"),
        ("  - {url: 'http://prom/w', queue: {min_backoff: 1m}}\n", "min_backoff must not exceed max_backoff"),
        ("  - {url: 'http://prom/w', queue: {connections: 0}}\n", "connections"),
        ("  - {url: 'http://prom/w', remote_timeout: 1s}\n", "unknown key 'remote_timeout'"),
        ("  - {url: 'http://a/w'}\n  - {url: 'http://a/v'}\n", "a second target called 'a'"),
    ],
)
def test_what_is_refused_says_why(text: str, message: str) -> None:
    """Each mistake has its place and its cause."""
    with pytest.raises(ConfigError) as caught:
        targets(text)
    (problem,) = caught.value.problems
    assert message in str(problem)
    assert problem.line > 1
