"""One query to the name servers: UDP, and TCP where the answer is too long for it (RFC 1035, RFC 7766).

Twisted's own DNS client writes four lines to the log for each query and does not notice refused datagrams, so its codec
(`twisted.names.dns`) is used here with our own sockets:

1. Each query has a socket and a random id of its own for each server.  The socket is connected, so the kernel drops
   datagrams from other addresses, and reports at once if nothing listens there.  Later rounds send the message again.
2. The first server is asked; when it has not answered within ATTEMPT_SECONDS, or has failed, the next one as well, in
   several rounds with longer timeouts.  The first good answer from any of them is used.
3. "No such name" is an answer.  SERVFAIL, REFUSED, and messages that cannot be read are failures of that server.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ClientFactory
from twisted.names import dns
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure

from twisted_lb.network.shortage import described, shortage_of
from twisted_lb.network.system_files import NameServer

ATTEMPT_SECONDS = (0.5, 1.0, 2.0)  # the wait for a server before the next one is asked, in each round
MAX_DATAGRAM = 4096
MAX_TCP_ANSWER = 65535  # hundreds of SRV records
MAX_ALIASES = 16
NO_TTL = 0
_HOST = re.compile(r"(?=.{1,253}\.?\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")


class Answer(NamedTuple):
    """The addresses of a name; empty: there is no such name, or it has no address of this kind.

    For a service, they are its SRV records as in a zone file: `10 5 8000 node1.example.com`.
    """

    addresses: tuple[str, ...]
    ttl: int  # seconds
    whole: bool = True  # False: addresses of the other family may be missing
    local: bool = False  # from the hosts file


class LookupFailed(Exception):
    """No name server has answered."""

    def __init__(self, detail: str, shortage: bool = False) -> None:
        """`shortage`: this machine lacks a resource for the query, such as an open file."""
        super().__init__(detail)
        self.detail = detail
        self.shortage = shortage


class BadAnswer(Exception):
    """A name server has sent an answer that cannot be used."""


def encode_question(number: int, name: str, kind: int) -> bytes:
    """The message of a query for records of a kind: dns.A, dns.AAAA or dns.SRV.  Raises ValueError for a bad name."""
    labels = name.split(".")
    if len(name) > 253 or any(not 0 < len(label) <= 63 for label in labels):
        raise ValueError(f"{name!r} is not the name of a host")
    message = dns.Message(number, recDes=1)
    message.addQuery(name.encode("ascii"), kind, dns.IN)
    data: bytes = message.toStr()
    return data


def read_answer(data: bytes, number: int, name: str, kind: int) -> Answer | None:
    """Read an answer; None: it was too long for a datagram.  Raises BadAnswer."""
    message = dns.Message()
    try:
        message.fromStr(data)
        asked = [(str(query.name).lower(), query.type) for query in message.queries]
    except Exception as error:
        raise BadAnswer(f"its answer cannot be read: {error!r}") from None
    if message.id != number or not message.answer or asked != [(name.lower(), kind)]:
        raise BadAnswer("its answer is to another question")
    if message.trunc:
        return None
    if message.rCode == dns.ENAME:
        return Answer((), _negative_ttl(message))
    if message.rCode != dns.OK:
        raise BadAnswer(f"it answered with the code {message.rCode}")
    answer = _addresses(message, name.lower(), kind)
    if not answer.addresses and len(message.answers) < int.from_bytes(data[6:8]):
        # The codec returns the records that it can read.
        raise BadAnswer("its answer is cut short")
    return answer


def _addresses(message: Any, name: str, kind: int) -> Answer:
    ttls = []
    aliases = {str(one.name).lower(): one for one in message.answers if one.type == dns.CNAME}
    for _ in range(MAX_ALIASES):
        alias = aliases.get(name)
        if alias is None:
            break
        ttls.append(alias.ttl)
        name = str(alias.payload.name).lower()
    found = [one for one in message.answers if one.type == kind and str(one.name).lower() == name]
    if not found:
        return Answer((), _negative_ttl(message))
    ttls += [one.ttl for one in found]
    if kind == dns.SRV:
        addresses = [_service_text(one.payload) for one in found]
    else:
        family = socket.AF_INET6 if kind == dns.AAAA else socket.AF_INET
        addresses = [socket.inet_ntop(family, one.payload.address) for one in found]
    return Answer(tuple(dict.fromkeys(filter(None, addresses))), min(ttls))


def _service_text(record: Any) -> str:
    """An SRV record as in a zone file; "" for one without a host that can be connected to."""
    target = str(record.target)
    # "." says that the domain does not have the service.
    if not record.port or not _HOST.fullmatch(target):
        return ""
    return f"{record.priority} {record.weight} {record.port} {target}"


def _negative_ttl(message: Any) -> int:
    """RFC 2308 section 5."""
    for one in message.authority:
        if one.type == dns.SOA:
            return int(min(one.ttl, one.payload.minimum))
    return NO_TTL


class Question:
    """A query under way.  `answer` fires once, with an Answer or LookupFailed; cancelling it closes all sockets."""

    def __init__(self, reactor: Any, servers: tuple[NameServer, ...], name: str, kind: int) -> None:
        self.answer: Deferred[Answer] = Deferred(lambda _: self._end())
        self.answered_by: NameServer | None = None
        self._reactor = reactor
        self._servers = servers
        self._name = name
        self._kind = kind
        self._attempt = 0
        self._open: set[_Datagram | _Stream] = set()
        self._datagrams: dict[int, _Datagram] = {}  # the last one to each server, by its index
        self._next: IDelayedCall | None = None
        self._fault = "the name servers do not answer"
        self._shortage = False
        self._over = False
        self._ask()

    def _ask(self) -> None:
        """Ask the next server; after the last round, fail."""
        self._next = None
        round_, index = divmod(self._attempt, len(self._servers))
        if round_ >= len(ATTEMPT_SECONDS):
            self._fail()
            return
        self._attempt += 1
        self._next = self._reactor.callLater(ATTEMPT_SECONDS[round_], self._ask)
        asked = self._datagrams.get(index)
        if asked is not None and asked in self._open:
            # It has not answered.  Its socket is used again, since many names may be looked up at the same time.
            asked.send()
            return
        number = secrets.randbits(16)
        try:
            question = encode_question(number, self._name, self._kind)
        except (ValueError, UnicodeError):
            self._settle(Answer((), NO_TTL))
            return
        server = self._servers[index]
        try:
            datagram = _Datagram(self._reactor, self, server, number, question)
        except OSError as error:
            self.failed(None, server, error)
            return
        self._open.add(datagram)
        self._datagrams[index] = datagram

    def failed(self, attempt: _Datagram | _Stream | None, server: NameServer, error: Exception) -> None:
        """This server has failed: ask the next one now."""
        if attempt is not None:
            self._open.discard(attempt)
        if self._over:
            return
        shortage = shortage_of(error, *server)
        self._shortage = bool(shortage)
        host, port = server
        self._fault = shortage or f"the name server {host}:{port} failed: {described(error)}"
        if self._attempt < len(self._servers):
            if self._next is not None:
                self._next.reset(0)
        elif not self._open:
            # All have failed.
            self._fail()

    def received(self, attempt: _Datagram | _Stream, server: NameServer, number: int, data: bytes) -> None:
        """A server has answered."""
        if self._over:
            return
        try:
            answer = read_answer(data, number, self._name, self._kind)
            if answer is None and isinstance(attempt, _Stream):
                raise BadAnswer("its answer by TCP is not whole")
        except BadAnswer as error:
            self.failed(attempt, server, error)
            return
        if answer is None:
            self._open.discard(attempt)
            self._open.add(_Stream(self._reactor, self, server, number, self._name, self._kind))
            return
        self.answered_by = server
        self._settle(answer)

    def _settle(self, answer: Answer) -> None:
        if not self._over:
            self._end()
            self.answer.callback(answer)

    def _fail(self) -> None:
        self._end()
        self.answer.errback(Failure(LookupFailed(self._fault, self._shortage)))

    def _end(self) -> None:
        self._over = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for attempt in self._open:
            attempt.close()
        self._open.clear()


class _Datagram:
    """A query by UDP, and its answer; an IReadDescriptor."""

    def __init__(self, reactor: Any, question: Question, server: NameServer, number: int, data: bytes) -> None:
        """Raises OSError."""
        self._reactor = reactor
        self._question = question
        self._server = server
        self._number = number
        self._data = data
        self._socket = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect(server)
            self._socket.send(data)
        except OSError:
            self._socket.close()
            raise
        reactor.addReader(self)

    def send(self) -> None:
        """Send the query again."""
        try:
            self._socket.send(self._data)
        except OSError as error:
            self._failed(error)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "twisted_lb"

    def doRead(self) -> None:
        try:
            data = self._socket.recv(MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            # For example ConnectionRefusedError: nothing listens there.
            self._failed(error)
            return
        self.close()
        self._question.received(self, self._server, self._number, data)

    def _failed(self, error: OSError) -> None:
        self.close()
        self._question.failed(self, self._server, error)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor does not poll it any more."""
        self.close()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()


class _Stream(ClientFactory):
    """The same query by TCP."""

    noisy = False

    def __init__(
        self, reactor: Any, question: Question, server: NameServer, number: int, name: str, kind: int
    ) -> None:
        self._question = question
        self._server = server
        self._number = number
        self._data = encode_question(number, name, kind)
        self._closed = False
        # The rounds of the query end before that.
        self._connector = reactor.connectTCP(*server, self, timeout=30)

    def buildProtocol(self, addr: object) -> _StreamProtocol:
        return _StreamProtocol(self._data, self._received)

    def _received(self, data: bytes) -> None:
        self.close()
        self._question.received(self, self._server, self._number, data)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self._lost(reason)

    def clientConnectionLost(self, connector: object, reason: Failure) -> None:
        self._lost(reason)

    def _lost(self, reason: Failure) -> None:
        if not self._closed:
            self._closed = True
            error = reason.value
            self._question.failed(self, self._server, error if isinstance(error, Exception) else Exception())

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._connector.disconnect()


class _StreamProtocol(Int16StringReceiver):
    MAX_LENGTH = MAX_TCP_ANSWER

    def __init__(self, question: bytes, received: Callable[[bytes], None]) -> None:
        self._question = question
        self._received = received

    def connectionMade(self) -> None:
        self.sendString(self._question)

    def stringReceived(self, string: bytes) -> None:
        self._received(string)
