"""The rate-limit fields of a response, derived from the decision of the limits.

Two families of fields, each of which can be disabled:

    X-RateLimit-Limit, -Remaining, -Reset    as used by many APIs; Reset is the seconds until the bucket is full
    RateLimit-Policy, RateLimit              draft-ietf-httpapi-ratelimit-headers-10

The fields name the limits that they describe: in a refusal the one that refused, otherwise "default", the key's own
bucket, and those of the route and its pool; then, whatever the decision, the quota of the user.  RateLimit-Policy and
RateLimit have an item for each, in this order; X-RateLimit can describe only one, which is the one that refused, or
else the one with the fewest whole tokens left.

Text that depends only on the policy is formatted once per policy and cached; a response then takes two divisions and
one `%` of bytes.
"""

from __future__ import annotations

from typing import Callable, Final, Iterable, NamedTuple

from twisted_lb.interfaces import IN_FLIGHT, MICROTOKENS, QUOTA, Taken
from twisted_lb.limits.bucket import seconds_to_refill
from twisted_lb.quotas import REQUESTS, QuotaLevel

X_RATELIMIT: Final = "x-ratelimit"
RATELIMIT: Final = "ratelimit"
FAMILIES: Final = (X_RATELIMIT, RATELIMIT)

# The number of policies whose text is cached; most systems have few.
_MEMO_SIZE: Final = 1024


class _PolicyText(NamedTuple):
    """The constant text of the fields of one policy."""

    full: int  # microtokens
    at_full: bytes  # the complete lines for a full bucket
    # Templates otherwise; their arguments are: whole tokens, seconds until full; whole tokens, seconds to the next.
    x_below: bytes
    ietf_below: bytes


def rate_limit_fields(families: Iterable[str]) -> Callable[[Taken], bytes]:
    """A function that formats a decision as header lines, each preceded by CRLF (b"" for no family).

    `families` are names of FAMILIES; any other name raises ValueError.  Seconds are rounded up to integers.  If the
    rate is 0, there is no `w` and no `t`, and X-RateLimit-Reset only for a full bucket.  A negative level counts as 0
    tokens.
    """
    chosen = frozenset(families)
    for family in sorted(chosen):
        if family not in FAMILIES:
            raise ValueError(f"rate-limit headers: expected {' or '.join(FAMILIES)}, not {family!r}")
    if not chosen:
        return lambda taken: b""
    x_alone = _fields(frozenset({X_RATELIMIT}), _unused)
    ietf_alone = _fields(frozenset({RATELIMIT}), _unused)

    def several(taken: Taken) -> bytes:
        quota = taken.quota
        levels = [taken._replace(more=(), quota=None), *[Taken(True, taken.name, *level) for level in taken.more]]
        if taken.limit == QUOTA:
            # The quota has refused, so only it is described.
            levels = []
        fields = b""
        if X_RATELIMIT in chosen:
            least = min(levels, key=_whole_tokens) if levels else taken
            if quota is not None and (not levels or (taken.admitted and max(quota.left, 0) < _whole_tokens(least))):
                fields += _x_of_quota(quota)
            else:
                fields += x_alone(least)
        if RATELIMIT in chosen:
            lines = [ietf_alone(level) for level in levels]
            fields += _joined(lines if quota is None else [*lines, _ietf_of_quota(quota)])
        return fields

    return _fields(chosen, several)


def _unused(taken: Taken) -> bytes:
    raise AssertionError("one limit is described at a time")


def _whole_tokens(taken: Taken) -> int:
    return max(taken.level, 0) // MICROTOKENS


def _x_of_quota(quota: QuotaLevel) -> bytes:
    return b"\r\nX-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d" % (
        quota.amount,
        max(quota.left, 0),
        quota.seconds_left,
    )


def _ietf_of_quota(quota: QuotaLevel) -> bytes:
    # The draft has no quota unit for tokens.
    unit = b';qu="requests"' if quota.unit == REQUESTS else b""
    name = QUOTA.encode()
    return b'\r\nRateLimit-Policy: "%b";q=%d%b;w=%d\r\nRateLimit: "%b";r=%d;t=%d' % (
        name,
        quota.amount,
        unit,
        quota.window,
        name,
        max(quota.left, 0),
        quota.seconds_left,
    )


def _joined(lines: list[bytes]) -> bytes:
    """The RateLimit-Policy and RateLimit of several limits as two lists (RFC 9651 section 3.1)."""
    pairs = [line.split(b"\r\n")[1:] for line in lines]
    policies = [policy.partition(b": ")[2] for policy, _ in pairs]
    states = [state.partition(b": ")[2] for _, state in pairs]
    return b"\r\nRateLimit-Policy: " + b", ".join(policies) + b"\r\nRateLimit: " + b", ".join(states)


def _fields(chosen: frozenset[str], several: Callable[[Taken], bytes]) -> Callable[[Taken], bytes]:
    """See `rate_limit_fields`; `several` is for decisions that describe more than one limit."""
    both, x_only = len(chosen) == 2, chosen == {X_RATELIMIT}
    memo: dict[tuple[int, float, str], tuple[int, bytes, bytes, bytes, bytes]] = {}

    def remember(capacity: int, rate_per_sec: float, limit: str) -> tuple[int, bytes, bytes, bytes, bytes]:
        if len(memo) >= _MEMO_SIZE:
            memo.clear()
        full, at_full, x_below, ietf_below = _policy_text(capacity, rate_per_sec, limit, chosen)
        memo[capacity, rate_per_sec, limit] = texts = (full, at_full, x_below + ietf_below, x_below, ietf_below)
        return texts

    def fields(taken: Taken) -> bytes:
        _, _, capacity, rate_per_sec, level, limit, more, _, quota, _ = taken
        if more or quota is not None:
            return several(taken)
        full, at_full, both_below, x_below, ietf_below = memo.get((capacity, rate_per_sec, limit)) or remember(
            capacity, rate_per_sec, limit
        )
        if level >= full:
            return at_full
        whole = level // MICROTOKENS if level > 0 else 0
        if not rate_per_sec:
            return both_below % ((whole, whole) if both else (whole,))
        if both:
            return both_below % (
                whole,
                seconds_to_refill(full - level, rate_per_sec),
                whole,
                seconds_to_refill((whole + 1) * MICROTOKENS - level, rate_per_sec),
            )
        if x_only:
            return x_below % (whole, seconds_to_refill(full - level, rate_per_sec))
        return ietf_below % (whole, seconds_to_refill((whole + 1) * MICROTOKENS - level, rate_per_sec))

    return fields


def retry_after(taken: Taken, cost: int = 1, ahead: int = 0) -> int | None:
    """The seconds of Retry-After (RFC 9110 section 10.2.3) for a refusal: rounded up, at least 1, and at least `t`.

    The request costs `cost` tokens, and others before it need `ahead` tokens.  None, for no such field, if the tokens
    will never be available: the rate is 0, or the cost is above the capacity.
    """
    if taken.limit == IN_FLIGHT:
        # It is unknown when one of the others ends.
        return 1
    quota = taken.quota
    if taken.limit == QUOTA and quota is not None:
        return None if quota.unit != REQUESTS and cost > quota.amount else quota.seconds_left
    if cost > taken.capacity:
        return None
    # A request of cost 0 has to wait while there is a debt; and `t` is the time to a whole token.
    seconds = seconds_to_refill((max(cost, 1) + ahead) * MICROTOKENS - taken.level, taken.rate_per_sec)
    return None if seconds is None else max(1, seconds)


def _policy_text(capacity: int, rate_per_sec: float, limit: str, families: frozenset[str]) -> _PolicyText:
    """The templates of one policy; empty for a family that is not sent."""
    window = seconds_to_refill(capacity * MICROTOKENS, rate_per_sec)
    name = limit.encode()
    x_below = ietf_below = at_full = b""
    if X_RATELIMIT in families:
        x_limit = b"\r\nX-RateLimit-Limit: %d" % capacity
        x_below = x_limit + b"\r\nX-RateLimit-Remaining: %d"
        at_full += x_limit + b"\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: 0" % capacity
        if window is not None:
            x_below += b"\r\nX-RateLimit-Reset: %d"
    if RATELIMIT in families:
        policy = b'\r\nRateLimit-Policy: "%b";q=%d' % (name, capacity)
        if limit == IN_FLIGHT:
            # The quota unit, since this limit does not count requests over time.
            policy += b';qu="concurrent-requests"'
        if window is not None:
            policy += b";w=%d" % window
        ietf_below = policy + b'\r\nRateLimit: "%b";r=%%d' % name
        at_full += policy + b'\r\nRateLimit: "%b";r=%d' % (name, capacity)
        if window is not None:
            ietf_below += b";t=%d"
            at_full += b";t=0"
    return _PolicyText(capacity * MICROTOKENS, at_full, x_below, ietf_below)
