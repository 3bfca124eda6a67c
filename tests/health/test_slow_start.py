"""Slow start: how a server reaches its full weight."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.health.life import Life
from twisted_lb.backend import Backend
from twisted_lb.config.pool import HealthCheck

CHECK = HealthCheck(passes=1, fails=1)


class SlowStartTests(SynchronousTestCase):
    def ramps(self, life: Life, index: int, seconds: float, times: int) -> list[float]:
        ramps = []
        for _ in range(times):
            told = life.wait(seconds)
            ramps.append(life[index].ramp if told else -1)
        return ramps

    def test_ramp(self) -> None:
        """A recovered server goes from a tenth of its weight to all of it, and each step is announced."""
        life = Life(slowstart=10.0, check=CHECK)
        life.probe(0, "-+")
        self.assertEqual(life[0].ramp, 0.1)
        self.assertEqual(life.news[-1], "server s0 is up: one check passed; slow start of 10 s")
        steps = self.ramps(life, 0, 1.0, 10)
        self.assertEqual(steps, [-1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
        self.assertEqual(self.ramps(life, 0, 1.0, 3), [-1, -1, -1])

    def test_few_steps(self) -> None:
        """However often the clock ticks, the balancer is told nine times."""
        life = Life(slowstart=100.0, check=CHECK)
        life.probe(0, "-+")
        self.assertEqual(sum(life.wait(0.25) for _ in range(1000)), 9)
        self.assertEqual(life[0].ramp, 1.0)

    def test_after_ejection(self) -> None:
        """A server that returns from an ejection starts slowly too."""
        life = Life(slowstart=10.0)
        life.fail(0, 5)
        life.wait(10)
        self.assertEqual((life[0].up, life[0].ramp), (True, 0.1))

    def test_first_servers(self) -> None:
        """Those that are there at the start begin with their whole weight, those that come later do not."""
        life = Life(slowstart=10.0)
        self.assertEqual([backend.ramp for backend in life.backends], [1.0, 1.0, 1.0])
        life.backends.append(Backend("late", "127.0.0.1", 1, slowstart=10.0))
        life.follow()
        self.assertEqual([backend.ramp for backend in life.backends], [1.0, 1.0, 1.0, 0.1])
        life.wait(10)
        self.assertEqual(life[3].ramp, 1.0)

    def test_back_in_service(self) -> None:
        """A server that an operator takes into service again begins as a new one, unless it is down."""
        life = Life(slowstart=10.0, check=CHECK)
        for index, state in ((0, "drain"), (1, "disabled"), (2, "drain")):
            life[index].admin_state = state
        life.follow()
        life.probe(2, "-")
        life.wait(60)
        for backend in life.backends:
            backend.admin_state = "ready"
        life.follow()
        self.assertEqual([backend.ramp for backend in life.backends], [0.1, 0.1, 1.0])
        life.follow()
        life.wait(10)
        self.assertEqual([backend.ramp for backend in life.backends], [1.0, 1.0, 1.0])

    def test_without(self) -> None:
        """Without a slow start a recovered server has its whole weight at once."""
        life = Life(check=CHECK)
        life.probe(0, "-+")
        self.assertEqual(life[0].ramp, 1.0)
        self.assertFalse(life.wait(1))

    def test_interrupted(self) -> None:
        """A server that goes down on the way begins anew when it is back."""
        life = Life(slowstart=10.0, check=CHECK)
        life.probe(0, "-+")
        life.wait(5)
        life.probe(0, "-")
        self.assertFalse(life.wait(5))
        life.probe(0, "+")
        self.assertEqual(life[0].ramp, 0.1)

    def test_removed(self) -> None:
        """A server that is removed on the way is forgotten."""
        life = Life(slowstart=10.0, check=CHECK)
        life.probe(2, "-+")
        life.backends.pop()
        life.follow()
        self.assertFalse(life.wait(5))

    def test_panic(self) -> None:
        """A server that was used in panic is warm, and has its whole weight when it is healthy again."""
        life = Life(2, slowstart=10.0, check=CHECK)
        life.probe(0, "-")
        life.probe(1, "-")
        life.probe(0, "+")
        self.assertEqual((life[0].up, life[0].ramp), (True, 1.0))
