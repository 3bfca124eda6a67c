"""Sends the notices about quotas to the webhook (see `webhook`).

1. Each process asks the store for notices that are due, a few at a time, and has a lease for them: no other one sends
   them meanwhile, and when this process ends, another one does, with the same id.  It asks each second, and as soon as
   one is sent while more may be due.
2. A 2xx status is a delivery.  After any other one, and after a failure, it is sent again, each time as long after the
   last attempt as the notice was old then, but at least 5 s and at most an hour, for GIVE_UP_SECONDS.
3. 410 Gone is the wish to get nothing: this process sends nothing more until it is started again, and the others are
   told by the store.
4. Redirects are not followed, and nothing is read of a response but its status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from zope.interface import implementer

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import INoticeOutbox, StoreUnavailable
from twisted_lb.notices import Notice
from twisted_lb.repeated import Repeated
from twisted_lb.webhook import body_of, fields_of

POLL_SECONDS: Final = 1.0
AT_A_TIME: Final = 32  # notices of a process that are being sent, and connections
DEADLINE_SECONDS: Final = 10.0  # of an attempt
CONNECT_SECONDS: Final = 5.0
LEASE_SECONDS: Final = 60.0
FIRST_DELAY_SECONDS: Final = 5.0
LONGEST_DELAY_SECONDS: Final = 3600.0
GIVE_UP_SECONDS: Final = 6 * 3600.0
GONE: Final = 410
DELIVERED: Final = "notices delivered"
FAILED: Final = "notices failed"
DROPPED: Final = "notices dropped"

# Sends a body with these fields, and has the status of the response.
Post = Callable[[bytes, dict[str, str]], "Deferred[int]"]

_log = Logger()


class NoticeDelivery(Service):
    """Sends notices of one store."""

    def __init__(
        self,
        reactor: IReactorTime,
        outbox: INoticeOutbox,
        post: Post,
        key: bytes,
        now: Callable[[], float],
        where: str,
        webhook: str,
    ) -> None:
        """`key` is for signatures, `now` gives seconds since 1970.

        `where` names the webhook in the log, and `webhook` is the digest of its URL.
        """
        self._outbox: Any = outbox
        self._post = post
        self._key = key
        self._now = now
        self._where = where
        self._webhook = webhook
        self._counts = {DELIVERED: 0, FAILED: 0, DROPPED: 0}
        self._polling = Repeated(reactor, self._poll, "the delivery of notices")
        self._sending: set[Deferred[None]] = set()
        self._claiming = False
        self._more = False  # the last claim was full
        self._gone = False
        self._failures = BoundedLog(_log, reactor.seconds, 60.0)

    def counts(self) -> dict[str, float]:
        """For the metrics."""
        return dict(self._counts)

    def startService(self) -> None:
        """From now on there are notices."""
        super().startService()
        self._outbox.want_notices(self._webhook)
        self._polling.start(POLL_SECONDS)

    def stopService(self) -> None:
        """What is being sent is cut off, and is sent again by another process, or after the next start."""
        super().stopService()
        self._polling.stop()
        for one in list(self._sending):
            one.cancel()

    def _poll(self) -> Deferred[None] | None:
        return None if self._claiming else Deferred.fromCoroutine(self._claim())

    async def _claim(self) -> None:
        """Send what is due, as far as there is room."""
        self._claiming = self._more = True
        try:
            while self._more and self.running and not self._gone:
                room = AT_A_TIME - len(self._sending)
                if not room:
                    # The first one that is sent continues.
                    return
                self._more = False
                notices = await self._outbox.claim_notices(room, LEASE_SECONDS)
                self._more = len(notices) == room
                self._begin(notices)
        except StoreUnavailable:
            """They are there when it is back."""
        finally:
            self._claiming = False

    def _begin(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            if self.running:
                sending = Deferred.fromCoroutine(self._send(notice))
                if not sending.called:
                    self._sending.add(sending)
                    sending.addBoth(partial(self._sent, sending))
                else:
                    sending.addErrback(_unexpected)

    def _sent(self, sending: Deferred[None], result: object) -> None:
        self._sending.discard(sending)
        if isinstance(result, Failure):
            _unexpected(result)
        if self._more and not self._claiming:
            Deferred.fromCoroutine(self._claim()).addErrback(_unexpected)

    async def _send(self, notice: Notice) -> None:
        if self._gone:
            return
        body = body_of(notice)
        try:
            status = await self._post(body, fields_of(notice, body, self._key, int(self._now())))
        except CancelledError:
            if not self.running:
                raise
            await self._not_delivered(notice, f"no response in {DEADLINE_SECONDS:g} s")
        except Exception as error:
            await self._not_delivered(notice, _reason(error))
        else:
            if 200 <= status < 300:
                self._counts[DELIVERED] += 1
                await self._remove(notice)
            elif status == GONE:
                self._gone = True
                await self._refuse()
                await self._drop(notice, "410 Gone; nothing more is sent there until the next start")
            else:
                await self._not_delivered(notice, f"status {status}")

    async def _not_delivered(self, notice: Notice, why: str) -> None:
        self._counts[FAILED] += 1
        age = max(self._now() - notice.time_us / 1_000_000, 0.0)
        if age > GIVE_UP_SECONDS:
            await self._drop(notice, why)
            return
        delay = min(max(age, FIRST_DELAY_SECONDS), LONGEST_DELAY_SECONDS)
        self._failures.warn(
            "failed",
            "The notice {id} was not accepted by {where}: {why}; it is sent again in {delay:.0f} s",
            id=notice.id,
            where=self._where,
            why=why,
            delay=delay,
        )
        try:
            await self._outbox.delay_notice(notice.id, delay)
        except StoreUnavailable:
            """It is due when its lease is over."""

    async def _refuse(self) -> None:
        try:
            await self._outbox.refuse_notices()
        except StoreUnavailable:
            """The other processes ask for themselves."""

    async def _drop(self, notice: Notice, why: str) -> None:
        self._counts[DROPPED] += 1
        _log.error(
            "The notice {id}, that {user} has used {threshold} % of a quota, was not delivered to {where}: {why}",
            id=notice.id,
            user=notice.user,
            threshold=notice.threshold,
            where=self._where,
            why=why,
        )
        await self._remove(notice)

    async def _remove(self, notice: Notice) -> None:
        try:
            await self._outbox.remove_notice(notice.id)
        except StoreUnavailable:
            """It is sent once more, with the same id."""


def _unexpected(failure: Failure) -> None:
    if failure.check(CancelledError) is None:
        _log.failure("A notice could not be sent", failure=failure)


def _reason(error: Exception) -> str:
    """Why an attempt failed, without the URL."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        error = reasons[0].value
    return type(error).__name__


def webhook_post(reactor: Any, url: str) -> Post:
    """Sends to this URL with treq."""
    pool = _QuietPool(reactor, persistent=False)
    agent = Agent(reactor, BrowserLikePolicyForHTTPS(), connectTimeout=CONNECT_SECONDS, pool=pool)
    client = HTTPClient(agent)

    async def post(body: bytes, fields: dict[str, str]) -> int:
        headers = Headers({name: [value] for name, value in {**fields, "user-agent": "tokenlb"}.items()})
        response = await client.post(
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            unbuffered=True,
            reactor=reactor,
            timeout=DEADLINE_SECONDS,
        )
        response.deliverBody(_Dropped())
        return int(response.code)

    return lambda body, fields: Deferred.fromCoroutine(post(body, fields))


class _QuietPool(HTTPConnectionPool):
    """Logs no line for the begin and the end of each connection."""

    def getConnection(self, key: Any, endpoint: Any) -> Deferred[Any]:
        return super().getConnection(key, _QuietEndpoint(endpoint))


@implementer(IStreamClientEndpoint)
class _QuietEndpoint:
    """Makes the factories of another one quiet."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """See IStreamClientEndpoint."""
        protocolFactory.noisy = False
        connected: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connected


class _Dropped(Protocol):
    """Closes the connection instead of reading the content."""

    def connectionMade(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Of no interest."""
