"""Replaces the keys of session tickets regularly: with a key, recorded connections from its time can be decrypted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from twisted_lb.network.ticket_keys import TicketKeys, available, new_secret
from twisted_lb.repeated import Repeated

# For this time a secret makes new tickets; for the same time after that, its tickets are still accepted.
ROTATION_SECONDS = 12 * 3600.0

_log = Logger()


class TicketRotation(Service):
    """Gives the listeners of the program a new secret, in addition to the last one."""

    def __init__(self, reactor: Any, keys: TicketKeys, tell: Callable[[Sequence[bytes]], object] | None = None) -> None:
        """`keys` has the first secret; `tell` passes secrets to other processes, if there are any."""
        self._keys = keys
        self._tell = tell
        self._rotations = Repeated(reactor, self.rotate, "the rotation of the keys of TLS tickets")

    def startService(self) -> None:
        """Start rotating."""
        super().startService()
        if self._tell is not None and not available():
            _log.info("Each worker resumes only TLS sessions of its own: with this Python they cannot share keys")
        self._rotations.start(ROTATION_SECONDS)

    def stopService(self) -> None:
        """Stop rotating."""
        super().stopService()
        self._rotations.stop()

    def rotate(self) -> None:
        """Make a secret, and keep the last one for the tickets that it has made."""
        secrets = (new_secret(), *self._keys.secrets[:1])
        self._keys.use(secrets)
        if self._tell is not None:
            self._tell(secrets)
