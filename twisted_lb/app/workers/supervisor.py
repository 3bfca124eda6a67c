"""Several processes that serve the same ports.

1. The parent binds the ports and accepts nothing from them.  It starts the workers, `python -m
   twisted_lb.app.workers.child`, which inherit the open sockets and accept from the one queue that the kernel
   has for each.  With SO_REUSEPORT, each worker would have its own queue, and the clients in it would be reset
   whenever that worker dies or drains; ports below 1024 would need each worker to be root.
2. The parent writes to the standard input of a worker: first a line of JSON with its instructions, later another
   servers file, or a request that the worker answers on another pipe.  When standard input ends, because the parent has
   closed it or has ended, the worker drains and exits.
3. A worker that dies is restarted after a delay, which doubles while it keeps dying early.  A worker that does not
   respond for WORKER_TIMEOUT is killed, and then restarted.  The parent passes keys that a worker has seen to the
   others, so that all know them during an outage of Redis.
4. To stop, for example on SIGTERM, the parent closes its ports and the standard input of the workers.  A worker that
   still runs some seconds after the time to drain is killed.

The output of a worker is logged by the parent, line by line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet import tcp
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.access_log.destinations import STANDARD_OUTPUT
from twisted_lb.api.status import Report
from twisted_lb.app.listener_tls import words_for_worker
from twisted_lb.app.services import bound
from twisted_lb.app.startup import Startup, endpoints_of
from twisted_lb.app.workers.instructions import FIRST_INHERITED, REPORTS, instructions
from twisted_lb.app.workers.merged_status import RetiredCounters, together
from twisted_lb.app.workers.pipe import OutputLines, as_text, first_answer
from twisted_lb.config.server_tls import files_of
from twisted_lb.network.certificate import Certificate
from twisted_lb.network.listener import keep_open_for_others, listen
from twisted_lb.repeated import Repeated

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
START_SECONDS = 30.0  # at least, for the first response of a worker
# The death of a worker that ran this long is not attributed to its start.
STEADY_SECONDS = 60.0
# In addition to DRAIN_SECONDS, for a worker to close its store and exit.
GRACE_SECONDS = 5.0
# SIGINT and SIGHUP of the terminal reach all processes of the group, and SIGUSR1 may be sent to all.  A running worker
# ignores them; workers are started with these signals blocked, so that they do not end one that is still being loaded.
NOT_FOR_WORKERS = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
LOOKS = 4  # heartbeats of each worker in the time after which it is killed
# How often keys are passed between workers, for outages of Redis.
SHARE_SECONDS = 0.5
# A worker that responds later is left out of the report.
ANSWER_SECONDS = 1.0
NO_FILES: Mapping[str, bytes] = {}

_log = Logger()


class Workers(Service):
    """The ports, and the processes that serve them."""

    def __init__(self, reactor: Any, startup: Startup) -> None:
        self.ports: list[tcp.Port] = []
        self._reactor = reactor
        self._startup = startup
        self._servers_text = startup.servers_text
        self._files = as_text(files_of(startup.gateway))
        self._certificates: Sequence[Certificate] = startup.tls.files.certificates if startup.tls else ()
        self._slots = [_Slot(number, self, reactor) for number in range(1, startup.settings.workers + 1)]
        self._retired_counters = RetiredCounters()
        self._looking = Repeated(reactor, self._look, "the look at the workers")
        self._sharing = Repeated(reactor, self._share_keys, "the sharing of keys among workers")
        self._all_ended: Deferred[None] | None = None

    def privilegedStartService(self) -> None:
        """Bind the ports.  Raises CannotStart."""
        super().privilegedStartService()
        settings = self._startup.settings
        named = [("LISTEN", one) for one in settings.listen] + [("TLS_LISTEN", one) for one in settings.tls_listen]
        for name, endpoint in named:
            factory = Factory()
            factory.noisy = False
            others = [other for _, other in endpoints_of(settings) if other != endpoint]
            port: Any = bound(f"{name} {endpoint}", listen(self._reactor, endpoint, others, factory))
            port.stopReading()
            keep_open_for_others(port)
            self.ports.append(port)

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        if not self.ports:
            self.privilegedStartService()
        for slot in self._slots:
            slot.start()
        if self._startup.settings.worker_timeout:
            self._looking.start(self._startup.settings.worker_timeout / LOOKS)
        if self._startup.settings.on_store_error != "deny":
            self._sharing.start(SHARE_SECONDS)

    def _share_keys(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._pass_keys_on())

    async def _pass_keys_on(self) -> None:
        """Send each worker the keys that the others have seen, except to one that does not respond."""
        asked = [slot for slot in self._slots if slot.alive]
        heard = await gatherResults([slot.ask("keys") for slot in asked])
        for slot, own in zip(asked, heard):
            others = [key for keys in heard if keys and keys is not own for key in keys]
            if own is not None and others:
                slot.tell({"keys": others})

    def _look(self) -> None:
        for slot in self._slots:
            slot.look(self._startup.settings.worker_timeout)

    def stopService(self) -> Deferred[None]:
        """Stop accepting, let the workers drain, and wait for them."""
        super().stopService()
        self._looking.stop()
        self._sharing.stop()
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
        patience = self._startup.settings.drain_seconds + GRACE_SECONDS
        late = self._reactor.callLater(patience, self._kill)
        await self._all_ended
        if late.active():
            late.cancel()

    def _kill(self) -> None:
        for slot in self._slots:
            if slot.alive:
                _log.warn("Worker {number} did not end in time and is killed", number=slot.number)
                slot.kill()

    def use(
        self,
        servers_text: str,
        servers: Iterable[tuple[str, str, str]] | None = None,
        files: Mapping[str, bytes] = NO_FILES,
    ) -> None:
        """Apply another servers file to all workers, including those that are started later.

        `servers` are the pools, names and URLs of its servers, as a report has them; `files` are those that the text
        names, and what they hold.
        """
        self._servers_text = servers_text
        self._files = as_text(files)
        if servers is not None:
            self._retired_counters.keep(set(servers))
        for slot in self._slots:
            slot.tell({"servers": servers_text, "files": self._files})

    def use_certificates(self, certificates: Sequence[Certificate]) -> None:
        """Serve other certificates, the first as the default, in all workers, also in those that are started later."""
        words = words_for_worker(certificates, self._certificates)
        self._certificates = certificates
        for slot in self._slots:
            slot.tell({"certificates": words})

    def use_client_authorities(self, text: str) -> None:
        """Verify certificates of clients with other authorities in all workers.

        Those that are started later get them with the instructions.
        """
        for slot in self._slots:
            slot.tell({"client_authorities": text})

    def reopen_logs(self) -> None:
        """Have all workers open their access log again."""
        for slot in self._slots:
            slot.tell({"reopen": True})

    async def report(self) -> Report:
        """The merged report of all workers.  See api.status.Running."""
        alive = [slot for slot in self._slots if slot.alive]
        heard = await gatherResults([Deferred.fromCoroutine(slot.report()) for slot in alive])
        run = f"{len(alive)} of {len(self._slots)} workers run"
        ready_before = any(
            slot.last is not None and slot.last.ready for slot, one in zip(alive, heard) if one is None
        )
        report = together([one for one in heard if one is not None], run, ready_before)
        retired_counters = self._retired_counters.copy()
        for slot, one in zip(alive, heard):
            if one is None and slot.alive and slot.last is not None:
                retired_counters.add(slot.last)
        report = retired_counters.put_onto(report)
        if not self.running:
            return report._replace(ready=False, degraded=False, reason="draining")
        return report if alive else report._replace(ready=False, degraded=False, reason=run)

    async def users(self, after: str, count: int) -> dict[str, object]:
        """A page of the users.  See api.status.Running."""
        return await first_answer(self._slots, "list the users", "users", after=after, count=count)

    async def levels(self, digest: str, buckets: list[list[Any]]) -> dict[str, Any]:
        """Levels of buckets.  See api.status.Running."""
        return await first_answer(self._slots, "tell the levels", "levels", digest=digest, buckets=buckets)

    def spawn(self, process: _WorkerProcess) -> Any:
        """Start one worker; its process transport."""
        sockets = [port.fileno() for port in self.ports]
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r", REPORTS: "r"}
        descriptors.update({FIRST_INHERITED + index: socket for index, socket in enumerate(sockets)})
        if self._startup.settings.access_log == "-":
            # What a worker prints is logged by the parent; its access log goes to the parent's output as it is.
            descriptors[FIRST_INHERITED + len(sockets)] = STANDARD_OUTPUT
        before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
        try:
            return self._spawn(process, descriptors)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _spawn(self, process: _WorkerProcess, descriptors: dict[int, Any]) -> Any:
        transport = self._reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-m", "twisted_lb.app.workers.child", type(self._reactor).__module__],
            # A worker can import what the parent can, including custom classes.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            childFDs=descriptors,
        )
        words = instructions(self._startup, self.ports, self._servers_text, self._files, self._certificates)
        transport.writeToChild(0, _line(words))
        return transport

    def ended(self, last: Report | None) -> None:
        """A worker has ended; `last` is its last report."""
        if last is not None:
            self._retired_counters.add(last)
        if self._all_ended is not None and not any(slot.alive for slot in self._slots):
            all_ended, self._all_ended = self._all_ended, None
            all_ended.callback(None)


class _Slot:
    """One worker: its present process, or the call that will start the next."""

    def __init__(self, number: int, workers: Workers, reactor: Any) -> None:
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
        self._transport = self._workers.spawn(_WorkerProcess(self))
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
            self._transport.writeToChild(0, _line(words))
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

    def ask(self, what: str, **more: object) -> Deferred[Any]:
        """The worker's response; None if it does not respond in time."""
        self._questions += 1
        number = self._questions
        waiting = self._asked[number] = Deferred()
        self.tell({"ask": what, "number": number, **more})

        def late(result: object, seconds: float) -> None:
            self._asked.pop(number, None)

        return waiting.addTimeout(ANSWER_SECONDS, self._reactor, late)

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


class _WorkerProcess(ProcessProtocol):
    def __init__(self, slot: _Slot) -> None:
        self._slot = slot
        receivers = {1: self._printed, 2: self._printed, REPORTS: slot.answered}
        self._lines = {descriptor: OutputLines(receiver) for descriptor, receiver in receivers.items()}

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._lines[childFD].dataReceived(data)

    def _printed(self, line: bytes) -> None:
        _log.info("[{number}] {line}", number=self._slot.number, line=line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        self._slot.ended(reason)


def _line(words: dict[str, object]) -> bytes:
    return json.dumps(words).encode() + b"\n"


def _how(reason: Failure) -> dict[str, object]:
    """How a process has ended, as fields of a log event."""
    signal, status = getattr(reason.value, "signal", None), getattr(reason.value, "exitCode", None)
    how = f"was ended by signal {signal}" if signal is not None else f"ended with exit status {status}"
    return {"how": how, "signal": signal, "status": status}
