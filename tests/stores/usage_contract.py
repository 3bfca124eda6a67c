"""What every store promises of counts by time, as one suite beside `contract`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import inlineCallbacks
from zope.interface.verify import verifyObject

from tests.stores.contract import StoreCase, digest_of
from tests.stores.users_contract import id_of, new_user
from twisted_lb.interfaces import IUsageStore
from twisted_lb.usage import MOST, WindowCounts, key_subject, shadow_subject
from twisted_lb.users import Key, Shadow

NOTHING = WindowCounts({}, {})


def of(key: str) -> str:
    """The subject that is this key."""
    return key_subject(digest_of(key))


def both(**counts: int) -> WindowCounts:
    """These in both windows."""
    return WindowCounts(counts, counts)


class UsageContract(StoreCase):
    """IUsageStore."""

    @inlineCallbacks
    def add(self, subject: str, **counts: int) -> Any:
        """Count, and check that nothing is left over."""
        left = yield self.store.add_counts({subject: counts})
        self.assertEqual(left, {})

    @inlineCallbacks
    def counted(self, *subjects: str) -> Any:
        found = yield self.store.counts_of(subjects)
        return found[0] if len(subjects) == 1 else found

    def test_it_provides_the_interface_of_counts(self) -> None:
        """A store provides IUsageStore."""
        self.assertTrue(verifyObject(IUsageStore, self.store))

    @inlineCallbacks
    def test_counts_add_up(self) -> Any:
        """What is counted in several calls is summed by subject and counter, in both windows."""
        yield self.create("k", "ann")
        yield self.create("other", "bob")
        yield self.add(of("k"), requests=2, tokens=5)
        counts = {of("k"): {"requests": 1, "refused:default": 4}, of("other"): {"requests": 9}}
        self.assertEqual((yield self.store.add_counts(counts)), {})
        expected = {"requests": 3, "tokens": 5, "refused:default": 4}
        found = yield self.counted(of("k"), of("other"), of("nobody"))
        self.assertEqual(found, [WindowCounts(expected, expected), both(requests=9), NOTHING])
        self.assertIsInstance(found[0], WindowCounts)

    @inlineCallbacks
    def test_nothing_is_nothing(self) -> Any:
        """No counts are added, or asked for; a number of 0 is left out of what is told."""
        self.assertEqual((yield self.store.add_counts({})), {})
        self.assertEqual((yield self.store.counts_of([])), [])
        yield self.create("k", "ann")
        yield self.add(of("k"), requests=3, tokens=0)
        self.assertEqual((yield self.counted(of("k"))), both(requests=3))

    @inlineCallbacks
    def test_other_subjects_need_no_key(self) -> Any:
        """A subject that does not end with a digest is counted at once, and stays when users go."""
        yield self.create("k", "ann")
        yield self.add("limit:route|api|burst", requests=7, would_refuse=2)
        yield self.store.delete_user("ann")
        self.assertEqual((yield self.counted("limit:route|api|burst")), both(requests=7, would_refuse=2))

    @inlineCallbacks
    def test_what_belongs_to_a_key_that_is_not_there_is_left_out(self) -> Any:
        """Counts that come after the end of their key, or for one that never was, are dropped."""
        yield self.add(of("nobody"), requests=1)
        yield self.create("nobody", "ann")
        self.assertEqual((yield self.counted(of("nobody"))), NOTHING)

    @inlineCallbacks
    def test_counts_go_with_the_user(self) -> Any:
        """The counts of all keys, and those of the user's shadow policy, go when the user is deleted."""
        user = new_user("ann", "k1", "k2", shadow=Shadow(7, 0.25))
        yield self.store.create_user(user)
        shadow = shadow_subject(digest_of("k1"), 7, 0.25)
        subjects = [of("k1"), of("k2"), shadow]
        for subject in subjects:
            yield self.add(subject, requests=1)
        self.assertEqual((yield self.counted(*subjects)), [both(requests=1)] * 3)
        yield self.store.delete_user("ann")
        self.assertEqual((yield self.counted(*subjects)), [NOTHING] * 3)
        yield self.store.create_user(user)
        self.assertEqual((yield self.counted(*subjects)), [NOTHING] * 3)
        yield self.add(of("k2"), requests=2)
        self.assertEqual((yield self.counted(of("k2"))), both(requests=2))

    @inlineCallbacks
    def test_a_new_key_begins_at_nothing(self) -> Any:
        """After a rotation the old key has its counts, and the new one none."""
        yield self.store.create_user(new_user("ann", "old"))
        yield self.add(of("old"), requests=5)
        yield self.store.rotate_key("ann", id_of("old"), 0, digest_of("new"))
        self.assertEqual((yield self.counted(of("old"), of("new"))), [both(requests=5), NOTHING])

    @inlineCallbacks
    def test_numbers_have_a_bound(self) -> Any:
        """Beyond the largest number that both stores hold exactly, a count stays there."""
        yield self.create("k", "ann")
        yield self.add(of("k"), tokens=MOST - 1)
        self.assertEqual((yield self.counted(of("k"))), both(tokens=MOST - 1))
        for _ in range(2):
            yield self.add(of("k"), tokens=MOST - 1)
            self.assertEqual((yield self.counted(of("k"))), both(tokens=MOST))

    @inlineCallbacks
    def test_many_subjects_at_once(self) -> Any:
        """A thousand subjects are counted, and read, in one call."""
        subjects = [f"limit:{number}" for number in range(1000)]
        counts = {subject: {"requests": number + 1} for number, subject in enumerate(subjects)}
        self.assertEqual((yield self.store.add_counts(counts)), {})
        found = yield self.counted(*subjects)
        self.assertEqual(found, [both(requests=number + 1) for number in range(1000)])

    @inlineCallbacks
    def test_a_further_key_has_counts_of_its_own(self) -> Any:
        """Two keys of a user are two subjects."""
        yield self.create("k", "ann")
        yield self.store.create_key("ann", Key(digest_of("k2")))
        yield self.add(of("k2"), requests=1)
        self.assertEqual((yield self.counted(of("k"), of("k2"))), [NOTHING, both(requests=1)])
