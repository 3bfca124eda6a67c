"""An endpoint that asks Redis Sentinels for the address of the master, and connects to it.

The sentinels are asked one after another, each with a deadline, beginning with the one that answered last.  Those that
did not answer, and those whose master refused the connection, are asked after the others: they may be cut off.

A sentinel is never trusted alone, because during a failover it is outdated for a moment.  The greeting contains a
write, which a replica refuses; then everything is tried again.  A master that is being replaced in an orderly failover
continues to accept writes for some seconds, all of which will be lost.  Therefore the sentinels are asked repeatedly
while a connection lasts, and a connection to a former master is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import InvalidData  # type: ignore[import-untyped]
from zope.interface import implementer

from twisted_lb.stores.redis.protocol import Wire, encode_command
from twisted_lb.stores.redis.tls import tls_trouble
from twisted_lb.stores.redis.url import place_of
from twisted_lb.stores.redis.watched import IWatched

ASK_SECONDS = 0.5  # for an answer, once a sentinel is connected

_log = Logger()


class _Sentinel(NamedTuple):
    host: str
    port: int

    @property
    def place(self) -> str:
        return place_of(self.host, self.port)


class _Master(NamedTuple):
    host: str
    port: int
    source: _Sentinel  # the one that has named it

    @property
    def place(self) -> str:
        return place_of(self.host, self.port)


class SentinelTrouble(Exception):
    """No sentinel gave a usable answer; the text names the sentinels, and the reason for each."""


@implementer(IStreamClientEndpoint, IWatched)
class SentinelEndpoint:
    """Connects to the master of `service`."""

    def __init__(
        self,
        sentinels: Sequence[tuple[str, int]],
        service: str,
        password: str,
        to_host: Callable[[str, int], IStreamClientEndpoint],
        reactor: IReactorTime,
    ) -> None:
        """`password` is that of the sentinels, "" for none.  `to_host` returns the endpoint for a host and port."""
        self._sentinels = [_Sentinel(*sentinel) for sentinel in sentinels]  # in the order of asking
        self._silent: set[_Sentinel] = set()  # these did not answer when they were asked last
        self._service = service
        self._password = password
        self._to_host = to_host
        self._reactor = reactor
        self._master: tuple[str, int] | None = None  # where the last connection went
        self._question = encode_command(b"SENTINEL", b"get-master-addr-by-name", service.encode())
        if password:
            self._question = encode_command(b"AUTH", password.encode()) + self._question

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """See IStreamClientEndpoint.  Fails with a text that names the sentinels asked, or the master."""
        return self._find().addCallback(self._connect_to, protocolFactory)

    def moved(self) -> Deferred[str]:
        """See IWatched."""
        return self._find().addCallbacks(self._compare, _unless_cancelled)

    def _compare(self, master: _Master) -> str:
        if (master.host, master.port) == self._master:
            return ""
        return f"the master is {master.place} now, says the sentinel {master.source.place}"

    def _connect_to(self, master: _Master, factory: IProtocolFactory) -> Deferred[Any]:
        if self._master != (master.host, master.port):
            self._master = master.host, master.port
            _log.info(
                "the master of {service} is {master}, says the sentinel {sentinel}",
                service=self._service,
                master=master.place,
                sentinel=master.source.place,
            )
        connecting: Deferred[Any] = self._to_host(master.host, master.port).connect(factory)
        return connecting.addErrback(self._master_is_away, master)

    def _master_is_away(self, failure: Failure, master: _Master) -> Any:
        self._ask_last(master.source)
        _unless_cancelled(failure)
        raise SentinelTrouble(
            f"the master is {master.place}, says the sentinel {master.source.place}: {_words(failure)}"
        )

    # Asking

    def _find(self) -> Deferred[_Master]:
        """The master; fails with SentinelTrouble when no sentinel names one."""
        return self._ask_next(iter(sorted(self._sentinels, key=self._silent.__contains__)), [])

    def _ask_next(self, sentinels: Iterator[_Sentinel], troubles: list[str]) -> Deferred[_Master]:
        sentinel = next(sentinels, None)
        if sentinel is None:
            return fail(SentinelTrouble(f"no sentinel names a master of {self._service}: {'; '.join(troubles)}"))
        return self._ask(sentinel).addCallbacks(
            self._answered, self._unanswered, callbackArgs=(sentinel,), errbackArgs=(sentinel, sentinels, troubles)
        )

    def _ask(self, sentinel: _Sentinel) -> Deferred[Any]:
        factory = Factory.forProtocol(lambda: _Question(self._question, 2 if self._password else 1))
        factory.noisy = False
        connecting: Deferred[Any] = self._to_host(sentinel.host, sentinel.port).connect(factory)
        return connecting.addCallback(
            lambda question: question.answer.addTimeout(ASK_SECONDS, self._reactor, onTimeoutCancel=_too_late)
        )

    def _answered(self, answer: Any, sentinel: _Sentinel) -> _Master:
        self._silent.discard(sentinel)
        self._sentinels.remove(sentinel)
        self._sentinels.insert(0, sentinel)
        host, port = answer
        return _Master(host, port, sentinel)

    def _unanswered(
        self, failure: Failure, sentinel: _Sentinel, sentinels: Iterator[_Sentinel], troubles: list[str]
    ) -> Any:
        self._ask_last(sentinel)
        _unless_cancelled(failure)
        self._silent.add(sentinel)
        words = _words(failure)
        if self._password:
            words = words.replace(self._password, "***")
        troubles.append(f"{sentinel.place}: {words}")
        return self._ask_next(sentinels, troubles)

    def _ask_last(self, sentinel: _Sentinel) -> None:
        self._sentinels.remove(sentinel)
        self._sentinels.append(sentinel)


class _Question(Wire):
    """One question on a connection of its own; `answer` fires with host and port."""

    def __init__(self, commands: bytes, replies: int) -> None:
        super().__init__(lambda _, why: self._answer(why))
        self.answer: Deferred[tuple[str, int]] = Deferred(lambda _: self.drop("the question was cancelled"))
        self._commands = commands
        self._replies_left = replies

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.write(self._commands)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        try:
            super().dataReceived(data, unpause)
        except InvalidData as error:
            self._answer(Failure(SentinelTrouble(str(error))))

    def replyReceived(self, reply: Any) -> None:
        self._replies_left -= 1
        if isinstance(reply, Exception):
            self._answer(Failure(SentinelTrouble(str(reply))))
        elif self._replies_left == 0:
            try:
                self._answer(_address(reply))
            except SentinelTrouble:
                self._answer(Failure())

    def _answer(self, answer: Any) -> None:
        if not self.answer.called:
            self.drop("the question is answered")
            self.answer.callback(answer)


def _address(reply: Any) -> tuple[str, int]:
    """The reply to get-master-addr-by-name: host and port."""
    if reply is None:
        raise SentinelTrouble("it knows no master of this name")
    try:
        host, port = reply
        return host.decode(), int(port)
    except (AttributeError, TypeError, ValueError):
        raise SentinelTrouble("its answer is not an address") from None


def _too_late(_: object, seconds: float) -> Failure:
    return Failure(SentinelTrouble(f"no answer within {seconds:g} s"))


def _unless_cancelled(failure: Failure) -> str:
    """"" for any failure but that of having been cancelled, which is raised."""
    if failure.check(CancelledError, ConnectingCancelledError) is not None:
        failure.raiseException()
    return ""


def _words(failure: Failure) -> str:
    return tls_trouble(failure) or failure.getErrorMessage().rstrip(".")
