"""Pauses the garbage collector while thousands of objects are created in steps.

The collector traverses all objects in one iteration of the event loop whenever enough new ones exist, which takes tens
of milliseconds with thousands of servers.  None of the objects created in these steps is garbage.
"""

from __future__ import annotations

import gc

_holds: list[object] = []


class Hold:
    """Pauses the collector until `release`.  Several holds may overlap."""

    def __init__(self) -> None:
        if not _holds:
            # `freeze` would keep existing garbage for ever.
            gc.collect()
            gc.disable()
        _holds.append(self)

    def release(self, long_lived: bool = False) -> None:
        """`long_lived`: most of the current objects stay, and are excluded from collection, as after start-up."""
        if self not in _holds:
            return
        if long_lived:
            gc.freeze()
        _holds.remove(self)
        if not _holds:
            gc.enable()
