"""Notices in Redis: made by the script that takes tokens, and claimed by one balancer at a time."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.notices import Notice
from twisted_lb.quotas import quota_from_text
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.keys import NOTICES_DUE_KEY, NOTICES_KEY, WEBHOOK_GONE_KEY, WEBHOOK_KEY
from twisted_lb.stores.redis.scripts import RedisScript, unavailable

_log = BoundedLog(Logger())


class RedisNotices:
    """The methods of INoticeOutbox on one connection."""

    def __init__(self, connection: RedisConnection) -> None:
        self._claim = RedisScript("claim_notices", connection)
        self._finish = RedisScript("finish_notice", connection)
        self._connection = connection
        self._wanted = False
        self._webhook = b""
        self._begins = False  # Redis must be told that this webhook begins

    def want(self, webhook: str) -> None:
        """See INoticeOutbox."""
        self._wanted = self._begins = True
        self._webhook = webhook.encode()
        self.connected()

    def refuse(self) -> Deferred[None]:
        """See INoticeOutbox."""
        return self._claimed(b"gone", 0, 0.0).addCallback(lambda _: None)

    def connected(self) -> None:
        """Redis can be used: if notices are wanted, it is told before any taking that comes after this."""
        if self._wanted and self._connection.ready:
            self.claim(0, 0.0).addErrback(lambda failure: failure.trap(StoreUnavailable) and None)

    def claim(self, most: int, lease_seconds: float) -> Deferred[list[Notice]]:
        """See INoticeOutbox.  A call makes all balancers make notices for an hour."""
        return self._claimed(b"begins" if self._begins else b"", most, lease_seconds)

    def _claimed(self, news: bytes, most: int, lease_seconds: float) -> Deferred[list[Notice]]:
        keys = WEBHOOK_KEY, NOTICES_KEY, NOTICES_DUE_KEY, WEBHOOK_GONE_KEY
        lease = b"%d" % round(lease_seconds * 1_000_000)
        claimed = self._claim.call(*keys, b"%d" % most, lease, self._webhook, news, keys=4)
        return claimed.addCallback(self._told).addErrback(unavailable)

    def _told(self, reply: list[bytes]) -> list[Notice]:
        self._begins = False
        return _notices(reply)

    def remove(self, notice_id: str) -> Deferred[None]:
        """See INoticeOutbox."""
        return self._call(notice_id, b"")

    def delay(self, notice_id: str, seconds: float) -> Deferred[None]:
        """See INoticeOutbox."""
        return self._call(notice_id, b"%d" % round(seconds * 1_000_000))

    def _call(self, notice_id: str, delay: bytes) -> Deferred[None]:
        called = self._finish.call(NOTICES_KEY, NOTICES_DUE_KEY, notice_id.encode(), delay, keys=2)
        return called.addCallback(lambda _: None).addErrback(unavailable)


def _notices(reply: list[bytes]) -> list[Notice]:
    element = iter(reply)
    notices = []
    for notice_id, text in zip(element, element):
        try:
            notices.append(_notice(notice_id.decode(), text.decode()))
        except ValueError:
            # It is left in Redis for the operator, and does not affect the others.
            _log.error("notice", "What Redis holds for the notice {id} is not a notice", id=notice_id)
    return notices


def _notice(notice_id: str, text: str) -> Notice:
    threshold, time_us, used, starts_us, ends_us, amount, unit, per, time_zone, name = text.split(" ", 9)
    quota = quota_from_text(f"{amount} {unit} {per} {time_zone}", int(used), int(starts_us), int(ends_us))
    return Notice(notice_id, int(threshold), int(time_us), name, quota)
