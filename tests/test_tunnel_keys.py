"""Tunnels of keys that must no longer be used."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY
from tests.proxy.test_tunnel import tunnel
from tests.proxy.world import World, request
from twisted_lb.app.tunnel_keys import ASK_SECONDS, TunnelKeys
from twisted_lb.credentials import digest
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.proxy.factory import ProxyFactory

OTHER = b"55555555-2222-4333-8444-555555555555"


class Users:
    """Says which keys are refused, when the test says so."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.asked: list[list[str]] = []
        self.answer: Deferred[list[str]] | None = None
        self.away = False

    def refused_keys(self, digests: list[str]) -> Deferred[list[str]]:
        self.asked.append(sorted(digests))
        self.answer = answer = Deferred()
        if self.away:
            answer.errback(StoreUnavailable("Redis is away"))
        else:
            answer.callback([one for one in digests if one in self.refused])
        return answer


class TunnelKeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.world.buckets.others.add(digest(OTHER))
        self.users = Users()
        self.clock = Clock()
        factory: ProxyFactory = self.world.factory
        self.service = TunnelKeys(self.clock, factory, self.users)  # type: ignore[arg-type]
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def test_they_end(self) -> None:
        """The tunnels of a key that is refused end at the next look; those of other keys go on."""
        first, second = tunnel(self.world), tunnel(self.world)
        handshake = request("GET", "/socket", b"Upgrade: websocket", b"Connection: Upgrade").replace(KEY, OTHER)
        other, _ = tunnel(self.world, handshake)
        self.clock.advance(ASK_SECONDS)
        self.assertEqual(self.users.asked, [sorted([digest(KEY), digest(OTHER)])])
        self.users.refused.add(digest(KEY))
        self.clock.advance(ASK_SECONDS)
        self.world.settle()
        self.assertEqual([client.ended for client, _ in (first, second)], [True, True])
        self.assertFalse(other.ended)
        self.clock.advance(ASK_SECONDS)
        self.assertEqual(self.users.asked[2:], [[digest(OTHER)]])
        self.assertLess(2 * ASK_SECONDS, 5.0)

    def test_without_tunnels(self) -> None:
        """Nobody is asked while there are no tunnels."""
        self.clock.advance(10 * ASK_SECONDS)
        self.assertEqual(self.users.asked, [])

    def test_the_store_is_away(self) -> None:
        """Tunnels go on while the store is unavailable, and are looked at again afterwards."""
        client, _ = tunnel(self.world)
        self.users.away = True
        for _ in range(3):
            self.clock.advance(ASK_SECONDS)
        self.assertFalse(client.ended)
        self.users.away = False
        self.users.refused.add(digest(KEY))
        self.clock.advance(ASK_SECONDS)
        self.world.settle()
        self.assertTrue(client.ended)

    def test_it_stops(self) -> None:
        """A service that has stopped asks nobody."""
        tunnel(self.world)
        self.service.stopService()
        self.clock.advance(10 * ASK_SECONDS)
        self.assertEqual(self.users.asked, [])
