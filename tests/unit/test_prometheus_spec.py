"""A source's settings contradict nothing, and what servers say is classified and fit to be shown."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.prometheus.refusal import Answer, clean, refusal, retry_after_s
from anomalyd.prometheus.source import seconds
from anomalyd.prometheus.spec import BasicAuth, SourceSpec
from anomalyd.secret import Secret


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "prometheus:9090"}, "http://"),
        ({"url": "ftp://host"}, "http://"),
        ({"url": "http://"}, "http://"),
        ({"url": "http://host:port"}, "malformed"),
        ({"url": "http://user:password@host"}, "password_file"),
        ({"url": "http://host?tenant=1"}, "extra_params"),
        ({"url": "http://host/a b"}, "white space"),
        ({"bearer": Secret("a"), "basic_auth": BasicAuth("u", Secret("p"))}, "exclude"),
        ({"bearer": Secret("a"), "headers": {"authorization": "b"}}, "exclude"),
        ({"tenant": "a", "headers": {"X-Scope-OrgID": "b"}}, "tenant"),
        ({"headers": {"Accept-Encoding": "gzip"}}, "accept-encoding"),
        ({"extra_params": {"time": "1"}}, "time"),
        ({"cert_file": "a.pem"}, "key_file"),
        ({"timeout_s": 0}, "above zero"),
        ({"max_concurrency": 0}, "above zero"),
    ],
)
def test_contradictions(options: dict[str, object], said: str) -> None:
    """What cannot work is refused when the settings are read, with what to do instead."""
    with pytest.raises(ValueError, match=said):
        SourceSpec(**{"name": "a", "url": "http://host", **options})  # type: ignore[arg-type]


def test_url_parts() -> None:
    """A prefix is kept, a slash at the end goes, and messages show scheme and host only."""
    spec = SourceSpec("a", "https://host:9090/prom/tenant-key/")
    assert spec.base == "https://host:9090/prom/tenant-key"
    assert spec.place == "https://host:9090"


def answer(status: int, text: str, **headers: str) -> Answer:
    body = text.encode()
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, bytearray(body), len(body))


@given(st.integers(201, 599), st.text(max_size=3000), st.booleans())
def test_any_refusal(status: int, text: str, html: bool) -> None:
    """Whatever a server answers becomes an error that survives pickling, short and printable."""
    error = refusal(answer(status, text, content_type="text/html" if html else "text/plain"), "source a")
    assert len(str(error)) < 1_300
    assert str(error).isprintable()
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, str(again)) == (type(error), error.reason, str(error))


@given(st.text(max_size=5000), st.lists(st.text(min_size=4, max_size=8), max_size=3))
def test_clean(text: str, secrets: list[str]) -> None:
    """Cleaned text is printable and at most 1,000 characters long."""
    found = clean(text, secrets)
    assert len(found) <= 1_000
    assert found.isprintable()


def test_clean_hides_secrets() -> None:
    """A credential is replaced wherever it stands; a very short one would replace half the text."""
    assert clean("x hunter2 y hunter2", ["hunter2"]) == "x <secret> y <secret>"
    assert clean("a normal text", ["a"]) == "a normal text"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 7.0), ("0", 1.0), ("99999", 300.0), ("", None), ("soon", None), ("-1", None), ("٣", None), ("1.5", None),
     ("Sun, 06 Nov 1994 08:49:37 GMT", None)],
)  # fmt: skip
def test_retry_after(text: str, expected: float | None) -> None:
    """Seconds are taken and bounded, everything else counts as absent."""
    assert retry_after_s({"retry-after": text}) == expected


@given(st.integers(0, 4_000_000_000_000))
def test_seconds_are_exact(ms: int) -> None:
    """A time as it is sent says the same millisecond when it is read."""
    whole, _, rest = seconds(ms).partition(".")
    assert int(whole) * 1000 + int(rest or 0) == ms
