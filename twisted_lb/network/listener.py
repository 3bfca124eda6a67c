"""Listening ports: the kinds of server endpoints that are supported, and how our ports differ from Twisted's.

The kinds are tcp, tcp6, unix and systemd.  Twisted parses an endpoint string and asks a reactor to listen; here a
`_Ports` takes the place of the reactor, so that the string has exactly Twisted's meaning, and the port is one of ours:

1. A port accepts at most MAX_ACCEPTS connections per event, and the kernel queues up to BACKLOG.
2. An IPv6 wildcard port accepts IPv4 clients too, as is usual on Linux, unless another endpoint has the same port on
   IPv4: then it accepts IPv6 only (IPV6_V6ONLY), since otherwise only one of the two could be bound.
3. The file of a Unix socket belongs to the process that made it: one that has inherited the socket (a worker, or a
   service of systemd) neither removes it nor changes its mode.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from twisted.internet import tcp
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory

from twisted_lb.network.twisted_private import (
    IPv6OnlyPort,
    UnixPort,
    accept_at_most,
    accept_now,
    inherited_unix_port,
    leave_open,
    set_transports,
)
from twisted_lb.network.unix_socket import LOCK_SUFFIX, Obstacle, claim, obstacle

# Connections that the kernel queues; it has a limit of its own, net.core.somaxconn.  Twisted's 50 are too few for a
# burst of clients, which would wait a second or more for their SYN to be answered.
BACKLOG = 4096
# Connections that are accepted before other events are handled.
MAX_ACCEPTS = 16
# Of the path of a Unix socket, with its final NUL (sockaddr_un).
MAX_PATH_BYTES = 108

SERVED = ("tcp", "tcp6", "unix", "systemd")
NOT_SERVED = {
    "ssl": "for TLS, put the endpoint into TLS_LISTEN, as tcp or tcp6, and the certificate into TLS_CERT_FILE",
    "tls": "for TLS, put the endpoint into TLS_LISTEN, as tcp or tcp6, and the certificate into TLS_CERT_FILE",
    "haproxy": "for the PROXY protocol, set PROXY_PROTOCOL_FROM",
    "stdio": "standard input is one connection, not a listener",
}


class Endpoint(NamedTuple):
    """What an endpoint string asks for."""

    text: str
    port: int | None = None  # of TCP; None for another kind, and for a socket that was inherited
    interface: str = ""  # of TCP: an IP address, "" for all of IPv4, or "::"
    path: str = ""  # of a Unix socket that is to be created
    lock: bool = False  # whether that has a lock file

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of the socket."""
        return socket.AF_INET6 if ":" in self.interface else socket.AF_INET

    @property
    def address(self) -> IPv4Address | IPv6Address | str:
        """What clients connect to: an IPv4-mapped address (RFC 4291 section 2.5.5.2) is IPv4; a name stays a name."""
        try:
            address = ip_address(self.interface or "0.0.0.0")
        except ValueError:
            return self.interface
        return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address

    @property
    def ipv6(self) -> bool:
        """Whether it is for IPv6."""
        return isinstance(self.address, IPv6Address)

    @property
    def wildcard(self) -> bool:
        """Whether it is for all addresses of the machine."""
        address = self.address
        return not isinstance(address, str) and address.is_unspecified

    @property
    def files(self) -> set[str]:
        """The files that it creates; the same for every path that leads to their directory."""
        directory, name = os.path.split(self.path)
        path = os.path.join(os.path.realpath(directory), name)
        return {path, path + LOCK_SUFFIX} if self.lock else {path}


class _Asked:
    """A reactor that only records what it is asked for."""

    def __init__(self, text: str) -> None:
        self.endpoint = Endpoint(text)

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        self.endpoint = Endpoint(self.endpoint.text, port, interface)

    def listenUNIX(
        self, address: str, factory: object, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> None:
        self.endpoint = Endpoint(self.endpoint.text, path=os.fsdecode(address), lock=bool(wantPID))


def read_endpoint(text: str) -> Endpoint:
    """Read a server endpoint string.  Raises ValueError with what is wrong with it."""
    kind = text.partition(":")[0].lower()
    if kind not in SERVED:
        reason = NOT_SERVED.get(kind, f"{kind!r} is not a kind of endpoint that is served here")
        raise ValueError(f"{reason}; expected {', '.join(SERVED[:-1])} or {SERVED[-1]}")
    asked = _Asked(text)
    try:
        endpoint = serverFromString(asked, text)
    # Each kind of endpoint parses its own arguments, and fails in its own way.
    except Exception as error:
        if kind == "systemd" and isinstance(error, IndexError | KeyError):
            raise ValueError("systemd has passed no such socket to this process") from None
        hint = " (a colon within a value is written \\:)" if text.count(":") > 2 else ""
        raise ValueError(f"it cannot be read: {error}{hint}") from None
    if kind != "systemd":
        maybeDeferred(endpoint.listen, Factory())
    found = asked.endpoint
    if found.port is not None and not 0 <= found.port <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, not {found.port}")
    if kind == "unix" and not found.path:
        raise ValueError("it names no path")
    if len(os.fsencode(found.path)) >= MAX_PATH_BYTES:
        raise ValueError(f"the path of a Unix socket has at most {MAX_PATH_BYTES - 1} bytes")
    return found


def conflict(one: Endpoint, other: Endpoint) -> bool:
    """Whether both need the same address or path, so that only one of them could be bound."""
    if one.path or other.path:
        return bool(one.path and other.path and one.files & other.files)
    if not one.port or one.port != other.port or one.ipv6 != other.ipv6:
        return False
    return one.wildcard or other.wildcard or one.address == other.address


def ipv6_only(one: Endpoint, others: Iterable[Endpoint]) -> bool:
    """Whether it must not accept IPv4 clients, because another endpoint does; see 2."""
    return one.ipv6 and one.wildcard and any(one.port == other.port and not other.ipv6 for other in others)


def trial(endpoint: Endpoint) -> Obstacle | None:
    """Why the port could not be opened now; None: it could.

    `in_use`: a running process has the address or path.  When a configuration is checked, that may be this program.
    """
    if endpoint.path:
        return obstacle(endpoint.path, endpoint.lock)
    if endpoint.port is None:
        return None
    try:
        with socket.socket(endpoint.family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((endpoint.interface, endpoint.port))
    # ValueError: a host name that cannot be encoded.
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            return Obstacle("it is in use by another process", True)
        return Obstacle(f"cannot listen: {getattr(error, 'strerror', None) or error}")
    return None


class _Ports:
    """Takes the place of the reactor that an endpoint asks to listen."""

    def __init__(self, reactor: Any, ipv6_only: bool = False) -> None:
        self._reactor = reactor
        self._ipv6_only = ipv6_only

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> IListeningPort:
        backlog = max(backlog, BACKLOG)
        if not self._ipv6_only:
            return _ours(self._reactor.listenTCP(port, factory, backlog, interface), factory)
        made = IPv6OnlyPort(port, factory, backlog, interface, self._reactor)
        made.startListening()
        return _ours(made, factory)

    def listenUNIX(
        self, address: str, factory: Factory, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        port = UnixPort(os.fsencode(address), factory, max(backlog, BACKLOG), mode, self._reactor)
        port.lock = claim(os.fsdecode(address), bool(wantPID))
        try:
            port.startListening()
        except BaseException:
            if port.lock is not None:
                port.lock.unlock()
            raise
        return _ours(port, factory)

    def adoptStreamPort(self, descriptor: int, family: int, factory: Factory) -> IListeningPort:
        if family != socket.AF_UNIX:
            return _ours(self._reactor.adoptStreamPort(descriptor, family, factory), factory)
        # The file belongs to another process; see 3.
        made: Any = inherited_unix_port(self._reactor, descriptor, factory)
        made.backlog = BACKLOG
        made.startListening()
        return _ours(made, factory)


def _ours(port: Any, factory: Factory) -> IListeningPort:
    if isinstance(port, tcp.Port):
        accept_at_most(port, MAX_ACCEPTS)
        # A factory may make the transports of its connections.
        set_transports(port, getattr(factory, "accepted", None))
    listening: IListeningPort = port
    return listening


def keep_open_for_others(port: IListeningPort) -> None:
    """When this process closes the port, leave the socket usable for the other processes that have it."""
    if isinstance(port, tcp.Port):
        leave_open(port)


async def listen(reactor: Any, endpoint: str, others: Iterable[str], factory: Factory) -> IListeningPort:
    """Listen on an endpoint; `others` are the program's other endpoints.

    Connections have the transports that the factory's `accepted` makes, or Twisted's.  Raises ValueError for a string
    that cannot be used, PathNotUsable for the path of a Unix socket, and CannotListenError.
    """
    only = ipv6_only(read_endpoint(endpoint), map(read_endpoint, others))
    port: IListeningPort = await serverFromString(_Ports(reactor, only), endpoint).listen(factory)
    return port


async def adopt(reactor: Any, descriptor: int, family: socket.AddressFamily, factory: Factory) -> IListeningPort:
    """Listen on a socket that this process has inherited; takes ownership of the descriptor."""
    port = _Ports(reactor).adoptStreamPort(descriptor, family, factory)
    # The port has a duplicate: the original would keep the socket open when the port is closed.
    os.close(descriptor)
    return port


async def stop_listening(port: IListeningPort) -> None:
    """Close a port, but first accept the connections that the kernel has queued."""
    if isinstance(port, tcp.Port) and port.connected:
        accept_now(port, BACKLOG)
    await maybeDeferred(port.stopListening)
