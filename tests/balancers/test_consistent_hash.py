"""Hash: which keys stay, which move, and what a popular key does."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.balancers.pools import counts, many, names
from twisted_lb.backend import Backend
from twisted_lb.balancers import hash_ring
from twisted_lb.balancers.consistent_hash import SPARE, ConsistentHash
from twisted_lb.balancers.hash_ring import MAX_POINTS, POINTS, RING, HashRing, merged, point_counts, points_of
from twisted_lb.steps import finish
from twisted_lb.testing import FakeRequest, servers

KEYS = 5000
POINT_0 = 10686717357417640565
POINT_1 = 6581273106554690038


def hash_of(backends: list[Backend], **options: Any) -> ConsistentHash:
    balancer = ConsistentHash(**options)
    balancer.backends_changed(list(backends))
    return balancer


def homes(balancer: ConsistentHash, keys: int = KEYS) -> list[Backend]:
    """The server of each key."""
    return [next(balancer.choices(FakeRequest(number))) for number in range(keys)]


def moved(before: list[Backend], after: list[Backend]) -> list[tuple[Backend, Backend]]:
    return [(old, new) for old, new in zip(before, after, strict=True) if old is not new]


class StayingTests(SynchronousTestCase):
    def test_only_keys_of_the_gone_server_move(self) -> None:
        """When a server goes, its keys go to several others, and no other key moves; when it is back, so are they."""
        backends = many(10)
        balancer = hash_of(backends)
        before = homes(balancer)
        balancer.backends_changed(backends[:3] + backends[4:])
        changes = moved(before, homes(balancer))
        self.assertEqual({old for old, _ in changes}, {backends[3]})
        self.assertLess(len(changes), 1.4 * KEYS / 10)
        self.assertGreater(len({new for _, new in changes}), 5)
        balancer.backends_changed(list(backends))
        self.assertEqual(homes(balancer), before)

    def test_among_10_000(self) -> None:
        """Of 10,000 servers each one's going moves only its own keys."""
        backends = many(10_000)
        balancer = hash_of(backends)
        before = homes(balancer)
        gone = before[0]
        balancer.backends_changed([backend for backend in backends if backend is not gone])
        changes = moved(before, homes(balancer))
        self.assertEqual({old for old, _ in changes}, {gone})
        self.assertLess(len(changes), 10)

    def test_new_server_takes_its_share_only(self) -> None:
        """A new server takes keys, and none moves between the others; in slow start it takes them bit by bit."""
        backends = many(10)
        balancer = hash_of(backends[:9])
        before = homes(balancer)
        taken = []
        for backends[9].ramp in (0.1, 0.5, 1.0):
            balancer.backends_changed(list(backends))
            after = homes(balancer)
            changes = moved(before, after)
            self.assertEqual({new for _, new in changes}, {backends[9]})
            taken.append(after.count(backends[9]))
        self.assertTrue(0 < taken[0] < taken[1] < taken[2] < 1.4 * KEYS / 10, taken)

    def test_instances_agree(self) -> None:
        """Two balancers agree on every key, whatever the order of their servers and the way to them."""
        backends = many(8)
        other = hash_of(backends[2:5])
        other.backends_changed(list(reversed(backends)))
        self.assertEqual(homes(hash_of(backends)), homes(other))

    def test_server_of_the_same_name(self) -> None:
        """A server that takes another one's place under its name takes its keys."""
        old, new = many(4), many(4)
        balancer = hash_of(old)
        before = homes(balancer)
        balancer.backends_changed(list(new))
        self.assertEqual([backend.name for backend in homes(balancer)], [backend.name for backend in before])
        self.assertLessEqual(set(homes(balancer)), set(new))

    def test_keys_do_not_depend_on_the_process(self) -> None:
        """The first points of a name are these, in every process and on every machine."""
        self.assertEqual(points_of("server1", 0, 2), [POINT_0, POINT_1])
        self.assertEqual(points_of("server1", 0, 50)[11:30], points_of("server1", 11, 30))
        self.assertEqual(points_of("server1", 9, 9), [])


class KeyTests(SynchronousTestCase):
    def home(self, balancer: ConsistentHash, **parts: Any) -> Backend:
        return next(balancer.choices(FakeRequest(**parts)))

    def test_what_is_hashed(self) -> None:
        """Requests with the same key go to one server whatever else differs, and other keys to others."""
        cases: list[tuple[dict[str, Any], Any]] = [
            ({"by": "consumer"}, lambda key: {"consumer": key}),
            ({"by": "address"}, lambda key: {"client_address": key.decode()}),
            ({"by": "path"}, lambda key: {"target": b"/" + key + b"?q=%d" % id(key)}),
            ({"by": "header", "header": "X-Tenant"}, lambda key: {"headers": {b"x-tenant": key}}),
            ({"by": "cookie", "cookie": "id"}, lambda key: {"headers": {b"cookie": b"a=b; id=%b;c=d" % key}}),
        ]
        for options, parts in cases:
            balancer = hash_of(many(10), **options)
            same = {self.home(balancer, number=number, **parts(b"key")) for number in range(50)}
            self.assertEqual(len(same), 1, options)
            different = {self.home(balancer, **parts(b"key%d" % number)) for number in range(100)}
            self.assertEqual(len(different), 10, options)

    def test_without_the_header(self) -> None:
        """A request without the header or cookie goes where its user's requests go."""
        by_user = hash_of(many(10))
        for options in ({"by": "header", "header": "X-Tenant"}, {"by": "cookie", "cookie": "id"}):
            balancer = hash_of(many(10), **options)
            for number in range(50):
                request = {"number": number, "headers": {b"cookie": b"idx=1; id="}}
                self.assertEqual(self.home(balancer, **request).name, self.home(by_user, number=number).name)


class BoundTests(SynchronousTestCase):
    def test_popular_key_is_bounded(self) -> None:
        """When all requests have one key, no server gets more than its bound of what is in flight."""
        for count, bound in ((5, 1.25), (20, 2.0)):
            backends = many(count)
            balancer = hash_of(backends, bound=bound)
            for number in range(50 * count):
                next(balancer.choices(FakeRequest())).in_flight += 1
                most = max(backend.in_flight for backend in backends)
                self.assertLessEqual(most, max(SPARE, bound * (number + 1) / count + 2))

    def test_quiet_pool_keeps_keys_together(self) -> None:
        """A few requests of one user at once stay together when nothing else is in flight."""
        balancer = hash_of(many(10))
        chosen = set()
        for _ in range(SPARE):
            backend = next(balancer.choices(FakeRequest()))
            chosen.add(backend)
            backend.in_flight += 1
        self.assertEqual(len(chosen), 1)

    def test_bound_is_by_weight(self) -> None:
        """A server of more weight is overloaded later."""
        backends = servers(9, 1)
        balancer = hash_of(backends)
        for number in range(200):
            next(balancer.choices(FakeRequest(number))).in_flight += 1
        self.assertTrue(backends[1].in_flight <= 200 * 1.25 / 10 + 2, backends)

    def test_full_server_is_passed_over(self) -> None:
        """A key whose server is full goes on along the ring, and the full one is the last choice."""
        backends = servers(1, 1, 1)
        balancer = hash_of(backends)
        usual = names(balancer)
        own = next(balancer.choices(FakeRequest()))
        own.maxconn = own.in_flight = 1
        self.assertEqual(names(balancer), usual[1:] + usual[0])

    def test_all_overloaded(self) -> None:
        """When each of many servers is full, every one is still a choice, once."""
        backends = many(200)
        for backend in backends:
            backend.maxconn = backend.in_flight = 1
        chosen = list(hash_of(backends).choices(FakeRequest()))
        self.assertEqual((len(chosen), set(chosen)), (200, set(backends)))


class RingTests(SynchronousTestCase):
    def test_shares(self) -> None:
        """Keys are spread by weight, within a third."""
        found = counts(hash_of(servers(3, 2, 1)), KEYS)
        for name, part in (("a", 1 / 2), ("b", 1 / 3), ("c", 1 / 6)):
            self.assertTrue(0.67 * KEYS * part < found[name] < 1.33 * KEYS * part, found)

    def test_points(self) -> None:
        """The points are by weight; a ring of too many has fewer for each."""
        self.assertEqual(list(point_counts(servers(1, 3)).values()), [POINTS, 3 * POINTS])
        heavy = [Backend(str(order), "h", 1, 1 + order % 1000) for order in range(5000)]
        many_points = point_counts(heavy)
        self.assertTrue(MAX_POINTS / 3 < sum(many_points.values()) < MAX_POINTS + len(heavy))
        self.assertGreaterEqual(min(many_points.values()), 1)

    def test_ring_is_as_if_made_anew(self) -> None:
        """After any changes the ring is the one that its servers would have made from nothing."""
        backends = many(12)
        ring = HashRing()
        for left in (backends, backends[3:], backends[:1], [], backends[2:9], backends):
            ring.change(left)
            fresh = HashRing()
            fresh.change(left)
            self.assertEqual((ring.points, ring.owners), (fresh.points, fresh.owners))
            self.assertEqual(ring.points, sorted(ring.points))
            self.assertEqual(Counter(ring.owners.values()), dict.fromkeys(left, POINTS))

    def test_ring_that_is_made_in_steps(self) -> None:
        """A ring that is changed in steps is as if made anew, and the one it is made of stays as it was."""
        backends = servers(*(1 + number % 3 for number in range(399)))
        for before, after in ((0, 399), (399, 0), (100, 399), (399, 100), (399, 398), (399, 399)):
            ring = HashRing()
            ring.change(backends[:before])
            points, owners = list(ring.points), dict(ring.owners)
            fresh = HashRing()
            fresh.change(backends[-after:] if after else [])
            made = finish(ring.changed({one: one.effective_weight for one in backends[-after:]} if after else {}))
            self.assertEqual((made.points, made.owners), (fresh.points, fresh.owners))
            self.assertEqual((ring.points, ring.owners), (points, owners))
            made.change(backends[:7])
            fresh.change(backends[:7])
            self.assertEqual((made.points, made.owners), (fresh.points, fresh.owners))

    def test_prepared_change(self) -> None:
        """A prepared change, and one that turns out different from what was prepared, choose as an unprepared one."""
        backends = servers(*[1] * 20)
        for told in (backends[:15], backends[3:18], backends[:1]):
            prepared, plain = ConsistentHash(by="path"), ConsistentHash(by="path")
            for balancer in (prepared, plain):
                balancer.backends_changed(backends[10:])
            finish(prepared.prepare({one: 1.0 for one in backends[:15]}))
            self.assertEqual(first_choices(prepared), first_choices(plain))
            for balancer in (prepared, plain):
                balancer.backends_changed(list(told))
            self.assertEqual(first_choices(prepared), first_choices(plain))


def first_choices(balancer: ConsistentHash) -> list[str]:
    """For many paths."""
    return [next(balancer.choices(FakeRequest(number))).name for number in range(50)]


class MergeTests(SynchronousTestCase):
    def test_merged(self) -> None:
        """Sorted points of any number of lists become one list, a part of the ring in each step."""
        self.patch(hash_ring, "POINTS_IN_A_STEP", 100)
        chance = Random(1)
        runs = [sorted(chance.getrandbits(64) for _ in range(size)) for size in (0, 1, 700, 399, 100)]
        runs.append([0, RING - 1])
        steps = merged(runs)
        sizes = 0
        while True:
            try:
                next(steps)
                sizes += 1
            except StopIteration as end:
                points = end.value
                break
        self.assertEqual(points, sorted(point for run in runs for point in run))
        self.assertEqual(sizes, 12)
