"""The rate-limit fields, byte by byte."""

from __future__ import annotations

import re

from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.limits.seconds import seconds_to_full, seconds_to_next
from twisted_lb.interfaces import GLOBAL, IN_FLIGHT, MICROTOKENS, OWN, QUOTA, LimitLevel, Taken
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC
from twisted_lb.limits.response_headers import FAMILIES, RATELIMIT, X_RATELIMIT, rate_limit_fields, retry_after
from twisted_lb.quotas import DAY, REQUESTS, TOKENS, QuotaLevel

M = MICROTOKENS


def taken(capacity: int, rate: float, level: int) -> Taken:
    return Taken(level >= 0, b"ann", capacity, rate, level)


# capacity, rate, level; X-RateLimit-Remaining, -Reset; w, r, t; Retry-After
CASES: list[tuple[int, float, int, int, int | None, int | None, int | None, int | None]] = [
    (5, 1.0, 4 * M, 4, 1, 5, 1, 1),
    (5, 1.0, 0, 0, 5, 5, 1, 1),
    (5, 1.0, 5 * M, 5, 0, 5, 0, 1),
    (5, 1.0, M - 1, 0, 5, 5, 1, 1),
    (3, 0.1, 0, 0, 30, 30, 10, 10),
    (3, 0.1, M // 2, 0, 25, 30, 5, 5),
    (3, 0.1, M // 2 - 1, 0, 26, 30, 6, 6),
    (10, 3.0, 0, 0, 4, 4, 1, 1),
    (10, 0.3, 0, 0, 34, 34, 4, 4),
    (5, 0.0, 2 * M, 2, None, None, None, None),
    (5, 0.0, 5 * M, 5, 0, None, None, None),
    (MAX_CAPACITY, float(MAX_RATE_PER_SEC), 7 * M, 7, 1000, 1000, 1, 1),
]


class FieldsTests(SynchronousTestCase):
    """`rate_limit_fields`."""

    def test_both_families_byte_by_byte(self) -> None:
        """The whole text of both families is as the contract has it."""
        self.assertEqual(
            rate_limit_fields(FAMILIES)(taken(5, 1.0, 4 * M)),
            b"\r\nX-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 4\r\nX-RateLimit-Reset: 1"
            b'\r\nRateLimit-Policy: "default";q=5;w=5\r\nRateLimit: "default";r=4;t=1',
        )

    def test_a_quota_is_an_item_of_its_own(self) -> None:
        """The quota comes last, with the seconds of its period; X-RateLimit describes what has the least left."""
        quota = QuotaLevel(100, REQUESTS, DAY, "UTC", 50, 0, 86_400 * M, 86_399 * M + 1)
        fields = rate_limit_fields(FAMILIES)
        policy = b'\r\nRateLimit-Policy: "default";q=5;w=5, "quota";q=100;qu="requests";w=86400'
        self.assertEqual(
            fields(taken(5, 1.0, 4 * M)._replace(quota=quota)),
            b"\r\nX-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 4\r\nX-RateLimit-Reset: 1"
            + policy
            + b'\r\nRateLimit: "default";r=4;t=1, "quota";r=50;t=1',
        )
        scarce = fields(taken(5, 1.0, 4 * M)._replace(quota=quota._replace(left=3, now_us=0)))
        self.assertIn(
            b"\r\nX-RateLimit-Limit: 100\r\nX-RateLimit-Remaining: 3\r\nX-RateLimit-Reset: 86400\r\n", scarce
        )
        self.assertTrue(scarce.endswith(b', "quota";r=3;t=86400'))
        own = LimitLevel(9, 0.0, 2 * M, OWN)
        three = rate_limit_fields([RATELIMIT])(taken(5, 1.0, 4 * M)._replace(quota=quota, more=(own,)))
        self.assertTrue(three.endswith(b'RateLimit: "default";r=4;t=1, "api-key";r=2, "quota";r=50;t=1'), three)

    def test_refusals_of_users_with_a_quota(self) -> None:
        """A refusal by the quota describes it alone; one by another limit that one, and then the quota."""
        quota = QuotaLevel(100, TOKENS, DAY, "UTC", -7, 0, 86_400 * M, 86_300 * M)
        refused = Taken(False, b"ann", 100, 0.0, -7 * M, QUOTA, quota=quota)
        self.assertEqual(
            rate_limit_fields(FAMILIES)(refused),
            b"\r\nX-RateLimit-Limit: 100\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 100"
            b'\r\nRateLimit-Policy: "quota";q=100;w=86400\r\nRateLimit: "quota";r=0;t=100',
        )
        self.assertEqual((retry_after(refused), retry_after(refused, 100), retry_after(refused, 101)), (100, 100, None))
        of_bucket = taken(5, 1.0, -M)._replace(quota=quota)
        found = rate_limit_fields(FAMILIES)(of_bucket)
        self.assertIn(b"\r\nX-RateLimit-Limit: 5\r\n", found)
        self.assertTrue(found.endswith(b'RateLimit: "default";r=0;t=2, "quota";r=0;t=100'), found)
        self.assertEqual(retry_after(of_bucket), 2)

    def test_cases(self) -> None:
        """Each family, alone and with the other, says the same exact seconds and tokens, or leaves them out."""
        x_fields, ietf_fields = rate_limit_fields([X_RATELIMIT]), rate_limit_fields([RATELIMIT])
        fields = rate_limit_fields([RATELIMIT, X_RATELIMIT])
        for capacity, rate, level, remaining, reset, window, next_one, _ in CASES:
            x_lines = f"\r\nX-RateLimit-Limit: {capacity}\r\nX-RateLimit-Remaining: {remaining}"
            if reset is not None:
                x_lines += f"\r\nX-RateLimit-Reset: {reset}"
            ietf_lines = f'\r\nRateLimit-Policy: "default";q={capacity}'
            ietf_lines += f";w={window}" if window is not None else ""
            ietf_lines += f'\r\nRateLimit: "default";r={remaining}'
            ietf_lines += f";t={next_one}" if next_one is not None else ""
            one = taken(capacity, rate, level)
            self.assertEqual(x_fields(one).decode(), x_lines)
            self.assertEqual(ietf_fields(one).decode(), ietf_lines)
            self.assertEqual(fields(one).decode(), x_lines + ietf_lines)

    def test_names(self) -> None:
        """The fields of another limit than the key's name it, also where the policies are the same."""
        fields = rate_limit_fields([RATELIMIT])
        own = b'\r\nRateLimit-Policy: "default";q=5;w=5\r\nRateLimit: "default";r=0;t=1'
        self.assertEqual(fields(taken(5, 1.0, 0)), own)
        refused = taken(5, 1.0, 0)._replace(limit=GLOBAL)
        self.assertEqual(fields(refused), b'\r\nRateLimit-Policy: "global";q=5;w=5\r\nRateLimit: "global";r=0;t=1')
        flying = Taken(False, b"ann", 5, 0.0, 0, IN_FLIGHT)
        policy = b'\r\nRateLimit-Policy: "in-flight";q=5;qu="concurrent-requests"'
        self.assertEqual(fields(flying), policy + b'\r\nRateLimit: "in-flight";r=0')

    def test_debts(self) -> None:
        """A level below zero is no token, and the seconds are those until the debt is paid and there is one."""
        text = rate_limit_fields(FAMILIES)(taken(5, 2.0, -3 * M)).decode()
        self.assertIn("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 4\r\n", text)
        self.assertTrue(text.endswith('RateLimit: "default";r=0;t=2'))

    def test_no_family_is_no_text(self) -> None:
        """With no family chosen, nothing is sent."""
        self.assertEqual(rate_limit_fields(())(taken(5, 1.0, 0)), b"")

    def test_an_unknown_family_is_named(self) -> None:
        """A family that does not exist raises ValueError, which names it and those that exist."""
        with self.assertRaisesRegex(ValueError, "expected x-ratelimit or ratelimit, not 'x-rate'"):
            rate_limit_fields(["x-rate"])

    def test_many_policies(self) -> None:
        """Thousands of different policies, one after another and again, each get their own text."""
        fields = rate_limit_fields([X_RATELIMIT])
        for _ in range(2):
            for capacity in range(1, 3000):
                self.assertTrue(fields(taken(capacity, 1.0, 0)).startswith(b"\r\nX-RateLimit-Limit: %d\r\n" % capacity))

    @given(st.integers(1, MAX_CAPACITY), st.floats(0, MAX_RATE_PER_SEC), st.data())
    def test_the_text_agrees_with_the_bucket(self, capacity: int, rate: float, data: st.DataObject) -> None:
        """Every number in the fields is the one that the bucket's arithmetic gives, and has at most 15 digits."""
        level = data.draw(st.integers(0, capacity * M))
        text = rate_limit_fields(FAMILIES)(taken(capacity, rate, level)).decode()
        numbers = dict(re.findall(r"\b(Remaining|Reset|r|t)(?:: |=)([0-9]{1,15})(?![0-9])", text))
        self.assertEqual(int(numbers["Remaining"]), level // M)
        self.assertEqual(int(numbers["r"]), level // M)
        reset, next_one = seconds_to_full(capacity, rate, level), seconds_to_next(capacity, rate, level)
        self.assertEqual(numbers.get("Reset"), None if reset is None else str(reset))
        self.assertEqual(numbers.get("t"), None if rate == 0 else str(next_one))


class RetryAfterTests(SynchronousTestCase):
    """`retry_after`."""

    def test_cases(self) -> None:
        """Retry-After is the time to the next token, rounded up, at least 1, and absent at rate 0."""
        for capacity, rate, level, *_, seconds in CASES:
            if level < M:
                self.assertEqual(retry_after(Taken(False, b"ann", capacity, rate, level)), seconds)

    def test_costs_and_lines(self) -> None:
        """It counts what the request costs, the requests ahead and a debt; what never comes has none."""
        for capacity, rate, level, cost, ahead, seconds in (
            (5, 1.0, M, 3, 0, 2),
            (5, 1.0, M, 3, 4, 6),
            (5, 2.0, -7 * M, 1, 0, 4),
            (5, 1.0, 4 * M, 6, 0, None),
            (5, 1.0, 4 * M, 5, 6, 7),
            (5, 0.0, 2 * M, 3, 0, None),
            (5, 1.0, -M // 2, 0, 0, 2),
        ):
            self.assertEqual(retry_after(Taken(False, b"ann", capacity, rate, level), cost, ahead), seconds)

    def test_in_flight(self) -> None:
        """When a request in flight ends nobody knows, so a client may try again in a second."""
        self.assertEqual(retry_after(Taken(False, b"ann", 5, 0.0, 0, IN_FLIGHT)), 1)

    @given(st.integers(0, M - 1), st.floats(0.001, MAX_RATE_PER_SEC))
    def test_never_before_t(self, level: int, rate: float) -> None:
        """Retry-After is never before the `t` of the same refusal, and at least 1."""
        refused = Taken(False, b"ann", 5, rate, level)
        seconds, next_one = retry_after(refused), seconds_to_next(5, rate, level)
        assert seconds is not None and next_one is not None
        self.assertGreaterEqual(seconds, max(1, next_one))
