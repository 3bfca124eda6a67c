"""A Redis store whose clock and server are the test's, and its calls in words."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.contract import Asker, digest_of
from tests.stores.fake_redis import FakeConnection, FakeEndpoint, array, bulk
from twisted_lb.interfaces import Limits, Policy, SharedBucket, Taken
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.scripts import RedisScript
from twisted_lb.stores.redis.store import RedisStore

NOSCRIPT = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
SCRIPTS = 10
ANN = (b"ann", 5, b"0.5", 1, 4_000_000)
UNKNOWN = (None, 0, 0, 0, 0)
EVERYONE = Policy(1000, 100.0)
LIMITS = Limits(EVERYONE, Policy(3, 10.0), 2)


def account(name: str) -> bytes:
    """The key of the account whose key's digest is that of `name`."""
    return b"tokenlb:{%s}" % digest_of(name).encode()


class Batch(NamedTuple):
    """A call of take_tokens.lua."""

    released: list[bytes]
    charged: list[tuple[bytes, int]]
    taken: list[bytes]
    constant: list[bytes]  # limits and instance
    global_bucket: int
    extras: list[tuple[int, int, bytes]]
    number: int
    shared_charges: list[tuple[bytes, int]]
    limited: list[tuple[int, int, list[bytes]]]  # position, cost, and the keys, policies left out


def read_shared(
    named: int, rest: list[bytes]
) -> tuple[list[tuple[bytes, int]], list[tuple[int, int, list[bytes]]]]:
    """The part of shared buckets: charges, and limited takings."""
    if not named:
        assert not rest
        return [], []
    parts = iter(rest)

    def number() -> int:
        return int(next(parts))

    charges, limited = number(), number()
    keys = [(next(parts), next(parts), next(parts))[0] for _ in range(named)]
    charged = [(keys[number() - 1], number()) for _ in range(charges)]
    # Those of shadows are below zero.
    takings = [(number(), number(), [keys[abs(number()) - 1] for _ in range(number())]) for _ in range(limited)]
    assert not list(parts)
    return charged, takings


def read_batch(command: list[bytes]) -> Batch:
    """The call that a command is."""
    keys, arguments = command[3 : 3 + int(command[2])], command[3 + int(command[2]) :]
    constant, numbers, rest = arguments[:9], [int(argument) for argument in arguments[10:15]], arguments[15:]
    released, charged, extras, global_bucket, named = numbers
    charges, rest = [int(charge) for charge in rest[:charged]], rest[charged:]
    shared_charges, limited = read_shared(named, rest[3 * extras :])
    element = iter(rest[: 3 * extras])
    return Batch(
        keys[:released],
        list(zip(keys[released : released + charged], charges)),
        keys[released + charged :],
        constant,
        global_bucket,
        [(int(position), int(cost), network) for position, cost, network in zip(element, element, element)],
        int(arguments[9]),
        shared_charges,
        limited,
    )


class ToldStandby(Fallback):
    """Answers as the test says, and remembers what it was asked."""

    def __init__(self, now: Any, limits: Limits) -> None:
        super().__init__("local", now, 1000, limits)
        self.answers: dict[str, Taken] = {}  # by name; None for any other
        self.asked: list[tuple[str, int, int]] = []  # digest, cost, in flight
        self.released: list[tuple[str, int]] = []
        self.owed: tuple[list[tuple[str, int]], int] = ([], 0)
        self.tidied = 0

    def tidy(self) -> None:
        self.tidied += 1
        super().tidy()

    def take(
        self, digest: str, cost: int, in_flight: int, limits: tuple[SharedBucket, ...] = ()
    ) -> Taken | None:
        self.asked.append((digest, cost, in_flight))
        return self.answers.get(digest)

    def release(self, digest: str, tokens: int, limits: tuple[SharedBucket, ...] = ()) -> None:
        if not digest:
            super().release(digest, tokens, limits)
            return
        self.released.append((digest, tokens))

    def debts(self) -> tuple[list[tuple[str, int]], int]:
        owed, self.owed = self.owed, ([], 0)
        return owed


class StoreOnClock(SynchronousTestCase):
    """The store's ids are id1, id2 ...; its deadline is one second."""

    limits = Limits()

    def setUp(self) -> None:
        self.set_up_with(self.limits)

    def set_up_with(self, limits: Limits) -> None:
        """Begin anew, with a store of these limits that is connected."""
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.fallback = ToldStandby(self.clock.seconds, limits)
        number = count(1)
        self.store = RedisStore(
            "redis://redis",
            self.clock,
            limits,
            self.fallback,
            1.0,
            self.endpoint,
            new_id=lambda: b"id%d" % next(number),
        )
        self.store.start()
        self.greeted: list[bytes] = []  # the last announcement before a connection counted
        self.resolved: list[bytes] = []  # and the question for the last call
        self.last: bytes | None = None  # what Redis knows of that
        self.missing, self.wait = 0, 0  # what it says of the others when a connection is made: see rejoin.lua
        self.server = self.connect()

    def connect(self, alive: int = 1) -> FakeConnection:
        """Accept the store's attempt and answer its greeting."""
        server = self.endpoint.accept()
        self.assertEqual([command[:2] for command in server.commands()], [[b"SCRIPT", b"LOAD"]] * SCRIPTS)
        server.reply(b"+sha\r\n" * SCRIPTS)
        self.resolved, self.greeted = server.commands()
        server.reply(bulk(self.last), array(alive, self.missing, self.wait))
        return server

    def reconnect(self, alive: int = 1) -> None:
        """Wait for the next attempt, and accept it."""
        self.clock.advance(0.5)
        self.server = self.connect(alive)

    def take(self, name: str, cost: int = 1, network: str = "") -> Asker:
        receiver = Asker()
        self.store.take(digest_of(name), receiver, cost, network)
        return receiver

    def end_of_turn(self) -> None:
        self.clock.advance(0)

    def batch(self) -> Batch:
        """The one call that was sent."""
        [command] = self.server.commands()
        self.assertIn(command[0], (b"EVALSHA", b"EVAL"))
        return read_batch(command)

    def is_call_of(self, name: str, command: list[bytes]) -> bool:
        """Whether a command calls this script by its hash."""
        script: Any = RedisScript(name, None)  # type: ignore[arg-type]
        return bool(script.command().split(b"\r\n")[4] == command[1])

    def outcome(self, receiver: Asker) -> Any:
        """The one answer."""
        [answer] = receiver.answers
        return answer
