"""Who an operator is: the token that a request on the admin listener carries.

Without ADMIN_TOKEN everybody who reaches the listener may read, and nobody may change anything.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from hmac import compare_digest

from twisted.web.server import Request

from twisted_lb.api.responses import Refusal
from twisted_lb.credentials import bearer_token

# The name of the one token there is, for the audit log.
ADMIN = "admin"


class OperatorToken:
    """Judges requests by their token."""

    def __init__(self, token: str) -> None:
        """An empty `token` is none."""
        self._token = token.encode()

    def check_reader(self, request: Request) -> None:
        """Raises Refusal unless the request carries the token, or there is none."""
        if self._token:
            self._check(request)

    def changer(self, request: Request) -> str:
        """The name of the token with which something is changed.  Raises Refusal."""
        if not self._token:
            detail = "Changes need an admin token: set ADMIN_TOKEN, and send it as Authorization: Bearer <token>."
            raise Refusal(403, detail)
        self._check(request)
        return ADMIN

    def _check(self, request: Request) -> None:
        values = request.requestHeaders.getRawHeaders(b"authorization", [])
        given = bearer_token(values[0]) if len(values) == 1 else None
        if given is None or not compare_digest(given, self._token):
            raise Refusal(
                401,
                "This needs the admin token; send it as Authorization: Bearer <token>.",
                {"WWW-Authenticate": 'Bearer realm="twisted_lb admin"'},
            )
