"""One of several serving processes: `python -m twisted_lb.worker REACTOR_MODULE`, started by `workers`.

It reads one line of JSON from its standard input, serves on the sockets that it inherited, and
drains and ends when its standard input ends, and on SIGTERM.  Meanwhile its standard input may tell it
of another fleet, `{"fleet": "the text of a servers file"}`, or ask something,

    {"ask": "alive", "number": 1}                              nothing but an answer
    {"ask": "report", "number": 1}                             how it does
    {"ask": "users", "number": 2, "after": "", "count": 100}   a page of the users

and the answer is a line of JSON on REPORTS, `{"number": 1, "answer": ...}`; null: it cannot tell.
"""

from __future__ import annotations

import signal

# Before all that takes time: an interrupt or a hang-up at the terminal reaches the whole group of processes, and the
# parent passes it on in its own way.
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

# ruff: noqa: E402
import json
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import ConnectionDone, ReactorNotRunning
from twisted.internet.fdesc import setNonBlocking, writeToFD
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import FileLogObserver, LogEvent, Logger, formatEventAsClassicLogText, globalLogBeginner
from twisted.python.failure import Failure
from twisted.python.reflect import namedModule
from zope.interface import implementer

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.watchdog import Watchdog

STANDARD_INPUT = 0
# The parent comes first, and says why.
WATCHDOG_TIMES = 1.5
READ_BYTES = 65536

_log = Logger()


@implementer(IReadDescriptor)
class Lifeline:
    """Reads standard input to its end, line by line."""

    def __init__(
        self, reactor: Any, told: Callable[[bytes], None], begun: bytes = b"", descriptor: int = STANDARD_INPUT
    ) -> None:
        """`told` gets each line; `begun` is what has been read already."""
        self._reactor = reactor
        self._told = told
        self._descriptor = descriptor
        self._unfinished = b""
        self._received(begun)

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "lifeline"

    def doRead(self) -> Failure | None:
        data = os.read(self._descriptor, READ_BYTES)
        if not data:
            return Failure(ConnectionDone())
        self._received(data)
        return None

    def _received(self, data: bytes) -> None:
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        for line in lines:
            self._told(line)

    def connectionLost(self, reason: Failure) -> None:
        """Standard input has ended, or the reactor has."""
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass
        else:
            _log.info("The parent process wants no more, or is gone")


class Reports(FileDescriptor):
    """Writes to the parent without waiting for it."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        super().__init__(reactor)
        self.connected = 1
        self._descriptor = descriptor
        setNonBlocking(descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def writeSomeData(self, data: bytes) -> Any:
        return writeToFD(self._descriptor, data)


def answer(running: Any, question: dict[str, Any], write: Callable[[bytes], object]) -> None:
    """Write the answer to a question of the parent's when it is known.  `running` is an api.report.Running."""

    def say(found: object) -> None:
        write(json.dumps({"number": question["number"], "answer": found}).encode() + b"\n")

    def cannot_tell(failure: Failure) -> None:
        if not failure.check(StoreUnavailable):
            _log.failure("The question of the parent for {ask} failed", failure, ask=question["ask"])

    if question["ask"] == "alive":
        say(True)
        return
    if question["ask"] == "users":
        found = maybeDeferred(running.users, question["after"], question["count"])
    else:
        found = maybeDeferred(lambda: running.report()._asdict())
    found.addErrback(cannot_tell).addCallback(say)


def first_line(descriptor: int = STANDARD_INPUT) -> tuple[bytes, bytes]:
    """The line that standard input begins with, and what has come after it.  Two times nothing when there is none."""
    blocks: list[bytes] = []
    while data := os.read(descriptor, READ_BYTES):
        blocks.append(data)
        if b"\n" in data:
            line, _, rest = b"".join(blocks).partition(b"\n")
            return line, rest
    return b"", b""


def main(reactor_module: str) -> None:
    """Serve until the parent wants no more, or is gone."""
    globalLogBeginner.beginLoggingTo([FileLogObserver(sys.stdout, _line)], redirectStandardIO=False)
    line, rest = first_line()
    if not line:
        return
    instructions = json.loads(line)

    # Importing what serves imports klein and txredisapi, which would choose a reactor themselves.
    namedModule(reactor_module).install()
    from twisted.internet import reactor

    from twisted_lb.config import read_fleet
    from twisted_lb.fatal import log_unraisable
    from twisted_lb.monotonic import run_on_monotonic_clock
    from twisted_lb.parts import Opening
    from twisted_lb.proxy.listening import adopt
    from twisted_lb.serving import Serving
    from twisted_lb.settings import Misconfigured, Settings

    run_on_monotonic_clock(reactor)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in instructions["settings"].items()
    }
    settings = Settings(**given)
    openings: dict[str, Opening] = {
        f"socket {listener['descriptor']}": partial(
            adopt, reactor, listener["descriptor"], socket.AddressFamily(listener["family"])
        )
        for listener in instructions["listeners"]
    }
    file_name = settings.servers_file
    serving = Serving(reactor, settings, read_fleet(instructions["fleet"], file_name), openings)
    service = serving.together()
    reports = Reports(reactor, instructions["reports"])

    def told(line: bytes) -> None:
        words = json.loads(line)
        if "fleet" in words:
            # The parent has checked it, and has said what changes.
            try:
                serving.swap(read_fleet(words["fleet"], file_name))
            except Misconfigured as error:
                _log.error("The servers file is not used, nothing changes: {error}", error=error)
        else:
            answer(serving, words, reports.write)

    log_unraisable()
    started: Any = reactor
    started.addReader(Lifeline(reactor, told, rest))
    started.addSystemEventTrigger("before", "shutdown", service.stopService)
    service.privilegedStartService()
    service.startService()
    watchdog = Watchdog(started, WATCHDOG_TIMES * settings.worker_timeout)
    if settings.worker_timeout:
        watchdog.start()
    started.run()
    watchdog.stop()


def _line(event: LogEvent) -> str | None:
    """An event without its time, which the parent adds."""
    text = formatEventAsClassicLogText(event)
    return text and text.partition(" ")[2]


if __name__ == "__main__":
    main(sys.argv[1])
