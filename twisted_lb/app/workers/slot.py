"""One worker of several: its current process, or the call that will start the next."""

from __future__ import annotations

import json
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.api.status import Report
from twisted_lb.app.workers.instructions import REPORTS
from twisted_lb.app.workers.pipe import OutputLines

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
START_SECONDS = 30.0  # at least, for the first response of a worker
# The end of a worker that ran this long is not attributed to its start.
STEADY_SECONDS = 60.0
# A worker that responds later is left out of the report.
ANSWER_SECONDS = 1.0

_log = Logger()


class Slots(Protocol):
    """All workers, as one of them sees them."""

    running: Any

    def spawn(self, process: WorkerProcess) -> Any:
        """Start a process; returns its transport."""

    def ended(self, last: Report | None) -> None:
        """A process has ended; `last` is its last report."""


class Slot:
    """One worker: its current process, or the call that will start the next."""

    def __init__(self, number: int, workers: Slots, reactor: Any) -> None:
        self.number = number
        self._reactor = reactor
        self.alive = False
        self._workers = workers
        self._transport: Any = None
        self.last: Report | None = None  # of the process
        self._asked: dict[int, Deferred[Any]] = {}
        self._questions = 0
        self._restart: Any = None
        self._started = 0.0
        self._heard_at = 0.0  # time of the last response of the process, or of its start
        self._has_answered = False  # since then
        self._delay = FIRST_DELAY_SECONDS

    def start(self) -> None:
        self._restart = None
        self._started = self._heard_at = self._reactor.seconds()
        self._has_answered = False
        self.alive = True
        self._transport = self._workers.spawn(WorkerProcess(self))
        _log.info("Worker {number} is process {pid}", number=self.number, pid=self._transport.pid)

    def stop(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self.alive:
            self._transport.closeStdin()

    def tell(self, words: dict[str, object]) -> None:
        """Write to the worker, if it is running."""
        if not self.alive:
            return
        try:
            self._transport.writeToChild(0, line_of(words))
        except KeyError:
            # Its pipe is closed: it is stopping, or is about to be reaped.
            pass

    async def report(self) -> Report | None:
        """The report of the worker; None if it does not respond in time."""
        found = await self.ask("report")
        if found is None:
            return None
        self.last = Report(**found)
        # A copy is kept: the returned one is modified by merging.
        return self.last._replace(servers=[dict(server) for server in self.last.servers])

    def ask(self, what: str, seconds: float = ANSWER_SECONDS, **more: object) -> Deferred[Any]:
        """The worker's response; None if it does not respond in time."""
        self._questions += 1
        number = self._questions
        waiting = self._asked[number] = Deferred()
        self.tell({"ask": what, "number": number, **more})

        def late(result: object, seconds: float) -> None:
            self._asked.pop(number, None)

        return waiting.addTimeout(seconds, self._reactor, late)

    def look(self, timeout: float) -> None:
        """Send a heartbeat, and kill a process that has not responded for `timeout` seconds."""
        if not self.alive:
            return
        silent = self._reactor.seconds() - self._heard_at
        # A start takes longer on a busy machine.
        if silent >= (timeout if self._has_answered else max(timeout, START_SECONDS)):
            _log.error(
                "Worker {number} has not responded for {seconds:.1f} s and is killed",
                number=self.number,
                seconds=silent,
            )
            self.kill()
        else:
            self.ask("alive")

    def answered(self, line: bytes) -> None:
        """A response of the worker, possibly late."""
        self._heard_at = self._reactor.seconds()
        self._has_answered = True
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
        """The process has ended: start another, unless all are stopping."""
        self.alive = False
        last, self.last = self.last, None
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            waiting.callback(None)
        if self._workers.running:
            if self._reactor.seconds() - self._started >= STEADY_SECONDS:
                self._delay = FIRST_DELAY_SECONDS
            _log.error(
                "Worker {number} {how}; it is restarted in {delay:g} s",
                number=self.number,
                delay=self._delay,
                **_how(reason),
            )
            self._restart = self._reactor.callLater(self._delay, self.start)
            self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS)
        elif not reason.check(ProcessDone):
            _log.warn("Worker {number} {how}", number=self.number, **_how(reason))
        self._workers.ended(last)


class WorkerProcess(ProcessProtocol):
    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        receivers = {1: self._printed, 2: self._printed, REPORTS: slot.answered}
        self._lines = {descriptor: OutputLines(receiver) for descriptor, receiver in receivers.items()}

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._lines[childFD].dataReceived(data)

    def _printed(self, line: bytes) -> None:
        _log.info("[{number}] {line}", number=self._slot.number, line=line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        self._slot.ended(reason)


def line_of(words: dict[str, object]) -> bytes:
    return json.dumps(words).encode() + b"\n"


def _how(reason: Failure) -> dict[str, object]:
    """How a process has ended, as fields of a log event."""
    signal, status = getattr(reason.value, "signal", None), getattr(reason.value, "exitCode", None)
    how = f"was ended by signal {signal}" if signal is not None else f"ended with exit status {status}"
    return {"how": how, "signal": signal, "status": status}
