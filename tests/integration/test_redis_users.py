"""Users and keys in Redis: stores of the release before, its instances side by side, damage, and outages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.task import deferLater

from tests.integration.on_redis import OnRedis
from tests.stores.contract import digest_of
from tests.stores.users_contract import FUTURE, HOUR, id_of, new_user
from twisted_lb.interfaces import MICROTOKENS, OWN, Account, StoreUnavailable, Taken
from twisted_lb.users import (
    DISABLED,
    KEY_DISABLED,
    KEY_EXPIRED,
    REVOKED,
    Key,
    KeyBucket,
    KeyChange,
    UserChange,
    UserFilter,
)

SECOND = 1_000_000


FORMER = Path(__file__).parent / "former_scripts"


class FormerReleaseTests(OnRedis):
    """What the release before users and keys were two things has written, and goes on to write."""

    def run_former(self, name: str, keys: list[str], *arguments: str) -> bytes:
        """Call a script of that release; the raw reply."""
        text = "\n".join((FORMER / f"{part}.lua").read_text() for part in ("bucket", name))
        return self.server.command("EVAL", text, str(len(keys)), *keys, *arguments)

    def create_as_before(self, key: str, name: str, capacity: int = 5) -> None:
        """As an instance of that release creates a user."""
        digest, level = digest_of(key), capacity * MICROTOKENS
        keys = ["tokenlb:{%s}" % digest, "tokenlb:names"]
        self.assertEqual(
            self.run_former("create_account", keys, f"{capacity}", "0.0", f"{level}", digest, name), b":0\r\n"
        )

    @inlineCallbacks
    def test_its_store_is_taken_over(self) -> Any:
        """Users of such a store have one key, are found by key_id, and everything can be done with them."""
        for number in range(1100):
            self.create_as_before(f"k{number}", f"user{number:04}")
        user = yield self.store.user("user0007")
        self.assertEqual(user, new_user("user0007", "k7", level=5 * MICROTOKENS))
        for number in (0, 7, 1099):
            self.assertEqual((yield self.store.find_key(id_of(f"k{number}"))).name, f"user{number:04}")
        self.assertIsNone((yield self.store.find_key(id_of("nobody"))))
        yield self.store.create_key("user0007", Key(digest_of("further")))
        yield self.store.change_key("user0007", id_of("k7"), KeyChange(state=DISABLED))
        self.assertEqual((yield self.take("k7")).limit, KEY_DISABLED)
        self.assertTrue((yield self.take("further")).admitted)

    @inlineCallbacks
    def test_it_goes_on_to_create_users(self) -> Any:
        """A user that it creates while new instances run is found by key_id too; the index is filled once for that."""
        yield self.store.create(digest_of("a"), Account("ann", 5, 0.0))
        self.assertEqual((yield self.store.find_key(id_of("a"))).name, "ann")
        self.create_as_before("b", "bob")
        self.assertEqual((yield self.store.find_key(id_of("b"))).name, "bob")
        self.assertEqual(self.server.command("ZCARD", "tokenlb:first_keys"), b":2\r\n")
        calls = self.store._users._index.calls
        self.assertIsNone((yield self.store.find_key(id_of("nobody"))))
        self.assertEqual(self.store._users._index.calls, calls)

    @inlineCallbacks
    def test_an_index_that_is_interrupted(self) -> Any:
        """An index of which only a part was filled is completed, also by two instances at the same time."""
        for number in range(30):
            self.create_as_before(f"k{number}", f"user{number:02}")
        self.store._users._index.call(b"", b"10", keys=0)
        other = self.new_store()
        yield other.start()
        found = yield gatherResults([store.find_key(id_of("k29")) for store in (self.store, other)])
        self.assertEqual([user.name for user in found], ["user29"] * 2)
        self.assertEqual(self.server.command("ZCARD", "tokenlb:first_keys"), b":30\r\n")

    @inlineCallbacks
    def test_side_by_side(self) -> Any:
        """It admits first keys, from the same buckets, admits no further key, and its changes of policies hold."""
        yield self.store.create_user(new_user("ann", "a", "b", metadata={"x": 1}))
        arguments = ["0", "old", "10000000", "0", "0.0", "0", "0.0", "1000000", "old", "1", "0", "0", "0", "0"]
        keys = ["tokenlb:{%s}" % digest_of(key) for key in ("a", "b", "nobody")]
        reply = self.run_former("take_tokens", keys, *arguments)
        # name, capacity, rate, outcome, level: admitted; what is there is not an account; nobody.
        admitted, damaged, nobody = (
            b"$3\r\nann\r\n:5\r\n$3\r\n0.0\r\n:1\r\n:4000000\r\n",
            b":5\r\n:0\r\n",
            b":0\r\n:0\r\n",
        )
        self.assertIn(admitted + b"$-1\r\n:0\r\n:0\r\n" + damaged + b"$-1\r\n:0\r\n:0\r\n" + nobody, reply)
        self.assertEqual((yield self.take("b")), Taken(True, b"ann", 5, 0.0, 3 * MICROTOKENS))
        self.run_former("change_account", keys[:1], "9", "")
        self.assertEqual((yield self.take("b")), Taken(True, b"ann", 9, 0.0, 2 * MICROTOKENS))
        self.assertEqual((yield self.store.user("ann")).metadata, {"x": 1})


class DamageTests(OnRedis):
    """Keys in Redis that are not what they should be: each concerns itself alone."""

    @inlineCallbacks
    def test_a_further_key(self) -> Any:
        """A further key without a user, or with a state that is none, is refused by itself; its user goes on."""
        yield self.store.create_user(new_user("ann", "a", "b"))
        place = "tokenlb:{%s}" % digest_of("b")
        own = ("state", "active active 0 own")
        for fields in (
            ("owner", digest_of("nobody")),
            ("owner", digest_of("b")),
            ("owner", "x"),
            ("owner", digest_of("a"), "state", "active gone 0 shared"),
            ("owner", digest_of("a"), "state", "active active x shared"),
            ("owner", digest_of("a"), "state", "active active 1e99 shared"),
            ("owner", digest_of("a"), "state", ""),
            ("owner", digest_of("a"), *own),
            ("owner", digest_of("a"), *own, "key_capacity", "0", "key_rate", "1"),
            ("owner", digest_of("a"), *own, "key_capacity", "nan", "key_rate", "1"),
        ):
            self.server.command("DEL", place)
            self.server.command("HSET", place, *fields)
            before = self.server.command("DUMP", place)
            answers = yield gatherResults([self.take("a"), self.take("b"), self.take("a")])
            self.assertEqual([isinstance(answer, Taken) for answer in answers], [True, False, True], fields)
            self.assertIn("not an account", answers[1])
            yield self.assertFailure(self.store.profile(digest_of("b")), StoreUnavailable)
            yield self.assertFailure(self.store.change(digest_of("b"), 7, None), StoreUnavailable)
            yield self.assertFailure(self.store.user_of_key(digest_of("b")), StoreUnavailable)
            # Somebody has to look at it; until then no tunnel is ended for it.
            self.assertEqual(self.server.command("DUMP", place), before)
            self.assertEqual((yield self.store.user("ann")).name, "ann")
            self.store.release(digest_of("a"), -2)
        self.flushLoggedErrors()

    @inlineCallbacks
    def test_a_key_of_a_key(self) -> Any:
        """A key whose owner is a further key has no user, whatever is asked for first."""
        yield self.store.create_user(new_user("ann", "a", "b"))
        self.server.command("HSET", "tokenlb:{%s}" % digest_of("c"), "owner", digest_of("b"))
        for keys in ("cba", "bca", "acb"):
            answers = yield gatherResults([self.take(key) for key in keys])
            self.assertEqual([isinstance(answer, Taken) for answer in answers], [key != "c" for key in keys], keys)
            self.store.release(digest_of("a"), -2)
        self.flushLoggedErrors()

    @inlineCallbacks
    def test_the_state_of_a_user(self) -> Any:
        """A record with a state that is none refuses all keys of its user, and nobody else's."""
        yield self.store.create_user(new_user("ann", "a", "b"))
        yield self.store.create_user(new_user("bob", "c"))
        self.server.command("HSET", "tokenlb:{%s}" % digest_of("a"), "state", "x")
        answers = yield gatherResults([self.take(key) for key in "abc"])
        self.assertEqual([isinstance(answer, Taken) for answer in answers], [False, False, True])
        yield self.assertFailure(self.store.user("ann"), StoreUnavailable)
        page = yield self.store.user_page("", 10, UserFilter())
        self.assertEqual([user.name for user in page.users], ["bob"])
        self.flushLoggedErrors()

    @inlineCallbacks
    def test_a_bucket_of_a_keys_own(self) -> Any:
        """What should be the bucket of a key's own and is none is made anew, full."""
        yield self.store.create_user(new_user("ann", "a"))
        yield self.store.change_key("ann", id_of("a"), KeyChange(bucket=KeyBucket(3, 0.0)))
        place = "tokenlb:key_bucket:{%s}" % digest_of("a")
        for kind in (("SET", "x"), ("RPUSH", "x"), ("HSET", "level", "nan", "stamp", "1"), ("HSET", "x", "y")):
            self.server.command("DEL", place)
            self.server.command(kind[0], place, *kind[1:])
            taken = yield self.take("a")
            self.assertEqual((taken.admitted, taken.more[0].level), (True, 2 * MICROTOKENS), kind)
            self.store.release(digest_of("a"), -1)
        self.flushLoggedErrors()

    @inlineCallbacks
    def test_indexes_of_another_type(self) -> Any:
        """An index that is not what it should be fails the calls that need it before anything is written."""
        yield self.store.create_user(new_user("ann", "a", "b"))
        before = yield self.store.user("ann")
        for index in ("tokenlb:first_keys", "tokenlb:further_keys"):
            self.server.command("DEL", index)
            self.server.command("SET", index, "x")
            for call in (
                self.store.create_user(new_user("bob", "c")),
                self.store.create_key("ann", Key(digest_of("c"))),
                self.store.rotate_key("ann", id_of("a"), HOUR, digest_of("c")),
                self.store.delete_user("ann"),
            ):
                yield self.assertFailure(call, StoreUnavailable)
            self.assertIsNone((yield self.store.user("bob")))
            self.assertEqual((yield self.store.user("ann")), before)
            self.assertEqual(self.server.command("EXISTS", "tokenlb:{%s}" % digest_of("c")), b":0\r\n")
            self.assertTrue((yield self.take("b")).admitted)
            self.store.release(digest_of("b"), -1)
            self.server.command("DEL", index)

    @inlineCallbacks
    def test_what_can_be_made_anew(self) -> Any:
        """The set of changed keys is made anew; a set of further keys is not, and no key is half stored."""
        yield self.store.create_user(new_user("ann", "a"))
        self.server.command("SET", "tokenlb:changed_keys", "x")
        yield self.store.change_key("ann", id_of("a"), KeyChange(state=DISABLED))
        self.assertEqual(self.server.command("ZCARD", "tokenlb:changed_keys"), b":1\r\n")
        self.server.command("SET", "tokenlb:keys_of:{%s}" % digest_of("a"), "x")
        for call in (
            self.store.create_key("ann", Key(digest_of("c"))),
            self.store.rotate_key("ann", id_of("a"), 0, digest_of("c")),
        ):
            yield self.assertFailure(call, StoreUnavailable)
        [key] = (yield self.store.user("ann")).keys
        self.assertEqual(key.state, DISABLED)
        self.assertEqual(self.server.command("EXISTS", "tokenlb:{%s}" % digest_of("c")), b":0\r\n")


class LastUseTests(OnRedis):
    """`last_used`"""

    @inlineCallbacks
    def test_it_is_noted(self) -> Any:
        """The minute of the last use is noted for all kinds of keys, and not for those that were refused."""
        yield self.store.create_user(new_user("ann", "a", "b", "c", "d"))
        yield self.store.change_key("ann", id_of("c"), KeyChange(expires_at=FUTURE, bucket=KeyBucket(5, 0.0)))
        yield self.store.change_key("ann", id_of("d"), KeyChange(state=DISABLED))
        for key in ("a", "b", "c", "d", "nobody"):
            yield self.take(key)
        yield self.store._last_uses.note()
        user = yield self.store.user("ann")
        used = {key.digest: key.last_used for key in user.keys}
        self.assertEqual([used[digest_of(key)] is not None for key in "abcd"], [True, True, True, False])
        for time in used.values():
            self.assertEqual((time or 0) % (60 * SECOND), 0)
        self.assertEqual(self.server.command("EXISTS", "tokenlb:{%s}" % digest_of("nobody")), b":0\r\n")
        # What was noted is not noted again.
        calls = self.store._last_uses._script.calls
        yield self.store._last_uses.note()
        self.assertEqual(self.store._last_uses._script.calls, calls)

    @inlineCallbacks
    def test_it_is_noted_at_the_stop(self) -> Any:
        """A store that stops notes what was used until then."""
        yield self.store.create_user(new_user("ann", "a"))
        yield self.take("a")
        other = self.new_store()
        yield other.start()
        yield self.store.stop()
        [key] = (yield other.user("ann")).keys
        self.assertIsNotNone(key.last_used)


class OutageTests(OnRedis):
    """Keys while Redis is unavailable."""

    mode = "local"

    @inlineCallbacks
    def until_down(self) -> Any:
        self.server.pause()
        self.addCleanup(self.server.resume)
        self.store._connection.give_up("the test says so")
        yield None

    @inlineCallbacks
    def test_keys_share_what_is_left_of_their_user(self) -> Any:
        """All keys of a user go on with one share of the bucket, and Redis is charged once for what they took."""
        yield self.store.create_user(new_user("ann", "a", "b", "c", capacity=9))
        for key in "abc":
            yield self.take(key)
        yield self.until_down()
        taken = yield gatherResults([self.take(key) for key in "abcabcab"])
        self.assertEqual([one.admitted for one in taken], [True] * 6 + [False] * 2)
        self.store.release(digest_of("b"), -2)
        self.server.resume()
        answer = yield self.until_on_redis("c")
        self.assertEqual(answer, Taken(True, b"ann", 9, 0.0, MICROTOKENS))

    @inlineCallbacks
    def until_on_redis(self, key: str) -> Any:
        """Ask when the store is up again."""
        for _ in range(3000):
            if self.store.state().up:
                break
            yield deferLater(self.reactor, 0.02)
        return (yield self.take(key))

    @inlineCallbacks
    def test_states_are_the_last_ones_known(self) -> Any:
        """A key that has been refused is not admitted, one that expires meanwhile is refused, and others go on."""
        yield self.store.create_user(new_user("ann", "a", "b", "c", "d", "e", capacity=100))
        soon = (yield self.store.user("ann")).keys[1].created_at + 3_000_000
        yield self.store.change_key("ann", id_of("e"), KeyChange(expires_at=soon, bucket=KeyBucket(2, 0.0)))
        for key in "abcde":
            yield self.take(key)
        yield self.store.change_key("ann", id_of("a"), KeyChange(state=REVOKED))
        yield self.store.change_key("ann", id_of("b"), KeyChange(state=DISABLED))
        for key in "ab":
            yield self.take(key)
        yield self.until_down()
        answers = yield gatherResults([self.take(key) for key in "abcdee"])
        self.assertEqual([isinstance(one, Taken) for one in answers], [False, False, True, True, True, True])
        self.assertEqual([one.admitted for one in answers[2:]], [True, True, True, False])
        self.assertEqual(answers[5].limit, OWN)
        for _ in range(3000):
            answer = yield self.take("e")
            if answer.limit == KEY_EXPIRED:
                break
            yield deferLater(self.reactor, 0.02)
        self.assertEqual(answer.limit, KEY_EXPIRED)

    @inlineCallbacks
    def test_what_others_have_changed_is_not_known_any_more(self) -> Any:
        """A key that another instance has changed is not admitted by what was known of it before."""
        yield self.store.create_user(new_user("ann", "a", "b", "c"))
        for key in "abc":
            yield self.take(key)
        other = self.new_store()
        yield other.start()
        yield other.change_key("ann", id_of("a"), KeyChange(state=DISABLED))
        yield other.change_key("ann", id_of("b"), KeyChange(state=REVOKED))
        fallback = self.store._fallback
        for _ in range(3000):
            if not (fallback.knows(digest_of("a")) or fallback.knows(digest_of("b"))):
                break
            yield deferLater(self.reactor, 0.02)
        self.assertEqual([fallback.knows(digest_of(key)) for key in "abc"], [False, False, True])
        yield other.change_user("ann", UserChange(disabled=True))
        for _ in range(3000):
            if not fallback.knows(digest_of("c")):
                break
            yield deferLater(self.reactor, 0.02)
        self.assertFalse(fallback.knows(digest_of("c")))
