"""The effect of active checks on the state of a server."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.health.life import Life
from twisted_lb.config.pool import HealthCheck

CHECK = HealthCheck(passes=2, fails=3)


class CheckTests(SynchronousTestCase):
    def test_rows(self) -> None:
        """Only `fails` failures in a row take a server out, and only `passes` in a row bring it back."""
        cases = [
            ("+", "up"),
            ("+--", "up"),
            ("+--+--", "up"),
            ("+---", "down"),
            ("+---+", "down"),
            ("+---+-+", "down"),
            ("+---++", "up"),
            ("+---++--", "up"),
            ("+---++---", "down"),
            ("-", "down"),  # nothing was known of it: the first check decides
            ("-+", "down"),
            ("-++", "up"),
            ("-++--", "up"),
        ]
        for results, state in cases:
            life = Life(check=CHECK)
            life.probe(0, results)
            self.assertEqual("up" if life[0].up else "down", state, results)

    def test_one_line_a_change(self) -> None:
        """Each change of state is told once, with its reason; what changes nothing is not told."""
        life = Life(check=CHECK)
        life.probe(0, "+++------+-++++")
        self.assertEqual(
            life.take_news(),
            [
                "server s0 is down: 3 checks in a row failed: status 500",
                "server s0 is up: 2 checks in a row passed",
            ],
        )
        self.assertEqual(life[0].reason, "up: 2 checks in a row passed")
        life.probe(1, "-")
        self.assertEqual(life.take_news(), ["server s1 is down: its first check failed: status 500"])

    def test_written_before_told(self) -> None:
        """Who is told of a change sees it."""
        life = Life(check=CHECK)
        life.probe(0, "+---++")
        self.assertEqual(life.seen_up, ["s1 s2", "s0 s1 s2"])

    def test_flapping(self) -> None:
        """A server that passes and fails in turn changes its state once at most."""
        life = Life(check=CHECK)
        life.probe(0, "+-" * 50)
        self.assertEqual(life.take_news(), [])
        life.probe(0, "---" + "+-" * 50)
        self.assertEqual(len(life.take_news()), 1)

    def test_no_check(self) -> None:
        """A result for a server that is not checked, or not there any more, changes nothing."""
        life = Life(check=None)
        life.probe(0, "----")
        gone = life.backends.pop()
        life.follow()
        life.health.probe_failed(gone, life.now, "status 500")
        life.health.seen(gone, False, life.now, "reset")
        self.assertEqual((life.up, gone.up, life.news), ("s0 s1", True, []))

    def test_check_removed(self) -> None:
        """A server that is down by its checks is up when it is not checked any more."""
        life = Life(check=CHECK)
        life.probe(0, "-")
        life.take_news()
        life.check = None
        life.follow()
        self.assertEqual(life.up, "s0 s1 s2")
        self.assertEqual(life.take_news(), ["server s0 is up: it is not checked any more"])

    def test_follow_keeps(self) -> None:
        """A server that stays keeps its state, whatever comes and goes beside it."""
        life = Life(check=CHECK)
        life.probe(0, "+--")
        life.probe(1, "-")
        life.backends.pop()
        life.follow()
        self.assertEqual(life.up, "s0")
        life.probe(0, "-")
        self.assertIn("3 checks in a row failed", life.news[1])

    def test_statuses(self) -> None:
        """A check expects the statuses of its ranges, both ends included."""
        check = HealthCheck(status=((200, 204), (301, 301)))
        passing = [status for status in range(100, 600) if check.expects(status)]
        self.assertEqual(passing, [200, 201, 202, 203, 204, 301])
        self.assertEqual(check.statuses, "200-204, 301")
