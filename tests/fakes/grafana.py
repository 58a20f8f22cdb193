"""Grafana's annotations: create, patch, find by tags, delete, and the refusals."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from fakes.sink import Answer, Request, Sink, answer

TOKEN = "glsa_canary_secret_token"


class FakeGrafana(Sink):
    """Keeps annotations by id, under a path prefix as many installations have it."""

    def __init__(self, **sink: Any) -> None:
        self.annotations: dict[int, dict[str, Any]] = {}
        self.dashboards = {"known-uid"}
        self.may_write = True
        self._next = 1124
        super().__init__(**sink)

    @property
    def base(self) -> str:
        return self.url + "/grafana"

    def handle(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return answer(401, {"message": "Invalid API key"})
        path = request.path.removeprefix("/grafana/api/annotations")
        if path == request.path:
            return answer(404, {"message": "Not found"})
        if request.method == "GET":
            return self._find(request)
        if not self.may_write:
            return answer(403, {"message": "You'll need additional permissions: annotations:write"})
        if request.method == "POST" and not path:
            return self._create(request.json())
        number = path.removeprefix("/")
        if not number.isdigit() or int(number) not in self.annotations:
            return answer(404, {"message": "Annotation not found"})
        if request.method == "PATCH":
            return self._patch(int(number), request.json())
        if request.method == "DELETE":
            del self.annotations[int(number)]
            return answer(200, {"message": "Annotation deleted"})
        return Answer(405, b"")

    def _find(self, request: Request) -> Answer:
        asked = parse_qs(request.query)
        start, end = int(asked["from"][0]), int(asked["to"][0])
        wanted = set(asked.get("tags", []))
        found = [
            {"id": number, **a}
            for number, a in sorted(self.annotations.items(), reverse=True)
            if wanted <= set(a["tags"]) and a["time"] <= end and a["timeEnd"] >= start
        ]
        return answer(200, found[: int(asked.get("limit", ["100"])[0])])

    def _create(self, body: dict[str, Any]) -> Answer:
        if error := self._refusal(body):
            return error
        if not body.get("text"):
            return answer(400, {"message": "Failed to save annotation: text field should not be empty"})
        start = body.get("time", 0)
        end = body.get("timeEnd", start)
        self._next += 1
        self.annotations[self._next] = {**body, "time": min(start, end), "timeEnd": max(start, end)}
        return answer(200, {"message": "Annotation added", "id": self._next})

    def _patch(self, number: int, body: dict[str, Any]) -> Answer:
        if error := self._refusal(body):
            return error
        self.annotations[number] |= {k: v for k, v in body.items() if v not in ("", 0)}
        return answer(200, {"message": "Annotation patched"})

    def _refusal(self, body: dict[str, Any]) -> Answer | None:
        tags = body.get("tags", [])
        if sum(len(tag) + 3 for tag in tags) > 500 or any(len(tag) > 100 for tag in tags):
            return answer(400, {"message": "tags length exceeds the maximum allowed"})
        if body.get("dashboardUID", "known-uid") not in self.dashboards:
            return answer(400, {"message": "Dashboard not found"})
        for name in ("time", "timeEnd"):
            if name in body and not isinstance(body[name], int):
                return answer(400, {"message": "bad request data"})
        return None
