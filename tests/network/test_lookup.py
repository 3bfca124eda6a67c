"""Both kinds of addresses of a name: one that is late or missing is not taken for nonexistent."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.network import lookup
from twisted_lb.network.dns_query import Answer, LookupFailed
from twisted_lb.network.lookup import PARTIAL_TTL, RESOLUTION_DELAY_SECONDS, Resolver
from twisted_lb.network.names import MIN_TTL, Names

SIX, FOUR = "2001:db8::1", "192.0.2.1"


class LookUpCase(SynchronousTestCase):
    """Look-ups whose questions to name servers a test answers: `open` has the last one for each kind of records."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.open: dict[int, Deferred[Answer]] = {}
        self.asked: list[tuple[str, int]] = []
        case = self

        class Question:
            answered_by = None

            def __init__(self, reactor: Any, servers: Any, name: str, kind: int) -> None:
                self.answer: Deferred[Answer] = Deferred()
                case.open[kind] = self.answer
                case.asked.append((name, kind))

        self.patch(lookup, "Question", Question)
        self.resolver = Resolver(self.clock, (("192.0.2.53", 53),), "/nonexistent", "/nonexistent")


class ServiceTests(LookUpCase):
    def test_records(self) -> None:
        """A service has SRV records, and no look-up of addresses."""
        found = self.resolver.look_up_service("_http._tcp.app.example")
        self.assertEqual(self.asked, [("_http._tcp.app.example", dns.SRV)])
        self.open[dns.SRV].callback(Answer(("0 1 80 a.example",), 30))
        self.assertEqual(self.successResultOf(found), Answer(("0 1 80 a.example",), 30))

    def test_none(self) -> None:
        """A service that is not there is an answer, and a name server that is away is a failure."""
        found = self.resolver.look_up_service("_http._tcp.app.example")
        self.open[dns.SRV].callback(Answer((), 5))
        self.assertEqual(self.successResultOf(found).addresses, ())
        found = self.resolver.look_up_service("_http._tcp.app.example")
        self.open[dns.SRV].errback(LookupFailed("away"))
        self.failureResultOf(found, LookupFailed)


class LateAnswerTests(LookUpCase):
    def setUp(self) -> None:
        super().setUp()
        self.names = Names(self.clock, self.resolver.look_up)
        self.told: list[object] = []

    def ask(self) -> list[object]:
        self.names.ask("app.example", self.told.append, 5.0)
        told, self.told = self.told, []
        return told

    def test_late_kind_is_looked_up_again(self) -> None:
        """Addresses that come later than the others are not missing for a TTL: the next look-up waits for them."""
        self.ask()
        self.open[dns.AAAA].callback(Answer((SIX,), 300))
        self.clock.advance(RESOLUTION_DELAY_SECONDS)
        self.clock.advance(MIN_TTL)
        self.assertEqual(self.ask(), [(SIX,)])
        self.open[dns.AAAA].callback(Answer((SIX,), 300))
        self.clock.advance(1)
        self.open[dns.A].callback(Answer((FOUR,), 300))
        self.assertEqual(self.ask(), [(SIX, FOUR)])

    def test_missing_kind_keeps_its_addresses(self) -> None:
        """While one kind cannot be had its last addresses serve on, and no follower is told of a change."""
        changes: list[object] = []
        self.names.follow("app.example", changes.append)
        self.ask()
        self.open[dns.AAAA].callback(Answer((SIX,), 5))
        self.open[dns.A].callback(Answer((FOUR,), 5))
        self.clock.advance(5)
        self.open[dns.A].errback(LookupFailed("away"))
        self.open[dns.AAAA].callback(Answer((SIX,), 300))
        self.told.clear()
        self.assertEqual((self.ask(), changes), ([(SIX, FOUR)], []))
        before = self.open[dns.A]
        self.clock.advance(PARTIAL_TTL)
        self.assertIsNot(self.open[dns.A], before)
