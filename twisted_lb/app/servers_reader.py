"""Parses a servers file with many servers in a separate process: that takes a second, during which clients would wait.

`python -m twisted_lb.app.servers_reader` reads from standard input the name of the file, its text, a change to make in
the text first, if any, and, from a worker, the contents of the files that it names, which workers may not have the
rights to read.  It writes the result of `read_with_lines` to standard output, in pieces: each is a pickle preceded by
its length, so that the parent processes one piece per iteration of its reactor.  The first piece is a list of problems,
or everything except the servers and routes, with the lines of some keys and the text; each further one contains some
servers of a pool, or some routes.

A short text is parsed immediately, in this process.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from struct import Struct
from types import MappingProxyType
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, execute
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.app.collector import Hold
from twisted_lb.config.edits import Edit, NotEditable
from twisted_lb.config.gateway import GatewaySpec, RouteSpec
from twisted_lb.config.pool import PoolSpec, ServerSpec
from twisted_lb.config.server_tls import ReadFile, read_file
from twisted_lb.config.servers_file import InvalidYaml, Lines, edited_text, read_with_lines
from twisted_lb.config.settings import Misconfigured
from twisted_lb.steps import Steps, chunks, run_in_turns

# About a hundred servers, which take about 10 ms.
SHORT = 8 * 1024
# More than ten thousand servers need.
LONGEST_SECONDS = 60.0
# Serving clients has priority over reading, if both use the same core.
NICENESS = 5

_LENGTH = Struct(">I")

_log = Logger()


class Read(NamedTuple):
    """The configuration in a text, which may have been edited, and the lines of the keys that name classes."""

    spec: GatewaySpec
    lines: Lines
    text: str


class NotRead(Misconfigured):
    """The process that reads a text has ended without a result: nothing is known about the text."""


class Reading:
    """Reads one text after another."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._child: _Child | None = None

    def read(
        self, text: str, file_name: str, files: Mapping[str, bytes] | None = None, edit: Edit | None = None
    ) -> Deferred[Read]:
        """The parsed text, after the edit if there is one, now or later.  Fails with Misconfigured and NotEditable.

        `files` are those that the text names, with their contents; if it is None, they are read.
        """
        if len(text) <= SHORT:
            return execute(_read_here, text, file_name, files, edit)
        self._child = child = _Child(self._reactor, file_name)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "twisted_lb.app.servers_reader"]
        try:
            transport = self._reactor.spawnProcess(child, sys.executable, command, env=environment)
        except OSError as error:
            # A short delay for clients is better than an outdated list of servers.
            _log.warn("{file} is read in this process: {error}", file=file_name, error=error)
            return execute(_read_here, text, file_name, files, edit)
        transport.write(_packed((file_name, text, files, edit)))
        transport.closeStdin()
        return child.ended.addCallback(self._put_together, text)

    def _put_together(self, written: bytes, text: str) -> Deferred[Read]:
        self._child = None
        hold = Hold()
        read = run_in_turns(self._reactor, _put_together(written, text))

        def release(result: Any) -> Any:
            # The callbacks of the result run in this iteration.
            self._reactor.callLater(0, hold.release)
            return result

        return read.addBoth(release)

    def stop(self) -> None:
        """Abort reading."""
        if self._child is not None:
            self._child.kill()


def _read_here(text: str, file_name: str, files: Mapping[str, bytes] | None, edit: Edit | None) -> Read:
    read = _reader(files)
    if edit is not None:
        text = edited_text(text, edit, file_name, read)
    try:
        return Read(*read_with_lines(text, file_name, read), text)
    except InvalidYaml:
        if edit is None:
            raise
        # The change itself may be valid.
        raise NotEditable("it would not be valid YAML then; an anchor may be needed elsewhere") from None


def _reader(files: Mapping[str, bytes] | None) -> ReadFile:
    return read_file if files is None else files.__getitem__


class _Child(ProcessProtocol):
    """The process that reads; `ended` fires with its output."""

    transport: Any

    def __init__(self, reactor: Any, file_name: str) -> None:
        self.ended: Deferred[bytes] = Deferred()
        self._file_name = file_name
        self._written: list[bytes] = []
        self._complaints: list[bytes] = []
        self._running = True
        self._late = reactor.callLater(LONGEST_SECONDS, self.kill)

    def kill(self) -> None:
        if self._running:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                """Its output is still being received."""

    def outReceived(self, data: bytes) -> None:
        self._written.append(data)

    def errReceived(self, data: bytes) -> None:
        self._complaints.append(data)

    def processEnded(self, reason: Failure) -> None:
        self._running = False
        if self._late.active():
            self._late.cancel()
        status, signal = getattr(reason.value, "exitCode", None), getattr(reason.value, "signal", None)
        if status == 0:
            written, self._written = b"".join(self._written), []
            self.ended.callback(written)
            return
        how = f"was ended by signal {signal}" if signal is not None else f"ended with exit status {status}"
        words = b"".join(self._complaints).decode("utf-8", "replace").strip().rpartition("\n")[2]
        what = f"{self._file_name}: the process that reads it {how}"
        self.ended.errback(NotRead([f"{what}: {words}" if words else what]))


def _packed(value: object) -> bytes:
    data = pickle.dumps(value)
    return _LENGTH.pack(len(data)) + data


def _pieces(written: bytes) -> Iterator[Any]:
    start = 0
    while start < len(written):
        (length,) = _LENGTH.unpack_from(written, start)
        start += _LENGTH.size
        yield pickle.loads(written[start : start + length])
        start += length


def _put_together(written: bytes, text: str) -> Steps[Read]:
    pieces = _pieces(written)
    not_editable, problems, spec, lines, other_text = next(pieces)
    if not_editable:
        raise NotEditable(not_editable)
    if problems:
        raise Misconfigured(problems)
    servers: dict[str, list[ServerSpec]] = {pool.name: [] for pool in spec.pools}
    routes: list[RouteSpec] = []
    for name, some in pieces:
        if name is None:
            routes += some
        else:
            servers[name] += some
        yield
    pools = []
    for pool in spec.pools:
        options, pricing_options = MappingProxyType(pool.options), MappingProxyType(pool.pricing_options)
        pools.append(
            replace(pool, servers=tuple(servers[pool.name]), options=options, pricing_options=pricing_options)
        )
    return Read(replace(spec, pools=tuple(pools), routes=tuple(routes)), lines, other_text or text)


def _answer(
    text: str, file_name: str, files: Mapping[str, bytes] | None = None, edit: Edit | None = None
) -> Iterator[bytes]:
    try:
        spec, lines, text = _read_here(text, file_name, files, edit)
    except NotEditable as wrong:
        yield _packed((str(wrong), (), None, {}, ""))
        return
    except Misconfigured as error:
        yield _packed(("", error.problems, None, {}, ""))
        return
    without = replace(spec, pools=tuple(map(_without_servers, spec.pools)), routes=())
    yield _packed(("", (), without, lines, text if edit is not None else ""))
    for pool in spec.pools:
        for some in chunks(pool.servers):
            yield _packed((pool.name, list(some)))
    for few in chunks(spec.routes):
        yield _packed((None, list(few)))


def _without_servers(pool: PoolSpec) -> PoolSpec:
    # A MappingProxyType cannot be pickled.
    return replace(pool, servers=(), options=dict(pool.options), pricing_options=dict(pool.pricing_options))


def main() -> None:
    """Read standard input, and write the result."""
    os.nice(NICENESS)
    ((file_name, text, files, edit),) = _pieces(sys.stdin.buffer.read())
    for piece in _answer(text, file_name, files, edit):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
