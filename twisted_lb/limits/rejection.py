"""The response to a refused request: which limit refused it, and when to try again.

The status is 429 (RFC 6585 section 4) for every limit.  The problem document has the member "violated-policies" of
draft-ietf-httpapi-ratelimit-headers-10, with the name of the limit as in the RateLimit fields.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, KEY, MICROTOKENS, OWN, QUOTA, Taken
from twisted_lb.limits.response_headers import retry_after
from twisted_lb.quotas import REQUESTS, QuotaLevel
from twisted_lb.users import KEY_DISABLED, KEY_EXPIRED, USER_DISABLED

STATUS: Final = 429
MEMBER: Final = "violated-policies"
# The status for a key that must not be used; the member REASON says why.
REFUSED_STATUS: Final = 403
REASON: Final = "reason"
MISTYPED: Final = "This is not an API key: there is a typing error in it."
_REFUSED: Final = {
    USER_DISABLED: "The user of this API key is disabled.",
    KEY_DISABLED: "This API key is disabled.",
    KEY_EXPIRED: "This API key has expired.",
}


class Refusal(NamedTuple):
    """The parts of the response that depend on the limit."""

    detail: str
    retry_after: int | None  # seconds
    members: dict[str, object]  # extension members of the problem

    @property
    def fields(self) -> bytes:
        """The Retry-After header line preceded by CRLF, or b""."""
        return b"" if self.retry_after is None else b"\r\nRetry-After: %d" % self.retry_after


def key_refusal(reason: str) -> tuple[str, dict[str, object]]:
    """The detail and the members of the response to a request with a key that must not be used."""
    return _REFUSED[reason], {REASON: reason}


def refusal(taken: Taken, cost: int = 1, ahead: int = 0) -> Refusal:
    """The response to a request that was refused by `taken`.

    The request costs `cost` tokens; waiting requests of the same key need `ahead` tokens before it.
    """
    seconds = retry_after(taken, cost, ahead)
    if taken.limit == QUOTA and taken.quota is not None:
        return Refusal(_of_quota(taken.quota, cost, seconds), seconds, {MEMBER: [QUOTA]})
    detail = f"{_what(taken, cost, ahead)} {_when(taken, cost, ahead, seconds)}"
    return Refusal(detail, seconds, {MEMBER: [taken.limit]})


def _of_quota(quota: QuotaLevel, cost: int, seconds: int | None) -> str:
    what = f"The quota of {quota.amount} {quota.unit if quota.amount > 1 else quota.unit[:-1]} a {quota.per}"
    if quota.unit == REQUESTS or cost <= 1:
        used = f"{what} is used up."
    else:
        used = f"{what} has {max(quota.left, 0)} left, and this request costs {cost}."
    if seconds is None:
        return f"{used} It never has that many."
    return f"{used} The next {quota.per} begins in {seconds} s."


def _what(taken: Taken, cost: int, ahead: int) -> str:
    if taken.limit == IN_FLIGHT:
        return f"This key has {taken.capacity} request{'s' if taken.capacity > 1 else ''} in flight, the maximum."
    if taken.limit == ADDRESS and cost > 1:
        return f"The bucket of {_tokens(taken)} for requests without an API key from your network {_has(taken, cost)}"
    if taken.limit == ADDRESS:
        return "Too many requests without a valid API key have come from your network."
    bucket = f"The bucket of {_tokens(taken)}"
    if taken.limit == GLOBAL:
        bucket += " that all users share"
    elif taken.limit == OWN:
        bucket += " of this key"
    elif taken.limit != KEY:
        bucket += f" of the limit {taken.limit}"
    if ahead:
        return f"{bucket} is empty, and other requests of this key wait for its tokens."
    if cost > 1:
        return f"{bucket} {_has(taken, cost)}"
    return f"{bucket} is empty."


def _tokens(taken: Taken) -> str:
    return f"{taken.capacity} token{'s' if taken.capacity > 1 else ''}"


def _has(taken: Taken, cost: int) -> str:
    # A debt is shown as 0 tokens.
    return f"has {max(taken.level, 0) // MICROTOKENS}, and this request costs {cost}."


def _when(taken: Taken, cost: int, ahead: int, seconds: int | None) -> str:
    if taken.limit == IN_FLIGHT:
        return "Try again when one of them has ended."
    if cost > taken.capacity:
        return "It never holds that many."
    if seconds is None:
        return "It is not refilled."
    if taken.limit == ADDRESS and cost <= 1:
        return f"Try again in {seconds} s."
    if ahead:
        return f"Those for this request are available in {seconds} s."
    return f"The next token is available in {seconds} s." if cost <= 1 else f"They are available in {seconds} s."
