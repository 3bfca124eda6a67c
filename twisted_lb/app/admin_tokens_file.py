"""ADMIN_TOKENS_FILE, read again when it changes, and on SIGHUP.

A file that cannot be used is logged once, and the tokens in use stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.logger import Logger

from twisted_lb.app.startup import read_text
from twisted_lb.config.admin_tokens import AdminToken, read_admin_tokens
from twisted_lb.config.settings import Misconfigured
from twisted_lb.files import Look, look_at
from twisted_lb.repeated import Repeated

LOOK_SECONDS: Final = 1.0

_log = Logger()


class AdminTokensFile(Service):
    """Watches the file."""

    def __init__(self, reactor: Any, file_name: str, use: Callable[[Sequence[AdminToken]], object]) -> None:
        """`use` gets the tokens in the file, first at the start."""
        self._file_name = file_name
        self._use = use
        self._last: Look = None
        self._settled = False
        self._text: str | None = None
        self._looks = Repeated(reactor, self.look, "the watch of the admin tokens")

    def startService(self) -> None:
        """Start watching."""
        super().startService()
        self._looks.start(LOOK_SECONDS)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        self._looks.stop()

    def look(self) -> None:
        """Read the file if it has changed, but not since the last look: it may be incomplete."""
        now = look_at(self._file_name)
        if now != self._last:
            self._last = now
            self._settled = False
        elif not self._settled:
            self._settled = True
            self.read()

    def read(self, asked: bool = False) -> None:
        """Use what is in the file.  `asked`: log the result even without changes."""
        try:
            text = read_text(self._file_name)
            if text == self._text and not asked:
                return
            tokens = read_admin_tokens(text, self._file_name)
        except Misconfigured as error:
            _log.error("The admin tokens in use stay: {error}", error=error, file=self._file_name)
            return
        first, self._text = self._text is None, text
        self._use(tokens)
        if not first or asked:
            names = ", ".join(token.name for token in tokens)
            _log.info("{file}: the admin tokens are {names}", file=self._file_name, names=names)
