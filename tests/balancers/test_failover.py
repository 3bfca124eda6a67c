"""Backup servers: when they get requests."""

from __future__ import annotations

from random import Random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.balancers.pools import counts, names
from twisted_lb.balancers.failover import Failover
from twisted_lb.balancers.first import First
from twisted_lb.balancers.registry import make_balancer
from twisted_lb.balancers.round_robin import RoundRobin
from twisted_lb.interfaces import IResponseFields
from twisted_lb.testing import FakeRequest, servers


class BackupsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.backends = servers(1, 1, 1, 1)
        for backend in self.backends[2:]:
            backend.backup = True
        self.balancer = Failover(RoundRobin(), RoundRobin())

    def test_a_life(self) -> None:
        """Backups get traffic when the last other server has gone, share it as the balancer does, and lose it again."""
        self.balancer.backends_changed(list(self.backends))
        self.assertEqual(counts(self.balancer, 100), {"a": 50, "b": 50})
        self.balancer.backends_changed(self.backends[1:])
        self.assertEqual(counts(self.balancer, 100), {"b": 100})
        self.balancer.backends_changed(self.backends[2:])
        self.assertEqual(counts(self.balancer, 100), {"c": 50, "d": 50})
        self.balancer.backends_changed(self.backends[:1] + self.backends[2:])
        self.assertEqual(counts(self.balancer, 100), {"a": 100})
        self.balancer.backends_changed([])
        self.assertEqual(names(self.balancer), "")

    def test_last_choice(self) -> None:
        """A request that the other servers refused has the backups as its last choices."""
        self.balancer.backends_changed(list(self.backends))
        self.assertEqual(names(self.balancer), "abcd")

    def test_full_servers_are_waited_for(self) -> None:
        """When all other servers are full, they are the only choices: backups do not take what is too much."""
        self.balancer.backends_changed(list(self.backends))
        for backend in self.backends[:2]:
            backend.maxconn = backend.in_flight = 1
        self.assertEqual(names(self.balancer), "ab")
        self.backends[0].in_flight = 0
        self.assertEqual(set(names(self.balancer)), set("abcd"))

    def test_response_fields(self) -> None:
        """What the balancer has to say to the client is said for backups too."""
        self.assertFalse(IResponseFields.providedBy(self.balancer))
        options = {"secret": "sixteen letters!"}
        one, other = (make_balancer("sticky", options, Clock().seconds, Random(1)) for _ in range(2))
        balancer = Failover(one, other)
        verifyObject(IResponseFields, balancer)
        balancer.backends_changed(self.backends[2:])
        [(_, cookie)] = balancer.response_fields(FakeRequest(), self.backends[3])
        self.assertEqual(names(balancer, FakeRequest(headers={b"cookie": cookie}), 1), "d")

    def test_repr_tells_the_state(self) -> None:
        """The repr says which are the backups, and of whom."""
        balancer = Failover(First(), First())
        balancer.backends_changed(list(self.backends))
        self.assertEqual(repr(balancer), "<Backups ['c', 'd'] behind <First of ['a', 'b']>>")
