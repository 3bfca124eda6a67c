"""The scripts of the Redis store with their clock taken out: each call says what time it is."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple, Sequence

import hiredis
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.redis_server import MISSING, RedisServer
from tests.stores.contract import digest_of
from twisted_lb.interfaces import MICROTOKENS, Limits, SharedBucket
from twisted_lb.limits.shared_buckets import address_bucket, address_rule
from twisted_lb.stores.redis.batch_encoding import BatchFrame, Extra
from twisted_lb.stores.redis.keys import NAMES_KEY, account_key
from twisted_lb.stores.redis.protocol import encode_command, encode_parts
from twisted_lb.stores.redis.scripts import script_text
from twisted_lb.stores.redis.shared_part import Limited

SECOND = 1_000_000  # microseconds
START = 1_800_000_000 * SECOND
TIME_LINE = b"local time = call('TIME')\n"
EXPIRY = b"call('PEXPIRE', bucket[KEY], "
SCRIPTS = ("take_tokens", "create_account", "change_account", "read_account", "announce", "rejoin", "renew_quota")
# Those that come after a library, by its name.
LIBRARIES = {
    "users": (
        "create_user",
        "read_user",
        "change_user",
        "promote_shadow",
        "delete_user",
        "create_key",
        "change_key",
        "rotate_key",
    ),
    "counts": ("add_counts", "read_counts"),
}


class Answer(NamedTuple):
    """What take_tokens.lua replies to one taking."""

    name: bytes | None
    capacity: int
    rate: bytes | int
    outcome: int
    level: int


class LuaClient:
    """A connection to a Redis on loopback."""

    def __init__(
        self,
        port: int,
        limits: Limits = Limits(),
        instance: bytes = b"me",
        silence: float = 10.0,
        expiring: bool = True,
    ) -> None:
        """Unless `expiring`, shared buckets stay: Redis lets them expire by its own clock, not by that of the calls."""
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._reader = hiredis.Reader()
        self._frame = BatchFrame(limits, silence, b"process%d" % id(self))
        self._global_bucket = limits.global_bucket.capacity > 0
        self._address_rule = address_rule(limits.address)
        self.levels: list[int] = []  # of the shared buckets of the last batch
        self.wrong: list[bytes] = []  # keys that the last batch found to be what they should not be
        self._silence = b"%d" % round(silence * SECOND)
        self.instance = instance
        self.number = 0  # of the last call
        self.global_bucket = -1  # the level of the global bucket after the last batch, where there is one
        self._hashes = {}
        assert script_text("take_tokens").count(EXPIRY) == 1
        scripts = [("", name) for name in SCRIPTS]
        scripts += [(library, name) for library, names in LIBRARIES.items() for name in names]
        for library, name in scripts:
            text = script_text(name, library)
            # In production the time comes from Redis alone: only a changed text can be told another one.
            assert text.count(TIME_LINE) == 1 and text.count(b"'TIME'") == 1
            text = text.replace(TIME_LINE, b"local time = {ARGV[#ARGV - 1], ARGV[#ARGV]}\n")
            if not expiring:
                text = text.replace(EXPIRY, b"call('PERSIST', bucket[KEY]) --")
            self._hashes[name] = self.command(b"SCRIPT", b"LOAD", text)

    def run(self, name: str, now_us: int, keys: Sequence[bytes], *arguments: bytes) -> Any:
        """Call a script by its name."""
        parts = encode_parts(b"%d" % len(keys), *keys, *arguments)
        return self._run(name, now_us, 1 + len(keys) + len(arguments), parts)

    def batch(
        self,
        now_us: int,
        *names: str,
        released: Sequence[str] = (),
        charged: Sequence[tuple[str, int]] = (),
        extras: Sequence[tuple[int, int, str]] = (),
        shared_charges: Sequence[tuple[SharedBucket, int]] = (),
        limited: Sequence[tuple[int, int, tuple[SharedBucket, ...]]] = (),
    ) -> list[Answer]:
        """Take from the accounts of these keys; `charged` and `shared_charges` are with tokens.

        `extras` and `limited` are as in `batch_encoding` and `shared_part`.
        """
        self._frame.set_instance(self.instance)
        self.number += 1
        count, parts = self._frame.encode(
            self.number,
            [digest_of(name) for name in names],
            [digest_of(name) for name in released],
            [digest_of(name) for name, _ in charged],
            [tokens * MICROTOKENS for _, tokens in charged],
            sum(tokens for _, tokens in charged) * MICROTOKENS,
            [Extra(*extra) for extra in extras],
            [(shared, tokens * MICROTOKENS) for shared, tokens in shared_charges],
            [Limited(*one) for one in limited],
        )
        reply = self._run("take_tokens", now_us, count, parts)
        takings = len(names) + sum(position == 0 for position, _, _ in limited)
        answers, rest = reply[: 5 * takings], reply[5 * takings :]
        # A shadow has two numbers.
        levels = sum(len(buckets) + sum(one.shadow for one in buckets) for _, _, buckets in limited)
        self.levels, rest = rest[:levels], rest[levels:]
        if self._global_bucket:
            # Where there is a bucket of everyone, its level comes after them.
            self.global_bucket, *rest = rest
        self.wrong = rest
        element = iter(answers)
        return [Answer(*five) for five in zip(element, element, element, element, element, strict=True)]

    def take(self, now_us: int, name: str, cost: int = 1, network: str = "") -> Answer:
        """Take `cost` tokens for one request."""
        return self.batch(now_us, name, extras=[(1, cost, network)])[0]

    def address(self, network: str) -> tuple[SharedBucket]:
        """The bucket of a client's network."""
        return (address_bucket(self._address_rule, network),)

    def create(self, now_us: int, name: str, capacity: int, rate: float = 0.0) -> None:
        """An account of this name, whose key is the name too."""
        digest = digest_of(name)
        arguments = b"%d" % capacity, repr(rate).encode(), b"%d" % (capacity * MICROTOKENS), digest.encode()
        reply = self.run("create_account", now_us, [account_key(digest), NAMES_KEY], *arguments, name.encode())
        assert reply == 0, reply

    def level(self, now_us: int, name: str) -> int:
        """The level of an account's bucket; changes nothing."""
        return int(self.run("read_account", now_us, [account_key(digest_of(name))])[3])

    def announce(self, now_us: int, instance: bytes) -> int:
        """Announce an instance: how many live."""
        return int(self.run("announce", now_us, [b"tokenlb:instances"], instance, self._silence)[0])

    def rejoin(self, now_us: int, instance: bytes, what: bytes, *former: bytes) -> tuple[int, int]:
        """Call rejoin.lua: how many are waited for, and what to do (see there).  Half a second of silence is usual."""
        keys = [b"tokenlb:instances", b"tokenlb:returning", b"tokenlb:switch"]
        _, missing, wait = self.run("rejoin", now_us, keys, instance, self._silence, what, b"500000", *former)
        return int(missing), int(wait)

    def command(self, *parts: bytes) -> Any:
        """Send any command; raises what is an error."""
        return self._send(encode_command(*parts))

    def changes(self) -> int:
        """How many writes Redis has done."""
        info: bytes = self.command(b"INFO", b"persistence")
        return int(info.split(b"rdb_changes_since_last_save:")[1].split(b"\r\n")[0])

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _run(self, name: str, now_us: int, count: int, parts: bytes) -> Any:
        seconds, microseconds = divmod(now_us, SECOND)
        time = encode_parts(b"%d" % seconds, b"%d" % microseconds)
        head = b"*%d\r\n" % (count + 4) + encode_parts(b"EVALSHA", self._hashes[name])
        return self._send(head + parts + time)

    def _send(self, command: bytes) -> Any:
        self._socket.sendall(command)
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        if isinstance(reply, Exception):
            raise reply
        return reply


def lua_for(case: SynchronousTestCase, limits: Limits = Limits(), expiring: bool = True) -> LuaClient:
    """A client of a Redis that is there for one test, which is skipped where none is installed."""
    if MISSING:
        raise SkipTest(MISSING)
    server = RedisServer()
    case.addCleanup(server.close)
    server.start()
    lua = LuaClient(server.port, limits, expiring=expiring)
    case.addCleanup(lua.close)
    return lua
