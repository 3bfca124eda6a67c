"""The Redis store on a real redis-server: the contract, the script's arithmetic, and outages."""

from __future__ import annotations

import socket
from typing import Any

import hiredis
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from tests.integration.redis_server import MISSING, RedisServer
from tests.limits.test_bucket import LIVES
from tests.stores.contract import Asker, StoreContract, digest_of, new_path
from twisted_lb.interfaces import MICROTOKENS, Account, StoreUnavailable, Taken
from twisted_lb.stores.embedded_store import EmbeddedStore
from twisted_lb.stores.redis_scripts import account_key, encode_command, name_key, script_text
from twisted_lb.stores.redis_store import RedisStore

SECOND = 1_000_000  # microseconds
START = 1_800_000_000 * SECOND
TIME_LINE = b"local time = call('TIME')\n"


class OnRedis(TestCase):
    """A redis-server and a store on it, both of this test alone."""

    password: str | None = None
    db = 0
    appendonly = False
    deadline = 1.0

    def setUp(self) -> Deferred[None]:
        if MISSING:
            raise SkipTest(MISSING)
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.server = RedisServer(self.password, self.appendonly, self.db)
        self.addCleanup(self.server.close)
        self.server.start()
        self.store = self.new_store()
        return self.store.start()

    def new_store(self) -> RedisStore:
        store = RedisStore(self.server.url, self.reactor, self.deadline)
        self.addCleanup(store.stop)
        return store

    def take(self, key: str) -> Deferred[Any]:
        asker = Asker()
        self.store.take(digest_of(key), asker)
        return asker.told

    @inlineCallbacks
    def until_it_answers(self, key: str) -> Any:
        """Ask until Redis is back; the first answer."""
        for _ in range(500):
            answer = yield self.take(key)
            if not isinstance(answer, str):
                return answer
            yield deferLater(self.reactor, 0.02)
        self.fail(f"no answer in 10 seconds: {answer}")


class ContractTests(OnRedis, StoreContract):
    """The contract of stores, over Redis."""

    def some_milliseconds(self) -> Deferred[None]:
        return deferLater(self.reactor, 0.005)


class WritingTests(OnRedis):
    """What is in Redis."""

    @inlineCallbacks
    def test_an_account_is_one_hash_that_never_expires(self) -> Any:
        """Creating, changing and taking leave one hash and one name, neither with an expiry."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 1.0))
        yield self.take("k")
        yield self.store.change(digest_of("k"), 7, None)
        self.store.give_back(digest_of("k"))
        yield self.take("k")
        keys = account_key(digest_of("k")).decode(), name_key("ann").decode()
        self.assertEqual(self.server.command("DBSIZE"), b":2\r\n")
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
        changes = self.server.command("INFO", "persistence").split(b"rdb_changes_since_last_save:")[1].split(b"\r\n")[0]
        self.assertFalse((yield self.take("k")).admitted)
        yield self.store.profile(digest_of("k"))
        yield self.take("nobody")
        yield self.store.change(digest_of("nobody"), 5, 1.0)
        yield self.assertFailure(self.store.create(digest_of("k2"), Account("ann", 5, 1.0)), Exception)
        self.store.give_back(digest_of("nobody"))
        yield self.take("nobody")
        after = self.server.command("INFO", "persistence").split(b"rdb_changes_since_last_save:")[1].split(b"\r\n")[0]
        self.assertEqual(after, changes)

    @inlineCallbacks
    def test_a_damaged_account_is_unknown_and_does_not_fail_its_batch(self) -> Any:
        """A hash without a level is answered with None, and the others of its batch as ever."""
        yield self.store.create(digest_of("k"), Account("ann", 2, 0.0))
        yield self.store.create(digest_of("bad"), Account("bob", 2, 0.0))
        self.server.command("HDEL", account_key(digest_of("bad")).decode(), "level")
        self.store.give_back(digest_of("bad"))
        answers = yield gatherResults([self.take("bad"), self.take("k")])
        self.assertEqual(answers, [None, Taken(True, b"ann", 2, 0.0, MICROTOKENS)])

    @inlineCallbacks
    def test_two_stores_share_a_bucket_exactly(self) -> Any:
        """Two instances that hammer one bucket of 1000 admit 1000 together, in few calls."""
        yield self.store.create(digest_of("k"), Account("ann", 1000, 0.0))
        other = self.new_store()
        yield other.start()
        askers = []
        for _ in range(700):
            for store in (self.store, other):
                asker = Asker()
                store.take(digest_of("k"), asker)
                askers.append(asker.told)
        answers = yield gatherResults(askers)
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


class OutageTests(OnRedis):
    """Redis loses scripts, hangs, dies and comes back."""

    appendonly = True
    deadline = 0.3

    @inlineCallbacks
    def test_a_script_flush_goes_unnoticed(self) -> Any:
        """After SCRIPT FLUSH the next takings, creations, changes and profiles succeed, with one call more."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.server.command("SCRIPT", "FLUSH")
        answers = yield gatherResults([self.take("k"), self.take("k")])
        self.assertEqual([answer.level for answer in answers], [4 * MICROTOKENS, 3 * MICROTOKENS])
        self.assertEqual(self.store.script_calls, 2)
        self.server.command("SCRIPT", "FLUSH")
        yield self.store.create(digest_of("k2"), Account("bob", 5, 0.0))
        yield self.store.change(digest_of("k"), 9, None)
        profile = yield self.store.profile(digest_of("k"))
        self.assertEqual(profile.account.capacity, 9)

    @inlineCallbacks
    def test_a_restart_loses_nothing(self) -> Any:
        """With the append-only file, accounts and levels are as before after Redis was killed and started."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        yield self.take("k")
        self.server.kill()
        yield deferLater(self.reactor, 0.05)
        before = yield self.take("k")
        self.assertIsInstance(before, str)
        yield self.assertFailure(self.store.profile(digest_of("k")), StoreUnavailable)
        self.server.start()
        answer = yield self.until_it_answers("k")
        self.assertEqual(answer, Taken(True, b"ann", 5, 0.0, 3 * MICROTOKENS))

    @inlineCallbacks
    def test_a_hanging_redis_costs_one_deadline(self) -> Any:
        """While Redis is stopped, the first taking fails at the deadline, later ones at once, and none is sent late."""
        yield self.store.create(digest_of("k"), Account("ann", 50, 0.0))
        self.server.pause()
        started = self.reactor.seconds()
        self.assertIn("did not answer within 0.3 s", (yield self.take("k")))
        self.assertGreaterEqual(self.reactor.seconds() - started, 0.29)
        for _ in range(10):
            asker = Asker()
            self.store.take(digest_of("k"), asker)
            self.assertEqual([type(answer) for answer in asker.answers], [str])
        self.server.resume()
        answer = yield self.until_it_answers("k")
        # The one taking that was under way may have been executed, or not: its reply is what was lost.
        self.assertIn(answer.level, (49 * MICROTOKENS, 48 * MICROTOKENS))

    @inlineCallbacks
    def test_a_server_that_starts_late_is_found(self) -> Any:
        """A store that was started before its Redis works once that is there."""
        self.server.stop()
        late = self.new_store()
        yield late.start()
        yield self.assertFailure(late.profile(digest_of("k")), StoreUnavailable)
        self.server.start()
        yield self.until_it_answers("k")
        for _ in range(200):
            try:
                self.assertIsNone((yield late.profile(digest_of("k"))))
                return
            except StoreUnavailable:
                yield deferLater(self.reactor, 0.02)
        self.fail("still unavailable after 4 seconds")


class SecretTests(OnRedis):
    """Password and database."""

    password: str = "p@ss word/#"
    db = 3

    @inlineCallbacks
    def test_they_are_used(self) -> Any:
        """Accounts are in the database of the URL, behind its password, also after a reconnect."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.assertEqual(self.server.command("DBSIZE"), b":2\r\n")
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        self.assertEqual((yield self.until_it_answers("k")).level, 4 * MICROTOKENS)

    @inlineCallbacks
    def test_a_password_that_was_wrong_for_a_while_is_tried_again(self) -> Any:
        """When Redis refuses the password for a time, the store says so, and works once it is right again."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.server.change_password("another")
        for _ in range(200):
            answer = yield self.take("k")
            if isinstance(answer, str) and "WRONGPASS" in answer:
                break
            yield deferLater(self.reactor, 0.02)
        else:
            self.fail(f"no WRONGPASS in 4 seconds, but {answer!r}")
        self.server.change_password(self.password)
        self.assertEqual((yield self.until_it_answers("k")).level, 4 * MICROTOKENS)


class LuaClient:
    """The scripts with their clock taken out: the time is their last two arguments, seconds and microseconds."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._reader = hiredis.Reader()
        self._hashes = {}
        for name in ("take_tokens", "create_account", "change_account", "read_account"):
            text = script_text(name)
            # In production the time comes from Redis alone: only a changed text can be told another one.
            assert text.count(TIME_LINE) == 1 and text.count(b"'TIME'") == 1
            text = text.replace(TIME_LINE, b"local time = {ARGV[#ARGV - 1], ARGV[#ARGV]}\n")
            self._hashes[name] = self._command(b"SCRIPT", b"LOAD", text)

    def run(self, name: str, now_us: int, keys: list[bytes], *arguments: bytes) -> Any:
        seconds, microseconds = divmod(now_us, SECOND)
        time = b"%d" % seconds, b"%d" % microseconds
        return self._command(b"EVALSHA", self._hashes[name], b"%d" % len(keys), *keys, *arguments, *time)

    def _command(self, *parts: bytes) -> Any:
        self._socket.sendall(encode_command(*parts))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        self._socket.close()


policies = st.tuples(
    st.one_of(st.integers(1, 20), st.integers(1, 1_000_000_000)),
    st.one_of(st.sampled_from([0.0, 0.1, 1.0, 1 / 3, 1_000_000.0]), st.floats(0, 100), st.floats(0, 1_000_000)),
)
steps = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(["take", "take", "take", "give_back", "profile"]),
            st.tuples(st.none() | policies.map(lambda policy: policy[0]), st.none() | policies.map(lambda p: p[1])),
        ),
        st.one_of(st.integers(0, 3_000_000), st.integers(-10_000_000, 10_000_000), st.integers(0, 10**14)),
    ),
    max_size=40,
)


class ArithmeticTests(SynchronousTestCase):
    """The script computes what the embedded store computes, microtoken by microtoken."""

    def setUp(self) -> None:
        if MISSING:
            raise SkipTest(MISSING)
        server = RedisServer()
        self.addCleanup(server.close)
        server.start()
        self.lua = LuaClient(server.port)
        self.addCleanup(self.lua.close)
        self.now_us = START
        self.embedded = EmbeddedStore(new_path(self), lambda: self.now_us, Clock(), maybeDeferred)
        self.embedded.start()
        self.addCleanup(lambda: self.successResultOf(self.embedded.stop()))
        self.accounts = 0

    def create(self, capacity: int, rate: float) -> tuple[str, bytes]:
        """A new account in both: its digest and its key in Redis."""
        self.accounts += 1
        name = f"user{self.accounts}"
        digest = digest_of(name)
        self.successResultOf(self.embedded.create(digest, Account(name, capacity, rate)))
        arguments = name.encode(), b"%d" % capacity, repr(rate).encode(), b"%d" % (capacity * MICROTOKENS)
        key = account_key(digest)
        self.assertEqual(self.lua.run("create_account", self.now_us, [key, name_key(name)], *arguments), 0)
        return digest, key

    def lua_take(self, key: bytes) -> Taken:
        name, capacity, rate, admitted, level = self.lua.run("take_tokens", self.now_us, [key], b"0")
        return Taken(admitted == 1, name, capacity, float(rate), level)

    def embedded_take(self, digest: str) -> Any:
        asker = Asker()
        self.embedded.take(digest, asker)
        return asker.answers[0]

    def test_lives(self) -> None:
        """At each time of each life, the script admits and leaves what the law says."""
        for what, capacity, rate, life in LIVES:
            self.now_us = START
            _, key = self.create(capacity, rate)
            for at, admitted, level in life:
                self.now_us = START + at
                taken = self.lua_take(key)
                self.assertEqual((taken.admitted, taken.level), (admitted, level), what)

    @settings(max_examples=150, deadline=None)
    @given(policies, steps)
    def test_both_stores_agree_step_by_step(self, policy: tuple[int, float], operations: list[Any]) -> None:
        """Whatever is done to a bucket, and whatever the clock does, both stores answer the same at every step."""
        self.now_us = START
        digest, key = self.create(*policy)
        for operation, elapsed_us in operations:
            self.now_us = max(0, min(self.now_us + elapsed_us, 4 * 10**15))
            if operation == "take":
                self.assertEqual(self.lua_take(key), self.embedded_take(digest))
            elif operation == "give_back":
                self.lua.run("take_tokens", self.now_us, [key], b"1")
                self.embedded.give_back(digest)
            elif operation == "profile":
                reply = self.lua.run("read_account", self.now_us, [key])
                self.assert_same_profile(reply, self.successResultOf(self.embedded.profile(digest)))
            else:
                arguments = [b"" if value is None else repr(value).encode() for value in operation]
                reply = self.lua.run("change_account", self.now_us, [key], *arguments)
                self.assert_same_profile(reply, self.successResultOf(self.embedded.change(digest, *operation)))

    def assert_same_profile(self, reply: list[Any], profile: Any) -> None:
        name, capacity, rate, level = reply
        self.assertEqual((Account(name.decode(), int(capacity), float(rate)), level), profile)

    def test_a_batch_is_its_takings_one_after_another(self) -> None:
        """A batch with one key many times, a gift to it and an unknown key answers as single calls would."""
        digest, key = self.create(3, 1.0)
        for _ in range(2):
            self.embedded_take(digest)
            self.lua_take(key)
        unknown = account_key(digest_of("nobody"))
        keys = [key, unknown, key, unknown, key, key]
        reply = self.lua.run("take_tokens", self.now_us, keys, b"2")
        self.embedded.give_back(digest)
        expected: list[Any] = []
        for one in keys[2:]:
            if one == unknown:
                expected += [None, 0, 0, 0, 0]
            else:
                taken = self.embedded_take(digest)
                expected += [taken.name, taken.capacity, b"1.0", int(taken.admitted), taken.level]
        self.assertEqual(reply, expected)
        self.assertEqual([reply[3], reply[13], reply[18]], [1, 1, 0])
