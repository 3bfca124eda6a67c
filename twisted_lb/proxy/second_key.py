"""Whether credentials that are for a server hold a key of this gateway.

Only who has a key of his own gets this far, and each look costs him a request: there is nothing to be guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import implementer

from twisted_lb.api_key import digest
from twisted_lb.interfaces import IAsker, IBucketStore, Taken


@implementer(IAsker)
class SecondKeys:
    """Looks up what looks like a key, one after the other, until one is somebody's."""

    __slots__ = ("_buckets", "_keys", "_known", "_digest")

    def __init__(self, buckets: IBucketStore, keys: list[bytes], known: Callable[[bool | None], None]) -> None:
        """`known` is told, once, whether one of `keys`, which are not empty, is somebody's; None: cannot be told."""
        self._buckets = buckets
        self._keys = list(keys)
        self._known = known
        self._digest = ""

    def look_up(self) -> None:
        """Ask for the next one."""
        self._digest = digest(self._keys.pop(0))
        # For nothing, which every bucket has, and from no network, which could be told to slow down.
        self._buckets.take(self._digest, self, 0)

    def bucket_answered(self, taken: Taken | None) -> None:
        """See IAsker."""
        if taken is not None:
            if taken.admitted and self._buckets.counts_in_flight:
                self._buckets.release(self._digest, 0)
            self._known(True)
        elif self._keys:
            self.look_up()
        else:
            self._known(False)

    def bucket_unavailable(self, reason: str) -> None:
        """See IAsker."""
        self._known(None)
