"""The pipes between workers and their parent: lines in both directions.

A worker reads lines from its standard input and writes lines to another descriptor, which together are one connection
for Twisted (StandardIO).  When the parent closes its end, or ends, the worker drains and exits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer

from twisted_lb.interfaces import StoreUnavailable

_log = Logger()


class Lines(LineOnlyReceiver):
    """Calls a function with each line.  Both ends belong to this program, so lines may have any length."""

    delimiter = b"\n"
    MAX_LENGTH = sys.maxsize

    def __init__(self, received: Callable[[bytes], object]) -> None:
        self._received = received

    def lineReceived(self, line: bytes) -> None:
        self._received(line)


@implementer(IHalfCloseableProtocol)
class ParentPipe(Lines):
    """A worker's connection to its parent."""

    transport: Any

    def __init__(self, reactor: Any, received: Callable[[bytes], object]) -> None:
        super().__init__(received)
        self._reactor = reactor

    def readConnectionLost(self) -> None:
        """The parent has closed its end, or has ended.  Pending requests are still answered."""
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass
        else:
            _log.info("The parent process has closed its pipe or ended: this worker stops")

    def writeConnectionLost(self) -> None:
        """The responses are not read any more."""


class OutputLines(Lines):
    """Lines that a process writes to one of its descriptors; there is no separate transport for it."""

    def __init__(self, received: Callable[[bytes], object]) -> None:
        super().__init__(received)
        # LineOnlyReceiver checks it before each line.
        self.makeConnection(SimpleNamespace(disconnecting=False))


def as_text(files: Mapping[str, bytes]) -> dict[str, str]:
    """The contents of files for JSON: each byte is a character."""
    return {path: content.decode("latin-1") for path, content in files.items()}


def as_bytes(files: Mapping[str, str]) -> dict[str, bytes]:
    """The contents of files from JSON."""
    return {path: content.encode("latin-1") for path, content in files.items()}


async def first_answer(workers: Iterable[Any], what: str, word: str, **question: Any) -> Any:
    """That of the first worker that responds, as the supervisor has them.  Raises StoreUnavailable."""
    for worker in workers:
        found: Any = await worker.ask(word, **question) if worker.alive else None
        if found is not None:
            return found
    raise StoreUnavailable(f"no worker could {what}; see the log")
