"""First: failover by order."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.balancers.pools import names
from twisted_lb.balancers.first import First
from twisted_lb.testing import servers


class FirstTests(SynchronousTestCase):
    def test_a_life(self) -> None:
        """The first server gets everything; when it is down or full the next one does, until it is back."""
        backends = servers(1, 9, 1)
        balancer = First()
        balancer.backends_changed(list(backends))
        self.assertEqual([names(balancer, most=1) for _ in range(5)], ["a"] * 5)
        balancer.backends_changed(backends[1:])
        self.assertEqual(names(balancer), "bc")
        balancer.backends_changed(list(backends))
        backends[0].maxconn = backends[0].in_flight = 2
        self.assertEqual(names(balancer), "bca")
        backends[0].in_flight = 1
        self.assertEqual(names(balancer), "abc")
        self.assertEqual(repr(balancer), "<First of ['a', 'b', 'c']>")
