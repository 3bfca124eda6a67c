"""A call of the script that takes tokens, whose reply was lost: it may or may not have been executed.

The calls of a process are numbered, and the script stores the number of the last one with its results
(take_tokens.lua). The next connection first queries this number, and in the same step prevents a later execution of the
lost call (resolve.lua).  Then the outcome is known, and the buckets are corrected:

1. The call was not executed: its charges are still due.  Its requests were decided without Redis, and took no tokens.
2. It was executed: its charges are done.  The tokens that its requests took are refunded, since these requests were
   decided without Redis as well, and are charged for that.  So are those that were taken from shadows.  What was used
   of a user's quota, or taken from a user's shadow policy, is refunded if this process knows that the user has one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from twisted_lb.interfaces import MICROTOKENS, SharedBucket, enforced, shadows
from twisted_lb.quotas import QuotaCharge
from twisted_lb.stores.redis.batch_encoding import Batch


class LostCall(NamedTuple):
    """What it asked for.  Amounts are microtokens."""

    number: int
    takings: list[tuple[str, int]]  # digest and cost
    charges: list[tuple[str, int]]  # digest and amount, below zero to refund
    global_bucket: int  # what it charged to the global bucket, besides the takings
    # Shared buckets, shadows last, and costs of takings, those without a key last.
    limits: list[tuple[tuple[SharedBucket, ...], int]]
    shared_charges: list[tuple[SharedBucket, int]]
    quota_charges: list[tuple[str, QuotaCharge]] = []  # digest and charge


class Due(NamedTuple):
    """What has to be charged once the outcome is known, in microtokens; below zero to refund."""

    keys: list[tuple[str, int]]
    global_bucket: int
    shared: list[tuple[SharedBucket, int]]
    quotas: list[tuple[str, QuotaCharge]] = []
    taken: list[tuple[str, int]] = []  # digest and tokens of takings that used something of a quota, if there is one
    of_shadows: list[tuple[str, int]] = []  # digest, and what is due to the shadow policy of its user


_REFUSED, _OF_SHADOW = b"02"  # the digits of take_tokens.lua

NOTHING_DUE: Final = Due([], 0, [])


def lost_call(number: int, batch: Batch) -> LostCall:
    """What the call of this number asked for."""
    costs = {extra.position: extra.cost for extra in batch.extras}
    takings = [
        (digest, costs.get(position, 1) * MICROTOKENS) for position, digest in enumerate(batch.digests, 1)
    ]
    charges = [(digest, tokens * MICROTOKENS) for digest, tokens in zip(batch.charged, batch.tokens)]
    limits = [(batch.limits.get(position, ()), cost) for position, (_, cost) in enumerate(takings, 1)]
    limits += [(limits, cost * MICROTOKENS) for limits, cost, *_ in batch.without_key]
    shared_charges = [(shared, tokens * MICROTOKENS) for shared, tokens in batch.shared_charges]
    quotas = [(batch.charged[place], charge) for place, charge in batch.quota_charges.items()]
    return LostCall(number, takings, charges, sum(batch.tokens) * MICROTOKENS, limits, shared_charges, quotas)


def still_due(lost: LostCall, last: bytes | None) -> Due:
    """What has to be charged once `last` is known.

    `last` is what resolve.lua has found: the number up to which no call is executed any more, the number of the last
    call that was executed, and digits for its takings and their shadows (see take_tokens.lua); None if it has found
    nothing.
    """
    _, number, outcomes, *digits = last.split(b" ") if last is not None and last.count(b" ") > 1 else (b"", b"0", b"")
    if number != b"%d" % lost.number:
        return Due(lost.charges, lost.global_bucket, lost.shared_charges, lost.quota_charges)
    admitted = [outcome != _REFUSED for outcome in outcomes]
    keys = [(digest, -cost) for (digest, cost), was in zip(lost.takings, admitted) if was and cost]
    taken = [(digest, cost // MICROTOKENS) for (digest, cost), was in zip(lost.takings, admitted) if was]
    of_shadows = [
        (digest, -cost) for (digest, cost), outcome in zip(lost.takings, outcomes) if outcome == _OF_SHADOW and cost
    ]
    shared = []
    of_shared_shadows = iter(digits[0] if digits else b"")
    for (limits, cost), was in zip(lost.limits, admitted):
        given = [one for one in shadows(limits) if next(of_shared_shadows, _REFUSED) != _REFUSED]
        shared += [(one, -cost) for one in (*enforced(limits), *given) if was and cost]
    return Due(keys, sum(amount for _, amount in keys), shared, [], taken, of_shadows)
