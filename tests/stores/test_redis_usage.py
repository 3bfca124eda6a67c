"""Counts by time on the way to Redis: what becomes of them when it does not answer."""

from __future__ import annotations

from typing import Any

from tests.stores.contract import digest_of
from tests.stores.fake_redis import array
from tests.stores.redis_on_clock import NOSCRIPT, StoreOnClock
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis.scripts import RedisScript
from twisted_lb.stores.redis.usage import MAX_ADDED, MAX_READ
from twisted_lb.usage import WindowCounts, key_subject

KEY = key_subject(digest_of("k"))
PLACE = f"tokenlb:usage:{{{KEY}}}".encode()
ONE = {KEY: {"requests": 2, "refused:default": 1}}


class AddTests(StoreOnClock):
    def add(self, counts: Any = ONE) -> Any:
        return self.store.add_counts(counts)

    def many(self, number: int) -> dict[str, dict[str, int]]:
        return {f"limit:{at}": {"requests": at + 1} for at in range(number)}

    def test_one_call(self) -> None:
        """A subject goes with the digest of its key, and its counters as one text; all is stored with the reply."""
        added = self.add()
        [command] = self.server.commands()
        self.assertTrue(self.is_call("add_counts", command))
        self.assertEqual(command[2:], [b"1", PLACE, digest_of("k").encode(), b"requests=2 refused:default=1"])
        self.assertNoResult(added)
        self.server.reply(b":1\r\n")
        self.assertEqual(self.successResultOf(added), {})

    def is_call(self, name: str, command: list[bytes]) -> bool:
        """As `is_call_of`, of a script with the library."""
        script: Any = RedisScript(name, None, "counts")  # type: ignore[arg-type]
        return bool(script.command().split(b"\r\n")[4] == command[1])

    def test_a_redis_that_has_not_the_script(self) -> None:
        """It is sent once more, with its text."""
        added = self.add()
        self.server.commands()
        self.server.reply(NOSCRIPT)
        [command] = self.server.commands()
        self.assertEqual((command[0], command[3]), (b"EVAL", PLACE))
        self.server.reply(b":1\r\n")
        self.assertEqual(self.successResultOf(added), {})

    def test_no_connection(self) -> None:
        """Without a connection nothing is lost: all is given back."""
        self.server.lose()
        self.assertEqual(self.successResultOf(self.add()), ONE)

    def test_a_refusing_redis(self) -> None:
        """An error says that nothing was stored: all is given back."""
        added = self.add()
        self.server.commands()
        self.server.reply(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
        self.assertEqual(self.successResultOf(added), ONE)

    def test_a_lost_reply(self) -> None:
        """What may have been stored is not given back, so that nothing counts twice."""
        added = self.add()
        self.server.commands()
        self.server.lose()
        self.assertEqual(self.successResultOf(added), {})

    def test_calls_are_short(self) -> None:
        """Many subjects go in several calls, one after the other."""
        counts = self.many(2 * MAX_ADDED + 1)
        added = self.add(counts)
        sizes = []
        for _ in range(3):
            [command] = self.server.commands()
            sizes.append(int(command[2]))
            self.server.reply(b":1\r\n")
        self.assertEqual(sizes, [MAX_ADDED, MAX_ADDED, 1])
        self.assertEqual(self.successResultOf(added), {})

    def test_a_connection_that_is_lost_in_the_middle(self) -> None:
        """What was sent is stored, or not known; the rest is given back."""
        counts = self.many(2 * MAX_ADDED + 1)
        added = self.add(counts)
        self.server.commands()
        self.server.reply(b":50\r\n")
        self.server.commands()
        self.server.lose()
        self.assertEqual(self.successResultOf(added), {"limit:100": {"requests": 101}})

    def test_nothing(self) -> None:
        """Nothing is not sent."""
        self.assertEqual(self.successResultOf(self.add({})), {})
        self.assertEqual(self.server.commands(), [])


class ReadTests(StoreOnClock):
    def test_the_windows(self) -> None:
        """Numbers by name, sorted, without those that are 0; many subjects in several calls."""
        asked = self.store.counts_of([KEY, *("limit:x",) * MAX_READ])
        [command] = self.server.commands()
        self.assertEqual(command[2:4], [b"%d" % MAX_READ, PLACE])
        hour, day = array(b"tokens", b"5", b"requests", b"2", b"x", b"0"), array(b"tokens", b"9")
        nothing = b"*2\r\n*0\r\n*0\r\n"
        self.server.reply(b"*%d\r\n*2\r\n" % MAX_READ + hour + day + nothing * (MAX_READ - 1))
        self.server.commands()
        self.server.reply(b"*1\r\n" + nothing)
        found = self.successResultOf(asked)
        self.assertEqual(found, [({"requests": 2, "tokens": 5}, {"tokens": 9})] + [({}, {})] * MAX_READ)
        self.assertEqual(list(found[0].hour), ["requests", "tokens"])
        self.assertIsInstance(found[0], WindowCounts)

    def test_unavailable(self) -> None:
        """Without a connection, or after an error, the store is unavailable."""
        asked = self.store.counts_of([KEY])
        self.server.commands()
        self.server.reply(b"-ERR x\r\n")
        self.failureResultOf(asked, StoreUnavailable)
        self.server.lose()
        self.failureResultOf(self.store.counts_of([KEY]), StoreUnavailable)
