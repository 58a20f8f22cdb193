"""Alertmanager's v2 API: alerts by label set with an end, partial acceptance with 400, silences."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fakes.sink import Answer, Request, Sink, answer


class FakeAlertmanager(Sink):
    """Keeps alerts; a label whose value is ``bad`` is refused, as an invalid name would be."""

    def __init__(self, **sink: Any) -> None:
        self.alerts: dict[str, dict[str, Any]] = {}
        self.silences: list[dict[str, Any]] = []
        self.posts = 0
        super().__init__(**sink)

    @property
    def base(self) -> str:
        return self.url + "/am"

    def firing(self, now: int) -> list[dict[str, str]]:
        """Label sets that have not ended."""
        return [a["labels"] for a in self.alerts.values() if _ms(a["endsAt"]) > now]

    def handle(self, request: Request) -> Answer:
        if (request.method, request.path) == ("GET", "/am/api/v2/silences"):
            return answer(200, self.silences)
        if (request.method, request.path) != ("POST", "/am/api/v2/alerts"):
            return Answer(404, b"404 page not found")
        self.posts += 1
        bad = [alert for alert in request.json() if not self._take(alert)]
        return answer(400, f"{len(bad)} alerts are invalid") if bad else Answer(200, b"")

    def _take(self, alert: dict[str, Any]) -> bool:
        labels = {k: v for k, v in alert["labels"].items() if v}
        starts, ends = _ms(alert["startsAt"]), _ms(alert["endsAt"])
        strings = all(isinstance(v, str) for v in (*labels.values(), *alert["annotations"].values()))
        if not labels or "bad" in labels.values() or ends < starts or not strings:
            return False
        self.alerts[str(sorted(labels.items()))] = {**alert, "labels": labels}
        return True


def _ms(text: str) -> int:
    at = datetime.fromisoformat(text)
    assert at.tzinfo is not None, "times need a zone"
    return int(at.astimezone(UTC).timestamp() * 1000)
