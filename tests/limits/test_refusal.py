"""What refused clients are told."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, MICROTOKENS, QUOTA, Taken
from twisted_lb.limits.rejection import refusal
from twisted_lb.quotas import MONTH, REQUESTS, TOKENS, QuotaLevel

M = MICROTOKENS


def taken(capacity: int, rate: float, level: int, limit: str = "default") -> Taken:
    return Taken(False, b"ann", capacity, rate, level, limit)


class RefusalTests(SynchronousTestCase):
    def test_quota(self) -> None:
        """A refusal by a quota says for how long it is, and when the next period begins."""
        quota = QuotaLevel(5, REQUESTS, MONTH, "UTC", 0, 0, 90 * M, 80 * M)
        for one, cost, detail, seconds in (
            (quota, 1, "The quota of 5 requests a month is used up. The next month begins in 10 s.", 10),
            (quota, 9, "The quota of 5 requests a month is used up. The next month begins in 10 s.", 10),
            (
                quota._replace(unit=TOKENS, left=2),
                3,
                "The quota of 5 tokens a month has 2 left, and this request costs 3. The next month begins in 10 s.",
                10,
            ),
            (
                quota._replace(unit=TOKENS, left=2),
                6,
                "The quota of 5 tokens a month has 2 left, and this request costs 6. It never has that many.",
                None,
            ),
            (
                quota._replace(amount=1),
                1,
                "The quota of 1 request a month is used up. The next month begins in 10 s.",
                10,
            ),
        ):
            found = refusal(Taken(False, b"ann", one.amount, 0.0, one.left * M, QUOTA, quota=one), cost)
            self.assertEqual(found, (detail, seconds, {"violated-policies": ["quota"]}))

    def test_sentences(self) -> None:
        """Each refusal says which limit it was and what to do about it."""
        for one, cost, ahead, detail, seconds in (
            (taken(5, 0.5, 0), 1, 0, "The bucket of 5 tokens is empty. The next token is available in 2 s.", 2),
            (taken(5, 0.0, 0), 1, 0, "The bucket of 5 tokens is empty. It is not refilled.", None),
            (
                taken(5, 1.0, M),
                3,
                0,
                "The bucket of 5 tokens has 1, and this request costs 3. They are available in 2 s.",
                2,
            ),
            (
                taken(5, 1.0, -2 * M),
                3,
                0,
                "The bucket of 5 tokens has 0, and this request costs 3. They are available in 5 s.",
                5,
            ),
            (
                taken(5, 1.0, 0),
                1,
                2,
                "The bucket of 5 tokens is empty, and other requests of this key wait for its tokens."
                " Those for this request are available in 3 s.",
                3,
            ),
            (
                taken(9, 1.0, 0, GLOBAL),
                1,
                0,
                "The bucket of 9 tokens that all users share is empty. The next token is available in 1 s.",
                1,
            ),
            (
                taken(9, 0.1, 0, ADDRESS),
                1,
                0,
                "Too many requests without a valid API key have come from your network. Try again in 10 s.",
                10,
            ),
            (
                taken(2, 0.0, 0, IN_FLIGHT),
                1,
                0,
                "This key has 2 requests in flight, the maximum. Try again when one of them has ended.",
                1,
            ),
        ):
            said = refusal(one, cost, ahead)
            self.assertEqual((said.detail, said.retry_after), (detail, seconds))
            self.assertEqual(said.members, {"violated-policies": [one.limit]})

    def test_one(self) -> None:
        """One token and one request are not called many."""
        self.assertIn("bucket of 1 token is empty", refusal(taken(1, 0.5, 0)).detail)
        self.assertIn("has 1 request in flight", refusal(taken(1, 0.0, 0, IN_FLIGHT)).detail)

    def test_fields(self) -> None:
        """Retry-After is a header line, or nothing where the tokens never come."""
        self.assertEqual(refusal(taken(5, 0.5, 0)).fields, b"\r\nRetry-After: 2")
        self.assertEqual(refusal(taken(5, 0.0, 0)).fields, b"")
