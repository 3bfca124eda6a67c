"""One of several serving processes: `python -m twisted_lb.app.workers.child REACTOR_MODULE`, started by `workers`.

It reads one line of JSON from its standard input and serves on the sockets that it inherited.  It drains and exits when
its standard input ends, and on SIGTERM.  Further lines on standard input are another servers file, `{"ask": "use",
"number": 1, "servers": "its text", "files": {...}}` with the contents of the files that it names; what was found of the
servers that it leads to, with the file or alone, `{"answers": {"web.example.com": ["10.0.0.7", "10.0.0.8"]}}` (see
`discovery`); keys that other workers know, `{"keys": [...]}`; other certificates (see CertificatesOfWorker),
`{"certificates": [{"file": "a.pem", "pem": "the text, or null for the present one"}]}`; other authorities for the
certificates of clients, `{"client_authorities": "the text"}`; other secrets for the keys of session tickets,
`{"ticket_secrets": ["hexadecimal digits"]}`; the order to open the access log again, `{"reopen": true}`; or a request:

    {"ask": "use", ...}                                        true: it is in use; or the problems, a list of texts
    {"ask": "alive", "number": 1}                              heartbeat
    {"ask": "keys", "number": 1}                               the keys that it has seen since
    {"ask": "report", "number": 1}                             its state
    {"ask": "users", "number": 2, "call": "user", "arguments": ["ann"]}    a call of IUserStore (see `remote_users`)
    {"ask": "choices", "number": 3, "asked": {...}}            which servers it would choose, see `explain_servers`
    {"ask": "levels", "number": 4, "digest": "", "buckets": []}   levels of buckets, see api.status.Running

The response is a line of JSON on REPORTS, `{"number": 1, "answer": ...}`; null on failure.
"""

from __future__ import annotations

import signal

# Before anything that takes time: SIGINT and SIGHUP of the terminal reach the whole process group, and the parent
# handles them for its workers.
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # For the access log, which the parent reports as well; `pkill -USR1` sends it to all.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

# ruff: noqa: E402
import gc
import json
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.logger import FileLogObserver, LogEvent, Logger, formatEventAsClassicLogText, globalLogBeginner
from twisted.python.failure import Failure
from twisted.python.reflect import namedModule

from twisted_lb.app.workers.pipe import ParentPipe, as_bytes
from twisted_lb.app.workers.remote_users import answered_call
from twisted_lb.app.workers.watchdog import Watchdog
from twisted_lb.config.settings import Misconfigured
from twisted_lb.interfaces import StoreUnavailable

STANDARD_INPUT = 0
# The parent exits first, and logs the reason.
WATCHDOG_TIMES = 1.5
READ_BYTES = 65536

_log = Logger()


def answer(running: Any, question: dict[str, Any], write: Callable[[bytes], object]) -> None:
    """Write the response to a request of the parent when it is available.  `running` is an api.status.Running."""

    def say(found: object) -> None:
        write(answer_line(question, found))

    def cannot_tell(failure: Failure) -> None:
        if not failure.check(StoreUnavailable):
            _log.failure("The parent's request for {ask} failed", failure, ask=question["ask"])

    if question["ask"] == "alive":
        say(True)
        return
    if question["ask"] == "keys":
        say(running.news())
        return
    if question["ask"] == "choices":
        found = maybeDeferred(running.choices, question["asked"])
    elif question["ask"] == "users":
        found = maybeDeferred(answered_call, running.users, question["call"], question["arguments"])
    elif question["ask"] == "usage":
        found = maybeDeferred(running.usage.counts_of, question["subjects"])
    elif question["ask"] == "flush":
        found = maybeDeferred(running.usage.flush).addCallback(lambda _: True)
    elif question["ask"] == "levels":
        found = maybeDeferred(running.levels, question["digest"], question["buckets"])
    else:
        found = maybeDeferred(lambda: running.report()._asdict())
    found.addErrback(cannot_tell).addCallback(say)


def answer_use(
    used: Deferred[None], question: dict[str, Any], file_name: str, write: Callable[[bytes], object]
) -> None:
    """Write whether another configuration is in use, when that is known: true, or the problems, which are logged."""

    def not_used(failure: Failure) -> list[str]:
        if isinstance(failure.value, Misconfigured):
            _log.error("The servers file was rejected, nothing changes: {error}", error=failure.value, file=file_name)
            return list(failure.value.problems)
        _log.failure("The servers file could not be used", failure, file=file_name)
        return ["it could not be used; see the log"]

    used.addCallbacks(lambda _: True, not_used).addCallback(lambda found: write(answer_line(question, found)))


def answer_line(question: dict[str, Any], found: object) -> bytes:
    """The response to a request of the parent."""
    return json.dumps({"number": question["number"], "answer": found}).encode() + b"\n"


def first_line(descriptor: int = STANDARD_INPUT) -> tuple[bytes, bytes]:
    """The first line of standard input, and what was read after it; both empty if there is none."""
    blocks: list[bytes] = []
    while data := os.read(descriptor, READ_BYTES):
        blocks.append(data)
        if b"\n" in data:
            line, _, rest = b"".join(blocks).partition(b"\n")
            return line, rest
    return b"", b""


def main(reactor_module: str) -> None:
    """Serve until the parent stops this worker, or has ended."""
    globalLogBeginner.beginLoggingTo([FileLogObserver(sys.stdout, _line)], redirectStandardIO=False)
    line, rest = first_line()
    if not line:
        return
    instructions = json.loads(line)

    # As in `tap.makeService`.
    gc.disable()
    # These modules import klein and txredisapi, which would install a reactor themselves.
    namedModule(reactor_module).install()
    from twisted.internet import reactor
    from twisted.internet.stdio import StandardIO

    from twisted_lb.app.fatal import log_unraisable
    from twisted_lb.app.listener_tls import CertificatesOfWorker, new_contexts
    from twisted_lb.app.monotonic import run_on_monotonic_clock
    from twisted_lb.app.process import Serving
    from twisted_lb.app.servers_reader import Reading
    from twisted_lb.app.services import Opening, secured
    from twisted_lb.config.servers_file import read_gateway
    from twisted_lb.config.settings import Settings
    from twisted_lb.discovery.worker_servers import ServersOfWorker
    from twisted_lb.network.listener import adopt

    run_on_monotonic_clock(reactor)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in instructions["settings"].items()
    }
    settings = Settings(**given)
    contexts = new_contexts(settings, instructions["client_authorities"])
    certificates = CertificatesOfWorker(reactor, contexts, instructions["ticket_secrets"])
    certificates.use(instructions["certificates"])
    openings: dict[str, Opening] = {}
    for listener in instructions["listeners"]:
        descriptor, family = listener["descriptor"], socket.AddressFamily(listener["family"])
        opening = partial(adopt, reactor, descriptor, family)
        context = certificates.certificates.present_context
        openings[f"socket {descriptor}"] = secured(opening, context) if listener["tls"] else opening
    file_name = settings.servers_file
    spec = read_gateway(instructions["servers"], file_name, as_bytes(instructions["files"]).__getitem__)
    servers = ServersOfWorker(reactor, spec, instructions["answers"])
    serving = Serving(reactor, settings, servers.spec, openings, standard_output=instructions["standard_output"])
    service = serving.together()
    reading, use_lock = Reading(reactor), DeferredLock()

    async def use(words: dict[str, Any]) -> None:
        # The parent has validated it, and logs the changes.
        spec = None
        if "servers" in words:
            spec = (await reading.read(words["servers"], file_name, as_bytes(words["files"]))).spec
        await servers.use(spec, words.get("answers", {}), serving.gateway.change_in_turns)

    def certificates_not_used(failure: Failure) -> None:
        _log.failure("The certificates could not be used", failure)

    def told(line: bytes) -> None:
        words = json.loads(line)
        if "servers" in words or "answers" in words:
            # Sequentially: a short file after a long one would be read sooner.
            used = use_lock.run(lambda: Deferred.fromCoroutine(use(words)))
            answer_use(used, words, file_name, parent.transport.write)
        elif "certificates" in words:
            certificates.use_in_turns(words["certificates"]).addErrback(certificates_not_used)
        elif "client_authorities" in words:
            contexts = new_contexts(settings, words["client_authorities"])
            certificates.use_contexts_in_turns(contexts).addErrback(certificates_not_used)
        elif "ticket_secrets" in words:
            certificates.use_secrets(words["ticket_secrets"])
        elif "keys" in words:
            serving.learn(words["keys"])
        elif "reopen" in words:
            serving.reopen_logs()
        else:
            answer(serving, words, parent.transport.write)

    log_unraisable()
    started: Any = reactor
    started.callWhenRunning(gc.enable)
    parent = ParentPipe(reactor, told)
    connect: Any = StandardIO
    connect(parent, STANDARD_INPUT, instructions["reports"], reactor)
    parent.dataReceived(rest)
    started.addSystemEventTrigger("before", "shutdown", service.stopService)
    service.privilegedStartService()
    service.startService()
    watchdog = Watchdog(started, WATCHDOG_TIMES * settings.worker_timeout)
    if settings.worker_timeout:
        watchdog.start()
    started.run()
    watchdog.stop()


def _line(event: LogEvent) -> str | None:
    """An event as text without its time, which the parent adds."""
    text = formatEventAsClassicLogText(event)
    return text and text.partition(" ")[2]


if __name__ == "__main__":
    main(sys.argv[1])
