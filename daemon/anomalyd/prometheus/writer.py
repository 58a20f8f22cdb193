"""``RemoteWriter``: one request to one target of remote write, and what its answer means.

Nothing is tried again here: what may be sent again (no answer, 5xx, 429) and what may not (any other answer) is the
protocol's own line, and the caller has the samples.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from anomalyd.clock import Clock, SystemClock
from anomalyd.errors import SourceError
from anomalyd.prometheus.deadline import Deadline
from anomalyd.prometheus.refusal import RETRY_AFTER_MAX_S, Answer, clean
from anomalyd.prometheus.remotewrite import snappy
from anomalyd.prometheus.session import SourceSession
from anomalyd.prometheus.target import WriteTarget

HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
_COUNTED = "x-prometheus-remote-write-samples-written"
_UNREADABLE = b"anomalyd check --probe: this is not snappy and must be refused"
_SAID = 1000


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a request.

    Attributes:
        kind: ok; retry: the same may be sent again; refused: it must not be.
        reason: closed set, a metric label: connect, timeout, auth, server, rate_limited, protocol, not_found, client.
        message: for people, without credentials.
        pause_s: how long the target asks to be left alone, if it does.
        sent: bytes of the body as sent.
    """

    kind: Literal["ok", "retry", "refused"]
    reason: str = ""
    message: str = ""
    pause_s: float | None = None
    sent: int = 0


class RemoteWriter:
    """Posts to one target; safe to use from several threads."""

    def __init__(self, target: WriteTarget, clock: Clock | None = None, chance: random.Random | None = None):
        self.target = target
        self._clock = clock or SystemClock()
        self._http = SourceSession(target.http, self._clock, chance or random.Random(), what="remote_write")

    def write(self, body: bytes, attempt: int = 0) -> Written:
        """Send a request's message; ``attempt`` counts those before it that may be sent again."""
        packed = snappy(body)
        answer = self._post(packed, attempt)
        return answer if isinstance(answer, Written) else self._judged(answer, len(packed))

    def probe(self) -> Written:
        """Whether the target takes our requests: one without samples, and then one that cannot be read.

        A page, or a gateway that answers for a receiver, says 200 to both; a receiver refuses the second, or has named
        in the headers of Remote-Write 2.0 what it wrote of the first.
        """
        answer = self._post(snappy(b""))
        if isinstance(answer, Written):
            return answer
        told = self._judged(answer, 0)
        if told.kind != "ok" or _COUNTED in answer.headers:
            return told
        if "html" in answer.headers.get("content-type", ""):
            return Written("refused", "protocol", f"{self._http.where} answers with a web page")
        second = self._post(_UNREADABLE)
        if isinstance(second, Written) or not 200 <= second.status < 300:
            return second if isinstance(second, Written) else told
        said = f"{self._http.where} answers {second.status} also to what no receiver of remote write can read"
        return Written("refused", "protocol", said)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _post(self, packed: bytes, attempt: int = 0) -> Answer | Written:
        headers = {**HEADERS, **({"Retry-Attempt": str(attempt)} if attempt else {})}
        deadline = Deadline(self._clock, self.target.http.timeout_s)
        try:
            return self._http.post_bytes(self.target.url, packed, headers, deadline)
        except SourceError as error:
            return Written("retry", error.reason, str(error), error.retry_after_s, len(packed))

    def _judged(self, answer: Answer, sent: int) -> Written:
        if 200 <= answer.status < 300:
            return Written("ok", sent=sent)
        said = clean(answer.text(_SAID), answer.secrets) or "without a text"
        message = f"{self._http.where} answers {answer.status}: {said}"
        if answer.status == 429 or answer.status >= 500:
            reason = "rate_limited" if answer.status == 429 else "server"
            return Written("retry", reason, message, self._asked_s(answer.headers), sent)
        return Written("refused", _REFUSED.get(answer.status, "client"), message, sent=sent)

    def _asked_s(self, headers: Mapping[str, str]) -> float | None:
        """Seconds of a ``Retry-After``, given as seconds or as a date; what cannot be read counts as absent."""
        text = headers.get("retry-after", "").strip()
        if text.isascii() and text.isdecimal():
            seconds = float(text)
        else:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - self._clock.now_ms() / 1000
            except (TypeError, ValueError):
                return None
        return min(max(seconds, 1.0), RETRY_AFTER_MAX_S)


_REFUSED = {401: "auth", 403: "auth", 404: "not_found", 405: "not_found", 413: "too_large"}
