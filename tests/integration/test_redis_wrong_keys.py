"""Keys in Redis that are not what they should be: each concerns itself alone."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.logger import capturedLogs

from tests.integration.on_redis import OnRedis
from tests.stores.contract import Asker, digest_of
from twisted_lb import bounded_log
from twisted_lb.interfaces import Account, LimitRule, Limits, Policy, StoreUnavailable, Taken

NETWORK = "192.0.2.7"
KEY = "{%s}" % digest_of("bad")
TYPES = (
    ("SET", "x"),
    ("SET", "nan"),
    ("RPUSH", "x"),
    ("SADD", "x"),
    ("ZADD", "1", "x"),
    ("XADD", "*", "x", "y"),
    ("HSET", "level", "nan", "stamp", "inf"),
    ("HSET", "x", "y"),
    ("HSET", "level", "1e400", "stamp", "-1"),
    ("HSET", "dead", "nan", "other", "-7", "third", "1e300"),
)
# Those that the balancer makes anew.
RULE = LimitRule("limit:route|/v1/|burst", "burst", 1_000_000, 10.0)
SHARED = (
    f"tokenlb:{RULE.key}|{NETWORK}",
    f"tokenlb:address:{NETWORK}",
    "tokenlb:global",
    f"tokenlb:in_flight:{KEY}",
    "tokenlb:instances",
    "tokenlb:changed_keys",
    "tokenlb:returning",
    "tokenlb:switch",
)


class WrongKeyTests(OnRedis):
    limits = Limits(Policy(1_000_000, 1000.0), Policy(1000, 10.0), 5)

    @inlineCallbacks
    def set_up_accounts(self) -> Any:
        for name in ("good", "bad"):
            yield self.store.create(digest_of(name), Account(name, 1_000_000, 1000.0))

    def ask(self, key: str, network: str = "") -> Deferred[Any]:
        receiver = Asker()
        self.store.take(digest_of(key), receiver, 1, network)
        return receiver.told

    def ask_address(self) -> Deferred[Any]:
        receiver = Asker()
        self.store.take_address(NETWORK, receiver)
        return receiver.told

    def ask_limit(self) -> Deferred[Any]:
        receiver = Asker()
        self.store.take_without_key((RULE.bucket(NETWORK),), receiver)
        return receiver.told

    def put(self, key: str, kind: tuple[str, ...]) -> None:
        self.server.command("DEL", key)
        self.server.command(kind[0], key, *kind[1:])

    @inlineCallbacks
    def test_shared_keys(self) -> Any:
        """Whatever a key that all share holds, everybody is answered, in one batch, and it is made anew."""
        yield self.set_up_accounts()
        for key in SHARED:
            for kind in TYPES:
                self.put(key, kind)
                answers = yield gatherResults(
                    [
                        self.ask("good"),
                        self.ask("bad", NETWORK),
                        self.ask_address(),
                        self.ask("nobody", NETWORK),
                        self.ask_limit(),
                    ]
                )
                admitted = [isinstance(answer, Taken) and answer.admitted for answer in answers]
                self.assertEqual(admitted, [True, True, True, False, True], (key, kind))
                self.assertIsNone(answers[3])
                self.assertTrue(self.store.state().up, (key, kind))
                for name in ("good", "bad"):
                    self.store.release(digest_of(name), 0)
        self.assertEqual(self.store.counts()["store_outages"], 0)
        self.flushLoggedErrors()

    @inlineCallbacks
    def test_keys_met_on_the_way_back(self) -> Any:
        """A new connection is made whatever the keys hold that it begins with, and takes its places again."""
        yield self.set_up_accounts()
        yield self.ask("bad")
        for key in SHARED[3:]:
            for kind in (TYPES[1], TYPES[2], TYPES[8]):
                self.put(key, kind)
                self.server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                answer = yield self.until_it_answers("good")
                self.assertTrue(answer.admitted, (key, kind))
                self.store.release(digest_of("good"), 0)
        self.flushLoggedErrors()

    @inlineCallbacks
    def test_account(self) -> Any:
        """An account that is none is refused by itself, told in the log with its key, and left as it is."""
        yield self.set_up_accounts()
        account = f"tokenlb:{KEY}"
        half = ("HSET", "name", "bad", "capacity", "5", "rate", "1", "level", "1")
        wrong = (("capacity", "nan"), ("capacity", "0"), ("capacity", "1e10"), ("rate", "-1"), ("rate", "nan"))
        wrong += (("rate", "inf"), ("level", "x"), ("level", "1e300"), ("stamp", "-5"), ("stamp", "nan"))
        kinds = [*TYPES, half]
        kinds += [(*half, "stamp", "1", *pair) for pair in wrong]
        for kind in kinds:
            self.put(account, kind)
            before = self.server.command("DUMP", account)
            answers = yield gatherResults(
                [self.ask("good"), self.ask("bad"), self.ask("bad", NETWORK), self.ask("good")]
            )
            self.assertEqual([isinstance(answer, Taken) for answer in answers], [True, False, False, True], kind)
            self.assertIn("not an account", answers[1])
            for call in (self.store.profile(digest_of("bad")), self.store.change(digest_of("bad"), 7, None)):
                yield self.assertFailure(call, StoreUnavailable)
            self.assertEqual(self.server.command("DUMP", account), before, kind)
            self.assertTrue(self.store.state().up, kind)
            for _ in range(2):
                self.store.release(digest_of("good"), 0)

    @inlineCallbacks
    def test_log(self) -> Any:
        """The log names the key, one line in a while, with a count of what it does not say."""
        yield self.set_up_accounts()
        self.patch(bounded_log, "LOG_SECONDS", 60.0)
        with capturedLogs() as logs:
            for _ in range(20):
                self.put(SHARED[2], ("SET", "x"))
                yield self.ask("good")
        told = [event for event in logs if event.get("key") == SHARED[2]]
        self.assertEqual(len(told), 1)

    @inlineCallbacks
    def test_names(self) -> Any:
        """Names that are not there as they should be refuse new users and pages, and nobody else."""
        yield self.set_up_accounts()
        self.put("tokenlb:names", ("SET", "x"))
        yield self.assertFailure(self.store.create(digest_of("new"), Account("new", 5, 1.0)), StoreUnavailable)
        yield self.assertFailure(self.store.page("", 10), StoreUnavailable)
        self.assertEqual(self.server.command("EXISTS", "tokenlb:{%s}" % digest_of("new")), b":0\r\n")
        self.assertTrue((yield self.ask("good")).admitted)
