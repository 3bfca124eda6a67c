"""Reloads servers.yaml when it changes, or a file that it names, and on SIGHUP.

1. Twice a second the modification time, size and inode of the files are checked, so that editors that write a new file
   and rename it are detected as well.  A changed file may still be incomplete: it is read when two successive checks
   are equal.
2. The text is validated as a whole first, a long one in another process (`servers_reader`).  An invalid one is logged
   once, until the file changes again, and changes nothing.
3. The files that it names (`tls`, secrets) are read with it, even when only they have changed.  Those of a text that
   was not applied are not checked.  The authorities of the system are read on SIGHUP only.
4. A valid one is applied, and the changes are logged.  With many servers this takes several iterations of the reactor,
   between which clients are served.
5. Changes that operators have made over the admin API (`operator_changes`) are in the text in use, but not always in
   the file.  Those are lost when the file has another text, which is logged.

A check costs one system call for each file.  inotify would not detect changes over network mounts and some container
mounts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.api.changes import Changed
from twisted_lb.app.servers_reader import Read, Reading
from twisted_lb.app.startup import check_classes, read_text
from twisted_lb.config.edits import Edit
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.server_tls import SYSTEM, files_changed, files_of, tls_notices
from twisted_lb.config.settings import Misconfigured
from twisted_lb.files import Look, look_at
from twisted_lb.listed import listed
from twisted_lb.repeated import Repeated
from twisted_lb.routing.notices import route_notices
from twisted_lb.steps import Steps, chunks, run_in_turns

LOOK_SECONDS = 0.5
SHOWN_CHANGES = 20  # in a log line

_log = Logger()

NO_FILES: Mapping[str, bytes] = {}


class ServersFile(Service):
    """The file, and the configuration that was last read from it."""

    def __init__(
        self,
        reactor: Any,
        file_name: str,
        text: str,
        swap: Callable[[GatewaySpec, str], str | Deferred[str]],
        wall_clock: Callable[[], float] = time.time,
        files: Mapping[str, bytes] = NO_FILES,
        spec: GatewaySpec | None = None,
    ) -> None:
        """`text` is the current configuration, `files` are those that it names, with their contents; `wall_clock`
        returns the seconds since 1970.  `spec` is the parsed text, for changes of operators.

        `swap` applies another configuration, which it gets with its text, and returns a description of the changes,
        now or later; it raises Misconfigured when that is not possible, and then nothing has changed.
        """
        self._reactor = reactor
        self.file_name = file_name
        self.text = text  # that of the file when it was last read and valid
        self.text_in_use = text  # with the changes of operators
        self.live: dict[tuple[str, str], Changed] = {}  # those that are not in the file, by pool and server, or ""
        self.spec = spec  # the text in use, parsed
        self.lock = DeferredLock()  # held while another configuration is applied
        self._files = files
        self._swap = swap
        self._used_at = wall_clock()
        self._wall_clock = wall_clock
        self._last: list[Look] = []
        self._settled = False
        self._refused = False
        self._reading = Reading(reactor)
        self._under_way = False
        self._again = False
        self._asked = False
        self._looks = Repeated(reactor, self.look, "the watch of the servers file")

    def startService(self) -> None:
        """Start watching."""
        super().startService()
        self._looks.start(LOOK_SECONDS)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        self._reading.stop()
        self._looks.stop()

    def look(self) -> Deferred[None]:
        """Read the files if one has changed, but none since the last check."""
        return run_in_turns(self._reactor, self._look_in_steps()).addCallback(self._looked)

    def _look_in_steps(self) -> Steps[list[Look]]:
        looks = [look_at(self.file_name)]
        for number, some in enumerate(chunks([file for file in self._files if file != SYSTEM])):
            if number:
                yield
            looks += [look_at(file) for file in some]
        return looks

    def _looked(self, now: list[Look]) -> None:
        if not self.running:
            return
        if now != self._last:
            self._last = now
            self._settled = False
        elif not self._settled:
            self._settled = True
            self.read()

    def read(self, asked: bool = False) -> None:
        """Read the file and apply it if it is valid.  `asked`: log the result even without changes."""
        self._asked |= asked
        if self._under_way:
            # The file may have changed by now.
            self._again = True
            return
        asked, self._asked = self._asked, False
        self._under_way = True
        self.lock.run(Deferred.fromCoroutine, self._use(asked)).addBoth(self._used)

    async def _use(self, asked: bool) -> None:
        # Here, since a change of an operator may have written the file while this was waiting for the lock.
        try:
            text = read_text(self.file_name)
        except Misconfigured as error:
            self._refuse(error)
            return
        other = text != self.text
        if not other and not files_changed(self._files):
            if asked or self._refused:
                _log.info("{file}: no change", file=self.file_name)
            self._refused = False
            return
        try:
            read = await self._reading.read(text if other else self.text_in_use, self.file_name)
            said = await self.swap_in(read)
        except Misconfigured as error:
            self._refuse(error)
            return
        self._refused = False
        self._used_at = self._wall_clock()
        self.text = text
        spec = read.spec
        notices = tls_notices(spec, self.file_name, self._wall_clock())
        notices += await run_in_turns(self._reactor, route_notices(spec, self.file_name))
        for notice in notices:
            _log.warn("{notice}", notice=notice)
        _log.info(
            "{file} was reloaded: {said}",
            file=self.file_name,
            said=said,
            servers=len(spec.servers),
            pools=len(spec.pools),
            routes=len(spec.routes),
        )
        if other and self.live:
            lost, self.live = ["/".join(filter(None, place)) for place in self.live], {}
            _log.warn(
                "{file}: the reload has dropped what operators had changed over the admin API: {changes}",
                file=self.file_name,
                changes=listed(lost, SHOWN_CHANGES),
            )

    def edited(self, edit: Edit) -> Deferred[Read]:
        """The text in use with a change, read and validated; it is not used yet.

        Fails with Misconfigured and NotEditable.  The caller holds `lock`.
        """
        return self._reading.read(self.text_in_use, self.file_name, edit=edit)

    async def swap_in(self, read: Read) -> str:
        """Use what was read; returns what has changed.  Raises Misconfigured, and then nothing has changed.

        The caller holds `lock`.
        """
        check_classes(read.spec, self.file_name, read.lines)
        said: Any = await maybeDeferred(self._swap, read.spec, read.text)
        self.text_in_use, self.spec = read.text, read.spec
        self._files = files_of(read.spec)
        return str(said)

    def _used(self, result: Failure | None) -> None:
        self._under_way = False
        if result is not None:
            _log.failure("The servers file could not be used", result, file=self.file_name)
        again, self._again = self._again, False
        if again and self.running:
            self.read()

    def counts(self) -> dict[str, float]:
        """For the metrics: whether the file was valid when last read, and the time of the last successful reload."""
        return {"reload_ok": float(not self._refused), "reloaded_at": self._used_at}

    def _refuse(self, error: Misconfigured) -> None:
        self._refused = True
        _log.error(
            "The servers file was rejected, nothing changes: {problems}",
            problems="; ".join(error.problems),
            file=self.file_name,
        )
