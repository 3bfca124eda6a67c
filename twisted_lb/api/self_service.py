"""What users may do without an operator: create users, and change their policy within bounds.

Users may always list, label and revoke their own keys, and rotate keys that do not expire.  What a key with bounds can
do is in `user_keys`.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from hmac import compare_digest
from typing import NamedTuple

from twisted.web.server import Request

from twisted_lb.api.responses import Refusal
from twisted_lb.config.settings import Settings
from twisted_lb.credentials import bearer_token
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC

OPEN, TOKEN, OFF = "open", "token", "off"


class SelfService(NamedTuple):
    """What users may do.  The checks raise Refusal."""

    create: str = OPEN  # or TOKEN or OFF
    change: bool = True
    max_capacity: int = MAX_CAPACITY
    max_rate_per_sec: float = MAX_RATE_PER_SEC
    admin_token: str = ""

    def check_create(self, request: Request, capacity: int | None, rate_per_sec: float | None) -> None:
        """Check that this request may create a user with this policy."""
        if self.create == OFF:
            raise Refusal(403, "Users are created by an operator here.")
        if self.create == OPEN:
            self._check_bounds(capacity, rate_per_sec)
            return
        values = request.requestHeaders.getRawHeaders(b"authorization", [])
        given = bearer_token(values[0]) if len(values) == 1 else None
        if not self.admin_token or given is None or not compare_digest(given, self.admin_token.encode()):
            raise Refusal(
                401,
                "Users are created by an operator here: this needs the admin token, as Authorization: Bearer <token>.",
                {"WWW-Authenticate": 'Bearer realm="twisted_lb admin"'},
            )

    def check_change(self, capacity: int | None = None, rate_per_sec: float | None = None) -> None:
        """Check that users may give these values to their own policy; without values, that they may add a key."""
        if not self.change:
            raise Refusal(403, "This is changed by an operator here.")
        self._check_bounds(capacity, rate_per_sec)

    def _check_bounds(self, capacity: int | None, rate_per_sec: float | None) -> None:
        if capacity is not None and capacity > self.max_capacity:
            raise Refusal(403, f"capacity is {capacity}; without an operator it can be at most {self.max_capacity}.")
        if rate_per_sec is not None and rate_per_sec > self.max_rate_per_sec:
            raise Refusal(
                403,
                f"rate_per_sec is {rate_per_sec:g}; without an operator it can be at most {self.max_rate_per_sec:g}.",
            )


def self_service_of(settings: Settings) -> SelfService:
    """What the settings allow."""
    return SelfService(
        settings.self_service_create,
        settings.self_service_change,
        settings.max_capacity,
        settings.max_rate_per_sec,
        settings.admin_token,
    )
