"""The coarse clock: never early, and at most two ticks late."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.deadlines import NEVER, SHARE_SECONDS, TICK_SECONDS, Sweeper


class Watch:
    """Notes when its deadline passed."""

    def __init__(self, clock: Clock, sweeper: Sweeper, deadline: float) -> None:
        self.deadline = deadline
        self.passed: list[float] = []
        self._clock = clock
        sweeper.watched.add(self)

    def deadline_passed(self) -> None:
        self.passed.append(self._clock.seconds())
        self.deadline = NEVER


class SweeperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.3)
        self.sweeper = Sweeper(self.clock)
        self.sweeper.start()

    def test_never_early_and_at_most_two_ticks_late(self) -> None:
        """A deadline set at any moment is met no sooner than it says, and no more than two ticks later."""
        for timeout in (0.0, 0.1, 0.25, 1.0, 7.3):
            for part in range(8):
                self.clock.advance(TICK_SECONDS / 7 * part)
                due = self.clock.seconds() + timeout
                watch = Watch(self.clock, self.sweeper, self.sweeper.now + timeout)
                while not watch.passed:
                    self.clock.advance(TICK_SECONDS / 16)
                late = watch.passed[0] - due
                self.assertGreaterEqual(late, 0)
                self.assertLessEqual(late, 2 * TICK_SECONDS + TICK_SECONDS / 16)

    def test_never(self) -> None:
        """No deadline is no deadline, however long it takes."""
        watch = Watch(self.clock, self.sweeper, NEVER)
        self.clock.pump([TICK_SECONDS] * 1000)
        self.assertEqual(watch.passed, [])

    def test_many_at_once(self) -> None:
        """When the time of an iteration is used up, the rest of the deadlines is met in the next ones, each once."""
        watches = [Watch(self.clock, self.sweeper, 0.0) for _ in range(10)]

        class Slow(Watch):
            def deadline_passed(self) -> None:
                super().deadline_passed()
                self._clock.rightNow += SHARE_SECONDS

        slow = [Slow(self.clock, self.sweeper, 0.0) for _ in range(3)]
        self.sweeper._tick()
        self.assertLess(sum(len(watch.passed) for watch in slow), 2)
        self.clock.pump([0.0] * 4)
        self.assertEqual([len(watch.passed) for watch in watches + slow], [1] * 13)

    def test_moved_or_forgotten_meanwhile(self) -> None:
        """A deadline that another one's end moves, or forgets, in the same tick is not met."""
        watches: list[Watch] = []
        sweeper = self.sweeper

        class Selfish(Watch):
            def deadline_passed(self) -> None:
                super().deadline_passed()
                for watch in watches[:5]:
                    watch.deadline = NEVER
                for watch in watches[5:]:
                    sweeper.watched.discard(watch)

        watches += [Selfish(self.clock, sweeper, sweeper.now) for _ in range(10)]
        self.clock.pump([TICK_SECONDS] * 4)
        self.assertEqual(sum(len(watch.passed) for watch in watches), 1)

    def test_stop(self) -> None:
        """A stopped sweeper meets no deadline and leaves no call behind; it may be stopped twice."""
        watch = Watch(self.clock, self.sweeper, self.sweeper.now)
        self.sweeper.stop()
        self.sweeper.stop()
        self.clock.advance(10)
        self.assertEqual((watch.passed, self.clock.getDelayedCalls()), ([], []))

    def test_date(self) -> None:
        """The date is that of the last tick, in the form of RFC 9110 section 5.6.7."""
        clock = Clock()
        sweeper = Sweeper(clock, lambda: clock.seconds() + 784_111_777.0)
        sweeper.start()
        self.assertEqual(sweeper.date, b"Sun, 06 Nov 1994 08:49:37 GMT")
        clock.pump([TICK_SECONDS] * 8)
        self.assertEqual(sweeper.date, b"Sun, 06 Nov 1994 08:49:39 GMT")
