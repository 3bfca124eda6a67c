"""Records to make lines of."""

from __future__ import annotations

from typing import Any

from twisted_lb.interfaces import MICROTOKENS, Taken
from twisted_lb.network.peer import PeerInfo
from twisted_lb.request_record import RequestRecord

# The wall clock of the tests when their reactor's clock says 0: 2026-11-27T14:16:51.042Z.
WALL_CLOCK = 1795789011.042
ADMITTED = Taken(True, b"user1", 5, 1.0, 4 * MICROTOKENS)


def record(**attributes: Any) -> RequestRecord:
    """A request that was served by a server, with other attributes."""
    made = RequestRecord(PeerInfo("192.0.2.7"), 0.0)
    values = {
        "ended_at": 0.0255,
        "method": b"GET",
        "target": b"/a?b=c",
        "host": b"api.example",
        "bytes_in": 100,
        "status": 200,
        "bytes_out": 250,
        "content_out": 50,
        "user": b"user1",
        "key_id": "0a1b2c3d",
        "taken": ADMITTED,
        "cost": 1,
        "level": 4 * MICROTOKENS,
        "pool": "default",
        "server": "s1",
        "attempts": 1,
        "connect_seconds": 0.001,
        "sent_at": 0.002,
        "first_byte_at": 0.0123456,
    }
    for name, value in {**values, **attributes}.items():
        setattr(made, name, value)
    return made
