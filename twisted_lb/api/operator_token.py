"""Authenticates operators by the token that a request on the admin listener carries, and checks its scopes.

If no tokens are configured, everybody who can connect to the listener may read, and nobody may change anything.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest
from typing import Final

from twisted.web.server import Request

from twisted_lb.api.responses import Refusal
from twisted_lb.config.admin_tokens import READ, AdminToken
from twisted_lb.credentials import bearer_token, digest

CHALLENGE: Final = 'Bearer realm="twisted_lb admin"'
NO_TOKENS: Final = "Changes need an admin token: set ADMIN_TOKEN, and send it as Authorization: Bearer <token>."
UNKNOWN_TOKEN: Final = "This needs the admin token; send it as Authorization: Bearer <token>."


class OperatorTokens:
    """The tokens that are accepted, by digest, with their scopes."""

    def __init__(self, tokens: Sequence[AdminToken]) -> None:
        self._tokens = tokens

    def use(self, tokens: Sequence[AdminToken]) -> None:
        """Accept these tokens only from now on; they must not be empty if there were tokens before."""
        self._tokens = tokens

    @property
    def required(self) -> bool:
        """Whether tokens are configured, so that requests need one."""
        return bool(self._tokens)

    def knows(self, authorization: Sequence[bytes]) -> bool:
        """Whether these values of Authorization are one valid token."""
        return len(authorization) == 1 and self._token(bearer_token(authorization[0])) is not None

    def check_reader(self, request: Request) -> None:
        """Raises Refusal unless the request carries a token with the scope `read`, or no tokens are configured."""
        if self._tokens:
            self._check(request, READ)

    def changer(self, request: Request, scope: str) -> str:
        """The name of the request's token.  Raises Refusal unless it has this scope."""
        if not self._tokens:
            raise Refusal(403, NO_TOKENS)
        return self._check(request, scope)

    def _check(self, request: Request, scope: str) -> str:
        token = self._token(given_token(request))
        if token is None:
            raise Refusal(401, UNKNOWN_TOKEN, {"WWW-Authenticate": CHALLENGE})
        if scope not in token.scopes:
            raise Refusal(
                403,
                f"The token {token.name} lacks the scope {scope}; it has {', '.join(sorted(token.scopes))}.",
                {"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'},
            )
        return token.name

    def _token(self, given: bytes | None) -> AdminToken | None:
        """The token, or None.  All are compared, each in constant time, so that the time taken reveals nothing."""
        found = None
        given_digest = digest(given or b"")
        for token in self._tokens:
            if compare_digest(token.digest, given_digest) and given:
                found = token
        return found


def given_token(request: Request) -> bytes | None:
    """The token that a request carries, valid or not."""
    values = request.requestHeaders.getRawHeaders(b"authorization", [])
    return bearer_token(values[0]) if len(values) == 1 else None
