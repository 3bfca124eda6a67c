"""A request's tokens: taken, and then refunded or settled, once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import ADMITTED, REFUSED
from tests.proxy.world import World, response
from twisted_lb.interfaces import MICROTOKENS, LimitRule, Taken
from twisted_lb.network.peer import PeerInfo
from twisted_lb.own_fields import RESPONSE_FIELDS
from twisted_lb.proxy.token_grant import TokenGrant
from twisted_lb.quotas import DAY, REQUESTS, TOKENS, QuotaCharge, QuotaLevel
from twisted_lb.request_record import RequestRecord
from twisted_lb.wire.head import ResponseHead, read_response_head


def head_of(*fields: bytes) -> ResponseHead:
    head = read_response_head(response(b"", *fields), 0, 65536, RESPONSE_FIELDS)
    assert head is not None
    return head


class TokenGrantTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin()

    def begin(self, counts_in_flight: bool = False) -> None:
        self.world = World(counts_in_flight=counts_in_flight)
        self.tokens = TokenGrant(self.world.factory.limits.context, self.world.route.pricing)
        self.tokens.digest = "key"
        self.tokens.cost = 3
        self.world.buckets.others.add("key")
        self.tokens.take(self)  # type: ignore[arg-type]

    def bucket_answered(self, taken: Taken | None) -> None:
        """See ITokenReceiver."""
        assert taken is not None
        self.tokens.grant(taken)

    @property
    def released(self) -> list[tuple[str, int]]:
        return self.world.buckets.released

    def test_refund(self) -> None:
        """A refund puts the tokens back, once, and the limit fields tell so."""
        level = ADMITTED.level
        self.tokens.refund()
        self.tokens.refund()
        self.tokens.settle_as_taken()
        self.assertEqual(self.released, [("key", -3)])
        assert self.tokens.taken is not None
        self.assertEqual(self.tokens.taken.level, min(level + 3 * MICROTOKENS, ADMITTED.capacity * MICROTOKENS))

    def limited(self, unit: str) -> QuotaLevel:
        """The tokens were taken of a user with a quota."""
        quota = QuotaLevel(10, unit, DAY, "UTC", 4, 5, 9, 7)
        self.tokens.grant(ADMITTED._replace(quota=quota))
        return quota

    def test_quota_of_requests(self) -> None:
        """A request that no server answers is given back to it; otherwise it counts once, whatever it costs."""
        quota = self.limited(REQUESTS)
        taken = self.tokens.response_started(head_of(b"X-Token-Cost: 5"), "s1")
        self.assertEqual(taken.quota, quota)
        self.tokens.settle(self)  # type: ignore[arg-type]
        self.assertEqual((self.released, self.world.buckets.quota_charges), ([("key", 2)], []))
        self.setUp()
        self.limited(REQUESTS)
        self.tokens.refund()
        self.assertEqual(self.released, [("key", -3)])
        self.assertEqual(self.world.buckets.quota_charges, [QuotaCharge(REQUESTS, 5, 9, -1)])
        assert self.tokens.taken is not None and self.tokens.taken.quota is not None
        self.assertEqual(self.tokens.taken.quota.left, 5)

    def test_a_request_of_no_cost_is_given_back_to_a_quota(self) -> None:
        """The store is told of a refund that concerns the quota alone."""
        self.tokens.cost = 0
        self.limited(REQUESTS)
        self.tokens.refund()
        self.assertEqual((self.released, len(self.world.buckets.quota_charges)), ([("key", 0)], 1))

    def test_quota_of_tokens(self) -> None:
        """What a request costs more or less than was taken is charged to the quota as well."""
        self.limited(TOKENS)
        taken = self.tokens.response_started(head_of(b"X-Token-Cost: 5"), "s1")
        assert taken.quota is not None
        self.assertEqual(taken.quota.left, 2)
        self.tokens.settle(self)  # type: ignore[arg-type]
        self.assertEqual(self.world.buckets.quota_charges, [QuotaCharge(TOKENS, 5, 9, 2)])
        self.setUp()
        self.limited(TOKENS)
        self.tokens.settle_as_taken()
        self.assertEqual((self.released, self.world.buckets.quota_charges), ([], []))

    def test_what_was_not_counted(self) -> None:
        """Of what was admitted without tokens nothing is refunded or settled, and no field says so."""
        quota = QuotaLevel(10, REQUESTS, DAY, "UTC", 4, 5, 9, 7)
        uncounted = ADMITTED._replace(quota=quota, counted=False)
        for counting in (False, True):
            # It does not count as in flight any more.
            released = [("key", 0)] if counting else []
            self.begin(counting)
            self.tokens.grant(uncounted)
            self.tokens.refund()
            self.assertEqual((self.tokens.taken, self.released), (uncounted, released))
            self.begin(counting)
            self.tokens.grant(uncounted)
            self.assertEqual(self.tokens.response_started(head_of(b"X-Token-Cost: 5"), "s1"), uncounted)
            self.tokens.settle(self)  # type: ignore[arg-type]
            self.assertEqual((self.released, self.world.buckets.quota_charges), (released, []))
            record = RequestRecord(PeerInfo("192.0.2.7"), 0.0)
            self.tokens.record(record)
            self.assertEqual((record.cost, record.level), (5, uncounted.level))

    def test_shadows_that_were_not_asked(self) -> None:
        """What costs more or less in the end concerns the limits of which something was taken."""
        binding, shadow = (LimitRule(f"limit:all||{name}", name, 4, 0.0) for name in "ab")
        self.tokens.limits = binding.bucket(), shadow.bucket("", True)
        self.tokens.grant(ADMITTED)
        self.assertEqual(self.tokens.limits, (binding.bucket(),))

    def test_as_taken(self) -> None:
        """What costs what was taken needs no word with the store, and is not refunded later."""
        self.tokens.settle_as_taken()
        self.tokens.refund()
        self.assertEqual((self.released, self.tokens.taken), ([], ADMITTED))

    def test_reported(self) -> None:
        """What the server reports in the head is settled at the end, and the limit fields tell it before."""
        taken = self.tokens.response_started(head_of(b"X-Token-Cost: 5"), "s1")
        self.assertEqual(taken.level, ADMITTED.level - 2 * MICROTOKENS)
        self.assertTrue(self.tokens.by_response)
        self.tokens.settle(self)  # type: ignore[arg-type]
        self.tokens.settle(self)  # type: ignore[arg-type]
        self.assertEqual(self.released, [("key", 2)])

    def test_reported_at_the_end(self) -> None:
        """A cost in the trailers counts, rather than the one in the head, and is taken out of them."""
        self.tokens.response_started(head_of(b"X-Token-Cost: 5"), "s1")
        self.assertEqual(self.tokens.trailers_received([b"A: 1", b"x-token-cost: 4"]), [b"A: 1"])
        self.tokens.settle(self)  # type: ignore[arg-type]
        self.assertEqual(self.released, [("key", 1)])

    def test_refused(self) -> None:
        """What was refused is neither refunded nor settled."""
        tokens = TokenGrant(self.world.factory.limits.context, self.world.route.pricing)
        tokens.taken = REFUSED
        tokens.refund()
        tokens.settle(self)  # type: ignore[arg-type]
        self.assertEqual((self.released, tokens.taken), ([], REFUSED))
