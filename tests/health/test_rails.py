"""Limits on ejections, and panic mode, however many servers fail."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.health.life import Life
from tests.hypothesis_profile import given
from twisted_lb.config.pool import HealthCheck

CHECK = HealthCheck(passes=1, fails=1)


class RailTests(SynchronousTestCase):
    def test_last_one(self) -> None:
        """The only server is never ejected, and it is said once that it ought to be."""
        life = Life(1)
        life.fail(0, 100)
        self.assertEqual(life.up, "s0")
        (text,) = life.take_news()
        self.assertTrue(text.startswith("server s0 is used although 5 requests in a row failed"), text)
        self.assertTrue(text.endswith("; the last healthy server is never ejected"), text)

    def test_last_one_recovers(self) -> None:
        """When requests pass again, the reason says so."""
        life = Life(1)
        life.fail(0, 5)
        life.wait(20)
        life.serve(0)
        self.assertEqual(life[0].reason, "up: its requests pass again")

    def test_last_one_that_checks_leave(self) -> None:
        """When checks have all others down, requests do not eject the last."""
        life = Life(3, check=CHECK, panic_threshold=0)
        life.probe(0, "-")
        life.probe(1, "-")
        life.fail(2, 100)
        self.assertEqual(life.up, "s2")

    def test_share(self) -> None:
        """At most the share of the servers is ejected at a time, and one may always be."""
        for servers, share, most in [(2, 0.3, 1), (3, 0.3, 1), (10, 0.3, 3), (100, 0.29, 29), (10, 1.0, 9), (10, 0, 0)]:
            life = Life(servers, max_share=share, panic_threshold=0)
            for index in range(servers):
                life.fail(index, 50)
            down = [backend for backend in life.backends if not backend.up]
            self.assertEqual(len(down), most, (servers, share))

    def test_place_becomes_free(self) -> None:
        """Who was spared is ejected by its next failure once another has returned."""
        life = Life(3)
        life.fail(0, 5)
        life.fail(1, 5)
        self.assertEqual(life.up, "s1 s2")
        life.wait(10)
        life.serve(0)
        life.fail(1)
        self.assertEqual(life.up, "s0 s2")

    def test_spared_again(self) -> None:
        """Who was spared, ejected and then spared once more is named each time."""
        life = Life(3)
        life.fail(0, 5)
        life.fail(1, 5)
        life.wait(10)
        life.serve(0)
        life.fail(1)
        life.fail(0, 5)
        life.wait(10)
        life.fail(2, 5)
        life.fail(1, 50)
        spared = [line for line in life.news if line.startswith("server s1 is used although")]
        self.assertEqual(len(spared), 2)

    def test_drained_is_not_ejected(self) -> None:
        """What fails of a drained server's last exchanges does not eject it."""
        life = Life(4)
        life[0].weight = 0
        life.follow()
        life.fail(0, 50)
        self.assertEqual((life.up, life.news), ("s0 s1 s2 s3", []))

    def test_drained_does_not_count(self) -> None:
        """With all others drained, a server is the last one."""
        life = Life(3)
        life[2].weight = life[1].weight = 0
        life.follow()
        life.fail(2, 50)
        life.fail(0, 50)
        self.assertEqual(life.up, "s0 s1 s2")

    @settings(max_examples=100)
    @given(
        st.integers(1, 6),
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["fail", "serve", "wait", "+", "-"])), max_size=80),
    )
    def test_somebody_is_up(self, servers: int, events: list[tuple[int, str]]) -> None:
        """Whatever happens, at least one server is up, and with checks that pass no more than the share is down."""
        life = Life(servers, check=CHECK, consecutive_failures=1)
        for index, event in events:
            index %= servers
            if event == "fail":
                life.fail(index, 3)
            elif event == "serve":
                life.serve(index)
            elif event == "wait":
                life.wait(5)
            else:
                life.probe(index, event)
            self.assertTrue(life.up)
            if not any(event == "-" for _, event in events):
                down = [backend for backend in life.backends if not backend.up]
                self.assertLessEqual(len(down), max(int(0.3 * servers), 1))


class PanicTests(SynchronousTestCase):
    def test_too_few(self) -> None:
        """When fewer than the share are healthy all are used, one line says so, and one when it is over."""
        life = Life(5, check=CHECK)
        for index in (0, 1, 2):
            life.probe(index, "-")
        self.assertEqual(life.up, "s3 s4")
        life.take_news()
        life.probe(3, "-")
        self.assertEqual(life.up, "s0 s1 s2 s3 s4")
        self.assertEqual(
            life.take_news(),
            [
                "server s3 is down: its first check failed: status 500",
                "panic: 1 of 5 servers healthy, less than 30%; all are used",
            ],
        )
        self.assertEqual(life[0].reason, "down: its first check failed: status 500; used in panic")
        life.probe(0, "+")
        self.assertEqual(life.up, "s0 s4")
        self.assertEqual(
            life.take_news(), ["server s0 is up: one check passed", "panic is over: 2 of 5 servers healthy"]
        )

    def test_never_empty_between(self) -> None:
        """Nobody is told of a moment without any server."""
        life = Life(2, check=CHECK)
        for results in ("-", "+", "-"):
            life.probe(0, results)
            life.probe(1, results)
        self.assertNotIn("", life.seen_up)

    def test_none_healthy(self) -> None:
        """Checks that fail everywhere are not believed: all are used."""
        life = Life(3, check=CHECK)
        for index in range(3):
            life.probe(index, "-")
        self.assertEqual(life.up, "s0 s1 s2")

    def test_switched_off(self) -> None:
        """With a threshold of 0 the checks are believed whatever they say."""
        life = Life(3, check=CHECK, panic_threshold=0)
        for index in range(3):
            life.probe(index, "-")
        self.assertEqual(life.up, "")

    def test_backups(self) -> None:
        """Healthy backups stand in for servers of which none is healthy; when none is left at all, all are used."""
        life = Life(2, backups=2, check=CHECK)
        life.probe(0, "-")
        life.probe(1, "-")
        self.assertEqual(life.up, "b0 b1")
        life.probe(2, "-")
        self.assertEqual(life.up, "b1")
        life.probe(3, "-")
        self.assertEqual(life.up, "s0 s1 b0 b1")
        life.probe(0, "+")
        self.assertEqual(life.up, "s0")

    def test_drained_server_stays_drained(self) -> None:
        """Panic leaves a drained server alone: it has no weight, and does not count."""
        life = Life(3, check=CHECK)
        life[0].weight = 0
        life.follow()
        life.probe(1, "-")
        self.assertEqual([backend.available for backend in life.backends], [False, False, True])
        life.probe(2, "-")
        self.assertEqual([backend.available for backend in life.backends], [False, True, True])
        self.assertIn("0 of 2 servers healthy", life.news[-1])

    def test_weights_change(self) -> None:
        """When a change of weights leaves too few healthy servers, panic begins at once."""
        life = Life(3, check=CHECK)
        life.probe(0, "-")
        life[1].weight = life[2].weight = 0
        life.follow()
        self.assertTrue(life[0].available)
        self.assertIn("panic: 0 of 1 servers healthy", life.news[-1])
