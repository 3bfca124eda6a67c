"""Several processes that serve the same ports.

1. The parent binds the ports and reads nothing from them.  It starts the workers, `python -m
   twisted_lb.worker`, which inherit the open sockets and accept from the one queue that the kernel
   keeps for each.  With SO_REUSEPORT instead, each worker would have a queue of its own, and the
   clients in it would be reset whenever that worker dies or drains; ports below 1024 would need each
   worker to be root.
2. A worker's standard input is its lifeline: first comes one line of JSON with all it needs, later
   perhaps another fleet, or a question that it answers on a pipe of its own.  When standard input
   ends, by order or because the parent is gone, the worker drains and ends.
3. A worker that dies is started again after a delay, which doubles while it keeps dying early.
4. To stop (on SIGTERM, for one): the parent closes its ports and the lifelines.  A worker that is
   still there some seconds after the time to drain is killed.

What a worker prints is logged by the parent, line by line.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from dataclasses import asdict
from typing import Any

from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.parts import CannotStart, bound, listen_plainly
from twisted_lb.plan import Plan
from twisted_lb.worker_reports import Shown, combined

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A worker that ran this long did not die of how it was started.
STEADY_SECONDS = 60.0
# Given to a worker beyond DRAIN_SECONDS to close its store and end.
GRACE_SECONDS = 5.0
# A worker that answers later is left out.
ANSWER_SECONDS = 1.0
REPORTS = 3  # the file descriptor after standard error, on which a worker answers
FIRST_INHERITED = REPORTS + 1

_log = Logger()


class Workers(Service):
    """The ports, and the processes that serve them."""

    def __init__(self, reactor: Any, plan: Plan) -> None:
        self.ports: list[tcp.Port] = []
        self._reactor = reactor
        self._plan = plan
        self._fleet_text = plan.fleet_text
        self._slots = [_Slot(number, self, reactor) for number in range(1, plan.settings.workers + 1)]
        self._all_ended: Deferred[None] | None = None

    def privilegedStartService(self) -> None:
        """Bind the ports.  Raises CannotStart."""
        super().privilegedStartService()
        for endpoint in self._plan.settings.listen:
            factory = Factory()
            factory.noisy = False
            port = bound(f"LISTEN {endpoint}", listen_plainly(self._reactor, endpoint, factory))
            # A worker that ends would remove the file of a Unix socket from under the others.
            if not isinstance(port, tcp.Port) or isinstance(port, unix.Port) or port.factory is not factory:
                raise CannotStart(f"twisted_lb cannot start: LISTEN {endpoint}: workers can share TCP ports only")
            port.stopReading()
            # Twisted would shut the socket down before it closes it, which ends it for the workers as well.
            port._shouldShutdown = False
            self.ports.append(port)

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        if not self.ports:
            self.privilegedStartService()
        for slot in self._slots:
            slot.start()

    def stopService(self) -> Deferred[None]:
        """Accept no more, let the workers drain, and wait for them."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ports, self.ports = self.ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)
        for slot in self._slots:
            slot.stop()
        if not any(slot.alive for slot in self._slots):
            return
        self._all_ended = Deferred()
        patience = self._plan.settings.drain_seconds + GRACE_SECONDS
        late = self._reactor.callLater(patience, self._kill)
        await self._all_ended
        if late.active():
            late.cancel()

    def _kill(self) -> None:
        for slot in self._slots:
            if slot.alive:
                _log.warn("Worker {number} did not end in time and is killed", number=slot.number)
                slot.kill()

    def use(self, fleet_text: str) -> None:
        """Have all workers, and those that are started from now on, run with another fleet."""
        self._fleet_text = fleet_text
        for slot in self._slots:
            slot.tell({"fleet": fleet_text})

    async def servers(self) -> list[Shown]:
        """How the servers are, as all workers together see them."""
        answers = await gatherResults([slot.ask() for slot in self._slots if slot.alive])
        return combined([answer for answer in answers if answer is not None])

    async def readiness(self) -> tuple[bool, str]:
        """Whether traffic is welcome, and why or why not."""
        if not self.running:
            return False, "draining"
        alive = sum(slot.alive for slot in self._slots)
        run = f"{alive} of {len(self._slots)} workers run"
        if not alive:
            return False, run
        # Where no worker answers in time there is nothing to say against it.
        servers = await self.servers()
        if servers and not any(server["state"] == "up" for server in servers):
            return False, "no server is available"
        return True, run

    def spawn(self, process: _WorkerProcess) -> Any:
        """Start one worker; its process transport."""
        sockets = [port.fileno() for port in self.ports]
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r", REPORTS: "r"}
        descriptors.update({FIRST_INHERITED + index: socket for index, socket in enumerate(sockets)})
        transport = self._reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-m", "twisted_lb.worker", type(self._reactor).__module__],
            # What the parent could import, a balancer of the user's own among it, a worker can.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            childFDs=descriptors,
        )
        transport.writeToChild(0, self.instructions())
        return transport

    def instructions(self) -> bytes:
        """The line of JSON that a worker begins with."""
        listeners = [
            {"descriptor": FIRST_INHERITED + index, "family": int(port.addressFamily)}
            for index, port in enumerate(self.ports)
        ]
        settings = asdict(self._plan.settings)
        return _line({"settings": settings, "fleet": self._fleet_text, "listeners": listeners, "reports": REPORTS})

    def ended(self) -> None:
        """A worker has ended."""
        if self._all_ended is not None and not any(slot.alive for slot in self._slots):
            all_ended, self._all_ended = self._all_ended, None
            all_ended.callback(None)


class _Slot:
    """One worker's place: the process that has it now, or the call that will start the next."""

    def __init__(self, number: int, workers: Workers, reactor: Any) -> None:
        self.number = number
        self._reactor = reactor
        self.alive = False
        self._workers = workers
        self._transport: Any = None
        self._asked: deque[Deferred[list[Shown] | None]] = deque()
        self._restart: Any = None
        self._started = 0.0
        self._delay = FIRST_DELAY_SECONDS

    def start(self) -> None:
        self._restart = None
        self._started = self._reactor.seconds()
        self.alive = True
        self._transport = self._workers.spawn(_WorkerProcess(self))
        _log.info("Worker {number} is process {pid}", number=self.number, pid=self._transport.pid)

    def stop(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self.alive:
            self._transport.closeStdin()

    def tell(self, words: dict[str, object]) -> None:
        """Write to the worker, if there is one."""
        if self.alive:
            self._transport.writeToChild(0, _line(words))

    def ask(self) -> Deferred[list[Shown] | None]:
        """How the worker's servers are; None when it does not say so in time."""
        waiting: Deferred[list[Shown] | None] = Deferred()
        # It stays in the row when its time is up: answers come in the order of the questions.
        self._asked.append(waiting)
        self.tell({"ask": "servers"})
        return waiting.addTimeout(ANSWER_SECONDS, self._reactor, lambda result, seconds: None)

    def answered(self, line: bytes) -> None:
        """The worker's answer to the oldest question."""
        self._asked.popleft().callback(json.loads(line))

    def kill(self) -> None:
        try:
            self._transport.signalProcess("KILL")
        except ProcessExitedAlready:
            pass

    def ended(self, reason: Failure) -> None:
        """The process is gone: start another, unless all are to stop."""
        self.alive = False
        asked, self._asked = self._asked, deque()
        for waiting in asked:
            waiting.callback(None)
        if self._workers.running:
            if self._reactor.seconds() - self._started >= STEADY_SECONDS:
                self._delay = FIRST_DELAY_SECONDS
            _log.error(
                "Worker {number} {how}; it is started again in {delay:g} s",
                number=self.number,
                how=_how(reason),
                delay=self._delay,
            )
            self._restart = self._reactor.callLater(self._delay, self.start)
            self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS)
        elif not reason.check(ProcessDone):
            _log.warn("Worker {number} {how}", number=self.number, how=_how(reason))
        self._workers.ended()


class _WorkerProcess(ProcessProtocol):
    def __init__(self, slot: _Slot) -> None:
        self._slot = slot
        self._unfinished = {1: b"", 2: b"", REPORTS: b""}

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._unfinished[childFD] = (self._unfinished[childFD] + data).split(b"\n")
        for line in lines:
            if childFD == REPORTS:
                self._slot.answered(line)
                continue
            _log.info("[{number}] {line}", number=self._slot.number, line=line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        self._slot.ended(reason)


def _line(words: dict[str, object]) -> bytes:
    return json.dumps(words).encode() + b"\n"


def _how(reason: Failure) -> str:
    signal, status = getattr(reason.value, "signal", None), getattr(reason.value, "exitCode", None)
    return f"was ended by signal {signal}" if signal is not None else f"ended with exit status {status}"
