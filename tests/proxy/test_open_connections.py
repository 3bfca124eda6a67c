"""The order of open connections: which one is closed first, against a model that examines all of them."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.limits.client_networks import LOCAL_NETWORK
from twisted_lb.proxy.open_connections import MAX_LOOKS, OpenConnections, Use


class Connection:
    """Is what the test says, and counts how often it is asked."""

    transport: Any = None

    def __init__(self, network: str = "192.0.2.1") -> None:
        self.network = network
        self.present = Use.IDLE
        self.asked = 0
        self.moved_at = 0

    def use(self) -> Use:
        self.asked += 1
        return self.present

    def make_room(self) -> None:
        raise AssertionError("the caller does this")

    def drain(self) -> None:
        raise AssertionError("nobody drains")


def connections(open_connections: OpenConnections, count: int, network: str = "192.0.2.1") -> list[Connection]:
    added = [Connection(network) for _ in range(count)]
    for connection in added:
        open_connections.add(connection)
    return added


class OrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.open = OpenConnections(100, 10)

    def test_longest_idle(self) -> None:
        """It is the one that was accepted first, until that one moves on."""
        first, second, third = connections(self.open, 3)
        self.assertIs(self.open.longest_idle(), first)
        self.open.moved_on(first)
        self.assertIs(self.open.longest_idle(), second)
        self.open.moved_on(second)
        self.assertIs(self.open.longest_idle(), third)

    def test_busy_and_back(self) -> None:
        """A busy connection never makes room; when it moves on, its place is the last."""
        first, second = connections(self.open, 2)
        first.present = Use.BUSY
        for network in ("", first.network):
            self.assertIs(self.open.longest_idle(network), second)
        second.present = Use.BUSY
        for network in ("", first.network):
            self.assertIsNone(self.open.longest_idle(network))
        first.present = second.present = Use.IDLE
        self.open.moved_on(second)
        self.open.moved_on(first)
        for network in ("", first.network):
            self.assertIs(self.open.longest_idle(network), second)

    def test_unsettled(self) -> None:
        """One whose bytes are on their way is passed over and stays in the order, as the youngest."""
        first, second = connections(self.open, 2)
        first.present = Use.UNSETTLED
        self.assertIs(self.open.longest_idle(), second)
        first.present = Use.IDLE
        self.assertIs(self.open.longest_idle(), second)
        self.open.remove(second)
        self.assertIs(self.open.longest_idle(), first)

    def test_all_unsettled(self) -> None:
        """Looking ends though all bytes are on their way."""
        for connection in connections(self.open, 3):
            connection.present = Use.UNSETTLED
        self.assertIsNone(self.open.longest_idle())

    def test_only_one_of_its_network(self) -> None:
        """The only connection of a network makes room if it is idle."""
        [only] = connections(self.open, 1)
        self.assertIs(self.open.longest_idle(only.network), only)
        only.present = Use.UNSETTLED
        self.assertIsNone(self.open.longest_idle(only.network))

    def test_networks(self) -> None:
        """Each network has its own number and order; what has no address is in none, but in the total."""
        mine, others = connections(self.open, 10), connections(self.open, 5, "2001:db8::/64")
        local = connections(self.open, 20, LOCAL_NETWORK)
        full = [self.open.network_full(one) for one in ("192.0.2.1", "2001:db8::/64", LOCAL_NETWORK, "192.0.2.2")]
        self.assertEqual(full, [True, False, False, False])
        self.assertIs(self.open.longest_idle("2001:db8::/64"), others[0])
        for connection in [*mine, *others]:
            self.open.remove(connection)
        self.assertEqual((len(self.open), self.open.count_of("192.0.2.1"), self.open.full()), (20, 0, False))
        self.assertIs(self.open.longest_idle(), local[0])

    def test_full(self) -> None:
        """The last one that there may be is not one too many; 0 is no limit."""
        connections(self.open, 99, LOCAL_NETWORK)
        self.assertFalse(self.open.full())
        connections(self.open, 1, LOCAL_NETWORK)
        self.assertTrue(self.open.full())
        without_limits = OpenConnections(0, 0)
        connections(without_limits, 1000)
        self.assertFalse(without_limits.full() or without_limits.network_full("192.0.2.1"))

    def test_ended_twice(self) -> None:
        """One that has ended may be said to have ended or moved on again, and is still gone."""
        first, second = connections(self.open, 2)
        for _ in range(2):
            self.open.remove(first)
            self.open.moved_on(first)
        self.assertEqual((len(self.open), self.open.count_of(first.network)), (1, 1))
        self.assertIs(self.open.longest_idle(first.network), second)

    def test_as_a_model(self) -> None:
        """Whatever happens, the first idle one in the order of what they did last is found, of all and of a network."""
        seed = Random().randrange(10**9)
        chance = Random(seed)
        alive: list[Connection] = []
        for step in range(1, 4000):
            choice = chance.random()
            if choice < 0.3 or not alive:
                one = Connection(chance.choice(["a", "b", "c", "d", LOCAL_NETWORK]))
                one.moved_at = step
                self.open.add(one)
                alive.append(one)
            elif choice < 0.55:
                self.open.remove(alive.pop(chance.randrange(len(alive))))
            elif choice < 0.8:
                chance.choice(alive).present = Use.BUSY
            else:
                one = chance.choice(alive)
                one.present = Use.IDLE
                one.moved_at = step
                self.open.moved_on(one)
            for network in ("", "a", "b"):
                mine = [one for one in alive if network in ("", one.network)]
                if not mine:
                    continue
                idle = [one for one in mine if one.present is Use.IDLE]
                expected = min(idle, key=lambda one: one.moved_at, default=None)
                self.assertIs(self.open.longest_idle(network), expected, (seed, step))
            self.assertEqual(len(self.open), len(alive))


class CostTests(SynchronousTestCase):
    def test_busy_ones_are_asked_once(self) -> None:
        """However many are busy, those who look for room later do not ask them again."""
        many = OpenConnections(0, 0)
        crowd = connections(many, 5000)
        for connection in crowd[:-1]:
            connection.present = Use.BUSY
        for _ in range(100):
            self.assertIs(many.longest_idle(), crowd[-1])
        self.assertEqual(sum(connection.asked for connection in crowd), 4999 + 100)

    def test_looks_are_bounded(self) -> None:
        """However many have bytes on their way, one search asks a few."""
        many = OpenConnections(0, 0)
        crowd = connections(many, 5000)
        for connection in crowd:
            connection.present = Use.UNSETTLED
        self.assertIsNone(many.longest_idle())
        self.assertEqual(sum(connection.asked for connection in crowd), MAX_LOOKS)
