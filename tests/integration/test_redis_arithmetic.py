"""The scripts and the embedded store compute the same, microtoken by microtoken."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, settings
from hypothesis import strategies as st
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.integration.lua_client import START, LuaClient, lua_for
from tests.limits.test_bucket import LIVES
from tests.stores.contract import Asker, digest_of, new_path
from twisted_lb.interfaces import Account, LimitRule, Limits, Policy, Profile, SharedBucket, Taken
from twisted_lb.stores.redis.keys import account_key
from twisted_lb.stores.sqlite.store import EmbeddedStore

# the global bucket is asked too, and now and then it is what refuses.
LIMITS = Limits(global_bucket=Policy(1_000, 50.0))

policies = st.tuples(
    st.one_of(st.integers(1, 20), st.integers(1, 1_000_000_000)),
    st.one_of(st.sampled_from([0.0, 0.1, 1.0, 1 / 3, 1_000_000.0]), st.floats(0, 100), st.floats(0, 1_000_000)),
)
steps = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(["take", "profile"]),
            st.integers(0, 30),
            st.integers(0, 1_000_000_000),
            st.tuples(st.one_of(st.integers(-20, 20), st.integers(-1_000_000_000, 1_000_000_000))),
            st.tuples(st.none() | policies.map(lambda policy: policy[0]), st.none() | policies.map(lambda p: p[1])),
        ),
        st.one_of(st.integers(0, 3_000_000), st.integers(-10_000_000, 10_000_000), st.integers(0, 10**14)),
    ),
    max_size=40,
)

shared_steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "without key", "settle", "policy"]),
        st.one_of(st.integers(-20, 20), st.integers(-1_000_000_000, 1_000_000_000)),
        st.tuples(st.booleans(), st.booleans()),
        policies,
        st.one_of(st.integers(0, 3_000_000), st.integers(-10_000_000, 10_000_000), st.integers(0, 10**14)),
    ),
    max_size=40,
)


class ArithmeticTests(SynchronousTestCase):
    """The script computes what the embedded store computes, microtoken by microtoken."""

    def setUp(self) -> None:
        self.lua = lua_for(self, LIMITS, expiring=False)
        self.now_us = START
        self.embedded = EmbeddedStore(new_path(self), lambda: self.now_us, Clock(), maybeDeferred, LIMITS)
        self.embedded.start()
        self.addCleanup(lambda: self.successResultOf(self.embedded.stop()))
        self.accounts = 0

    def create(self, capacity: int, rate: float) -> str:
        """A new account in both, and a full bucket of everyone in Redis: the name, which is its key too."""
        self.accounts += 1
        name = f"user{self.accounts}"
        self.successResultOf(self.embedded.create(digest_of(name), Account(name, capacity, rate)))
        self.lua.create(self.now_us, name, capacity, rate)
        return name

    def assert_same_taking(self, name: str, cost: int) -> None:
        receiver = Asker()
        self.embedded.take(digest_of(name), receiver, cost)
        [taken] = receiver.answers
        assert isinstance(taken, Taken)
        answer = self.lua.take(self.now_us, name, cost)
        outcome = 1 if taken.admitted else {"default": 0, "global": 3}[taken.limit]
        self.assertEqual((answer.outcome, answer.level), (outcome, taken.level))
        if outcome != 3:
            self.assertEqual((answer.capacity, float(answer.rate)), (taken.capacity, taken.rate_per_sec))

    def test_lives(self) -> None:
        """At each time of each life, the script admits and leaves what the law says."""
        plain = LuaClient(self.lua.port)
        self.addCleanup(plain.close)
        for what, capacity, rate, life in LIVES:
            self.now_us = START
            name = self.create(capacity, rate)
            for at, admitted, level in life:
                answer = plain.take(START + at, name)
                self.assertEqual((answer.outcome == 1, answer.level), (admitted, level), what)

    # Another instance plays it when it is repeated, on a machine that may be slow.
    @settings(
        max_examples=150,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(policies, steps)
    def test_both_stores_agree_step_by_step(self, policy: tuple[int, float], operations: list[Any]) -> None:
        """Whatever is done to a bucket, and whatever the clock does, both stores answer the same at every step."""
        # the global bucket goes on from example to example, so time does too.
        name = self.create(*policy)
        digest = digest_of(name)
        for operation, elapsed_us in operations:
            self.now_us = max(0, min(self.now_us + elapsed_us, 4 * 10**15))
            if operation == "profile":
                reply = self.lua.run("read_account", self.now_us, [account_key(digest)])
                self.assert_same_profile(reply, self.successResultOf(self.embedded.profile(digest)))
            elif operation == "take":
                self.assert_same_taking(name, 1)
            elif isinstance(operation, int):
                self.assert_same_taking(name, operation)
            elif len(operation) == 1:
                [tokens] = operation
                self.lua.batch(self.now_us, charged=[(name, tokens)])
                self.embedded.release(digest, tokens)
            else:
                arguments = [b"" if value is None else repr(value).encode() for value in operation]
                reply = self.lua.run("change_account", self.now_us, [account_key(digest)], *arguments)
                self.assert_same_profile(reply, self.successResultOf(self.embedded.change(digest, *operation)))

    @settings(
        max_examples=100,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(st.lists(policies, min_size=2, max_size=2), policies, policies, shared_steps)
    @example(
        [(3, 0.0), (1, 0.0)],
        (9, 0.0),
        (1, 0.0),
        [
            ("take", 1, (True, False), (1, 0.0), 0),
            ("policy", 0, (True, False), (1, 0.0), 0),
            ("settle", -1, (True, False), (1, 0.0), 0),
            ("policy", 0, (True, False), (3, 0.0), 0),
            ("take", 0, (True, False), (1, 0.0), 0),
        ],
    )
    def test_shared_buckets_agree_step_by_step(
        self,
        shared: list[tuple[int, float]],
        policy: tuple[int, float],
        other_policy: tuple[int, float],
        operations: list[Any],
    ) -> None:
        """The same of buckets of routes and pools, with keys and without, also when their policies change.

        The last one is a shadow.
        """
        name = self.create(*policy)
        rules = [LimitRule(f"{name} {at}", f"rule{at}", *of_rule) for at, of_rule in enumerate(shared)]
        shadow = LimitRule(f"{name} shadow", "later", *other_policy)
        for what, cost, chosen, other, elapsed_us in operations:
            self.now_us = max(0, min(self.now_us + elapsed_us, 4 * 10**15))
            limits = tuple(rule.bucket() for rule, is_chosen in zip(rules, chosen) if is_chosen) or (rules[0].bucket(),)
            if what == "settle":
                limits += (shadow.bucket("", True),)
                self.lua.batch(self.now_us, charged=[(name, cost)], shared_charges=[(one, cost) for one in limits])
                self.embedded.release(digest_of(name), cost, limits)
            elif what == "policy":
                rules[0].capacity, rules[0].rate_per_sec = other
            else:
                limits += (shadow.bucket("", True),)
                self.assert_same_shared_taking(name if what == "take" else "", abs(cost), limits)

    def assert_same_shared_taking(self, name: str, cost: int, limits: tuple[SharedBucket, ...]) -> None:
        receiver = Asker()
        if name:
            self.embedded.take(digest_of(name), receiver, cost, "", limits)
            extras, limited = [(1, cost, "")], [(1, 0, limits)]
            [answer] = self.lua.batch(self.now_us, name, extras=extras, limited=limited)
        else:
            self.embedded.take_without_key(limits, receiver, cost)
            [answer] = self.lua.batch(self.now_us, limited=[(0, cost, limits)])
        [taken] = receiver.answers
        assert isinstance(taken, Taken)
        if taken.admitted:
            levels = [more.level for more in taken.more]
            [decision] = taken.shadows
            *of_lua, of_shadow, said = self.lua.levels
            self.assertEqual((answer.outcome, of_lua), (1, levels if name else [taken.level, *levels]))
            [level] = self.successResultOf(self.embedded.levels([decision.shared]))
            self.assertEqual((of_shadow, said), (level, decision.would_refuse))
        outcomes = {"default": 0, "global": 3}
        outcomes.update({one.rule.name: place for place, one in enumerate(limits, 6)})
        self.assertEqual((answer.outcome, answer.level), (1 if taken.admitted else outcomes[taken.limit], taken.level))

    def assert_same_profile(self, reply: list[Any], profile: Any) -> None:
        name, capacity, rate, level, *_ = reply
        self.assertEqual(Profile(Account(name.decode(), int(capacity), float(rate)), level), profile)

    def test_a_batch_is_its_takings_one_after_another(self) -> None:
        """A batch with keys many times, charges and unknown keys answers as single calls would."""
        one, two = self.create(3, 1.0), self.create(900, 0.0)
        names = [one, "nobody", two, one, two, one, one]
        costs = [1, 1, 600, 1, 600, 2, 0]
        charged = [(one, -1), (two, 100), ("nobody", 5), (one, 1)]
        copies = {one: self.create(3, 1.0), two: self.create(900, 0.0), "nobody": "nobody"}
        extras = [(at, cost, "") for at, cost in enumerate(costs, 1)]
        batch = self.lua.batch(self.now_us, *names, charged=charged, extras=extras)
        self.lua.command(b"DEL", b"tokenlb:global")
        for name, tokens in charged:
            self.lua.batch(self.now_us, charged=[(copies[name], tokens)])
        singly = [self.lua.take(self.now_us, copies[name], cost) for name, cost in zip(names, costs)]
        self.assertEqual([answer[1:] for answer in batch], [answer[1:] for answer in singly])
        self.assertEqual([answer.outcome for answer in batch], [1, 0, 1, 1, 0, 0, 1])
