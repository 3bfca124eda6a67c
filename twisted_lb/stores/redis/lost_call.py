"""A call of the script that takes tokens, whose reply was lost: it may or may not have been executed.

The calls of a process are numbered, and the script stores the number of the last one with its results
(take_tokens.lua). The next connection first queries this number, and in the same step prevents a later execution of the
lost call (resolve.lua).  Then the outcome is known, and the buckets are corrected:

1. The call was not executed: its charges are still due.  Its requests were decided without Redis, and took no tokens.
2. It was executed: its charges are done.  The tokens that its requests took are refunded, since these requests were
   decided without Redis as well, and are charged for that.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted_lb.interfaces import MICROTOKENS
from twisted_lb.stores.redis.batch_encoding import Batch


class LostCall(NamedTuple):
    """What it asked for.  Amounts are microtokens."""

    number: int
    takings: list[tuple[str, int]]  # digest and cost
    charges: list[tuple[str, int]]  # digest and amount, below zero to give back
    global_bucket: int  # what it charged to the global bucket beside the takings


def lost_call(number: int, batch: Batch) -> LostCall:
    """What the call of this number asked for."""
    costs = {extra.position: extra.cost for extra in batch.extras}
    takings = [
        (digest, costs.get(position, 1) * MICROTOKENS) for position, digest in enumerate(batch.digests, 1)
    ]
    charges = [(digest, tokens * MICROTOKENS) for digest, tokens in zip(batch.charged, batch.tokens)]
    return LostCall(number, takings, charges, sum(batch.tokens) * MICROTOKENS)


def still_due(lost: LostCall, last: bytes | None) -> tuple[list[tuple[str, int]], int]:
    """What has to be charged to keys, and to the global bucket, once `last` is known; below zero to give back.

    `last` is what resolve.lua has found: the number up to which nothing is carried out any more, that of the last call
    that was, and a digit for each of its takings; None where it has found nothing.
    """
    _, number, *outcomes = last.split(b" ") if last is not None and last.count(b" ") == 2 else (b"", b"0")
    if number != b"%d" % lost.number:
        return lost.charges, lost.global_bucket
    admitted = outcomes[0] if outcomes else b""
    back = [(digest, -cost) for (digest, cost), outcome in zip(lost.takings, admitted) if outcome == ord("1") and cost]
    return back, sum(amount for _, amount in back)
