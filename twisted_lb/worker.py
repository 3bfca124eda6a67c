"""One of several serving processes: `python -m twisted_lb.worker REACTOR_MODULE`, started by `workers`.

It reads one line of JSON from its standard input, serves on the sockets that it inherited, and
drains and ends when its standard input ends, and on SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from functools import partial
from typing import Any

from twisted.internet.error import ConnectionDone, ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import FileLogObserver, LogEvent, Logger, formatEventAsClassicLogText, globalLogBeginner
from twisted.python.failure import Failure
from twisted.python.reflect import namedModule
from zope.interface import implementer

STANDARD_INPUT = 0

_log = Logger()


@implementer(IReadDescriptor)
class Lifeline:
    """Reads standard input, which says nothing, to its end."""

    def __init__(self, reactor: Any, descriptor: int = STANDARD_INPUT) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "lifeline"

    def doRead(self) -> Failure | None:
        if os.read(self._descriptor, 1024):
            return None
        return Failure(ConnectionDone())

    def connectionLost(self, reason: Failure) -> None:
        """Standard input has ended, or the reactor has."""
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass
        else:
            _log.info("The parent process wants no more, or is gone")


def main(reactor_module: str) -> None:
    """Serve until the parent wants no more, or is gone."""
    # An interrupt at the terminal reaches the whole group of processes; the parent passes it on in its own way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    globalLogBeginner.beginLoggingTo([FileLogObserver(sys.stdout, _line)], redirectStandardIO=False)
    with open(STANDARD_INPUT, "rb", closefd=False) as standard_input:
        line = standard_input.readline()
    if not line:
        return
    instructions = json.loads(line)

    # Importing what serves imports klein and txredisapi, which would choose a reactor themselves.
    namedModule(reactor_module).install()
    from twisted.internet import reactor

    from twisted_lb.config import read_fleet
    from twisted_lb.parts import Opening
    from twisted_lb.proxy.listening import adopt
    from twisted_lb.service import build_serving
    from twisted_lb.settings import Settings

    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in instructions["settings"].items()
    }
    settings = Settings(**given)
    fleet = read_fleet(instructions["fleet"], settings.servers_file)
    openings: dict[str, Opening] = {
        f"socket {listener['descriptor']}": partial(
            adopt, reactor, listener["descriptor"], socket.AddressFamily(listener["family"])
        )
        for listener in instructions["listeners"]
    }
    serving = build_serving(reactor, settings, fleet, openings)
    started: Any = reactor
    started.addReader(Lifeline(reactor))
    started.addSystemEventTrigger("before", "shutdown", serving.stopService)
    serving.privilegedStartService()
    serving.startService()
    started.run()


def _line(event: LogEvent) -> str | None:
    """An event without its time, which the parent adds."""
    text = formatEventAsClassicLogText(event)
    return text and text.partition(" ")[2]


if __name__ == "__main__":
    main(sys.argv[1])
