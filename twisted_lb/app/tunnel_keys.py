"""Ends the tunnels of keys that must not be used any more.

A request is admitted when it begins, but a tunnel may stay open for hours.  So the store is asked regularly about the
keys of all open tunnels of this process, in one call.  While it is unavailable, tunnels stay open.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.interfaces import IUserStore, StoreUnavailable
from twisted_lb.proxy.factory import ProxyFactory
from twisted_lb.repeated import Repeated

ASK_SECONDS = 2.0  # tunnels of a key end within 5 s

_log = Logger()


class TunnelKeys(Service):
    """Checks the keys of open tunnels."""

    def __init__(self, reactor: Any, factory: ProxyFactory, users: IUserStore) -> None:
        self._factory = factory
        self._users = users
        self._asking = Repeated(reactor, self._ask, "the check of the keys of tunnels")

    def startService(self) -> None:
        super().startService()
        self._asking.start(ASK_SECONDS)

    def stopService(self) -> None:
        super().stopService()
        self._asking.stop()

    def _ask(self) -> Deferred[None]:
        digests = self._factory.tunnel_keys()
        if not digests:
            return succeed(None)
        return self._users.refused_keys(digests).addCallbacks(self._end, self._not_known)

    def _end(self, refused: list[str]) -> None:
        ended = sum([self._factory.close_tunnels(digest) for digest in refused])
        if ended:
            _log.info("{ended} tunnels were ended, since their keys must not be used any more", ended=ended)

    def _not_known(self, failure: Failure) -> None:
        failure.trap(StoreUnavailable)
