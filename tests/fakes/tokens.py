"""A strict OAuth 2.0 token server for client credentials (RFC 6749): refuses what a real one refuses."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qsl, quote

from fakes.sink import Answer, Request, Sink, answer


class FakeTokens(Sink):
    """Makes token-1, token-2 and so on.

    Attributes:
        client_id, client_secret, scope, audience: what a client must send; an empty one must not be sent.
        in_body: looks for the client in the form, and refuses one in the header; the other way round when false.
        expires_in: told with each token; not told when None.
        made: the tokens so far.
    """

    def __init__(self, client_id: str = "anomalyd", client_secret: str = "s3cr€t/+ :", **sink: Any) -> None:
        self.client_id, self.client_secret = client_id, client_secret
        self.scope = self.audience = ""
        self.in_body = False
        self.expires_in: object = 3600
        self.token_type = "bearer"
        self.made: list[str] = []
        super().__init__(**sink)

    @property
    def token_url(self) -> str:
        return f"{self.url}/oauth/token"

    def handle(self, request: Request) -> Answer:
        kind = request.headers.get("content-type", "")
        if (request.method, request.path, kind) != ("POST", "/oauth/token", "application/x-www-form-urlencoded"):
            return Answer(404, b"404 page not found")
        pairs = parse_qsl(request.body.decode("ascii"), strict_parsing=True)
        form = dict(pairs)
        if len(form) != len(pairs) or form.pop("grant_type", "") != "client_credentials":
            return answer(400, {"error": "invalid_request"})
        if not self._known(request.headers.get("authorization", ""), form):
            described = f"no client with {self.client_secret}"
            return answer(401, {"error": "invalid_client", "error_description": described})
        wanted = {key: value for key, value in (("scope", self.scope), ("audience", self.audience)) if value}
        if form != wanted:
            return answer(400, {"error": "invalid_scope", "error_description": f"not {sorted(form)}"})
        self.made.append(f"token-{len(self.made) + 1}")
        life = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return answer(200, {"access_token": self.made[-1], "token_type": self.token_type, **life})

    def _known(self, header: str, form: dict[str, str]) -> bool:
        given = (form.pop("client_id", ""), form.pop("client_secret", ""))
        if self.in_body:
            return not header and given == (self.client_id, self.client_secret)
        pair = f"{quote(self.client_id, safe='')}:{quote(self.client_secret, safe='')}"
        return header == "Basic " + base64.b64encode(pair.encode()).decode() and given == ("", "")
