"""Several processes that serve the same ports.

1. The parent binds the ports and reads nothing from them.  It starts the workers, `python -m
   twisted_lb.worker`, which inherit the open sockets and accept from the one queue that the kernel
   keeps for each.  With SO_REUSEPORT instead, each worker would have a queue of its own, and the
   clients in it would be reset whenever that worker dies or drains; ports below 1024 would need each
   worker to be root.
2. A worker's standard input is its lifeline: first comes one line of JSON with all it needs, later
   perhaps another fleet, or a question that it answers on a pipe of its own.  When standard input
   ends, by order or because the parent is gone, the worker drains and ends.
3. A worker that dies is started again after a delay, which doubles while it keeps dying early.  One that does not
   answer for WORKER_TIMEOUT is killed, and is then one that died.
4. To stop (on SIGTERM, for one): the parent closes its ports and the lifelines.  A worker that is
   still there some seconds after the time to drain is killed.

What a worker prints is logged by the parent, line by line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.api.report import Report
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.parts import CannotStart, bound, listen_plainly
from twisted_lb.plan import Plan
from twisted_lb.worker_reports import Former, together

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A worker that ran this long did not die of how it was started.
STEADY_SECONDS = 60.0
# Given to a worker beyond DRAIN_SECONDS to close its store and end.
GRACE_SECONDS = 5.0
# An interrupt or a hang-up at the terminal reaches all processes of the group.  A worker ignores them, once it runs; so
# that they do not end one that is still being loaded, it is started with these blocked.
NOT_FOR_WORKERS = (signal.SIGHUP, signal.SIGINT)
LOOKS = 4  # at each worker, in the time after which it is killed
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
        self._former = Former()
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
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
        if self._plan.settings.worker_timeout:
            self._looking.start(self._plan.settings.worker_timeout / LOOKS, now=False)

    def _look(self) -> None:
        for slot in self._slots:
            slot.look(self._plan.settings.worker_timeout)

    def stopService(self) -> Deferred[None]:
        """Accept no more, let the workers drain, and wait for them."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()
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

    async def report(self) -> Report:
        """How all workers together do.  See api.report.Running."""
        alive = [slot for slot in self._slots if slot.alive]
        heard = await gatherResults([Deferred.fromCoroutine(slot.report()) for slot in alive])
        run = f"{len(alive)} of {len(self._slots)} workers run"
        report = together([one for one in heard if one is not None], run)
        former = self._former.copy()
        for slot, one in zip(alive, heard):
            if one is None and slot.alive and slot.last is not None:
                former.add(slot.last)
        report = former.put_onto(report)
        if not self.running:
            return report._replace(ready=False, degraded=False, reason="draining")
        return report if alive else report._replace(ready=False, degraded=False, reason=run)

    async def users(self, after: str, count: int) -> dict[str, object]:
        """A page of the users, from the first worker that can tell.  See api.report.Running."""
        for slot in self._slots:
            page: dict[str, object] | None = await slot.ask("users", after=after, count=count) if slot.alive else None
            if page is not None:
                return page
        raise StoreUnavailable("no worker can tell who the users are; see the log")

    def spawn(self, process: _WorkerProcess) -> Any:
        """Start one worker; its process transport."""
        sockets = [port.fileno() for port in self.ports]
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r", REPORTS: "r"}
        descriptors.update({FIRST_INHERITED + index: socket for index, socket in enumerate(sockets)})
        before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
        try:
            return self._spawn(process, descriptors)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _spawn(self, process: _WorkerProcess, descriptors: dict[int, Any]) -> Any:
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

    def ended(self, last: Report | None) -> None:
        """A worker has ended, after it has said this of itself."""
        if last is not None:
            self._former.add(last)
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
        self.last: Report | None = None  # what the process has said last
        self._asked: dict[int, Deferred[Any]] = {}
        self._questions = 0
        self._restart: Any = None
        self._started = 0.0
        self._heard_at = 0.0  # when the process has said something last, or was started
        self._delay = FIRST_DELAY_SECONDS

    def start(self) -> None:
        self._restart = None
        self._started = self._heard_at = self._reactor.seconds()
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

    async def report(self) -> Report | None:
        """How the worker does; None when it does not say so in time."""
        found = await self.ask("report")
        if found is None:
            return None
        self.last = Report(**found)
        # Kept as it was said: sums are made of what is handed out.
        return self.last._replace(servers=[dict(server) for server in self.last.servers])

    def ask(self, what: str, **more: object) -> Deferred[Any]:
        """The worker's answer; None when it has none in time."""
        self._questions += 1
        number = self._questions
        waiting = self._asked[number] = Deferred()
        self.tell({"ask": what, "number": number, **more})

        def late(result: object, seconds: float) -> None:
            self._asked.pop(number, None)

        return waiting.addTimeout(ANSWER_SECONDS, self._reactor, late)

    def look(self, timeout: float) -> None:
        """See to it that the process is alive: ask it, and kill one that has not answered for so many seconds."""
        if not self.alive:
            return
        silent = self._reactor.seconds() - self._heard_at
        if silent >= timeout:
            _log.error(
                "Worker {number} gave no sign of life for {seconds:.0f} s and is killed",
                number=self.number,
                seconds=silent,
            )
            self.kill()
        else:
            self.ask("alive")

    def answered(self, line: bytes) -> None:
        """The worker's answer to a question, which may be late."""
        self._heard_at = self._reactor.seconds()
        words = json.loads(line)
        waiting = self._asked.pop(words["number"], None)
        if waiting is not None:
            waiting.callback(words["answer"])

    def kill(self) -> None:
        try:
            self._transport.signalProcess("KILL")
        except ProcessExitedAlready:
            pass

    def ended(self, reason: Failure) -> None:
        """The process is gone: start another, unless all are to stop."""
        self.alive = False
        last, self.last = self.last, None
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
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
        self._workers.ended(last)


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
