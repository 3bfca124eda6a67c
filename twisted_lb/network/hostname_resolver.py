"""Makes the data path's cache of names the resolver of Twisted's reactor.

So the rest of the process, such as the connections to Redis, also resolves names without threads.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from twisted_lb.network.names import MAX_TTL, Names, Unresolved, Waiting


@implementer(IHostnameResolver)
class HostnameResolver:
    """Resolves names by `Names`."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def resolveHostName(
        self,
        receiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: object = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See IHostnameResolver.  The result comes at the end of the look-up."""
        resolution = _Resolution(hostName)
        receiver.resolutionBegan(resolution)

        def told(found: tuple[str, ...] | Unresolved) -> None:
            for address in () if isinstance(found, Unresolved) else found:
                made: IAddress = (IPv6Address if ":" in address else IPv4Address)("TCP", address, portNumber)
                if addressTypes is None or type(made) in addressTypes:  # type: ignore[operator]
                    receiver.addressResolved(made)
            receiver.resolutionComplete()

        resolution.waiting = self._names.ask(hostName, told, MAX_TTL)
        return resolution


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: Waiting | None = None

    def cancel(self) -> None:
        """Do not call the receiver any more."""
        if self.waiting is not None:
            self.waiting.cancel()
