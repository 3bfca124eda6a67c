"""Both kinds of addresses of a name: what is late or missing is not taken for absent."""

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


class LateAnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.open: dict[int, Deferred[Answer]] = {}
        case = self

        class Question:
            answered_by = None

            def __init__(self, reactor: Any, servers: Any, name: str, kind: int) -> None:
                self.answer: Deferred[Answer] = Deferred()
                case.open[kind] = self.answer

        self.patch(lookup, "Question", Question)
        resolver = Resolver(self.clock, (("192.0.2.53", 53),), "/nonexistent", "/nonexistent")
        self.names = Names(self.clock, resolver.look_up)
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
