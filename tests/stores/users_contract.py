"""What every store promises of users and their keys, as one suite beside `contract`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks
from zope.interface.verify import verifyObject

from tests.stores.contract import StoreCase, digest_of
from twisted_lb.interfaces import (
    MICROTOKENS,
    OWN,
    Account,
    IUserStore,
    LimitLevel,
    NameTaken,
    Profile,
    Taken,
)
from twisted_lb.users import (
    ACTIVE,
    DISABLED,
    KEY_DISABLED,
    KEY_EXPIRED,
    MAX_KEYS,
    NEVER,
    NO_BUCKET,
    NO_SHADOW,
    REVOKED,
    USER_DISABLED,
    Key,
    KeyBucket,
    KeyChange,
    KeyRefused,
    KeyRevoked,
    KeyTaken,
    NoShadow,
    Shadow,
    TooManyKeys,
    User,
    UserChange,
    UserFilter,
    UserPage,
    key_id_of,
)

PAST = 1_000_000  # a time at which every key has expired
FUTURE = 4_000_000_000_000_000
HOUR = 3_600_000_000


def id_of(key: str) -> str:
    """The key_id of a key."""
    return key_id_of(digest_of(key))


def new_user(name: str, *keys: str, capacity: int = 5, rate_per_sec: float = 0.0, **more: Any) -> User:
    """A user with these keys."""
    return User(name, capacity, rate_per_sec, keys=tuple(Key(digest_of(key)) for key in keys), **more)


class UsersContract(StoreCase):
    """IUserStore, and what becomes of requests."""

    def create_user(self, name: str, *keys: str, **more: Any) -> Any:
        return self.store.create_user(new_user(name, *keys, **more))

    def change_key(self, name: str, key: str, **change: Any) -> Any:
        return self.store.change_key(name, id_of(key), KeyChange(**change))

    @inlineCallbacks
    def test_a_shadow_policy(self) -> Any:
        """The shadow policy of a user is asked by requests with any key, refuses nothing, and is no part of answers."""
        yield self.create_user("ann", "a", "b", capacity=100, shadow=Shadow(3, 0.0))
        asked = []
        for key, cost in (("a", 2), ("b", 1), ("b", 1), ("a", 0)):
            taken = yield self.take(key, cost)
            [decision] = taken.shadows
            self.assertEqual(decision.shared.rule.key, "shadow:" + digest_of("a"))
            asked.append((taken.admitted, taken.more, decision.would_refuse))
        self.assertEqual(asked, [(True, (), no) for no in (False, False, True, False)])
        user = yield self.store.user("ann")
        self.assertEqual((user.level, user.shadow), (96 * MICROTOKENS, Shadow(3, 0.0, 0)))
        profile = yield self.store.profile(digest_of("b"))
        self.assertEqual(profile, Profile(Account("ann", 100, 0.0), 96 * MICROTOKENS, digest_of("a"), user.shadow))
        profile = yield self.store.change(digest_of("b"), 90, None)
        self.assertEqual(profile, Profile(Account("ann", 90, 0.0), 90 * MICROTOKENS))

    @inlineCallbacks
    def test_a_shadow_policy_is_settled(self) -> Any:
        """What a request costs in the end concerns the shadow policy if that is named, and of a user who has one."""
        yield self.create_user("ann", "a", capacity=100, shadow=Shadow(9, 0.0))
        taken = yield self.take("a", 2)
        of_user = tuple(decision.shared for decision in taken.shadows)
        self.store.release(digest_of("a"), 3, of_user)
        self.store.release(digest_of("a"), 1)
        self.assertEqual((yield self.take("a", 4)).shadows[0].would_refuse, False)
        user = yield self.store.user("ann")
        self.assertEqual((user.level, user.shadow.level), (90 * MICROTOKENS, 0))

    @inlineCallbacks
    def test_changes_of_a_shadow_policy(self) -> Any:
        """A changed shadow policy keeps its level, one that is removed does not come back, and keys are as before."""
        yield self.create_user("ann", "a", capacity=100)
        yield self.change_key("ann", "a", expires_at=FUTURE)
        changed = yield self.store.change_user("ann", UserChange(shadow=Shadow(5, 0.5)))
        self.assertEqual((changed.before.shadow, changed.after.shadow), (None, Shadow(5, 0.5, 5 * MICROTOKENS)))
        yield self.store.change_user("ann", UserChange(shadow=Shadow(9, 0.0, 4 * MICROTOKENS)))
        yield self.store.change_user("ann", UserChange(disabled=True))
        changed = yield self.store.change_user("ann", UserChange(disabled=False, shadow=Shadow(7, 0.0)))
        self.assertEqual(changed.after.shadow, Shadow(7, 0.0, 4 * MICROTOKENS))
        changed = yield self.store.change_user("ann", UserChange(shadow=Shadow(2, 0.0)))
        self.assertEqual(changed.after.shadow, Shadow(2, 0.0, 2 * MICROTOKENS))
        yield self.take("a", 2)
        changed = yield self.store.change_user("ann", UserChange(shadow=NO_SHADOW))
        self.assertEqual((changed.after.shadow, changed.after.keys[0].expires_at), (None, FUTURE))
        self.assertEqual((yield self.take("a")).shadows, ())
        changed = yield self.store.change_user("ann", UserChange(shadow=Shadow(2, 0.0)))
        self.assertEqual(changed.after.shadow.level, 2 * MICROTOKENS)
        for shadow in (Shadow(0, 1.0), Shadow(1, -1.0), Shadow(1, 1.0, True)):
            with self.assertRaises(ValueError):
                yield self.store.change_user("ann", UserChange(shadow=shadow))

    @inlineCallbacks
    def test_a_shadow_policy_is_promoted(self) -> Any:
        """A promoted shadow is the policy, the level of the user is kept or cut, and the shadow is removed."""
        yield self.create_user("ann", "a", "b", capacity=9, rate_per_sec=0.5, shadow=Shadow(3, 0.0, MICROTOKENS))
        changed = yield self.store.promote_shadow("ann")
        self.assertEqual(changed.before.shadow, Shadow(3, 0.0, MICROTOKENS))
        self.assertEqual(changed.after[1:4], (3, 0.0, 3 * MICROTOKENS))
        self.assertEqual((changed.after.shadow, changed.after), (None, (yield self.store.user("ann"))))
        self.assertTrue((yield self.take("a", 2)).admitted)
        self.assertFalse((yield self.take("b", 2)).admitted)
        with self.assertRaises(NoShadow):
            yield self.store.promote_shadow("ann")
        self.assertIsNone((yield self.store.promote_shadow("bob")))

    @inlineCallbacks
    def test_a_shadow_policy_goes_with_its_user(self) -> Any:
        """Another user with the same key and the same policy has a full bucket."""
        for _ in range(2):
            yield self.create_user("ann", "a", capacity=9, shadow=Shadow(2, 0.0))
            self.assertFalse((yield self.take("a", 2)).shadows[0].would_refuse)
            yield self.store.delete_user("ann")

    def test_it_provides_the_interface(self) -> None:
        """A store provides IUserStore."""
        self.assertTrue(verifyObject(IUserStore, self.store))

    @inlineCallbacks
    def test_an_account_is_a_user_with_one_key(self) -> Any:
        """What `create` has stored is a user with one active key, found by name, by key and by key_id."""
        yield self.create("k", "ann", 5, 0.5)
        user = yield self.store.user("ann")
        self.assertEqual(user[:6], ("ann", 5, 0.5, 5 * MICROTOKENS, False, {}))
        [key] = user.keys
        self.assertEqual(key, Key(digest_of("k"), created_at=user.created_at))
        self.assertEqual(key.key_id, "key_" + digest_of("k")[:16])
        self.assertGreater(user.created_at, HOUR)
        self.assertEqual((yield self.store.user_of_key(digest_of("k"))), user)
        self.assertEqual((yield self.store.find_key(id_of("k"))), user)

    @inlineCallbacks
    def test_what_does_not_exist(self) -> Any:
        """Of a name, a key or a key_id that nobody has, everything is None, and nothing is stored."""
        yield self.create("k", "ann")
        calls = [
            self.store.user("bob"),
            self.store.user_of_key(digest_of("bob")),
            self.store.find_key(id_of("bob")),
            self.store.change_user("bob", UserChange(capacity=3)),
            self.store.delete_user("bob"),
            self.store.create_key("bob", Key(digest_of("b"))),
            self.change_key("bob", "k", label="x"),
            self.change_key("ann", "b", label="x"),
            self.store.rotate_key("ann", id_of("b"), HOUR, digest_of("c")),
            self.store.rotate_key("bob", id_of("k"), HOUR, digest_of("c")),
        ]
        self.assertEqual((yield gatherResults(calls)), [None] * len(calls))
        self.assertIsNone((yield self.take("b")))
        self.assertEqual(len((yield self.store.user("ann")).keys), 1)

    @inlineCallbacks
    def test_a_user_comes_back_as_it_was(self) -> Any:
        """Everything that an import says of a user and the keys is the same when it is read."""
        keys = (
            Key(digest_of("a"), DISABLED, FUTURE, "the \U0001f980 key", 5 * HOUR, 6 * HOUR, KeyBucket(3, 0.25, -7)),
            Key(digest_of("b"), REVOKED, None, "", 7 * HOUR, None, None),
            Key(digest_of("c"), ACTIVE, PAST, "c" * 200, 8 * HOUR, 8 * HOUR, KeyBucket(10**9, 0.0, 10**15)),
        )
        metadata = {"plan": "gold", "n": [1, None, {"x": "\u00e9"}], "f": 0.5}
        user = User("Zo\u00eb", 9, 0.0, -3 * MICROTOKENS, True, metadata, 5 * HOUR, keys)
        yield self.store.create_user(user)
        # Times of the store: the bucket of a key may have been refilled a little.
        found = yield self.store.user("Zoe\u0308")
        first = found.keys[0]
        self.assertGreaterEqual(first.bucket.level, -7)
        found = found._replace(keys=(first._replace(bucket=first.bucket._replace(level=-7)), *found.keys[1:]))
        self.assertEqual(found, user)
        self.assertIsInstance(found.keys[0].bucket, KeyBucket)
        self.assertIs(type(found.rate_per_sec), float)

    @inlineCallbacks
    def test_names_and_keys_are_unique(self) -> Any:
        """A name or a key that is in use is refused, with all other keys of the new user, and changes nothing."""
        yield self.create_user("ann", "a", "b")
        yield self.assertFailure(self.create_user("ann", "c"), NameTaken)
        for keys in (("c", "a"), ("b", "c"), ("c", "b")):
            yield self.assertFailure(self.create_user("bob", *keys), KeyTaken)
        yield self.assertFailure(self.create("b", "bob"), ValueError)
        self.assertIsNone((yield self.take("c")))
        self.assertIsNone((yield self.store.user("bob")))
        yield self.create_user("bob", "c")
        yield self.assertFailure(self.store.create_key("bob", Key(digest_of("a"))), KeyTaken)
        yield self.assertFailure(self.store.rotate_key("bob", id_of("c"), 0, digest_of("b")), KeyTaken)
        self.assertEqual(len((yield self.store.user("bob")).keys), 1)

    @inlineCallbacks
    def test_keys_share_the_bucket_of_their_user(self) -> Any:
        """Whichever key is used, tokens are taken from and returned to one bucket, in one batch too."""
        yield self.create_user("ann", "a", "b", capacity=4)
        taken = yield gatherResults([self.take(key) for key in ("a", "b", "b", "a", "b", "a")])
        levels = [3, 2, 1, 0, 0, 0]
        self.assertEqual(taken, [Taken(at < 4, b"ann", 4, 0.0, level * MICROTOKENS) for at, level in enumerate(levels)])
        self.store.release(digest_of("b"), -2)
        self.assertEqual((yield self.take("a")).level, MICROTOKENS)
        for key in ("a", "b"):
            profile = yield self.store.profile(digest_of(key))
            self.assertEqual(profile, Profile(Account("ann", 4, 0.0), MICROTOKENS))
            self.assertTrue((yield self.in_use(key)))
        changed = yield self.store.change(digest_of("b"), 9, None)
        self.assertEqual(changed, Profile(Account("ann", 9, 0.0), MICROTOKENS))
        self.assertEqual((yield self.take("a")), Taken(True, b"ann", 9, 0.0, 0))

    @inlineCallbacks
    def test_keys_are_in_the_order_of_their_creation(self) -> Any:
        """The first key of a user comes first, and then the others as they were created."""
        yield self.create_user("ann", "a")
        for key in "bcdefgh":
            yield self.some_milliseconds()
            changed = yield self.store.create_key("ann", Key(digest_of(key), label=f"label of {key}"))
        self.assertEqual([key.digest for key in changed.after.keys], [digest_of(key) for key in "abcdefgh"])
        self.assertEqual([key.label for key in changed.before.keys], ["", *[f"label of {key}" for key in "bcdefg"]])
        times = [key.created_at for key in changed.after.keys]
        self.assertEqual(times, sorted(times))
        self.assertEqual((yield self.store.user("ann")), changed.after)

    @inlineCallbacks
    def refused(self, key: str, reason: str) -> Any:
        """Every way to use a key is refused for this reason, and nothing is taken."""
        self.assertEqual((yield self.take(key)), Taken(False, b"ann", 0, 0.0, 0, reason))
        for call in (
            self.store.profile(digest_of(key)),
            self.store.change(digest_of(key), 3, None),
            self.store.user_of_key(digest_of(key)),
        ):
            failure = yield self.assertFailure(call, KeyRefused)
            self.assertEqual(failure.reason, reason)

    @inlineCallbacks
    def test_a_key_that_is_disabled(self) -> Any:
        """The first or a further key is refused while it is disabled, another one of the user is not."""
        yield self.create_user("ann", "a", "b", "c")
        for key, other in (("a", "b"), ("b", "a"), ("b", "c")):
            changed = yield self.change_key("ann", key, state=DISABLED)
            self.assertEqual(changed.before.key(id_of(key)).state, ACTIVE)
            self.assertEqual(changed.after.key(id_of(key)).state, DISABLED)
            yield self.refused(key, KEY_DISABLED)
            self.assertTrue((yield self.take(other)).admitted)
            yield self.change_key("ann", key, state=ACTIVE)
            self.assertTrue((yield self.take(key)).admitted)
            self.store.release(digest_of(key), -2)
        self.assertEqual((yield self.take("c", 0)).level, 5 * MICROTOKENS)

    @inlineCallbacks
    def test_a_key_that_expires(self) -> Any:
        """A key is refused from the moment at which it expires, and accepted before, or when it is prolonged."""
        yield self.create_user("ann", "a", "b")
        for key in ("a", "b"):
            yield self.change_key("ann", key, expires_at=PAST)
            yield self.refused(key, KEY_EXPIRED)
            for then in (FUTURE, NEVER):
                changed = yield self.change_key("ann", key, expires_at=then)
                self.assertEqual(changed.after.key(id_of(key)).expires_at, then or None)
                self.assertTrue((yield self.take(key)).admitted)

    @inlineCallbacks
    def test_a_user_who_is_disabled(self) -> Any:
        """All keys of a disabled user are refused, which is said before anything of the key."""
        yield self.create_user("ann", "a", "b")
        yield self.change_key("ann", "b", state=DISABLED)
        changed = yield self.store.change_user("ann", UserChange(disabled=True))
        self.assertEqual((changed.before.disabled, changed.after.disabled), (False, True))
        for key in ("a", "b"):
            yield self.refused(key, USER_DISABLED)
        yield self.store.change_user("ann", UserChange(disabled=False))
        self.assertTrue((yield self.take("a")).admitted)
        yield self.refused("b", KEY_DISABLED)

    @inlineCallbacks
    def test_a_key_that_is_revoked(self) -> Any:
        """A revoked key is unknown to requests for good, and listed for operators; the user goes on."""
        yield self.create_user("ann", "a", "b")
        for key, other in (("a", "b"), ("b", None)):
            for _ in range(2):
                changed = yield self.change_key("ann", key, state=REVOKED)
                self.assertEqual(changed.after.key(id_of(key)).state, REVOKED)
            self.assertIsNone((yield self.take(key)))
            self.assertIsNone((yield self.store.profile(digest_of(key))))
            self.assertIsNone((yield self.store.change(digest_of(key), 3, None)))
            self.assertIsNone((yield self.store.user_of_key(digest_of(key))))
            self.assertFalse((yield self.in_use(key)))
            self.assertEqual((yield self.store.find_key(id_of(key))).name, "ann")
            for state in (ACTIVE, DISABLED):
                yield self.assertFailure(self.change_key("ann", key, state=state), KeyRevoked)
            yield self.assertFailure(self.store.rotate_key("ann", id_of(key), 0, digest_of("z")), KeyRevoked)
            if other:
                self.assertTrue((yield self.take(other)).admitted)
        # Its digest is not free.
        yield self.assertFailure(self.create("a", "bob"), ValueError)

    @inlineCallbacks
    def test_what_was_taken_is_settled_whatever_became_of_the_key(self) -> Any:
        """The tokens of a request whose key is revoked meanwhile are returned to the user's bucket."""
        yield self.create_user("ann", "a", "b")
        yield self.take("a")
        yield self.take("b")
        for key in ("a", "b"):
            yield self.change_key("ann", key, state=REVOKED)
            self.store.release(digest_of(key), -1)
        yield self.take("nobody")
        self.assertEqual((yield self.store.user("ann")).level, 5 * MICROTOKENS)

    @inlineCallbacks
    def test_a_bucket_of_a_keys_own(self) -> Any:
        """A key with a bucket of its own takes from both or none, and the refusal names the one that is empty."""
        yield self.create_user("ann", "a", "b", capacity=5)
        for key in ("a", "b"):
            other = "b" if key == "a" else "a"
            yield self.change_key("ann", key, bucket=KeyBucket(2, 0.0))
            taken = yield gatherResults([self.take(key) for _ in range(3)])
            self.assertEqual([one.admitted for one in taken], [True, True, False])
            more = (LimitLevel(2, 0.0, 0, OWN),)
            self.assertEqual(taken[1], Taken(True, b"ann", 5, 0.0, 3 * MICROTOKENS, more=more))
            self.assertEqual(taken[2], Taken(False, b"ann", 2, 0.0, 0, OWN))
            # The other key has the rest of the user's bucket, and not a token more.
            taken = yield gatherResults([self.take(other) for _ in range(4)])
            self.assertEqual([one.admitted for one in taken], [True] * 3 + [False])
            self.assertEqual((yield self.take(key)), Taken(False, b"ann", 5, 0.0, 0))
            # Tokens that are returned are in both.
            self.store.release(digest_of(key), -1)
            self.assertEqual((yield self.take(key)), Taken(True, b"ann", 5, 0.0, 0, more=more))
            changed = yield self.change_key("ann", key, bucket=NO_BUCKET)
            self.assertEqual(changed.before.key(id_of(key)).bucket, KeyBucket(2, 0.0, 0))
            self.assertIsNone(changed.after.key(id_of(key)).bucket)
            yield self.store.change_user("ann", UserChange(level=5 * MICROTOKENS))

    @inlineCallbacks
    def test_the_level_of_a_keys_own_bucket(self) -> Any:
        """A new policy keeps the level, cut to the capacity; a level may be set; a new bucket is full."""
        yield self.create_user("ann", "a", "b")
        for key in ("a", "b"):
            levels = []
            for bucket in (
                KeyBucket(9, 0.0),
                KeyBucket(9, 0.0, 4 * MICROTOKENS),
                KeyBucket(20, 0.0),
                KeyBucket(3, 0.0),
                KeyBucket(8, 0.0),
                KeyBucket(8, 0.0, 99 * MICROTOKENS),
                KeyBucket(8, 0.0, -MICROTOKENS),
                NO_BUCKET,
                KeyBucket(8, 0.0),
            ):
                changed = yield self.change_key("ann", key, bucket=bucket)
                now = changed.after.key(id_of(key)).bucket
                levels.append(now and now.level // MICROTOKENS)
            self.assertEqual(levels, [9, 4, 4, 3, 3, 8, -1, None, 8])

    @inlineCallbacks
    def test_a_user_is_changed(self) -> Any:
        """What a change names is set, and all else stays; it tells the user before and after."""
        yield self.create_user("ann", "a", metadata={"x": 1})
        changed = yield self.store.change_user("ann", UserChange(capacity=3))
        self.assertEqual(changed.before.capacity, 5)
        self.assertEqual(changed.after, changed.before._replace(capacity=3, level=3 * MICROTOKENS))
        changed = yield self.store.change_user("ann", UserChange(rate_per_sec=1e-9, metadata={"y": [2]}))
        self.assertEqual(changed.after, changed.before._replace(rate_per_sec=1e-9, metadata={"y": [2]}))
        levels = []
        for level in (MICROTOKENS, -7, 0, 99 * MICROTOKENS):
            changed = yield self.store.change_user("ann", UserChange(level=level))
            levels.append(changed.after.level)
        self.assertEqual(levels[0] // MICROTOKENS, 1)
        self.assertEqual(levels[3], 3 * MICROTOKENS)
        self.assertEqual((yield self.store.change_user("ann", UserChange())).after, changed.after)
        changed = yield self.store.change_user("ann", UserChange(metadata={}))
        self.assertEqual(changed.after.metadata, {})

    @inlineCallbacks
    def test_a_change_of_nothing_is_no_use(self) -> Any:
        """A key that was never used is not in use after its user was disabled, enabled and described."""
        yield self.create_user("ann", "a")
        for change in (UserChange(disabled=True), UserChange(disabled=False), UserChange(metadata={"x": 1})):
            yield self.store.change_user("ann", change)
        self.assertFalse((yield self.in_use("a")))

    @inlineCallbacks
    def test_a_user_is_deleted(self) -> Any:
        """Nothing is left of a deleted user: keys are unknown, and the name and the keys are free."""
        yield self.create_user("ann", "a", "b", metadata={"x": 1})
        yield self.change_key("ann", "b", bucket=KeyBucket(1, 0.0))
        yield self.take("b")
        before = yield self.store.user("ann")
        self.assertEqual((yield self.store.delete_user("ann")), before)
        for key in ("a", "b"):
            self.assertIsNone((yield self.take(key)))
            self.assertIsNone((yield self.store.find_key(id_of(key))))
            self.store.release(digest_of(key), -1)
        self.assertIsNone((yield self.store.user("ann")))
        self.assertEqual((yield self.store.user_page("", 9, UserFilter())), UserPage([], None))
        yield self.create_user("ann", "b")
        self.assertEqual((yield self.take("b")), Taken(True, b"ann", 5, 0.0, 4 * MICROTOKENS))
        self.assertEqual((yield self.store.user("ann")).metadata, {})

    @inlineCallbacks
    def test_a_key_is_rotated(self) -> Any:
        """Both keys work during the grace; the new one has the label and the bucket of the old one."""
        yield self.create_user("ann", "a", "b")
        for old, new in (("a", "c"), ("b", "d")):
            yield self.change_key("ann", old, label=f"of {old}", bucket=KeyBucket(4, 0.0))
            yield self.take(old)
            changed = yield self.store.rotate_key("ann", id_of(old), HOUR, digest_of(new))
            before, after = changed.before.key(id_of(old)), changed.after.key(id_of(old))
            self.assertEqual(after, before._replace(expires_at=after.expires_at))
            added = changed.after.key(id_of(new))
            self.assertEqual(after.expires_at, added.created_at + HOUR)
            bucket = KeyBucket(4, 0.0, 3 * MICROTOKENS)
            self.assertEqual(added[1:4] + added[5:], (ACTIVE, None, f"of {old}", None, bucket))
            for key in (old, new):
                self.assertTrue((yield self.take(key)).admitted)
            # To repeat it changes nothing; a key that expires is not prolonged by a longer grace.
            again = yield self.store.rotate_key("ann", id_of(old), HOUR, digest_of(new))
            self.assertEqual(again.before, again.after)
            self.assertEqual(len(again.after.keys), len(changed.after.keys))
            longer = yield self.store.rotate_key("ann", id_of(old), 9 * HOUR, digest_of(new + "2"))
            self.assertEqual(longer.after.key(id_of(old)).expires_at, after.expires_at)
            yield self.store.change_user("ann", UserChange(level=5 * MICROTOKENS))

    @inlineCallbacks
    def test_a_rotation_keeps_the_expiry(self) -> Any:
        """With `keep_expiry` the new key expires when the old one would have; without, or where it does not, never."""
        yield self.create_user("ann", "a", "b", "c")
        for key in ("a", "b"):
            yield self.change_key("ann", key, expires_at=FUTURE)
        for old, grace, keep, expires in (
            ("a", HOUR, True, FUTURE),
            ("b", 0, True, FUTURE),
            ("b+", 0, False, None),
            ("c", HOUR, True, None),
        ):
            changed = yield self.store.rotate_key("ann", id_of(old), grace, digest_of(f"{old}+"), keep)
            self.assertEqual(changed.after.key(id_of(f"{old}+")).expires_at, expires, old)
            self.assertTrue((yield self.take(f"{old}+")).admitted)

    @inlineCallbacks
    def test_a_rotation_without_a_grace_revokes(self) -> Any:
        """With a grace of 0 the old key is revoked, and the new one takes its place in one step."""
        yield self.create_user("ann", "a")
        changed = yield self.store.rotate_key("ann", id_of("a"), 0, digest_of("b"))
        self.assertEqual([key.state for key in changed.after.keys], [REVOKED, ACTIVE])
        self.assertIsNone((yield self.take("a")))
        self.assertTrue((yield self.take("b")).admitted)

    @inlineCallbacks
    def test_a_creation_may_be_repeated(self) -> Any:
        """To create a key of the user's again changes nothing, whatever the second call says of it."""
        yield self.create_user("ann", "a")
        first = yield self.store.create_key("ann", Key(digest_of("b"), label="one"))
        again = yield self.store.create_key("ann", Key(digest_of("b"), label="two"))
        self.assertEqual((again.before, again.after), (first.after, first.after))

    @inlineCallbacks
    def test_keys_of_a_user_are_limited(self) -> Any:
        """A user has MAX_KEYS keys at most; for another one, the oldest that is revoked or expired goes."""
        yield self.create_user("ann", *[f"k{at}" for at in range(MAX_KEYS)])
        yield self.assertFailure(self.store.create_key("ann", Key(digest_of("new"))), TooManyKeys)
        yield self.assertFailure(self.store.rotate_key("ann", id_of("k1"), HOUR, digest_of("new")), TooManyKeys)
        self.assertIsNone((yield self.take("new")))
        # The first one names the record, and never goes.
        yield self.change_key("ann", "k0", state=REVOKED)
        yield self.assertFailure(self.store.create_key("ann", Key(digest_of("new"))), TooManyKeys)
        yield self.change_key("ann", "k7", state=REVOKED)
        changed = yield self.store.create_key("ann", Key(digest_of("new")))
        self.assertEqual(len(changed.after.keys), MAX_KEYS)
        self.assertIsNone(changed.after.key(id_of("k7")))
        self.assertIsNone((yield self.store.find_key(id_of("k7"))))
        yield self.change_key("ann", "k9", expires_at=PAST)
        changed = yield self.store.rotate_key("ann", id_of("k1"), HOUR, digest_of("newer"))
        self.assertEqual(len(changed.after.keys), MAX_KEYS)
        self.assertIsNone(changed.after.key(id_of("k9")))

    @inlineCallbacks
    def test_refused_keys(self) -> Any:
        """Of many keys, those that are unknown or must not be used are told."""
        yield self.create_user("ann", "a", "b", "c", "d", "e")
        yield self.create_user("bob", "f", "g", disabled=True)
        yield self.change_key("ann", "b", state=DISABLED)
        yield self.change_key("ann", "c", state=REVOKED)
        yield self.change_key("ann", "d", expires_at=PAST)
        yield self.change_key("ann", "e", expires_at=FUTURE, bucket=KeyBucket(1, 0.0))
        refused = yield self.store.refused_keys([digest_of(key) for key in "abcdefgh"])
        self.assertEqual(refused, [digest_of(key) for key in "bcdfgh"])
        self.assertEqual((yield self.store.refused_keys([])), [])

    @inlineCallbacks
    def test_a_page_of_users(self) -> Any:
        """Pages have whole users, in the order of their names, and the name to go on after."""
        for name in ("cid", "ann", "Bob", "dan"):
            yield self.create_user(name, name, name + "2")
        page = yield self.store.user_page("", 3, UserFilter())
        self.assertIsInstance(page, UserPage)
        self.assertEqual(([user.name for user in page.users], page.more_after), (["Bob", "ann", "cid"], "cid"))
        self.assertEqual(page.users[1], (yield self.store.user("ann")))
        page = yield self.store.user_page("cid", 3, UserFilter())
        self.assertEqual(([user.name for user in page.users], page.more_after), (["dan"], None))
        for count in (0, 201):
            yield self.assertFailure(self.store.user_page("", count, UserFilter()), ValueError)

    @inlineCallbacks
    def test_a_page_with_a_filter(self) -> Any:
        """A page has the users to whom everything applies that is asked for."""
        yield self.store.create_user(
            new_user("ann")._replace(keys=(Key(digest_of("a"), label="web shop"), Key(digest_of("b"), DISABLED)))
        )
        yield self.store.create_user(
            new_user("anna", disabled=True)._replace(keys=(Key(digest_of("c"), label="web", last_used=2 * HOUR),))
        )
        yield self.create_user("bob", "d")
        for filter, names in (
            (UserFilter(name="nn"), ["ann", "anna"]),
            (UserFilter(disabled=True), ["anna"]),
            (UserFilter(disabled=False), ["ann", "bob"]),
            (UserFilter(label="web"), ["ann", "anna"]),
            (UserFilter(label="web", state=DISABLED), []),
            (UserFilter(state=DISABLED), ["ann"]),
            (UserFilter(key_id=id_of("d")), ["bob"]),
            (UserFilter(key_id=id_of("d")[:8], name="bo"), ["bob"]),
            (UserFilter(used_since=2 * HOUR), ["anna"]),
            (UserFilter(used_since=3 * HOUR), []),
            (UserFilter(unused_since=2 * HOUR), ["ann", "bob"]),
        ):
            page = yield self.store.user_page("", 10, filter)
            self.assertEqual(([user.name for user in page.users], page.more_after), (names, None), filter)
        page = yield self.store.user_page("", 1, UserFilter(name="n"))
        self.assertEqual(([user.name for user in page.users], page.more_after), (["ann"], "ann"))

    @inlineCallbacks
    def test_what_cannot_be_stored_is_refused(self) -> Any:
        """Values of the wrong type or size fail with ValueError, and nothing is stored."""
        yield self.create_user("ann", "a")
        before = yield self.store.user("ann")
        good = Key(digest_of("x"))
        keys = [
            good._replace(digest="x"),
            good._replace(digest=digest_of("x").upper()),
            good._replace(state="gone"),
            good._replace(label="two\nlines"),
            good._replace(label="x" * 201),
            good._replace(label="\ud800"),
            good._replace(expires_at=-1),
            good._replace(expires_at=1.5),
            good._replace(last_used=2**53),
            good._replace(bucket=KeyBucket(0, 1.0)),
            good._replace(bucket=KeyBucket(1, -1.0)),
            good._replace(bucket=KeyBucket(1, 1.0, 10**16)),
        ]
        bob = new_user("bob", "x")
        users = [bob._replace(keys=(key,)) for key in keys]
        users += [
            bob._replace(keys=()),
            bob._replace(keys=(good, good)),
            bob._replace(name="b\0"),
            bob._replace(level=0.5),
        ]
        users += [bob._replace(metadata=metadata) for metadata in ({"x": "y" * 5000}, {"x": {1}}, [1])]
        users += [bob._replace(capacity=0), bob._replace(rate_per_sec=float("nan"))]
        for user in users:
            yield self.assertFailure(self.store.create_user(user), ValueError)
        for key in keys:
            yield self.assertFailure(self.store.create_key("ann", key), ValueError)
        for change in (UserChange(capacity=0), UserChange(level=0.5), UserChange(metadata={"x": float("inf")})):  # type: ignore[arg-type]
            yield self.assertFailure(self.store.change_user("ann", change), ValueError)
        for change in (KeyChange(state="x"), KeyChange(label="\n"), KeyChange(bucket=KeyBucket(5, 2e6))):
            yield self.assertFailure(self.store.change_key("ann", id_of("a"), change), ValueError)
        for key_id in ("", "key_", "a" * 20, id_of("a").upper(), id_of("a") + "0"):
            yield self.assertFailure(self.store.find_key(key_id), ValueError)
            yield self.assertFailure(self.store.change_key("ann", key_id, KeyChange()), ValueError)
        for grace in (-1, 0.5, 10**16):
            yield self.assertFailure(self.store.rotate_key("ann", id_of("a"), grace, digest_of("x")), ValueError)
        self.assertEqual((yield self.store.user("ann")), before)
        self.assertIsNone((yield self.take("x")))
        self.assertIsNone((yield self.store.user("bob")))
