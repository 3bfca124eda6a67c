"""The delivery of notices: signatures, repetition, and its end."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted_lb.app.notice_delivery import (
    AT_A_TIME,
    DELIVERED,
    DROPPED,
    FAILED,
    GIVE_UP_SECONDS,
    LONGEST_DELAY_SECONDS,
    NoticeDelivery,
    webhook_post,
)
from twisted_lb.config.environment import read_settings
from twisted_lb.interfaces import INoticeOutbox, StoreUnavailable
from twisted_lb.notices import Notice, notice_id
from twisted_lb.quotas import DAY, REQUESTS, Quota
from twisted_lb.webhook import body_of, check_url, fields_of, host_of, read_secret_key

KEY = bytes(range(32))
SECRET = f"whsec_{b64encode(KEY).decode()}"
QUOTA = Quota(10, REQUESTS, DAY, "Europe/Berlin", 8, 1_795_820_400_000_000, 1_795_906_800_000_000)
START = 1_795_870_000


def notice(number: int = 0, time: float = START) -> Notice:
    return Notice(notice_id(str(number), 1, 80), 80, int(time * 1_000_000), "Zo\u00eb", QUOTA)


@implementer(INoticeOutbox)
class Outbox:
    """Has what the test puts in it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.due: dict[str, tuple[Notice, float]] = {}
        self.wanted = False
        self.error: Exception | None = None

    def add(self, *notices: Notice) -> None:
        self.due.update({one.id: (one, 0.0) for one in notices})

    def want_notices(self, webhook: str = "") -> None:
        self.wanted = webhook == "digest"

    def refuse_notices(self) -> Deferred[None]:
        self.wanted = False
        return succeed(None) if self.error is None else fail(self.error)

    def claim_notices(self, most: int, lease_seconds: float) -> Deferred[list[Notice]]:
        if self.error is not None:
            return fail(self.error)
        now = self.clock.seconds()
        claimed = [one for one, due in self.due.values() if due <= now][:most]
        self.due.update({one.id: (one, now + lease_seconds) for one in claimed})
        return succeed(claimed)

    def remove_notice(self, notice_id: str) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        del self.due[notice_id]
        return succeed(None)

    def delay_notice(self, notice_id: str, seconds: float) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.due[notice_id] = self.due[notice_id][0], self.clock.seconds() + seconds
        return succeed(None)


class SignatureTests(SynchronousTestCase):
    """What is sent."""

    def test_the_request(self) -> None:
        """The body says whose quota it is; the signature is that of id, timestamp and body."""
        body = body_of(notice())
        self.assertEqual(
            json.loads(body),
            {
                "id": notice().id,
                "type": "quota.80",
                "timestamp": "2026-11-28T12:46:40Z",
                "data": {
                    "user": "Zo\u00eb",
                    "quota": {"requests": 10, "per": "day", "time_zone": "Europe/Berlin"},
                    "used": 8,
                    "starts_at": "2026-11-27T23:00:00Z",
                    "resets_at": "2026-11-28T23:00:00Z",
                },
            },
        )
        fields = fields_of(notice(), body, KEY, 1700000000)
        signed = b"%b.1700000000.%b" % (notice().id.encode(), body)
        version, _, signature = fields["webhook-signature"].partition(",")
        self.assertEqual((version, b64decode(signature)), ("v1", hmac.digest(KEY, signed, "sha256")))
        self.assertEqual((fields["webhook-id"], fields["webhook-timestamp"]), (notice().id, "1700000000"))

    def test_the_example_of_the_specification(self) -> None:
        """The signature of a known message with a known key."""
        key = read_secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        found = Notice("msg_p5jXN8AQM9LWM0D4loKWxJek", 80, 0, "", QUOTA)
        fields = fields_of(found, b'{"test": 2432232314}', key, 1614265330)
        self.assertEqual(fields["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")

    def test_settings(self) -> None:
        """Both are needed, and must be valid; what is wrong with a secret or a URL is said without showing it."""
        good = {"WEBHOOK_URL": "https://example.com:8443/hook?a=b", "WEBHOOK_SECRET": SECRET}
        settings, problems = read_settings({}, good)
        self.assertEqual((problems, settings.webhook_secret), ([], SECRET))
        for name, value in [
            ("WEBHOOK_URL", "ftp://hidden.example/"),
            ("WEBHOOK_URL", "https://user:hidden@example.com/"),
            ("WEBHOOK_URL", "https:///hidden"),
            ("WEBHOOK_URL", "https://example.com:99999/hidden"),
            ("WEBHOOK_URL", "https://example.com/hidden#x"),
            ("WEBHOOK_URL", "https://example.com/hid den"),
            ("WEBHOOK_SECRET", "hidden"),
            ("WEBHOOK_SECRET", "whsec_hidden"),
            ("WEBHOOK_SECRET", f"whsec_{b64encode(b'hidden' * 20).decode()}"),
            ("WEBHOOK_SECRET", ""),
        ]:
            _, problems = read_settings({}, {**good, name: value})
            self.assertEqual(len(problems), 1, value)
            self.assertTrue(problems[0].startswith("WEBHOOK_"), problems)
            self.assertNotIn("hid", problems[0])
            if len(value) > 10:
                self.assertNotIn(value[8:], problems[0])
        check_url("http://[::1]:80/")
        self.assertEqual(host_of("https://example.com:8443/secret?x"), "example.com:8443")


class DeliveryTests(SynchronousTestCase):
    """Attempts on a scripted clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.outbox = Outbox(self.clock)
        self.posts: list[tuple[float, bytes, dict[str, str]]] = []
        self.answers: list[Any] = []  # of the next attempts; 204 when there are none
        self.delivery = NoticeDelivery(
            self.clock, self.outbox, self.post, KEY, self.clock.seconds, "example.com", "digest"
        )
        self.delivery.startService()
        self.addCleanup(self.delivery.stopService)

    def post(self, body: bytes, fields: dict[str, str]) -> Deferred[int]:
        self.posts.append((self.clock.seconds() - START, body, fields))
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, Deferred):
            return answer
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def pass_time(self, seconds: int) -> None:
        self.clock.pump([1.0] * seconds)

    def test_it_has_the_interface(self) -> None:
        """The outbox of these tests is one."""
        self.assertTrue(verifyObject(INoticeOutbox, self.outbox))
        self.assertTrue(self.outbox.wanted)

    def test_a_delivery(self) -> None:
        """What is accepted is removed, and sent once."""
        self.outbox.add(notice())
        self.pass_time(100)
        self.assertEqual(len(self.posts), 1)
        self.assertEqual(self.outbox.due, {})
        self.assertEqual(self.delivery.counts(), {DELIVERED: 1, FAILED: 0, DROPPED: 0})

    def test_repetition(self) -> None:
        """What fails is sent again with growing delays, the same id and body, and a new timestamp."""
        self.outbox.add(notice())
        self.answers = [500, ConnectionRefusedError(), 302, 429]
        self.pass_time(60)
        self.assertEqual([at for at, _, _ in self.posts], [1.0, 6.0, 12.0, 24.0, 48.0])
        self.assertEqual(len({body for _, body, _ in self.posts}), 1)
        self.assertEqual({fields["webhook-id"] for _, _, fields in self.posts}, {notice().id})
        self.assertEqual(len({fields["webhook-signature"] for _, _, fields in self.posts}), 5)
        self.assertEqual(self.delivery.counts(), {DELIVERED: 1, FAILED: 4, DROPPED: 0})

    def test_giving_up(self) -> None:
        """After some hours a notice is dropped, which is logged with its user; delays are at most an hour."""
        self.outbox.add(notice())
        self.answers = [500] * 1000
        with capturedLogs() as logs:
            for _ in range(int(GIVE_UP_SECONDS + 2 * LONGEST_DELAY_SECONDS) // 60):
                self.clock.pump([1.0, 59.0])
        times = [at for at, _, _ in self.posts]
        self.assertLess(len(times), 30)
        self.assertGreater(times[-1], GIVE_UP_SECONDS)
        self.assertLess(max(b - a for a, b in zip(times, times[1:])), LONGEST_DELAY_SECONDS + 61)
        self.assertEqual(self.outbox.due, {})
        self.assertEqual(self.delivery.counts()[DROPPED], 1)
        self.assertEqual([log["user"] for log in logs if "user" in log], ["Zo\u00eb"])

    def test_gone(self) -> None:
        """410 ends the delivery."""
        self.outbox.add(notice(1), notice(2))
        self.answers = [410]
        self.pass_time(100)
        self.assertEqual(len(self.posts), 1)
        self.assertEqual(self.delivery.counts(), {DELIVERED: 0, FAILED: 0, DROPPED: 1})
        self.assertFalse(self.outbox.wanted)

    def test_gone_while_the_store_is_away(self) -> None:
        """It ends the delivery of this process."""
        self.outbox.add(notice(1), notice(2))
        gone: Deferred[int] = Deferred()
        self.answers = [gone, Deferred()]
        self.pass_time(1)
        self.outbox.error = StoreUnavailable("away")
        gone.callback(410)
        self.outbox.error = None
        self.outbox.add(notice(3))
        self.pass_time(100)
        self.assertEqual(len(self.posts), 2)

    def test_few_at_a_time(self) -> None:
        """While attempts have no answer, only so many are made."""
        waiting = [Deferred() for _ in range(AT_A_TIME)]
        self.answers = list(waiting)
        self.outbox.add(*[notice(number) for number in range(AT_A_TIME + 5)])
        self.pass_time(5)
        self.assertEqual(len(self.posts), AT_A_TIME)
        for one in waiting:
            one.callback(200)
        self.pass_time(2)
        self.assertEqual(self.outbox.due, {})

    def test_many_notices(self) -> None:
        """While more are due, the next ones are sent as soon as there is room, not a second later."""
        self.outbox.add(*[notice(number) for number in range(10 * AT_A_TIME)])
        waiting: list[Deferred[int]] = [Deferred() for _ in range(10 * AT_A_TIME)]
        self.answers = list(waiting)
        self.pass_time(1)
        for number, one in enumerate(waiting):
            self.assertEqual(len(self.posts), min(AT_A_TIME + number, len(waiting)))
            one.callback(200)
        self.assertEqual(self.outbox.due, {})
        self.assertEqual({at for at, _, _ in self.posts}, {1.0})

    def test_many_notices_that_are_accepted_at_once(self) -> None:
        """All that are due are sent in one poll."""
        self.outbox.add(*[notice(number) for number in range(10 * AT_A_TIME)])
        self.pass_time(1)
        self.assertEqual(self.outbox.due, {})

    def test_some_attempts_without_an_answer(self) -> None:
        """They take their places only: the others go on."""
        self.outbox.add(*[notice(number) for number in range(5 * AT_A_TIME)])
        self.answers = [Deferred() for _ in range(AT_A_TIME - 1)]
        self.pass_time(1)
        self.assertEqual(len(self.posts), 5 * AT_A_TIME)

    def test_a_store_that_is_away(self) -> None:
        """Notices are there when the store is back; one whose removal failed is sent again with the same id."""
        self.outbox.add(notice())
        self.outbox.error = StoreUnavailable("away")
        self.pass_time(5)
        self.outbox.error = None
        accepted: Deferred[int] = Deferred()
        self.answers = [accepted]
        self.pass_time(2)
        self.outbox.error = StoreUnavailable("away")
        accepted.callback(200)
        self.outbox.error = None
        self.pass_time(100)
        self.assertEqual([fields["webhook-id"] for _, _, fields in self.posts], [notice().id] * 2)
        self.assertEqual(self.outbox.due, {})

    def test_a_store_that_goes_away_between_two_claims(self) -> None:
        """The next poll asks again."""
        self.outbox.add(*[notice(number) for number in range(AT_A_TIME + 1)])
        waiting: list[Deferred[int]] = [Deferred() for _ in range(AT_A_TIME)]
        self.answers = list(waiting)
        self.pass_time(1)
        self.outbox.error = StoreUnavailable("away")
        waiting[0].callback(200)
        self.outbox.error = None
        self.assertEqual(len(self.posts), AT_A_TIME)
        self.pass_time(1)
        self.assertEqual(len(self.posts), AT_A_TIME + 1)

    def test_the_end(self) -> None:
        """An attempt is cut off when the process stops, and the notice stays."""
        cut: list[object] = []
        self.answers = [Deferred(cut.append)]
        self.outbox.add(notice())
        self.pass_time(2)
        self.delivery.stopService()
        self.assertEqual(len(cut), 1)
        self.assertIn(notice().id, self.outbox.due)
        self.assertEqual(self.delivery.counts(), {DELIVERED: 0, FAILED: 0, DROPPED: 0})


class ConnectionTests(SynchronousTestCase):
    """What is sent by treq."""

    def test_connections_are_not_logged(self) -> None:
        """A notice that is accepted leaves no line in the log, at any level."""
        reactor = MemoryReactorClock()
        with capturedLogs() as logs:
            status = webhook_post(reactor, "http://127.0.0.1:8000/hook")(b"{}", {"webhook-id": "msg_0"})
            [(_, _, factory, _, _)] = reactor.tcpClients
            factory.doStart()
            client = factory.buildProtocol(None)
            transport = StringTransport()
            client.makeConnection(transport)
            self.assertTrue(transport.value().startswith(b"POST /hook HTTP/1.1\r\n"), transport.value())
            client.dataReceived(b"HTTP/1.1 204 No Content\r\n\r\n")
            self.assertEqual(self.successResultOf(status), 204)
            factory.doStop()
        self.assertEqual([log["log_format"] for log in logs], [])
