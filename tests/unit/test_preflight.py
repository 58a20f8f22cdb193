"""`check` and `run` refuse the same: one test a refusal, each by both commands."""

from __future__ import annotations

import io
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from anomalyd.cli import main
from anomalyd.errors import StoreError
from anomalyd.store import look, open_store
from fakes.remotewrite import RemoteWriteReceiver
from fakes.sink import Answer, Fault, Request, Sink
from fakes.smtp import FakeSmtp
from fakes.webhook import FakeWebhook

RULES = "groups:\n  - name: g\n    rules:\n      - {anomaly: A, expr: up, detector: mad}\n"
SETTINGS = """\
sources:
  default: {url: "http://127.0.0.1:9090"}
database: {url: "sqlite:///a.db"}
rule_files: ["rules/*.yml"]
receivers:
  hook: {type: webhook, url_file: secrets/hook, secret_file: secrets/key}
web:
  listen: 127.0.0.1:0
"""


class Place:
    """A folder with settings that are right, and the two commands on them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        (folder / "rules").mkdir()
        (folder / "secrets").mkdir()
        (folder / "rules" / "a.yml").write_text(RULES)
        (folder / "secrets" / "hook").write_text("http://127.0.0.1:9/x")
        (folder / "secrets" / "key").write_text("k" * 20)
        self.settings(SETTINGS)

    def settings(self, text: str) -> None:
        (self.folder / "anomalyd.yml").write_text(text)

    def change(self, old: str, new: str) -> None:
        assert old in SETTINGS
        self.settings(SETTINGS.replace(old, new))

    def command(self, *args: str) -> tuple[int, str]:
        argv, stdin = sys.argv, sys.stdin
        sys.argv, sys.stdin = ["anomalyd", *args], io.TextIOWrapper(io.BytesIO())
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv, sys.stdin = argv, stdin
        said = self.capsys.readouterr()
        return code, said.out + said.err

    def check(self, *more: str) -> tuple[int, str]:
        return self.command("check", *more, str(self.folder / "anomalyd.yml"))

    def run(self) -> tuple[int, str]:
        return self.command("run", "--config", str(self.folder / "anomalyd.yml"))


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, capsys)


def test_nothing_is_refused_and_nothing_is_made(place: Place) -> None:
    """Right settings pass, and checking leaves no database behind."""
    code, said = place.check()
    assert code == 0, said
    assert not (place.folder / "a.db").exists()


REFUSED = {
    "listen without tokens": ("127.0.0.1:0", "0.0.0.0:9640", ":8:11: web.listen: 0.0.0.0 can be reached"),
    "port": ("127.0.0.1:0", "127.0.0.1:99999", ":8:11: listen: '127.0.0.1:99999' is not host:port"),
    "secret missing": ("secrets/hook", "secrets/none", "secrets/none: the secret cannot be read: No such"),
    "source's secret": (
        'url: "http://127.0.0.1:9090"', 'url: "http://127.0.0.1:9090", authorization: {credentials_file: no}',
        "no: the secret cannot be read",
    ),
    "token": ("127.0.0.1:0", "127.0.0.1:0\n  tokens: {ana: {token_file: no}}", "no: the secret cannot be read"),
    "certificate": (
        "secret_file: secrets/key", "tls: {ca_file: secrets/key}", "secrets/key: cannot be used for TLS",
    ),
    "unknown receiver in a route": (
        "web:", "route: {routes: [{matchers: ['a=b'], receivers: [hok]}]}\nweb:", "unknown receiver 'hok'",
    ),
    "unknown receiver in escalation": (
        "web:", "escalation: [{after: 5m, receivers: [hok]}]\nweb:", "unknown receiver 'hok'",
    ),
    "receiver without an address": ("url_file: secrets/hook, ", "", "a webhook needs url or url_file"),
    "database elsewhere": ("sqlite:///a.db", "sqlite:///none/a.db", "its directory does not exist"),
    "database of a kind unknown": ("sqlite:///a.db", "mysql://h/a", "must begin with sqlite:/// or postgresql://"),
    "database that is none": ("sqlite:///a.db", "sqlite:///anomalyd.yml", "does not begin like a SQLite database"),
    "rules nowhere": ("rules/*.yml", "rools/*.yml", "no file matches"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_run_refuses_check_finds(place: Place, name: str) -> None:
    """Both end with 2 and say the same, with the place in the settings."""
    old, new, words = REFUSED[name]
    place.change(old, new)
    same(place, words)


def same(place: Place, words: str) -> None:
    checked, found = place.check()
    refused, said = place.run()
    assert (checked, refused) == (2, 2), found + said
    problems = [line for line in said.splitlines() if line]
    assert any(words in line for line in problems), said
    assert all(line in found for line in problems), f"check said\n{found}\nrun said\n{said}"
    assert all(line.startswith(str(place.folder)) for line in problems), "no file is named"


RULE_PROBLEMS = {
    "template": ("expr: up", 'expr: up, annotations: {summary: "{{ $labels.x | nope }}"}', "nope"),
    "template that loops": ("expr: up", 'expr: up, annotations: {summary: "{% for i in x %}{% endfor %}"}', "for"),
    "receiver": ("expr: up", "expr: up, receivers: [hok]", "unknown receiver 'hok'"),
    "source": ("expr: up", "expr: up, source: other", "unknown source 'other'"),
}


@pytest.mark.parametrize("name", list(RULE_PROBLEMS))
def test_what_run_refuses_in_rules_check_finds(place: Place, name: str) -> None:
    """Templates that do not compile, and receivers and sources that there are not."""
    old, new, words = RULE_PROBLEMS[name]
    (place.folder / "rules" / "a.yml").write_text(RULES.replace(old, new))
    same(place, words)


def test_an_empty_or_unreadable_secret(place: Place) -> None:
    """Empty is as good as absent; without permission it is said who needs it."""
    (place.folder / "secrets" / "key").write_text(" \n")
    same(place, "the file of a secret is empty")
    (place.folder / "secrets" / "key").write_bytes(b"\xff\xfe")
    same(place, "it is not UTF-8 text")
    (place.folder / "secrets" / "key").unlink()
    (place.folder / "secrets" / "key").mkdir()
    same(place, "the daemon's user needs permission to read it")


def test_a_database_of_a_newer_version_or_of_somebody_else(place: Place) -> None:
    """Refused without a change to the file."""
    path = place.folder / "a.db"
    open_store(f"sqlite:///{path}").close()
    assert place.check()[0] == 0
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE anomalyd_schema SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    code, said = place.check()
    assert code == 2
    assert "9999" in said
    assert path.read_bytes() == before
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    same(place, "of another program")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_to(place: Place) -> None:
    """The database could not be made there."""
    (place.folder / "rules").chmod(0o500)
    place.change("sqlite:///a.db", "sqlite:///rules/a.db")
    same(place, "its directory cannot be written to")


def test_an_extra_that_is_not_installed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor that needs a package."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    place.settings(SETTINGS + "executor: dask://h:8786\n")
    same(place, "executor dask:// needs a package")


def test_syntax_only_looks_at_nothing_that_is_referred_to(place: Place) -> None:
    """For a pipeline that has the files but not the secrets; what is wrong in the files is still found."""
    place.change("url_file: secrets/hook", "url_file: secrets/none")
    assert place.check()[0] == 2
    assert place.check("--syntax-only")[0] == 0
    place.change("type: webhook", "type: wehook")
    assert place.check("--syntax-only")[0] == 2


def test_probing_finds_receivers_that_cannot_be_reached_and_sends_nothing(place: Place) -> None:
    """Fault 75: a closed port, one that does not speak TLS, no mail server there; credentials stay unseen."""
    with FakeWebhook() as good, FakeSmtp() as mail:
        plain = good.url.removeprefix("http://")
        receivers = f"""
  good: {{type: webhook, url: "{good.url}/canary"}}
  closed: {{type: teams, webhook_url: "http://127.0.0.1:9/canary"}}
  tls: {{type: slack, webhook_url: "https://{plain}/canary"}}
  nobody: {{type: alertmanager, urls: ["http://no-such-host.invalid:9093"]}}
  letters: {{type: email, to: [a@b.example], sender: c@d.example, host: 127.0.0.1, port: {mail.port}, security: none}}
  lost: {{type: email, to: [a@b.example], sender: c@d.example, host: 127.0.0.1, port: 9, security: none}}
"""
        place.settings(SETTINGS.partition("receivers:")[0] + "receivers:" + receivers)
        assert place.check()[0] == 0
        code, said = place.check("--probe")
        requests = list(good.requests)
    assert code == 2
    names = ("good", "closed", "tls", "nobody", "letters", "lost")
    found = {name for name in names if f"{name} cannot be reached" in said}
    assert found == {"closed", "tls", "nobody", "lost"}, said
    assert "TLS failed" in said
    assert "canary" not in said
    assert requests == []


class Polite(Sink):
    """Says 200 to whatever it is sent: as a page, as JSON, and as a receiver of Remote-Write 2.0 does."""

    def handle(self, request: Request) -> Answer:
        """Answer by the path alone."""
        if request.path == "/page":
            return Answer(200, b"<html>Sign in</html>", content_type="text/html; charset=utf-8")
        counted = {"X-Prometheus-Remote-Write-Samples-Written": "0"} if request.path == "/newer" else {}
        return Answer(200, b"{}", counted)


def test_probing_asks_targets_of_remote_write(place: Place) -> None:
    """Each gets a request without samples: a wrong path, a wrong token and a server that is no receiver of remote write
    are told with their remedy."""
    with RemoteWriteReceiver() as good, RemoteWriteReceiver() as strict, Polite() as polite:
        strict.authorization = "Bearer right"
        place.settings(SETTINGS + f"""
remote_write:
  - {{name: good, url: "{good.write_url}"}}
  - {{name: lost, url: "{good.url}/write"}}
  - {{name: strict, url: "{strict.write_url}", authorization: {{credentials: canary}}}}
  - {{name: page, url: "{polite.url}/page"}}
  - {{name: agrees, url: "{polite.url}/agrees"}}
  - {{name: newer, url: "{polite.url}/newer"}}
""")
        assert place.check()[0] == 0
        good.fail(Fault(answer=Answer(204)), Fault(answer=Answer(400)), Fault(answer=Answer(404, b"nothing here")))
        code, said = place.check("--probe")
    assert code == 2
    assert "good takes no samples" not in said
    assert "lost takes no samples" in said
    assert "--web.enable-remote-write-receiver" in said
    assert "strict takes no samples" in said
    assert "page takes no samples" in said
    assert "answers with a web page (check host and path: Prometheus takes samples at /api/v1/write" in said
    assert "agrees takes no samples" in said
    assert "answers 200 also to what no receiver of remote write can read (check host and path" in said
    assert "newer takes no samples" not in said
    assert "check the credentials" in said
    assert "canary" not in said
    assert good.series == {}


def test_looking_asks_no_server() -> None:
    """A Postgres that is not there is not asked; in memory there is nothing to look at."""
    look("postgresql://nobody@127.0.0.1:1/none")
    look("sqlite://")
    with pytest.raises(StoreError):
        look("sqlite:////none/at/all.db")
