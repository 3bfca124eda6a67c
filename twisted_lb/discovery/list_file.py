"""A watched file with a list of servers.

It is watched like servers.yaml: examined twice a second, and read after a change once it is the same twice in a row.
An invalid file changes nothing, and is logged once until it changes again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.server_list import read_list_in_steps
from twisted_lb.config.settings import Misconfigured
from twisted_lb.discovery.answers import LIST
from twisted_lb.files import Look, look_at, read_regular_file
from twisted_lb.repeated import Repeated
from twisted_lb.steps import Steps, finish, run_in_turns

LOOK_SECONDS = 0.5
MAX_BYTES = 16 * 1024 * 1024

_log = Logger()

# Called with the servers of the list.
Use = Callable[[tuple[str, ...]], None]


class Lists(NamedTuple):
    """The lists that a configuration names."""

    answers: dict[str, tuple[str, ...]]  # the servers of each
    notices: list[str]  # for the operator


NO_LISTS = Lists({}, [])


def read_lists(spec: GatewaySpec) -> Lists:
    """Read the lists.

    Raises Misconfigured for an invalid one.  One that does not exist yet is not an error: it may come later.
    """
    return finish(read_lists_in_steps(spec))


def read_lists_in_steps(spec: GatewaySpec, known: Collection[str] = ()) -> Steps[Lists]:
    """The same in steps, except for the sources that are `known`."""
    lists = Lists({}, [])
    for file_name in dict.fromkeys(pool.discover.file for pool in spec.pools):
        if not file_name or LIST + file_name in known:
            continue
        if os.path.exists(file_name):
            found = yield from read_list_in_steps(read_text(file_name), file_name, names_beside(spec, file_name))
            lists.answers[LIST + file_name] = found
        else:
            lists.notices.append(f"{file_name}: the list of servers does not exist yet; there are none until it does")
    return lists


def names_beside(spec: GatewaySpec, file_name: str) -> frozenset[str]:
    """The names of the servers that the configuration itself has in the pools of a list."""
    pools = [pool for pool in spec.pools if pool.discover.file == file_name]
    return frozenset(server.name for pool in pools for server in pool.servers)


def read_text(file_name: str) -> str:
    """The text of a list.  Raises Misconfigured."""
    try:
        return read_regular_file(file_name, MAX_BYTES).decode()
    except OSError as error:
        problem = str(error.strerror)
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    except ValueError as error:
        problem = str(error)
    raise Misconfigured([f"{file_name}: cannot be read: {problem}"])


class ListFile:
    """The watch of one file."""

    def __init__(self, reactor: Any, file_name: str, taken: Callable[[], Collection[str]], use: Use) -> None:
        """`taken` returns the names of other servers; `use` is called with each valid list."""
        self.valid = True
        self._reactor = reactor
        self._file_name = file_name
        self._taken = taken
        self._use = use
        self._last: Look = None
        self._settled = True
        self._reading = False
        self._looks = Repeated(reactor, self.look, f"the watch of {file_name}")
        self._looks.start(LOOK_SECONDS)

    def stop(self) -> None:
        """Stop watching."""
        self._looks.stop()

    def look(self) -> None:
        """Read the file if it has changed, but not since the last look."""
        now = look_at(self._file_name)
        if now != self._last:
            self._last = now
            self._settled = False
        elif not self._settled and not self._reading:
            self._settled = True
            self._reading = True
            Deferred.fromCoroutine(self._read()).addBoth(self._was_read)

    async def _read(self) -> None:
        text = read_text(self._file_name)
        steps = read_list_in_steps(text, self._file_name, self._taken())
        servers = await run_in_turns(self._reactor, steps)
        if not self.valid:
            self.valid = True
            _log.info("{file}: the list of servers is valid again", file=self._file_name)
        self._use(servers)

    def _was_read(self, result: Failure | None) -> None:
        self._reading = False
        if result is None:
            return
        self.valid = False
        if isinstance(result.value, Misconfigured):
            text = "The list of servers was rejected, nothing changes: {problems}"
            _log.error(text, problems="; ".join(result.value.problems), file=self._file_name)
        else:
            _log.failure("The list of servers could not be used", result, file=self._file_name)
