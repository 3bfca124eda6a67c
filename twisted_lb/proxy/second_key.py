"""Checks whether credentials for a server contain a key of this gateway.

Only requests with a valid key are checked, with a bounded number of lookups each.  Keys are random, so this does not
help to guess one.
"""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import implementer

from twisted_lb.credentials import digest
from twisted_lb.interfaces import IBucketStore, ITokenReceiver, Taken


@implementer(ITokenReceiver)
class SecondKeys:
    """Looks up texts that have the form of a key, one after another, until one belongs to a user."""

    __slots__ = ("_buckets", "_keys", "_known", "_digest")

    def __init__(self, buckets: IBucketStore, keys: list[bytes], known: Callable[[bool | None], None]) -> None:
        """`known` is called once: whether one of `keys` (not empty) is a user's; None: the store is unavailable."""
        self._buckets = buckets
        self._keys = list(keys)
        self._known = known
        self._digest = ""

    def look_up(self) -> None:
        """Look up the next one."""
        self._digest = digest(self._keys.pop(0))
        # 0 tokens are always admitted, and without a network no address limit applies.
        self._buckets.take(self._digest, self, 0)

    def bucket_answered(self, taken: Taken | None) -> None:
        """See ITokenReceiver."""
        if taken is not None:
            if taken.admitted and self._buckets.counts_in_flight:
                self._buckets.release(self._digest, 0)
            self._known(True)
        elif self._keys:
            self.look_up()
        else:
            self._known(False)

    def bucket_unavailable(self, reason: str) -> None:
        """See ITokenReceiver."""
        self._known(None)
