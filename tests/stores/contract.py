"""What every store promises, as one suite: a subclass gives it a running store."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted_lb.interfaces import (
    MICROTOKENS,
    Account,
    AccountPage,
    IAccountStore,
    IBucketStore,
    IStoreReport,
    ITokenReceiver,
    Limits,
    NameTaken,
    Profile,
    SharedBucket,
    StoreState,
    Taken,
)
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

BAD_POLICIES: list[tuple[Any, Any]] = [
    (0, 1.0),
    (-1, 1.0),
    (MAX_CAPACITY + 1, 1.0),
    (1.5, 1.0),
    (True, 1.0),
    ("5", 1.0),
    (5, -0.5),
    (5, float("nan")),
    (5, float("inf")),
    (5, MAX_RATE_PER_SEC + 1),
    (5, "1"),
    (5, False),
]


def new_path(case: Any) -> str:
    """A path at which nothing is yet, in a directory that is removed when the test `case` is over.

    Not trial's `mktemp`, which leaves its directories in the working directory when pytest runs the test.
    """
    directory = mkdtemp(prefix="tokenlb-test-")
    case.addCleanup(shutil.rmtree, directory, ignore_errors=True)
    return os.path.join(directory, "new")


def digest_of(key: str) -> str:
    """The digest under which a key's account is stored."""
    return sha256(key.encode()).hexdigest()


@implementer(ITokenReceiver)
class Asker:
    """Keeps what it is told; `told` fires with a Taken or None, or with the text of why the store cannot tell."""

    def __init__(self) -> None:
        self.answers: list[Taken | None | str] = []
        self.told: Deferred[Taken | None | str] = Deferred()

    def bucket_answered(self, taken: Taken | None) -> None:
        self._tell(taken)

    def bucket_unavailable(self, reason: str) -> None:
        self._tell(reason)

    def _tell(self, answer: Taken | None | str) -> None:
        self.answers.append(answer)
        if len(self.answers) == 1:
            self.told.callback(answer)


class StoreCase(TestCase):
    """`self.store` provides all interfaces, is running, is empty, and has no limits beside the keys' own."""

    store: Any

    def begin_with(self, limits: Limits) -> Any:
        """Let `self.store` be another running, empty store, which has these limits: a Deferred or None."""
        raise NotImplementedError

    def some_milliseconds(self) -> Any:
        """Let time pass for the store: a Deferred or None."""
        raise NotImplementedError

    def take(
        self, key: str, cost: int = 1, network: str = "", limits: tuple[SharedBucket, ...] = ()
    ) -> Deferred[Any]:
        receiver = Asker()
        self.store.take(digest_of(key), receiver, cost, network, limits)
        return receiver.told

    def take_without_key(self, *limits: SharedBucket, cost: int = 1) -> Deferred[Any]:
        receiver = Asker()
        self.store.take_without_key(limits, receiver, cost)
        return receiver.told

    def take_address(
        self, network: str, cost: int = 1, served: bool = False, limits: tuple[SharedBucket, ...] = ()
    ) -> Deferred[Any]:
        receiver = Asker()
        self.store.take_address(network, receiver, cost, served, limits)
        return receiver.told

    def create(self, key: str, name: str, capacity: Any = 5, rate_per_sec: Any = 0.0) -> Deferred[None]:
        return self.store.create(digest_of(key), Account(name, capacity, rate_per_sec))

    def in_use(self, key: str) -> Deferred[bool]:
        """Whether a key is in use."""
        return self.store.in_use(digest_of(key))

    def level(self, key: str) -> Deferred[int]:
        """The level of a key's bucket, in tokens."""
        return self.store.profile(digest_of(key)).addCallback(lambda profile: profile.level / MICROTOKENS)


class StoreContract(StoreCase):
    """Accounts, and the bucket of each key."""

    def test_it_provides_its_interfaces(self) -> None:
        """A store provides IBucketStore, IAccountStore and IStoreReport."""
        for interface in (IBucketStore, IAccountStore, IStoreReport):
            self.assertTrue(verifyObject(interface, self.store))

    def test_a_running_store_is_up(self) -> None:
        """A store that answers says so without a reason, and its counts are numbers."""
        self.assertEqual(self.store.state(), StoreState(True, ""))
        for name, count in self.store.counts().items():
            self.assertIsInstance(count, (int, float), name)

    @inlineCallbacks
    def test_a_bucket_admits_its_capacity_and_no_more(self) -> Any:
        """A bucket of 3 that never refills admits 3 requests, and refuses every one after them."""
        yield self.create("k", "ann", 3)
        taken = []
        for _ in range(5):
            taken.append((yield self.take("k")))
        levels = [2 * MICROTOKENS, MICROTOKENS, 0, 0, 0]
        admitted = [True, True, True, False, False]
        self.assertEqual(taken, [Taken(a, b"ann", 3, 0.0, level) for a, level in zip(admitted, levels)])
        self.assertIsInstance(taken[0], Taken)
        self.assertIs(taken[0].admitted, True)
        self.assertIs(taken[4].admitted, False)

    @inlineCallbacks
    def test_an_unknown_key_is_answered_with_none(self) -> Any:
        """A key without an account has no bucket, no profile and no policy to change."""
        self.assertIsNone((yield self.take("nobody")))
        self.assertIsNone((yield self.store.profile(digest_of("nobody"))))
        self.assertIsNone((yield self.store.change(digest_of("nobody"), 3, 1.0)))
        self.assertIsNone((yield self.take("nobody")))

    @inlineCallbacks
    def test_a_token_given_back_can_be_taken_again(self) -> Any:
        """Giving back one of two taken tokens leaves room for exactly one more request."""
        yield self.create("k", "ann", 2)
        yield self.take("k")
        yield self.take("k")
        self.store.release(digest_of("k"), -1)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 2, 0.0, 0))
        self.assertEqual((yield self.take("k")), Taken(False, b"ann", 2, 0.0, 0))

    @inlineCallbacks
    def test_giving_back_never_fills_above_the_capacity(self) -> Any:
        """A full bucket stays at its capacity, and an unknown key is no error."""
        yield self.create("k", "ann", 2)
        self.store.release(digest_of("k"), -1)
        self.store.release(digest_of("nobody"), -1)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 2, 0.0, MICROTOKENS))
        self.assertIsNone((yield self.take("nobody")))

    @inlineCallbacks
    def test_takings_at_once_are_exact_and_in_order(self) -> Any:
        """Of 600 requests at once on a bucket of 500, the first 500 are admitted, each at its own level."""
        yield self.create("k", "ann", 500)
        yield self.create("other", "bob", 1)
        asked = [self.take("k") for _ in range(300)]
        between = [self.take("other"), self.take("other")]
        asked += [self.take("k") for _ in range(300)]
        taken = yield gatherResults(asked)
        self.assertEqual([one.admitted for one in taken], [True] * 500 + [False] * 100)
        self.assertEqual([one.level for one in taken[:500]], [level * MICROTOKENS for level in range(499, -1, -1)])
        self.assertEqual([one.admitted for one in (yield gatherResults(between))], [True, False])

    @inlineCallbacks
    def test_a_new_account_is_full(self) -> Any:
        """The profile of a new account says its policy and a full bucket, and asking for it spends nothing."""
        yield self.create("k", "ann", 5, 0.25)
        for _ in range(3):
            profile = yield self.store.profile(digest_of("k"))
            self.assertEqual(profile, Profile(Account("ann", 5, 0.25), 5 * MICROTOKENS))
        self.assertIsInstance(profile.account, Account)
        self.assertIs(type(profile.account.capacity), int)
        self.assertIs(type(profile.account.rate_per_sec), float)

    @inlineCallbacks
    def test_names_come_back_as_they_were(self) -> Any:
        """A name that looks like a number, is not ASCII or holds a line break is the same when it is read."""
        for name in ("007", "1.50", "-3", "Zoë", "\U0001f980", "a\r\nb", "tokenlb:{x}", "QUEUED"):
            yield self.create("key of " + name, name)
            profile = yield self.store.profile(digest_of("key of " + name))
            self.assertEqual(profile.account.name, name)
            self.assertEqual((yield self.take("key of " + name)).name, name.encode())

    @inlineCallbacks
    def test_policies_come_back_as_they_were(self) -> Any:
        """The extremes of a policy, and a rate that has no short decimal, are the same when they are read."""
        for number, (capacity, rate) in enumerate(
            [(1, 0.0), (MAX_CAPACITY, float(MAX_RATE_PER_SEC)), (7, 0.1), (7, 1e-05), (7, 1 / 3), (7, 2)]
        ):
            yield self.create(f"k{number}", f"user{number}", capacity, rate)
            profile = yield self.store.profile(digest_of(f"k{number}"))
            self.assertEqual(profile, Profile(Account(f"user{number}", capacity, rate), capacity * MICROTOKENS))
            taken = yield self.take(f"k{number}")
            self.assertEqual((taken.admitted, taken.capacity, taken.rate_per_sec), (True, capacity, rate))

    @inlineCallbacks
    def test_a_name_is_unique(self) -> Any:
        """A second account of the same name is refused with NameTaken, and its key stays unknown."""
        yield self.create("k", "ann")
        yield self.assertFailure(self.create("k2", "ann"), NameTaken)
        self.assertIsNone((yield self.take("k2")))
        yield self.create("k2", "Ann")

    @inlineCallbacks
    def test_a_name_is_one_in_all_its_forms(self) -> Any:
        """A name is stored in NFC, and taken for every form of it, composed or not."""
        yield self.create("k", "e\u0301mile a\u0323\u0302")
        profile = yield self.store.profile(digest_of("k"))
        self.assertEqual(profile.account.name, "\u00e9mile \u1ead")
        for form in ("\u00e9mile \u1ead", "e\u0301mile \u1ead", "\u00e9mile \u00e2\u0323", "e\u0301mile a\u0302\u0323"):
            yield self.assertFailure(self.create("other", form), NameTaken)
        yield self.create("other", "emile a")
        page = yield self.store.page("", 10)
        self.assertEqual([one.account.name for one in page.profiles], ["emile a", "\u00e9mile \u1ead"])

    @inlineCallbacks
    def test_of_two_creations_at_once_one_gets_the_name(self) -> Any:
        """When two accounts of one name are created at the same time, exactly one is refused."""
        first, second = self.create("k", "ann"), self.create("k2", "ann")
        yield first
        yield self.assertFailure(second, NameTaken)
        self.assertIsNone((yield self.take("k2")))

    @inlineCallbacks
    def test_a_key_is_unique(self) -> Any:
        """A second account under a key that is in use is refused, changes nothing and leaves its name free."""
        yield self.create("k", "ann", 3)
        yield self.assertFailure(self.create("k", "bob", 9), ValueError)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 3, 0.0, 2 * MICROTOKENS))
        yield self.create("k2", "bob")

    @inlineCallbacks
    def test_a_policy_that_no_bucket_can_have_is_refused(self) -> Any:
        """A capacity or rate of the wrong type or size fails with ValueError, and neither key nor name is stored."""
        for capacity, rate in BAD_POLICIES:
            yield self.assertFailure(self.create("k", "ann", capacity, rate), ValueError)
            self.assertIsNone((yield self.store.profile(digest_of("k"))))
        yield self.assertFailure(self.create("k", "\ud800"), ValueError)
        yield self.create("k", "ann")

    @inlineCallbacks
    def test_a_change_that_no_bucket_can_have_changes_nothing(self) -> Any:
        """A bad capacity or rate fails with ValueError, also next to a good one, and the policy stays."""
        yield self.create("k", "ann", 4, 0.0)
        for capacity, rate in BAD_POLICIES:
            yield self.assertFailure(self.store.change(digest_of("k"), capacity, rate), ValueError)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 4, 0.0, 3 * MICROTOKENS))

    @inlineCallbacks
    def test_a_larger_capacity_keeps_the_level(self) -> Any:
        """Raising the capacity adds no token."""
        yield self.create("k", "ann", 5)
        yield self.take("k")
        profile = yield self.store.change(digest_of("k"), 10, None)
        self.assertEqual(profile, Profile(Account("ann", 10, 0.0), 4 * MICROTOKENS))
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 10, 0.0, 3 * MICROTOKENS))

    @inlineCallbacks
    def test_a_smaller_capacity_cuts_the_level(self) -> Any:
        """Lowering the capacity below the level leaves a full bucket of the new capacity, for good."""
        yield self.create("k", "ann", 5)
        yield self.take("k")
        profile = yield self.store.change(digest_of("k"), 2, None)
        self.assertEqual(profile, Profile(Account("ann", 2, 0.0), 2 * MICROTOKENS))
        yield self.store.change(digest_of("k"), 5, None)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 5, 0.0, MICROTOKENS))

    @inlineCallbacks
    def test_a_change_of_nothing_is_a_profile(self) -> Any:
        """A change in which both parts are None answers with the policy as it is."""
        yield self.create("k", "ann", 5, 0.1)
        profile = yield self.store.change(digest_of("k"), None, None)
        self.assertEqual(profile, Profile(Account("ann", 5, 0.1), 5 * MICROTOKENS))

    @inlineCallbacks
    def test_changes_at_once_add_up(self) -> Any:
        """A change of the capacity and one of the rate, asked for at the same time, both hold."""
        yield self.create("k", "ann", 5, 0.0)
        changes = [self.store.change(digest_of("k"), 8, None), self.store.change(digest_of("k"), None, 1e-06)]
        last = (yield gatherResults(changes))[1]
        self.assertEqual(last.account, Account("ann", 8, 1e-06))
        profile = yield self.store.profile(digest_of("k"))
        self.assertEqual(profile.account, Account("ann", 8, 1e-06))

    @inlineCallbacks
    def test_a_bucket_refills(self) -> Any:
        """A drained bucket that refills a million tokens a second admits again after some milliseconds."""
        yield self.create("k", "ann", 1, 0.0)
        yield self.take("k")
        self.assertFalse((yield self.take("k")).admitted)
        yield self.store.change(digest_of("k"), None, 1_000_000.0)
        yield self.some_milliseconds()
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 1, 1_000_000.0, 0))

    @inlineCallbacks
    def test_a_name_has_no_nul(self) -> Any:
        """A name that holds a NUL fails with ValueError, and neither key nor name is stored."""
        for name in ("a\0b", "\0", "ann\0"):
            yield self.assertFailure(self.create("k", name), ValueError)
        self.assertIsNone((yield self.take("k")))
        self.assertEqual((yield self.store.page("", 1)), AccountPage([], None))

    @inlineCallbacks
    def names(self, after: str, count: int) -> Any:
        page = yield self.store.page(after, count)
        self.assertIsInstance(page, AccountPage)
        return [profile.account.name for profile in page.profiles], page.more_after is not None

    @inlineCallbacks
    def test_pages_are_in_the_order_of_the_names_as_bytes(self) -> Any:
        """Page after page gives each account once, in the order of the UTF-8 of the names, to the last."""
        names = ["b", "a", "ab", "a b", "a\x01", "Z", "Zo\u00eb", "\U0001f980", "\uffff", "aa" * 60, "-", "+", "[a"]
        for name in names:
            yield self.create("key of " + name, name)
        ordered = sorted(names, key=str.encode)
        self.assertEqual((yield self.names("", 200)), (ordered, False))
        self.assertEqual((yield self.names("", len(names))), (ordered, False))
        for count in (1, 2, 5):
            found: list[str] = []
            more = True
            while more:
                page, more = yield self.names(found[-1] if found else "", count)
                self.assertEqual(len(page), min(count, len(names) - len(found)))
                found += page
            self.assertEqual(found, ordered)

    @inlineCallbacks
    def test_a_page_begins_after_any_text(self) -> Any:
        """A name that no account has is a place in the order too, and after the last name there is nothing."""
        for name in ("ann", "bob", "cid"):
            yield self.create("key of " + name, name)
        self.assertEqual((yield self.names("annette", 1)), (["bob"], True))
        self.assertEqual((yield self.names("an", 2)), (["ann", "bob"], True))
        self.assertEqual((yield self.names("cia", 5)), (["cid"], False))
        for after in ("cid", "zoe", "\U0010ffff"):
            self.assertEqual((yield self.names(after, 1)), ([], False))

    @inlineCallbacks
    def test_a_page_tells_policies_and_levels(self) -> Any:
        """A page has each account's policy and its level now, also one below zero, and spends nothing."""
        for name in ("ann", "bob", "cid"):
            yield self.create(name, name, 5)
        self.store.release(digest_of("cid"), 7)
        yield self.take("bob")
        for _ in range(2):
            page = yield self.store.page("", 3)
            levels = [(profile.account, profile.level) for profile in page.profiles]
            expected = [("ann", 5), ("bob", 4), ("cid", -2)]
            self.assertEqual(levels, [(Account(name, 5, 0.0), level * MICROTOKENS) for name, level in expected])

    @inlineCallbacks
    def test_a_page_that_cannot_be_is_refused(self) -> Any:
        """A page of no accounts or of more than 200, or after what is no text in UTF-8, fails with ValueError."""
        yield self.create("k", "ann")
        for count in (0, -1, 201):
            yield self.assertFailure(self.store.page("", count), ValueError)
        yield self.assertFailure(self.store.page("\ud800", 1), ValueError)
        self.assertEqual((yield self.names("", 200)), (["ann"], False))
