"""A dialer over a reactor in memory."""

from __future__ import annotations

from typing import Any

from tests.proxy.scripted import Names
from twisted_lb.network.dialer import DeadAddresses, Dialer
from twisted_lb.network.tls_client import TlsContexts


def dialer(reactor: Any, names: Names | None = None) -> Dialer:
    """Connects by the reactor's connectTCP; without `names` no name has an address."""
    names, dead = names or Names(reactor), DeadAddresses(reactor.seconds)
    return Dialer(reactor, names, dead, reactor.connectTCP, unused, TlsContexts())


def unused(*arguments: Any) -> Any:
    """TLS in memory is tested elsewhere."""
    raise AssertionError(arguments)
