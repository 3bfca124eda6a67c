"""The access log of one process as a service: it starts before the proxy, and stops when all requests are over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_lb.access_log.destinations import STANDARD_OUTPUT, read_destination
from twisted_lb.access_log.formats import make_format
from twisted_lb.access_log.log import AccessLog
from twisted_lb.access_log.stamps import Stamps
from twisted_lb.access_log.writer import STOP_SECONDS, Writer, described
from twisted_lb.app.services import CannotStart
from twisted_lb.config.settings import Settings
from twisted_lb.request_record import Subscriber

LOOK_SECONDS = 0.01
# After STOP_SECONDS the thread ends, unless a call to the system does not return.
GRACE_SECONDS = 1.0

_log = Logger()


class AccessLogService(Service):
    """Opens the destination, and has all lines written at the end."""

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        subscribe: Callable[[Subscriber, bool], object],
        standard_output: int = STANDARD_OUTPUT,
    ) -> None:
        """`subscribe(subscriber, wants_fields)` is that of the ProxyFactory; `standard_output` a file descriptor."""
        self._reactor = reactor
        self._place = settings.access_log
        stamps = Stamps(reactor.seconds, time.time)
        made = make_format(settings.access_log_format, stamps)
        self._writer = Writer(read_destination(settings.access_log, standard_output))
        self._access_log = AccessLog(reactor, made, stamps, self._writer)
        self.counts = self._access_log.counts
        self.reopen = self._writer.reopen
        subscribe(self._access_log.request_finished, made.wants_fields)

    def startService(self) -> None:
        """Open the destination.  Raises CannotStart."""
        super().startService()
        try:
            self._writer.start()
        except OSError as error:
            raise CannotStart(f"ACCESS_LOG: {self._place!r}: it cannot be opened: {described(error)}") from None

    def stopService(self) -> Deferred[None]:
        """Write what was collected; fires when that is done, or has taken too long."""
        super().stopService()
        self._access_log.stop()
        before = self._writer.dropped
        self._writer.stop()
        return when_ended(self._reactor, self._writer).addCallback(self._ended, before)

    def _ended(self, _: None, before: int) -> None:
        writer = self._writer
        if not writer.ended or writer.dropped > before:
            _log.error(
                "The access log was not written to its end: {problem}; at least {lost} lines were dropped",
                problem=writer.problem or "a call to the system does not return",
                lost=writer.dropped - before,
            )


def when_ended(reactor: Any, writer: Writer) -> Deferred[None]:
    """Fires when a writer that was stopped has ended, or has taken too long."""
    ended: Deferred[None] = Deferred()
    give_up_at = reactor.seconds() + STOP_SECONDS + GRACE_SECONDS

    def look() -> None:
        if not writer.ended and reactor.seconds() < give_up_at:
            reactor.callLater(LOOK_SECONDS, look)
        else:
            ended.callback(None)

    look()
    return ended
