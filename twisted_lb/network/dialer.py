"""Opens a connection to one of the addresses of a host (RFC 8305, "happy eyeballs").

1. One deadline covers the look-up of the name and all attempts.  Addresses that are found while attempts are under way
   are tried as well.
2. The addresses are tried one after another: the next one as soon as one has failed, and at the latest ATTEMPT_SECONDS
   after the one before; earlier attempts continue.  The first that connects wins, and the others are cancelled.
3. IPv6 and IPv4 addresses alternate, IPv6 first.  Within each family the first address changes with each connection, so
   that a server with several addresses gets connections on all of them.
4. An address that has failed, or was slower than another one, is tried last for DEAD_SECONDS, so that it delays only
   one connection.
5. With TLS as well, the first TCP connection wins, and only that one makes a handshake: servers should not spend
   handshakes on connections that are dropped.  If the handshake fails, the address has failed, and the next one is
   tried within the same deadline.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, Protocol

from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    NoRouteError,
    UserError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IDelayedCall, IProtocol
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.network.names import Follower, Unresolved, Waiter, is_address
from twisted_lb.network.shortage import shortage_of
from twisted_lb.network.tls_client import TlsClient, TlsContexts
from twisted_lb.network.tls_errors import CertificateNotVerified

ATTEMPT_SECONDS = 0.25  # RFC 8305 section 5
DEAD_SECONDS = 60.0
MAX_DEAD = 10_000
SHORTAGE_LOG_SECONDS = 10.0

# The texts of errors; the first class that matches counts.
_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (NoRouteError, "no route to it"),
    (ConnectTimeout, "no connection in time"),
    (UserError, "no connection in time"),
    (ConnectError, "no connection"),
)

# OpenSSL's errors for bytes that are not TLS.
_OTHER_PROTOCOL = ("wrong version number", "packet length too long", "record layer failure", "unexpected message")
SPEAKS_NO_TLS = " (it may not speak TLS; http:// is for that)"

_log = BoundedLog(Logger(), seconds=SHORTAGE_LOG_SECONDS)

# Opens a connection: IP address, port, factory, timeout in seconds.  Returns an IConnector.
Connect = Callable[[str, int, ClientFactory, float], Any]
# The same with TLS; the timeout includes the handshake.  Before the handshake, the function is called, and the bytes
# are sent unencrypted.
ConnectTls = Callable[[str, int, ClientFactory, float, TlsClient, Callable[[], None], bytes], Any]


class Resolving(Protocol):
    """The part of `names.Names` that is needed here."""

    def ask(self, name: str, waiter: Waiter, timeout: float) -> Any:
        """Call `waiter` with the addresses of a name: at once, or later; the result then has a method `cancel`."""

    def ask_rest(self, name: str, waiter: Waiter, timeout: float) -> Any:
        """Call `waiter` at the end of the look-up that is under way; returns None if there is none."""

    def doubt(self, name: str) -> None:
        """None of the addresses has accepted a connection."""

    def follow(self, name: str, follower: Follower) -> None:
        """Call `follower` each time the addresses of the name have changed."""

    def unfollow(self, name: str, follower: Follower) -> None:
        """Stop calling it."""


class Unreachable(Exception):
    """No connection could be opened."""

    def __init__(self, detail: str, shortage: str = "", refused: bool = False) -> None:
        """`detail` is a short text for a log; `shortage` says what this machine is short of, if that is the reason.

        `refused`: the host has refused the connection, since nothing listens on the port.
        """
        super().__init__(detail)
        self.detail = detail
        self.shortage = shortage
        self.refused = refused


class Taker(Protocol):
    """Asks for a connection.  One of the two methods is called, once."""

    def build_protocol(self, address: str) -> IProtocol:
        """The connection to this address is open, with TLS after the handshake; returns its protocol."""

    def connect_failed(self, reason: Unreachable) -> None:
        """No connection could be opened."""


class DeadAddresses:
    """The addresses to which a connection has failed within the last DEAD_SECONDS."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._until: OrderedDict[tuple[str, int], float] = OrderedDict()

    def failed(self, address: str, port: int) -> None:
        """The address has not accepted a connection."""
        place = address, port
        self._until[place] = self._seconds() + DEAD_SECONDS
        self._until.move_to_end(place)
        if len(self._until) > MAX_DEAD:
            self._until.popitem(last=False)

    def worked(self, address: str, port: int) -> None:
        """The address has accepted a connection."""
        if self._until:
            self._until.pop((address, port), None)

    def last(self, addresses: Sequence[str], port: int) -> list[str]:
        """The addresses in the same order, but those that have failed at the end."""
        if not self._until:
            return list(addresses)
        now = self._seconds()
        return sorted(addresses, key=lambda address: self._until.get((address, port), 0.0) > now)


def ordered(addresses: Iterable[str], turn: int) -> list[str]:
    """Alternate between IPv6 and IPv4; within each family the addresses are rotated by `turn` positions."""
    six: list[str] = []
    four: list[str] = []
    for address in addresses:
        (six if ":" in address else four).append(address)
    rotated = [family[turn % len(family) :] + family[: turn % len(family)] if family else [] for family in (six, four)]
    return [address for pair in zip_longest(*rotated) for address in pair if address is not None]


class Dialer:
    """Opens connections."""

    def __init__(
        self,
        clock: Any,
        names: Resolving,
        dead: DeadAddresses,
        connect: Connect,
        connect_tls: ConnectTls,
        contexts: TlsContexts,
    ) -> None:
        """`clock` provides IReactorTime; `contexts` are those of TLS."""
        self.clock = clock
        self.names = names
        self.dead = dead
        self.connect = connect
        self.connect_tls = connect_tls
        self.contexts = contexts
        self._turn = 0

    def open(
        self, host: str, port: int, timeout: float, taker: Taker, tls: TlsClient | None = None, preface: bytes = b""
    ) -> Dialling:
        """Open a connection within `timeout` seconds, for `taker`; with TLS if `tls` is given.

        `preface` is sent before TLS; without TLS, the taker sends it.
        """
        self._turn += 1
        return Dialling(self, host, port, timeout, taker, self._turn, tls, preface)


class Dialling:
    """The attempts for one connection."""

    def __init__(
        self,
        dialer: Dialer,
        host: str,
        port: int,
        timeout: float,
        taker: Taker,
        turn: int,
        tls: TlsClient | None,
        preface: bytes,
    ) -> None:
        self._dialer = dialer
        self._host = host
        self._port = port
        self._turn = turn
        self._tls = tls
        self._preface = preface
        self._end = dialer.clock.seconds() + timeout
        self._taker: Taker | None = taker
        self._found: tuple[str, ...] = ()  # all addresses
        self._addresses: list[str] = []  # those that were not tried yet
        self._attempts: list[_Attempt] = []  # those that are under way
        self._timer: IDelayedCall | None = None
        self._failure = Unreachable("no connection in time")
        self._resolving: Any = None  # the look-up under way, which may bring more addresses
        if is_address(host):
            self._addresses.append(host)
            self._try_next()
        else:
            self._resolving = dialer.names.ask(host, self._resolved, timeout)

    def _resolved(self, found: tuple[str, ...] | Unresolved) -> None:
        self._resolving = None
        if isinstance(found, Unresolved):
            self._fail(Unreachable(found.detail, found.detail if found.shortage else ""))
            return
        self._found = found
        self._addresses = self._dialer.dead.last(ordered(found, self._turn), self._port)
        left = self._end - self._dialer.clock.seconds()
        self._resolving = self._dialer.names.ask_rest(self._host, self._rest_resolved, left)
        self._try_next()

    def _rest_resolved(self, found: tuple[str, ...] | Unresolved) -> None:
        """The look-up has ended; there may be addresses of the other family."""
        self._resolving = None
        known = self._found
        new = [] if isinstance(found, Unresolved) else [address for address in found if address not in known]
        self._found = (*known, *new)
        self._addresses = self._dialer.dead.last([*self._addresses, *ordered(new, self._turn)], self._port)
        if self._timer is None:
            self._try_next()

    def _try_next(self) -> None:
        self._timer = None
        clock = self._dialer.clock
        left = self._end - clock.seconds()
        if not self._addresses or left <= 0:
            if not self._attempts and (self._resolving is None or left <= 0):
                self._fail(self._failure)
                if not self._failure.shortage:
                    self._dialer.names.doubt(self._host)
            return
        attempt = _Attempt(self, self._addresses.pop(0))
        self._attempts.append(attempt)
        if self._addresses:
            self._timer = clock.callLater(ATTEMPT_SECONDS, self._try_next)
        if self._tls is None:
            attempt.connector = self._dialer.connect(attempt.address, self._port, attempt, left)
        else:
            attempt.connector = self._dialer.connect_tls(
                attempt.address, self._port, attempt, left, self._tls, attempt.tcp_connected, self._preface
            )

    def tcp_connected(self, attempt: _Attempt) -> None:
        """This attempt is the first one whose TCP connection is open; its handshake follows."""
        overtaken = [one for one in self._attempts if one is not attempt]
        self._attempts = [attempt]
        self._stop_searching()
        for one in overtaken:
            self._dialer.dead.failed(one.address, self._port)
            one.give_up()
        # They are tried again if the handshake fails.
        self._addresses += [one.address for one in overtaken]

    def connected(self, attempt: _Attempt) -> IProtocol | None:
        """This attempt has succeeded."""
        dead = self._dialer.dead
        dead.worked(attempt.address, self._port)
        self._attempts.remove(attempt)
        for overtaken in self._attempts:
            dead.failed(overtaken.address, self._port)
        taker = self._taker
        self.cancel()
        return taker.build_protocol(attempt.address) if taker is not None else None

    def failed(self, attempt: _Attempt, error: BaseException | None) -> None:
        """This attempt has failed: the next address is tried now."""
        self._attempts.remove(attempt)
        if self._tls is not None and attempt.handshaking:
            # The server may have rejected the session.
            self._tls.session = None
        shortage = shortage_of(error, attempt.address, self._port)
        if shortage:
            self._failure = Unreachable(shortage, shortage)
        else:
            self._dialer.dead.failed(attempt.address, self._port)
            if not self._failure.shortage:
                words = _words(error, attempt.handshaking)
                self._failure = Unreachable(words, refused=isinstance(error, ConnectionRefusedError))
        if self._timer is not None:
            self._timer.cancel()
        self._try_next()

    def _fail(self, reason: Unreachable) -> None:
        if reason.shortage:
            text = "Servers cannot be reached: {reason}"
            _log.error("shortage", text, reason=reason.shortage, host=self._host, port=self._port)
        taker = self._taker
        self.cancel()
        if taker is not None:
            taker.connect_failed(reason)

    def cancel(self) -> None:
        """The connection is not needed any more."""
        self._taker = None
        self._stop_searching()
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.give_up()

    def _stop_searching(self) -> None:
        """No further attempt begins by itself."""
        if self._resolving is not None:
            self._resolving.cancel()
            self._resolving = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Attempt(ClientFactory):
    """An attempt to connect to one address.

    Twisted keeps a reference to it as long as the connection is open, so it drops its own references when it is done.
    """

    noisy = False
    connector: Any = None
    handshaking = False  # the TCP connection is open, and the handshake of TLS has begun

    def __init__(self, dialling: Dialling, address: str) -> None:
        self.address = address
        self._dialling: Dialling | None = dialling

    def give_up(self) -> None:
        """Cancel it: another attempt was faster, or the connection is not needed any more."""
        self._dialling = None
        if self.connector is not None:
            self.connector.stopConnecting()

    def tcp_connected(self) -> None:
        """See ConnectTls."""
        self.handshaking = True
        if self._dialling is not None:
            self._dialling.tcp_connected(self)

    def buildProtocol(self, addr: object) -> Any:
        dialling, self._dialling = self._dialling, None
        self.connector = None
        return dialling.connected(self) if dialling is not None else None

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        dialling, self._dialling = self._dialling, None
        self.connector = None
        if dialling is not None:
            dialling.failed(self, reason.value)


def _words(error: BaseException | None, handshaking: bool = False) -> str:
    if handshaking:
        if isinstance(error, CertificateNotVerified):
            return f"its certificate cannot be verified: {error}"
        if isinstance(error, ConnectTimeout):
            return "its TLS handshake was not complete in time"
        text = str(error)
        hint = SPEAKS_NO_TLS if text.endswith(_OTHER_PROTOCOL) else ""
        return f"the TLS handshake failed: {text}{hint}"
    return next((words for kind, words in _WORDS if isinstance(error, kind)), str(error) or type(error).__name__)

