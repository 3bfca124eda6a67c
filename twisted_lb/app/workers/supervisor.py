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

import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet import tcp
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from twisted_lb.access_log.destinations import STANDARD_OUTPUT
from twisted_lb.api.status import Report
from twisted_lb.app.reload import NO_FILES
from twisted_lb.app.services import bound
from twisted_lb.app.startup import Startup, endpoints_of
from twisted_lb.app.workers.instructions import FIRST_INHERITED, REPORTS, Instructions, words_of
from twisted_lb.app.workers.merged_status import RetiredCounters, together
from twisted_lb.app.workers.pipe import first_answer
from twisted_lb.app.workers.slot import Slot, WorkerProcess, line_of
from twisted_lb.discovery.answers import NO_ANSWERS, Answers
from twisted_lb.network.certificate import Certificate
from twisted_lb.network.listener import keep_open_for_others, listen
from twisted_lb.repeated import Repeated

# In addition to DRAIN_SECONDS, for a worker to close its store and exit.
GRACE_SECONDS = 5.0
# SIGINT and SIGHUP of the terminal reach all processes of the group, and SIGUSR1 may be sent to all.  A running worker
# ignores them; workers are started with these signals blocked, so that they do not end one that is still being loaded.
NOT_FOR_WORKERS = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
LOOKS = 4  # heartbeats of each worker in the time after which it is killed
# How often keys are passed between workers, for outages of Redis.
SHARE_SECONDS = 0.5
# One that has not applied another servers file by then is about to be killed.
USE_SECONDS = 60.0
# For a call of IUserStore: a store that is away is found out by the worker, sooner.
USERS_SECONDS = 5.0

_log = Logger()


class Workers(Service):
    """The ports, and the processes that serve them."""

    def __init__(self, reactor: Any, startup: Startup) -> None:
        self.ports: list[tcp.Port] = []
        self.found: Deferred[None] = succeed(None)  # the workers are started when this has fired
        self._reactor = reactor
        self._startup = startup
        self._instructions = Instructions(startup)
        self._slots = [Slot(number, self, reactor) for number in range(1, startup.settings.workers + 1)]
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
        self.found.addCallback(self._start)

    def _start(self, _: None) -> None:
        if not self.running:
            return
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
        servers_text: str | None,
        servers: Iterable[tuple[str, str, str]] | None = None,
        files: Mapping[str, bytes] = NO_FILES,
        answers: Answers = NO_ANSWERS,
    ) -> Deferred[Any]:
        """Apply another servers file, or other answers only, to all workers, including those that are started later.

        `servers` are the pools, names and URLs of its servers; `files` are those that the text names.
        Fires when they are in use in those that are running.
        """
        if servers is not None:
            self._retired_counters.keep(set(servers))
        words = self._instructions.other_servers(servers_text, files, answers)
        alive = [slot for slot in self._slots if slot.alive]
        return gatherResults([slot.ask("use", USE_SECONDS, **words) for slot in alive])

    def use_certificates(self, certificates: Sequence[Certificate]) -> None:
        """Serve other certificates, the first as the default, in all workers, also in those that are started later."""
        self._tell(self._instructions.other_certificates(certificates))

    def use_client_authorities(self, text: str) -> None:
        """Verify certificates of clients with other authorities in all workers; later ones get their instructions."""
        self._tell({"client_authorities": text})

    def use_ticket_secrets(self, secrets: Sequence[bytes]) -> None:
        """Make and accept session tickets with these keys in all workers; later ones get their instructions."""
        self._tell({"ticket_secrets": words_of(secrets)})

    def reopen_logs(self) -> None:
        """Have all workers open their access log again."""
        self._tell({"reopen": True})

    def _tell(self, words: dict[str, Any]) -> None:
        for slot in self._slots:
            slot.tell(words)

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

    async def choices(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the first worker that responds; each has its own.  See api.status.Running."""
        found: dict[str, Any] = await first_answer(self._slots, "tell its choices", "choices", asked=asked)
        return found

    async def levels(self, digest: str, buckets: list[list[Any]]) -> dict[str, Any]:
        """Levels of buckets.  See api.status.Running."""
        question = {"digest": digest, "buckets": buckets}
        found: dict[str, Any] = await first_answer(self._slots, "tell the levels", "levels", **question)
        return found

    async def usage(self, subjects: Sequence[str]) -> Any:
        """What was counted of these, with what workers have not told the store yet; see `remote_usage`."""
        await gatherResults([slot.ask("flush") for slot in self._slots if slot.alive])
        question = {"seconds": USERS_SECONDS, "subjects": subjects}
        return await first_answer(self._slots, "tell what was counted", "usage", **question)

    async def ask_about_users(self, call: str, arguments: Sequence[object], repeatable: bool) -> object:
        """The answer of a worker to a call of IUserStore, see `remote_users`; None if none could be had.

        One that does not respond may have made a change nevertheless: only what is `repeatable` is asked again of
        another one.
        """
        for slot in self._slots:
            if slot.alive:
                answer: object = await slot.ask("users", USERS_SECONDS, call=call, arguments=arguments)
                if answer is not None or not repeatable:
                    return answer
        return None

    def spawn(self, process: WorkerProcess) -> Any:
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

    def _spawn(self, process: WorkerProcess, descriptors: dict[int, Any]) -> Any:
        transport = self._reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-m", "twisted_lb.app.workers.child", type(self._reactor).__module__],
            # A worker can import what the parent can, including custom classes.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            childFDs=descriptors,
        )
        transport.writeToChild(0, line_of(self._instructions.first(self.ports)))
        return transport

    def ended(self, last: Report | None) -> None:
        """A worker has ended; `last` is its last report."""
        if last is not None:
            self._retired_counters.add(last)
        if self._all_ended is not None and not any(slot.alive for slot in self._slots):
            all_ended, self._all_ended = self._all_ended, None
            all_ended.callback(None)
