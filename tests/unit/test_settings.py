"""``anomalyd.yml``: what the keys mean, what is refused and where, and that no secret is ever shown."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import DAY_MS
from anomalyd.delivery.hush import MuteWindow
from anomalyd.delivery.routing import receivers_for
from anomalyd.errors import ConfigError
from anomalyd.prometheus.spec import BasicAuth, SourceSpec
from anomalyd.score import Tier
from anomalyd.secret import Secret
from anomalyd.settings import Executors, Limits, Log, Settings, Web, is_settings, load_settings, read_settings
from anomalyd.settingsmodel import split_listen
from anomalyd.yamlfile import read_yaml
from fakes.statements import a_statement

CANARY = "hunter2-canary"

FULL = f"""\
sources:
  default:
    url: https://prom.example/prefix/
    kind: mimir
    timeout: 10s
    max_response_bytes: 1000000
    max_concurrency: 2
    method: GET
    tenant: team-a
    headers: {{X-Plain: text, X-Key: {{secret: {CANARY}}}}}
    basic_auth: {{username: u, password: {CANARY}}}
    tls_config:
      {{ca_file: ca.pem, cert_file: /abs/c.pem, key_file: k.pem, server_name: prom, insecure_skip_verify: true}}
    proxy_url: http://proxy:3128
    deny_partial: false
    extra_params: {{max_source_resolution: 5m}}
  edge:
    url: http://edge:9090
    authorization: {{credentials_file: token}}
database: {{url: "sqlite:///state/a.db"}}
rule_files: [rules/*.yml, /abs/x.yml]
receivers:
  hook: {{type: webhook, url: "http://hook.example/{CANARY}", secret: {CANARY}}}
  pager: {{type: pagerduty, routing_key_file: keys/pager}}
route: {{receivers: [hook]}}
web: {{listen: ":8080", external_url: "https://a.example/x/", enable_lifecycle: true}}
log: {{level: warn, format: json}}
executor: {{fit: threads, workers: 4}}
retention: 30d
limits: {{max_series: 500, min_interval: 15s, max_history: 60d}}
"""
LEAST = "sources: {p: {url: 'http://localhost:9090'}}\n"


def settings_of(text: str) -> Settings:
    """The settings of a text that would lie in /etc/anomalyd."""
    return read_settings(read_yaml(text, "anomalyd.yml"), Path("/etc/anomalyd"))


def refused(text: str) -> str:
    """The problems of a text, as the user reads them."""
    with pytest.raises(ConfigError) as caught:
        settings_of(text)
    return str(caught.value)


def test_every_key_becomes_what_it_says() -> None:
    """All keys at once; paths are relative to the file."""
    settings = settings_of(FULL)
    assert settings.sources["default"] == SourceSpec(
        "default", "https://prom.example/prefix/", kind="mimir", timeout_s=10, max_response_bytes=1_000_000,
        max_concurrency=2, headers={"X-Plain": "text", "X-Key": Secret(CANARY)}, tenant="team-a",
        basic_auth=BasicAuth("u", Secret(CANARY)), ca_file="/etc/anomalyd/ca.pem", cert_file="/abs/c.pem",
        key_file="/etc/anomalyd/k.pem", server_name="prom", insecure_skip_verify=True, proxy_url="http://proxy:3128",
        method="GET", deny_partial=False, extra_params={"max_source_resolution": "5m"},
    )  # fmt: skip
    assert settings.sources["edge"].bearer == Secret(file="/etc/anomalyd/token")
    assert settings.database.get() == "sqlite:////etc/anomalyd/state/a.db"
    assert settings.rule_files == ("/etc/anomalyd/rules/*.yml", "/abs/x.yml")
    assert settings.receiver_names == ("hook", "pager")
    assert settings.receivers["pager"].name == "pager"
    assert settings.receivers["pager"].model_dump()["routing_key_file"] == "/etc/anomalyd/keys/pager"
    assert settings.default_receivers == ("hook",)
    assert settings.web == Web("0.0.0.0", 8080, "https://a.example/x", True)
    assert settings.log == Log("warn", "json")
    assert settings.executor == Executors("threads", 4)
    assert settings.retention_ms == 30 * DAY_MS
    assert settings.limits == Limits(500, 15_000, 60 * DAY_MS)


def test_a_source_is_all_that_is_needed() -> None:
    """Everything else has a default: loopback only, SQLite beside the file, all receivers."""
    two = "receivers: {a: {type: webhook, url: 'http://x'}, b: {type: webhook, url_file: u}}\n"
    settings = settings_of(LEAST + two)
    assert settings.web == Web("127.0.0.1", 9640)
    assert settings.database.get() == "sqlite:////etc/anomalyd/anomalyd.db"
    assert settings.default_receivers == ("a", "b")
    assert (settings.default_source, settings.source_names) == ("p", ("p",))
    assert settings_of(LEAST + "executor: inline\n").executor == Executors("inline", 2)


QUIET = LEAST + """\
receivers: {slack: {type: webhook, url: 'http://x'}, pager: {type: webhook, url: 'http://y'}}
route:
  receivers: [slack]
  routes:
    - {matchers: ['team="payments"'], tiers: [critical, emergency], receivers: [pager]}
mute_windows:
  nights: {intervals: [{times: ["22:00-06:00"], location: Europe/Berlin}], receivers: [slack]}
inhibit_rules:
  - {source_matchers: [alertname="ClusterDown"], target_matchers: [tier="warning"], equal: [cluster]}
"""


def test_routes_mute_windows_and_inhibition() -> None:
    """They become what the deliver loop uses; the root route's receivers are the default ones."""
    settings = settings_of(QUIET)
    assert settings.default_receivers == settings.route.receivers == ("slack",)
    assert receivers_for(settings.route, {"team": "payments"}, Tier.CRITICAL) == ("slack", "pager")
    assert [(window.name, window.receivers) for window in settings.mute_windows] == [("nights", ("slack",))]
    assert settings.inhibit_rules[0].equal == ("cluster",)


def test_a_mute_window_can_be_the_holidays_of_a_calendar(tmp_path: Path) -> None:
    """Of the settings or of a country; other keys restrict it further, the night counts to the day that it began on."""
    windows = """\
calendars: {ours: {country: DE, days: ["2026-12-24 14:00-24:00", "2026-11-27"]}}
mute_windows:
  ours: {intervals: [{holidays: ours, times: ["22:00-06:00"], location: Europe/Berlin}]}
  bavaria: {intervals: [{holidays: DE-BY, months: [june]}]}
"""
    ours, bavaria = settings_of(LEAST + windows).mute_windows

    def mutes(window: MuteWindow, *when: int) -> bool:
        at = int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]
        return window.mutes(a_statement(), "r", at)

    assert mutes(ours, 2026, 11, 27, 22)
    assert mutes(ours, 2026, 11, 28, 4)
    assert not mutes(ours, 2026, 11, 27, 12)
    assert not mutes(ours, 2026, 11, 28, 22)
    assert not mutes(ours, 2026, 12, 24, 22)  # special in part only
    assert mutes(ours, 2027, 5, 1, 21)  # a holiday on a Saturday; 23:00 in Berlin
    assert mutes(bavaria, 2026, 6, 4, 12)  # Corpus Christi
    assert not mutes(bavaria, 2026, 10, 3, 12)
    wrong = LEAST + 'mute_windows: {w: {intervals: [{holidays: germny}]}}\ncalendars: {germany: {country: DE}}\n'
    assert "anomalyd.yml:2:43: holidays: unknown calendar 'germny' (did you mean 'germany'?)" in refused(wrong)
    own = LEAST + "mute_windows: {w: {intervals: [{holidays: {days_file: days.txt}}]}}\n"
    (tmp_path / "days.txt").write_text("2026-11-27\n")
    assert read_settings(read_yaml(own, "anomalyd.yml"), tmp_path).days_files == (str(tmp_path / "days.txt"),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[pager]}\n", "[pagr]}\n", "anomalyd.yml:6:81: unknown receiver 'pagr' (did you mean 'pager'?)"),
        ("receivers: [slack]}", "receivers: [slak]}", "unknown receiver 'slak' (did you mean 'slack'?)"),
        ("22:00-06:00", "22-6", "anomalyd.yml:8:24: "),
        ("Europe/Berlin", "Europe/Berln", "location: "),
        ('team="payments"', "team==payments", "anomalyd.yml:6:19: matchers[0]: "),
        ("equal: [cluster]", "eqal: [cluster]", "unknown key 'eqal' (did you mean 'equal'?)"),
    ],
)
def test_what_is_wrong_with_them_is_said_with_its_place(old: str, new: str, message: str) -> None:
    """Names, times and matchers are checked when the file is loaded."""
    assert message in refused(QUIET.replace(old, new))


@pytest.mark.parametrize(
    ("a", "b", "said"), [("c", "", "unknown receiver 'c'"), ("a", "", "a cannot fall back on itself"),
                         ("b", "a", "b, which has a fallback of its own")],
)  # fmt: skip
def test_a_fallback_is_one_step(a: str, b: str, said: str) -> None:
    """It must be there, be another receiver, and have none itself: nothing goes round."""
    hook = "{type: webhook, url: 'http://h.example', fallback: '%s'}"
    text = f"sources: {{p: {{url: 'http://p:9090'}}}}\nreceivers:\n  a: {hook % a}\n  b: {hook % b}\n"
    with pytest.raises(ConfigError) as caught:
        read_settings(read_yaml(text, "anomalyd.yml"))
    assert said in str(caught.value.problems[0])
    assert caught.value.problems[0].line == 3


def test_which_source_is_the_default() -> None:
    """The one called default, else the only one, else none."""
    many = "sources:\n  a: {url: 'http://a'}\n  b: {url: 'http://b'}\n"
    assert settings_of(many).default_source is None
    assert settings_of(many + "  default: {url: 'http://c'}\n").default_source == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "anomalyd.yml:1:1: the file is empty (settings need at least sources:)"),
        ("sources: {}\n", "sources: "),
        ("databse: {}\n", "anomalyd.yml:1:1: unknown key 'databse' (did you mean 'database'?)"),
        ("databse: {}\n", "anomalyd.yml:1:1: missing key 'sources'"),
        ("- 1\n", "must be a mapping, not a list"),
        ("sources: {a: {}}\n", "anomalyd.yml:1:11: a: missing key 'url'"),
        ("sources: {a: {url: 'ftp://x'}}\n", "anomalyd.yml:1:11: a: the url must be http://"),
        ("sources: {a: {url: 'http://u:p@x'}}\n", "the url may not carry credentials"),
        ("sources: {a: {url: 'http://x', kind: victoria}}\n", "(did you mean 'victoriametrics'?)"),
        ("sources: {a: {url: 'http://x', timeout: 5}}\n", "write 5s, 5m, 5h or 5d"),
        ("sources: {a: {url: 'http://x', basic_auth: {username: u}}}\n", "basic_auth: needs password or password_file"),
        ("sources: {a: {url: 'http://x', basic_auth: {username: u, password: p, password_file: f}}}\n",
         "password and password_file exclude each other"),
        ("sources: {a: {url: 'http://x', basic_auth: {username: u, password: 12}}}\n",
         "anomalyd.yml:1:68: password: must be text, not a number (put it into quotes)"),
        ("sources: {a: {url: 'http://x', authorization: {credentials: c}, basic_auth: {username: u, password: p}}}\n",
         "basic_auth, bearer (authorization) and oauth2 exclude each other"),
        ("sources: {a: {url: 'http://x', authorization: {}}}\n", "needs credentials or credentials_file"),
        ("sources: {a: {url: 'http://x', headers: {X: {}}}}\n", "needs secret or secret_file"),
        ("sources: {a: {url: 'http://x', tls_config: {cert_file: c}}}\n", "needs both cert_file and key_file"),
        ("sources: {a: {url: 'http://x', extra_params: {query: up}}}\n", "extra_params may not set query"),
        (LEAST + "receivers: {x: 5}\n", "anomalyd.yml:2:16: x: must be a mapping with a type (one of webhook,"),
        (LEAST + "receivers: {x: {url: u}}\n", "anomalyd.yml:2:13: x: missing key 'type'"),
        (LEAST + "receivers: {x: {type: slak}}\n", "unknown type of receiver 'slak' (did you mean 'slack'?)"),
        (LEAST + "receivers: {x: {type: webhook, name: y, url: u}}\n", "the receiver's name is 'x'"),
        (LEAST + "receivers: {x: {type: webhook, url: u, secrt: y}}\n", "unknown key 'secrt' (did you mean 'secret'?)"),
        (LEAST + "receivers: {x: {type: webhook, url: 'https://h/${TOKEN}'}}\n",
         "anomalyd.yml:2:37: url: variables of the environment are not filled in; put the secret into a file"),
        (LEAST + "receivers: {x: {type: webhook, url: u, secret: $SECRET}}\n", "with the key that ends in _file"),
        (LEAST + "receivers: {x: {type: webhook}}\n", "x: a webhook needs url or url_file"),
        (LEAST + "receivers: {'a b': {type: webhook, url: u}}\n",
         "anomalyd.yml:2:13: name: string should match pattern"),
        (LEAST + "route: {receivers: [x]}\n", "anomalyd.yml:2:21: unknown receiver 'x'"),
        (LEAST + "web: {listen: '9640'}\n", "'9640' is not host:port"),
        (LEAST + "web: {listen: '::1:9640'}\n", "put an IPv6 address into brackets"),
        (LEAST + "web: {listen: 9640}\n", "listen: must be text, not a number"),
        (LEAST + "web: {external_url: a.example}\n", "external_url: must be http://"),
        (LEAST + "web: {enable_lifecycle: yes}\n", "enable_lifecycle: must be true or false, not text"),
        (LEAST + "log: {level: warning}\n", "(did you mean 'warn'?)"),
        (LEAST + "executor: proceses\n", "'proceses' is no executor"),
        (LEAST + "executor: dask://nowhere\n", "is no executor"),
        (LEAST + "executor: {workers: 0}\n", "workers: input should be greater than or equal to 1"),
        (LEAST + "retention: 30\n", "write 30s, 30m, 30h or 30d"),
        (LEAST + "database: {url: a, url_file: b}\n", "url and url_file exclude each other"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where_and_why(text: str, message: str) -> None:
    """One line per problem, with file:line:column, cause and remedy."""
    assert message in refused(text)


def test_no_secret_is_shown() -> None:
    """Neither printing settings nor any message about a broken file repeats a credential."""
    settings = settings_of(FULL)
    assert CANARY not in repr(settings)
    assert CANARY not in str(dataclasses.astuple(settings.web))
    assert all(CANARY not in str(receiver.model_dump()) for receiver in settings.receivers.values())
    for wrong in (
        f"basic_auth: {{username: u, password: {CANARY}, password_file: x}}",
        f"basic_auth: {{username: u, password: [{CANARY}]}}",
        f"authorization: {{type: Basic, credentials: {CANARY}}}",
        f"headers: {{Host: {{secret: {CANARY}}}}}",
        f"headers: {{A: [{CANARY}]}}",
    ):
        assert CANARY not in refused(f"sources: {{a: {{url: 'http://x', {wrong}}}}}\n"), wrong
    receivers = (
        f"{{type: slack, webhook_url: {CANARY}, bot_token: {CANARY}}}",
        f"{{type: webhook, url: [{CANARY}]}}",
        f"{{type: pagerduty, routing_key: {{a: {CANARY}}}}}",
        f"{{type: {CANARY[:3]}, url: {CANARY}}}",
    )
    for wrong in receivers:
        assert CANARY not in refused(LEAST + f"receivers: {{x: {wrong}}}\n"), wrong


def test_loading_reads_no_secret(tmp_path: Path) -> None:
    """A file of a secret that is not there is no problem of the settings: check runs where the secrets are not."""
    (tmp_path / "anomalyd.yml").write_text(LEAST + "database: {url_file: nowhere}\n")
    settings = load_settings(tmp_path / "anomalyd.yml")
    assert settings.database == Secret(file=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:1", "127.0.0.1", 1), ("[::1]:9", "::1", 9), (":80", "0.0.0.0", 80), ("a:0", "a", 0)],
)
def test_addresses_to_listen_on(text: str, host: str, port: int) -> None:
    """Host and port; without a host all interfaces."""
    assert split_listen(text) == (host, port)


def test_settings_are_told_from_rules_by_their_keys() -> None:
    """``check`` takes either."""
    assert is_settings({"sources": {}})
    assert is_settings({"rule_files": []})
    assert not is_settings({"groups": []})
    assert not is_settings([])
    assert not is_settings(None)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda deep: st.lists(deep, max_size=2) | st.dictionaries(st.sampled_from(["url", "type", "a", "receivers"]), deep),
    max_leaves=5,
)
KEYS = st.sampled_from(["sources", "database", "rule_files", "receivers", "route", "web", "log", "executor", "limits"])


@given(st.dictionaries(KEYS, JUNK))
def test_no_settings_give_a_traceback(data: dict[str, object]) -> None:
    """Whatever stands under the keys, the answer is settings or problems."""
    document = read_yaml("a: 1\n", "anomalyd.yml")
    document.data = data
    try:
        read_settings(document)
    except ConfigError as error:
        found = error.problems
    else:
        found = ()
    assert all(problem.message for problem in found)


def test_without_a_file_it_says_how_to_get_one(tmp_path: Path) -> None:
    """Whoever starts in another folder is told of --config and of the command that writes a first file."""
    with pytest.raises(ConfigError, match=r"none.yml: no such file \(.* --config; anomalyd init"):
        load_settings(tmp_path / "none.yml")
