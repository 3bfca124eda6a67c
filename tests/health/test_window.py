"""The counters over a sliding window."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from twisted_lb.health.window import Window


class WindowTests(SynchronousTestCase):
    def test_forgets(self) -> None:
        """A count is there for nine tenths of the window, and gone after the whole of it."""
        window = Window(10.0)
        window.count(2, 1, 100.95)
        for now, total in [(101.0, 3), (109.9, 3), (111.0, 0)]:
            window.count(0, 0, now)
            self.assertEqual(window.total, total, now)

    def test_clock_goes_back(self) -> None:
        """A time before the latest one counts for the latest."""
        window = Window(10.0)
        window.count(1, 0, 100.0)
        window.count(0, 1, 50.0)
        self.assertEqual((window.passed, window.failed), (1, 1))
        window.count(0, 0, 110.5)
        self.assertEqual(window.total, 0)

    @settings(max_examples=200)
    @given(st.lists(st.tuples(st.floats(0, 7), st.integers(0, 3), st.integers(0, 3)), max_size=40))
    def test_against_a_list(self, counts: list[tuple[float, int, int]]) -> None:
        """The counters agree with a list of all counts, within a tenth of the window."""
        window, now = Window(10.0), 0.0
        all_counts: list[tuple[float, int]] = []
        for step, passed, failed in counts:
            now += step
            window.count(passed, failed, now)
            all_counts.append((now, failed))
            surely = sum(failed for when, failed in all_counts if now - when < 8.99)
            perhaps = sum(failed for when, failed in all_counts if now - when < 10.01)
            self.assertTrue(surely <= window.failed <= perhaps)
