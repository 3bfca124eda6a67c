"""The Redis store on a real redis-server: the contract, and what is in Redis."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater

from tests.integration.on_redis import OnRedis
from tests.stores.contract import Asker, StoreContract, digest_of
from tests.stores.limits_contract import LimitsContract
from tests.stores.quotas_contract import QuotasContract
from tests.stores.shared_contract import SharedContract
from tests.stores.usage_contract import UsageContract
from tests.stores.users_contract import UsersContract
from twisted_lb.interfaces import MICROTOKENS, Account, AccountPage, Limits, NameTaken, Taken
from twisted_lb.stores.redis.keys import account_key


class ContractTests(
    StoreContract, LimitsContract, SharedContract, UsersContract, UsageContract, QuotasContract, OnRedis
):
    """The contract of stores, over Redis."""

    def begin_with(self, limits: Limits) -> Deferred[None]:
        self.limits = limits
        self.store = self.new_store()
        return self.store.start()

    def some_milliseconds(self) -> Deferred[None]:
        return deferLater(self.reactor, 0.005)

    def some_time(self) -> None:
        """It is written with what was used."""


class WritingTests(OnRedis):
    """What is in Redis."""

    @inlineCallbacks
    def test_an_account_is_one_hash_that_never_expires(self) -> Any:
        """Creating, changing and taking leave one hash, the names and the index of keys, none with an expiry."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 1.0))
        yield self.take("k")
        yield self.store.change(digest_of("k"), 7, None)
        self.store.release(digest_of("k"), -1)
        yield self.take("k")
        keys = account_key(digest_of("k")).decode(), "tokenlb:names", "tokenlb:first_keys"
        # The others are where the instances announce themselves, and what the last call of this one was.
        self.assertEqual(self.server.command("DBSIZE"), b":5\r\n")
        for name in keys:
            self.assertEqual(self.server.command("TTL", name), b":-1\r\n")
        fields = self.server.command("HKEYS", keys[0])
        for field in (b"name", b"capacity", b"rate", b"level", b"stamp"):
            self.assertIn(b"\r\n" + field + b"\r\n", fields)

    @inlineCallbacks
    def test_what_is_refused_or_unknown_writes_nothing(self) -> Any:
        """A refusal, a profile, an unknown key, a refused creation and a gift to nobody leave Redis as it was."""
        yield self.store.create(digest_of("k"), Account("ann", 1, 0.001))
        yield self.take("k")
        # It writes too.
        self.store._instance._loop.stop()
        changes = self.server.command("INFO", "persistence").split(b"rdb_changes_since_last_save:")[1].split(b"\r\n")[0]
        self.assertFalse((yield self.take("k")).admitted)
        yield self.store.profile(digest_of("k"))
        yield self.take("nobody")
        yield self.store.change(digest_of("nobody"), 5, 1.0)
        yield self.assertFailure(self.store.create(digest_of("k2"), Account("ann", 5, 1.0)), Exception)
        self.store.release(digest_of("nobody"), -1)
        yield self.take("nobody")
        after = self.server.command("INFO", "persistence").split(b"rdb_changes_since_last_save:")[1].split(b"\r\n")[0]
        self.assertEqual(after, changes)

    @inlineCallbacks
    def test_a_damaged_account_is_refused_and_does_not_fail_its_batch(self) -> Any:
        """A hash without a level is said to be no account, and the others of its batch are answered as ever."""
        yield self.store.create(digest_of("k"), Account("ann", 2, 0.0))
        yield self.store.create(digest_of("bad"), Account("bob", 2, 0.0))
        self.server.command("HDEL", account_key(digest_of("bad")).decode(), "level")
        self.store.release(digest_of("bad"), -1)
        answers = yield gatherResults([self.take("bad"), self.take("k")])
        self.assertIn("not an account", answers[0])
        self.assertEqual(answers[1], Taken(True, b"ann", 2, 0.0, MICROTOKENS))

    @inlineCallbacks
    def test_a_name_from_before_names_were_normalized_is_taken(self) -> Any:
        """A name that an older instance has stored decomposed is taken; its user goes on under it."""
        yield self.store.create(digest_of("k"), Account("ann", 2, 0.0))
        old = "Zoe\u0308"
        self.server.command("ZREM", "tokenlb:names", f"ann\0{digest_of('k')}")
        self.server.command("ZADD", "tokenlb:names", "0", f"{old}\0{digest_of('k')}")
        self.server.command("HSET", account_key(digest_of("k")).decode(), "name", old)
        for name in (old, "Zo\u00eb"):
            yield self.assertFailure(self.store.create(digest_of("new"), Account(name, 5, 0.0)), NameTaken)
        self.assertEqual((yield self.take("k")), Taken(True, old.encode(), 2, 0.0, MICROTOKENS))
        page = yield self.store.page("", 10)
        self.assertEqual([one.account.name for one in page.profiles], [old])

    @inlineCallbacks
    def test_two_stores_share_a_bucket_exactly(self) -> Any:
        """Two instances that hammer one bucket of 1000 admit 1000 together, in few calls."""
        yield self.store.create(digest_of("k"), Account("ann", 1000, 0.0))
        other = self.new_store()
        yield other.start()
        receivers = []
        for _ in range(700):
            for store in (self.store, other):
                receiver = Asker()
                store.take(digest_of("k"), receiver)
                receivers.append(receiver.told)
        answers = yield gatherResults(receivers)
        self.assertEqual(sum(answer.admitted for answer in answers), 1000)
        self.assertEqual(self.store.takes + other.takes, 1400)
        self.assertLessEqual(self.store.script_calls + other.script_calls, 6)

    @inlineCallbacks
    def test_a_change_by_one_store_holds_for_the_other_at_once(self) -> Any:
        """The next taking by another instance sees a new policy."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        other = self.new_store()
        yield other.start()
        yield other.change(digest_of("k"), 2, None)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 2, 0.0, MICROTOKENS))


class PageTests(OnRedis):
    """Names, and the accounts in their order."""

    @inlineCallbacks
    def names(self, after: str, count: int) -> Any:
        page = yield self.store.page(after, count)
        return [profile.account.name for profile in page.profiles], page.more_after is not None

    @inlineCallbacks
    def test_pages_are_in_the_order_of_the_names_as_bytes(self) -> Any:
        """Page after page gives each account once, in the order of the UTF-8 of the names."""
        names = ["b", "a", "ab", "a b", "a\x01", "Z", "Zo\u00eb", "\U0001f980", "\uffff", "aa" * 60, "-", "+", "[a"]
        for name in names:
            yield self.store.create(digest_of("key of " + name), Account(name, 5, 0.0))
        ordered = sorted(names, key=str.encode)
        self.assertEqual((yield self.names("", 200)), (ordered, False))
        found: list[str] = []
        more = True
        while more:
            page, more = yield self.names(found[-1] if found else "", 2)
            found += page
        self.assertEqual(found, ordered)
        self.assertEqual((yield self.names("a", 1)), (["a\x01"], True))
        # A name that nobody has is a place in the order too.
        self.assertEqual((yield self.names("aaaa", 1)), (["aa" * 60], True))
        self.assertEqual((yield self.names(ordered[-1], 1)), ([], False))

    @inlineCallbacks
    def test_a_page_tells_the_levels_of_now(self) -> Any:
        """A page has policies and levels, also below zero, and writes nothing; a damaged account is left out."""
        for name in ("ann", "bad", "cid"):
            yield self.store.create(digest_of(name), Account(name, 5, 0.0))
        self.store.release(digest_of("cid"), 7)
        yield self.take("ann")
        self.server.command("HDEL", account_key(digest_of("bad")).decode(), "level")
        page = yield self.store.page("", 3)
        levels = [(profile.account, profile.level) for profile in page.profiles]
        self.assertEqual(
            levels, [(Account("ann", 5, 0.0), 4 * MICROTOKENS), (Account("cid", 5, 0.0), -2 * MICROTOKENS)]
        )
        self.assertEqual((yield self.store.profile(digest_of("cid"))).level, -2 * MICROTOKENS)
        # A page on which nothing is left still says where the next one begins.
        self.assertEqual((yield self.store.page("ann", 1)), AccountPage([], "bad"))

    @inlineCallbacks
    def test_what_cannot_be_is_refused(self) -> Any:
        """A page of no accounts or of more than 200, and a name with a NUL, fail with ValueError."""
        for count in (0, -1, 201):
            yield self.assertFailure(self.store.page("", count), ValueError)
        yield self.assertFailure(self.store.page("\ud800", 1), ValueError)
        yield self.assertFailure(self.store.create(digest_of("k"), Account("a\0b", 5, 0.0)), ValueError)
        self.assertIsNone((yield self.take("k")))
        self.assertEqual((yield self.names("", 1)), ([], False))


class SecretTests(OnRedis):
    """Password and database."""

    password: str = "p@ss word/#"
    db = 3

    @inlineCallbacks
    def test_they_are_used(self) -> Any:
        """Accounts are in the database of the URL, behind its password, also after a reconnect."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.assertEqual(self.server.command("DBSIZE"), b":5\r\n")
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        self.assertEqual((yield self.until_it_answers("k")).level, 4 * MICROTOKENS)

    @inlineCallbacks
    def test_a_password_that_was_wrong_for_a_while_is_tried_again(self) -> Any:
        """When Redis refuses the password for a time, the store says so, and works once it is right again."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.server.change_password("another")
        for _ in range(3000):
            answer = yield self.take("k")
            if isinstance(answer, str) and "WRONGPASS" in answer:
                break
            yield deferLater(self.reactor, 0.02)
        else:
            self.fail(f"no WRONGPASS in 60 seconds, but {answer!r}")
        self.server.change_password(self.password)
        self.assertEqual((yield self.until_it_answers("k")).level, 4 * MICROTOKENS)
