"""The connections to a listening socket, for servers that have a thread of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator


def accepted(listening: socket.socket) -> Iterator[socket.socket]:
    """Each connection as it is accepted, until the listening socket is shut down or closed."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        yield connection
