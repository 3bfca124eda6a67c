"""The effect of requests on the state of a server."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.health.life import Life
from twisted_lb.config.pool import Ejection, HealthCheck
from twisted_lb.pool.retry_policy import Blame


class ConsecutiveTests(SynchronousTestCase):
    def test_in_a_row(self) -> None:
        """The fifth failure in a row ejects, and is told with what happened; four and a success do not."""
        life = Life(failure_share=0)
        for _ in range(4):
            life.fail(0, 4)
            life.serve(0)
        self.assertEqual(life.take_news(), [])
        life.fail(0, 5)
        self.assertEqual(life.up, "s1 s2")
        expected = "server s0 is ejected for 10 s: 5 requests in a row failed, the last one: connection refused"
        self.assertEqual(life.take_news(), [expected])

    def test_return(self) -> None:
        """It is used again when its time is over, not before, and one line says so."""
        life = Life()
        life.fail(0, 5)
        life.take_news()
        life.wait(9.9)
        self.assertEqual((life.up, life.take_news()), ("s1 s2", []))
        life.wait(0.1)
        self.assertEqual(life.up, "s0 s1 s2")
        self.assertEqual(life.take_news(), ["server s0 is up: its ejection of 10 s is over"])

    def test_probation(self) -> None:
        """After its return one failure ejects it anew; one success, and it takes five again."""
        life = Life()
        life.fail(0, 5)
        life.wait(10)
        life.fail(0)
        self.assertEqual(life.up, "s1 s2")
        life.wait(20)
        life.serve(0)
        life.fail(0, 4)
        self.assertEqual(life.up, "s0 s1 s2")
        life.fail(0)
        self.assertEqual(life.up, "s1 s2")

    def test_late_failures(self) -> None:
        """Exchanges that were under way when it was ejected make its ejection no longer."""
        life = Life()
        life.fail(0, 30)
        life.wait(10)
        self.assertEqual(life.up, "s0 s1 s2")
        self.assertEqual(len(life.news), 2)

    def test_switched_off(self) -> None:
        """With both limits 0, no number of failures ejects."""
        life = Life(consecutive_failures=0, failure_share=0)
        life.fail(0, 10_000)
        self.assertEqual((life.up, life.news), ("s0 s1 s2", []))

    def test_slowness(self) -> None:
        """Any number of whole answers ejects nobody, however long each of them took."""
        life = Life()
        for _ in range(1000):
            life.now += 30
            life.serve(0)
        self.assertEqual((life.up, life.news), ("s0 s1 s2", []))


class ShareTests(SynchronousTestCase):
    def test_half_fails(self) -> None:
        """A server that answers, and fails half of the time, is ejected once there were enough requests."""
        life = Life()
        for _ in range(9):
            life.fail(0)
            life.serve(0)
        self.assertEqual(life.up, "s0 s1 s2")
        life.fail(0)
        life.serve(0)
        life.fail(0)
        self.assertEqual(life.up, "s1 s2")
        expected = "11 of 21 requests in 10 s failed, the last one: connection refused"
        self.assertEqual(life.take_news(), [f"server s0 is ejected for 10 s: {expected}"])

    def test_less_than_the_share(self) -> None:
        """One that fails less often than the share is never ejected."""
        life = Life()
        for _ in range(500):
            life.fail(0)
            life.serve(0, 2)
            life.wait(0.05)
        self.assertEqual(life.news, [])

    def test_window_slides(self) -> None:
        """Failures that are further apart than the window do not add up."""
        for seconds, news in [(10.5, 0), (8.5, 1)]:
            life = Life(consecutive_failures=0, minimum_requests=2)
            for _ in range(2):
                life.fail(0)
                life.wait(seconds)
            self.assertEqual(len(life.news), news, seconds)

    def test_new_window(self) -> None:
        """What failed before an ejection is forgotten after it."""
        life = Life(consecutive_failures=0, minimum_requests=4, base_time=1.0)
        life.fail(0, 4)
        life.wait(1)
        life.serve(0)
        life.fail(0)
        self.assertEqual(life.up, "s0 s1 s2")

    def test_server_errors(self) -> None:
        """Answers of 5xx count for the share alone, unless they are about the request."""
        for status, up in [(500, False), (502, False), (503, False), (501, True), (505, True), (404, True)]:
            life = Life()
            life.serve(0, 19, status)
            self.assertTrue(life[0].up, status)
            life.serve(0, 1, status)
            self.assertEqual(life[0].up, up, status)

    def test_server_errors_do_not_count(self) -> None:
        """Where it is so configured, a 5xx is as good as any answer."""
        life = Life(server_errors=False)
        life.serve(0, 1000, 500)
        life.fail(0, 4)
        life.serve(0, 1, 500)
        life.fail(0, 4)
        self.assertEqual(life.up, "s0 s1 s2")


class GrowingTests(SynchronousTestCase):
    def seconds_out(self, life: Life) -> float:
        """Eject it by its next failures, and wait until it is back."""
        life.fail(0, 5)
        since = life.now
        while not life[0].up:
            life.wait(0.25)
        return life.now - since

    def test_grows(self) -> None:
        """Each ejection is twice as long as the one before, up to the longest."""
        life = Life(base_time=10, max_time=100)
        self.assertEqual([self.seconds_out(life) for _ in range(6)], [10, 20, 40, 80, 100, 100])

    def test_decays(self) -> None:
        """After a time in good health as long as an ejection the next is no longer, and after more it is shorter."""
        cases = [(0.0, 80.0), (39.0, 80.0), (41.0, 40.0), (81.0, 20.0), (121.0, 10.0), (1e9, 10.0)]
        for healthy, seconds in cases:
            life = Life(base_time=10, max_time=100)
            self.assertEqual([self.seconds_out(life) for _ in range(3)], [10, 20, 40])
            life.serve(0)
            life.wait(healthy)
            self.assertEqual(self.seconds_out(life), seconds, healthy)


class BothTests(SynchronousTestCase):
    def test_checks_do_not_end_an_ejection(self) -> None:
        """A server that passes its checks and fails its requests stays out for its time."""
        life = Life(check=HealthCheck())
        life.fail(0, 5)
        life.probe(0, "+++")
        self.assertEqual(life.up, "s1 s2")
        life.wait(10)
        self.assertEqual(life.up, "s0 s1 s2")
        self.assertEqual(len(life.news), 2)

    def test_down_after_ejection(self) -> None:
        """A server that fails its checks too stays out when its ejection is over, until they pass."""
        life = Life(check=HealthCheck(passes=1, fails=1))
        life.fail(0, 5)
        life.probe(0, "-")
        life.wait(10)
        self.assertEqual(life.up, "s1 s2")
        life.probe(0, "+")
        self.assertEqual(life.up, "s0 s1 s2")
        self.assertEqual(
            [line.partition(": ")[0] for line in life.news],
            ["server s0 is ejected for 10 s", "server s0 is down", "server s0 is down", "server s0 is up"],
        )

    def test_configured_anew(self) -> None:
        """Other rules hold from the next request on; who is ejected stays so for its time."""
        life = Life()
        life.fail(0, 5)
        life.health.configure(Ejection(consecutive_failures=1, window=5.0, max_share=1.0), 0.0)
        life.follow()
        self.assertEqual(life.up, "s1 s2")
        life.fail(1)
        self.assertEqual(life.up, "s2")


class RevivalTests(SynchronousTestCase):
    """A server that was ejected because it had died."""

    def setUp(self) -> None:
        self.life = Life(check=HealthCheck("/", passes=2, fails=3))
        for index in range(3):
            self.life.probe(index, "+")

    def test_checks_pass_again(self) -> None:
        """Where nothing listened it is used as soon as so many checks in a row have passed since, on probation."""
        self.life.fail(0, 5, Blame.REFUSED)
        self.life.wait(1)
        self.life.probe(0, "+")
        self.assertEqual(self.life.up, "s1 s2")
        self.life.take_news()
        self.life.probe(0, "+")
        self.assertEqual(self.life.up, "s0 s1 s2")
        self.assertEqual(self.life.take_news(), ["server s0 is up: 2 checks in a row passed since it had died"])
        self.life.fail(0, fault=Blame.DIED)
        self.assertEqual(self.life.up, "s1 s2")
        self.life.wait(20)
        self.assertEqual(self.life.up, "s0 s1 s2")

    def test_checks_pass_all_along(self) -> None:
        """One that ends the connections of requests, and passes each check, was never away: its whole time counts."""
        self.life.fail(0, 5, Blame.DIED)
        for _ in range(39):
            self.life.probe(0, "+")
            self.life.wait(0.25)
        self.assertEqual(self.life.up, "s1 s2")
        self.life.wait(0.25)
        self.assertEqual(self.life.up, "s0 s1 s2")

    def test_failures_in_all(self) -> None:
        """A server that cuts each request and passes each check costs seven requests in the first minute."""
        failed = 0
        for _ in range(240):
            self.life.probe(0, "+")
            if self.life[0].up:
                self.life.fail(0, fault=Blame.DIED)
                failed += 1
            self.life.wait(0.25)
        self.assertEqual(failed, 7)

    def test_a_check_fails_between(self) -> None:
        """A check that fails, during the failures in a row or after them, shows that it was away."""
        self.life.fail(0, 5, Blame.DIED)
        self.life.probe(0, "++-+")
        self.assertEqual(self.life.up, "s1 s2")
        self.life.probe(0, "+")
        self.assertEqual(self.life.up, "s0 s1 s2")
        self.life.fail(1, 2, Blame.DIED)
        self.life.probe(1, "-")
        self.life.fail(1, 3, Blame.DIED)
        self.life.probe(1, "++")
        self.assertEqual(self.life.up, "s0 s1 s2")

    def test_refused_between(self) -> None:
        """So does one refused connection, among the failures in a row or after the ejection."""
        for refused in (0, 2, 4, 5):
            self.setUp()
            for number in range(6):
                self.life.fail(0, fault=Blame.REFUSED if number == refused else Blame.DIED)
            self.life.probe(0, "++")
            self.assertEqual(self.life.up, "s0 s1 s2", refused)

    def test_away_before(self) -> None:
        """What was away before its requests began to fail is not away for that."""
        self.life.probe(0, "---")
        self.life.fail(0, fault=Blame.REFUSED)
        self.life.probe(0, "++")
        self.life.fail(0, fault=Blame.REFUSED)
        self.life.serve(0)
        self.life.probe(0, "-+")
        self.life.fail(0, 5, Blame.DIED)
        self.life.probe(0, "++++")
        self.assertEqual(self.life.up, "s1 s2")

    def test_only_once(self) -> None:
        """One that fails again after such a return, before it has answered a request, stays away for the whole time."""
        self.life.fail(0, 5, Blame.REFUSED)
        self.life.probe(0, "++")
        self.life.fail(0, fault=Blame.DIED)
        self.life.probe(0, "-++++")
        self.life.wait(19.5)
        self.assertEqual(self.life.up, "s1 s2")
        self.life.wait(0.5)
        self.assertEqual(self.life.up, "s0 s1 s2")
        # Its first request after that is answered: it may return at once the next time.
        self.life.serve(0)
        self.life.fail(0, 5, Blame.REFUSED)
        self.life.probe(0, "++")
        self.assertEqual(self.life.up, "s0 s1 s2")

    def test_checks_had_failed_too(self) -> None:
        """It may have been down for its checks as well: what makes it up ends both."""
        self.life.fail(0, 5, Blame.DIED)
        self.life.probe(0, "---")
        self.life.probe(0, "+")
        self.assertEqual(self.life.up, "s1 s2")
        self.life.probe(0, "+")
        self.assertEqual(self.life.up, "s0 s1 s2")

    def test_slow_or_failing(self) -> None:
        """One that was slow among the failures stays away for the whole time, whatever its checks say."""
        for slow in (range(5), (0,), (4,)):
            self.setUp()
            for number in range(5):
                self.life.fail(0, fault=Blame.FAILED if number in slow else Blame.REFUSED)
            self.life.probe(0, "-" + "+" * 10)
            self.assertEqual(self.life.up, "s1 s2", slow)
            self.life.wait(10)
            self.assertEqual(self.life.up, "s0 s1 s2")

    def test_server_errors(self) -> None:
        """Answers with errors are no death, also when a request before them met one."""
        self.life = Life(check=HealthCheck("/", passes=1), server_errors=True, minimum_requests=4, failure_share=0.5)
        self.life.probe(0, "+")
        self.life.fail(0, 1, Blame.REFUSED)
        self.life.serve(0, 3, status=500)
        self.life.probe(0, "-+++")
        self.assertEqual(self.life.up, "s1 s2")

    def test_without_checks(self) -> None:
        """Without checks it waits for the end of its time."""
        life = Life()
        life.fail(0, 5, Blame.REFUSED)
        life.wait(9)
        self.assertEqual(life.up, "s1 s2")
