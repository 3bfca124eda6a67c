"""The cache of names: one look-up at a time, kept for its TTL, and longer while the name servers do not answer."""

from __future__ import annotations

from itertools import pairwise
from resource import RLIM_INFINITY

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.network import names as names_module
from twisted_lb.network.dns_query import Answer, LookupFailed
from twisted_lb.network.hostname_resolver import HostnameResolver
from twisted_lb.network.names import (
    MAX_LOOKUPS,
    MAX_UNDER_WAY,
    RECENT_ANSWERS,
    SLOT_SECONDS,
    STALE_SECONDS,
    Names,
    Unresolved,
    most_under_way,
)

AWAY = LookupFailed("the name servers do not answer")


class NamesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.pending: list[Deferred[Answer]] = []
        self.names = Names(self.clock, self.look_up)
        self.told: list[object] = []

    def look_up(self, name: str) -> Deferred[Answer]:
        self.asked.append(name)
        self.pending.append(Deferred())
        return self.pending[-1]

    def ask(self, name: str = "a", timeout: float = 5.0) -> object:
        return self.names.ask(name, lambda found: self.told.append(found), timeout)

    def answer(self, *addresses: str, ttl: int = 60) -> None:
        self.pending.pop(0).callback(Answer(addresses, ttl))

    def fail(self, error: LookupFailed = AWAY) -> None:
        self.pending.pop(0).errback(error)

    def heard(self) -> list[object]:
        """What was told since the last call; a fault by its words."""
        told, self.told = self.told, []
        return [one.detail if isinstance(one, Unresolved) else one for one in told]


class AskingTests(NamesCase):
    def test_one_look_up(self) -> None:
        """All that want a name while it is looked up are told by one look-up; later ones at once, until the TTL."""
        for _ in range(100):
            self.ask()
        self.answer("192.0.2.1")
        self.assertEqual((self.asked, self.heard()), (["a"], [("192.0.2.1",)] * 100))
        self.clock.advance(59)
        self.ask()
        self.assertEqual((self.asked, self.heard()), (["a"], [("192.0.2.1",)]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_addresses(self) -> None:
        """An IP address is its own address, at once."""
        self.ask("192.0.2.1")
        self.ask("2001:db8::1")
        self.assertEqual((self.heard(), self.asked), ([("192.0.2.1",), ("2001:db8::1",)], []))

    def test_deadlines(self) -> None:
        """Each waits as long as it wants to; what comes later is known to the next one."""
        self.ask(timeout=1.0)
        self.ask(timeout=3.0)
        self.clock.advance(1)
        self.assertEqual(self.heard(), ["its name was not resolved in time"])
        self.clock.advance(1)
        self.answer("192.0.2.1")
        self.assertEqual(self.heard(), [("192.0.2.1",)])
        self.ask()
        self.assertEqual((self.heard(), len(self.asked)), ([("192.0.2.1",)], 1))

    def test_cancelled(self) -> None:
        """Who does not wait any more is told nothing."""
        waiting = self.ask()
        waiting.cancel()  # type: ignore[attr-defined]
        self.answer("192.0.2.1")
        self.assertEqual((self.heard(), self.clock.getDelayedCalls()), ([], []))

    def test_expired(self) -> None:
        """At the end of the TTL nobody waits: the old addresses serve until there are new ones."""
        self.ask()
        self.answer("192.0.2.1", ttl=10)
        self.clock.advance(10)
        self.ask()
        self.ask()
        self.assertEqual((self.heard(), len(self.asked)), ([("192.0.2.1",)] * 3, 2))
        self.answer("192.0.2.2")
        self.ask()
        self.assertEqual(self.heard(), [("192.0.2.2",)])

    def test_unused_for_long(self) -> None:
        """Addresses that nobody has wanted for long are not used before the name is looked up again."""
        self.ask()
        self.answer("192.0.2.1", ttl=10)
        self.heard()
        self.clock.advance(10 + STALE_SECONDS)
        self.ask()
        self.assertEqual(self.heard(), [])
        self.answer("192.0.2.2")
        self.assertEqual(self.heard(), [("192.0.2.2",)])

    def test_bounds_of_the_ttl(self) -> None:
        """A TTL of 0 is a second, one of a year an hour."""
        for ttl, until in ((0, 1), (10**8, 3600)):
            self.setUp()
            self.ask()
            self.answer("192.0.2.1", ttl=ttl)
            self.clock.advance(until - 0.1)
            self.ask()
            self.assertEqual(len(self.asked), 1)
            self.clock.advance(0.1)
            self.ask()
            self.assertEqual(len(self.asked), 2)


class TroubleTests(NamesCase):
    def test_away(self) -> None:
        """While the name servers are away the last addresses serve on, however old, and are asked for each second."""
        self.ask()
        self.answer("192.0.2.1", ttl=10)
        for _ in range(100):
            self.clock.advance(10)
            self.ask()
            self.fail()
        self.clock.advance(10_000)
        self.ask()
        self.fail()
        self.assertEqual(self.heard(), [("192.0.2.1",)] * 102)
        self.clock.advance(0.9)
        asked = len(self.asked)
        self.ask()
        self.assertEqual(len(self.asked), asked)

    def test_never_known(self) -> None:
        """A name that was never known fails with the reason, for a second without another look-up."""
        self.ask()
        self.fail()
        self.ask()
        self.assertEqual(self.heard(), ["its name cannot be resolved: the name servers do not answer"] * 2)
        self.assertEqual(len(self.asked), 1)
        self.clock.advance(1)
        self.ask()
        self.answer("192.0.2.1")
        self.ask()
        self.assertEqual(self.heard()[1:], [("192.0.2.1",)])

    def test_failed_before(self) -> None:
        """Nobody waits for a name that has no address and whose last look-up has failed; it is looked up meanwhile."""
        self.ask()
        self.fail()
        self.heard()
        self.clock.advance(1)
        for _ in range(3):
            self.ask()
        self.assertEqual(self.heard(), ["its name cannot be resolved: the name servers do not answer"] * 3)
        self.assertEqual(len(self.asked), 2)

    def test_late_comers(self) -> None:
        """The time that a name may take counts from the beginning of its look-up, for all that want it."""
        self.ask(timeout=5)
        self.clock.advance(4)
        self.ask(timeout=5)
        self.assertEqual(self.heard(), [])
        self.clock.advance(1)
        self.assertEqual(self.heard(), ["its name was not resolved in time"] * 2)
        self.ask(timeout=5)
        self.assertEqual(self.heard(), ["its name was not resolved in time"])
        self.answer("192.0.2.1")
        self.ask()
        self.assertEqual(self.heard(), [("192.0.2.1",)])

    def test_stale_at_the_deadline(self) -> None:
        """Who waits for an old name gets its old addresses when its time is up."""
        self.ask()
        self.answer("192.0.2.1", ttl=10)
        self.heard()
        self.clock.advance(1000)
        self.ask(timeout=1.0)
        self.clock.advance(1)
        self.assertEqual(self.heard(), [("192.0.2.1",)])

    def test_denied(self) -> None:
        """That a name has no address is believed, though it had some, and asked again after a second."""
        self.ask()
        self.answer("192.0.2.1", ttl=10)
        self.clock.advance(10)
        self.ask()
        self.answer()
        self.ask()
        self.assertEqual(self.heard(), [("192.0.2.1",)] * 2 + ["its name has no address"])
        self.clock.advance(1)
        self.ask()
        self.answer("192.0.2.1")
        self.assertEqual(self.heard(), [("192.0.2.1",)])

    def test_shortage(self) -> None:
        """When this machine could not ask, that is told."""
        self.ask()
        self.fail(LookupFailed("no open files", shortage=True))
        [found] = self.told
        self.assertTrue(isinstance(found, Unresolved) and found.shortage)

    def test_broken_look_up(self) -> None:
        """A look-up that raises anything is logged, and ends the waiting."""
        self.ask()
        self.pending.pop().errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.heard(), ["its name cannot be resolved: it could not be looked up"])

    def test_so_many_at_a_time(self) -> None:
        """Look-ups beyond the bound begin when others are over, and none is forgotten."""
        self.patch(names_module, "MAX_LOOKUPS", 2)
        for name in "abcd":
            self.ask(name)
        self.assertEqual(self.asked, ["a", "b"])
        self.answer("192.0.2.1")
        self.fail()
        self.assertEqual(self.asked, ["a", "b", "c", "d"])
        self.answer("192.0.2.3")
        self.answer("192.0.2.4")
        self.assertEqual(len(self.heard()), 4)

    def test_slots_of_slow_look_ups(self) -> None:
        """A look-up that takes its time gives up its slot, and nobody waits behind hundreds of silent names."""
        self.patch(names_module, "MAX_LOOKUPS", 2)
        for number in range(6):
            self.ask(f"silent{number}")
        self.ask("good")
        self.clock.pump([SLOT_SECONDS] * 3)
        self.assertEqual(self.asked[-1], "good")
        self.pending[-1].callback(Answer(("192.0.2.1",), 60))
        self.assertEqual(self.heard(), [("192.0.2.1",)])
        for pending in self.pending[:-1]:
            pending.errback(AWAY)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_most_under_way(self) -> None:
        """Look-ups that have given up their slots are bounded, too."""
        self.patch(names_module, "most_under_way", lambda files: 5)
        self.names = Names(self.clock, self.look_up)
        for number in range(8):
            self.ask(f"silent{number}")
        self.clock.advance(SLOT_SECONDS)
        self.assertEqual(len(self.asked), 5)
        self.fail()
        self.assertEqual(len(self.asked), 6)

    def test_slots_of_failed_names(self) -> None:
        """Names whose last look-up has failed have few slots, and come after the others."""
        self.patch(names_module, "FAILED_SLOTS", 1)
        for name in ("bad1", "bad2"):
            self.ask(name)
            self.fail()
        self.clock.advance(1)
        for name in ("bad1", "bad2", "new"):
            self.ask(name)
        self.assertEqual(self.asked[2:], ["bad1", "new"])
        self.fail()
        self.assertEqual(self.asked[4:], ["bad2"])

    def test_followed_at_once(self) -> None:
        """A name that is followed is looked up before anybody asks for it."""
        self.names.follow("a", lambda addresses: None)
        self.assertEqual(self.asked, ["a"])

    def test_rest(self) -> None:
        """Where one kind of addresses is late, its look-up goes on at once, and its end can be waited for."""
        self.ask()
        self.assertIsNone(self.names.ask_rest("b", self.told.append, 5.0))
        self.pending.pop(0).callback(Answer(("2001:db8::1",), 0, whole=False))
        self.assertEqual((self.asked, self.heard()), (["a", "a"], [("2001:db8::1",)]))
        self.assertIsNotNone(self.names.ask_rest("a", self.told.append, 5.0))
        self.pending.pop(0).callback(Answer(("2001:db8::1", "192.0.2.1"), 60))
        self.assertEqual(self.heard(), [("2001:db8::1", "192.0.2.1")])
        self.assertIsNone(self.names.ask_rest("a", self.told.append, 5.0))

    def test_names_of_the_hosts_file_behind_dead_names(self) -> None:
        """Thousands of names that are known at once may wait for a slot, and are looked up when one is free."""
        names = Names(self.clock, lambda name: Deferred() if "dead" in name else succeed(Answer(("192.0.2.1",), 5)))
        for number in range(MAX_LOOKUPS):
            names.ask(f"dead{number}", self.told.append, 5.0)
        for number in range(3000):
            names.ask(f"host{number}", self.told.append, 5.0)
        self.assertEqual(self.told, [])
        self.clock.advance(SLOT_SECONDS)
        self.assertEqual(self.told, [("192.0.2.1",)] * 3000)

    def test_look_ups_hold_up_nobody(self) -> None:
        """Look-ups that are over at once are done for some milliseconds at a time."""
        tick = 0.0005

        def look_up(name: str) -> Deferred[Answer]:
            self.clock.rightNow += tick
            return Deferred() if "dead" in name else succeed(Answer(("192.0.2.1",), 5))

        names = Names(self.clock, look_up)
        for number in range(MAX_LOOKUPS):
            names.ask(f"dead{number}", self.told.append, 5.0)
        for number in range(100):
            names.ask(f"host{number}", self.told.append, 5.0)
        heard = [0]

        def turn() -> None:
            heard.append(len(self.told))
            if heard[-1] < 100:
                self.clock.callLater(0, turn)

        self.clock.callLater(SLOT_SECONDS, turn)
        self.clock.advance(SLOT_SECONDS)
        self.assertEqual(heard[-1], 100)
        self.assertLessEqual(max(after - before for before, after in pairwise(heard)), 5)

    def test_open_files(self) -> None:
        """Where a process may open few files, fewer look-ups are under way, but never fewer than there are slots."""
        for files, most in ((1024, MAX_LOOKUPS), (4096, 128), (10**6, MAX_UNDER_WAY), (RLIM_INFINITY, MAX_UNDER_WAY)):
            self.assertEqual(most_under_way(files), most)

    def test_bounded_memory(self) -> None:
        """Of many names those that nobody needs are forgotten."""
        self.patch(names_module, "MAX_NAMES", 100)
        self.names.follow("kept", lambda addresses: None)
        for number in range(1000):
            self.ask(f"n{number}")
            self.answer("192.0.2.1")
        self.assertLessEqual(len(self.names._names), 100)
        self.assertIn("kept", self.names._names)


class DoubtTests(NamesCase):
    def test_doubted(self) -> None:
        """When no address takes a connection a name is looked up before the end of its TTL, once a second at most."""
        self.ask()
        self.answer("192.0.2.1", ttl=600)
        self.names.doubt("a")
        self.clock.advance(1)
        for _ in range(10):
            self.names.doubt("a")
        self.assertEqual(len(self.asked), 2)
        self.answer("192.0.2.2", ttl=600)
        self.ask()
        self.assertEqual(self.heard()[-1], ("192.0.2.2",))
        self.names.doubt("nobody's")


class FollowingTests(NamesCase):
    def setUp(self) -> None:
        super().setUp()
        self.moves: list[tuple[str, ...]] = []
        self.names.follow("a", self.moves.append)
        self.ask()
        self.answer("192.0.2.1", "192.0.2.2", ttl=20)

    def test_moved(self) -> None:
        """A followed name is looked up at the end of its TTL though nobody asks, and other addresses are told."""
        self.assertEqual(self.moves, [])
        self.clock.advance(20)
        self.answer("192.0.2.2", "192.0.2.1", ttl=20)
        self.assertEqual(self.moves, [])
        self.clock.advance(20)
        self.answer("192.0.2.3", ttl=20)
        self.clock.advance(20)
        self.answer()
        self.assertEqual(self.moves, [("192.0.2.3",), ()])

    def test_parts_in_turn(self) -> None:
        """Where each answer has a part of the addresses, the others are the name's for some answers more."""
        lines: list[str] = []
        globalLogPublisher.addObserver(observer := lambda event: lines.append(formatEvent(event)))
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        one, two, three = "192.0.2.1", "192.0.2.2", "192.0.2.3"
        for addresses in [(two, three), (three, one), (one, two)] * 10:
            self.clock.advance(20)
            self.answer(*addresses, ttl=20)
        self.assertEqual([set(move) for move in self.moves], [{one, two, three}])
        self.ask()
        self.assertEqual(self.heard()[-1], (one, two))
        self.clock.advance(20)
        self.answer("192.0.2.9", ttl=20)
        self.assertEqual(self.moves[1:], [("192.0.2.9",)])
        self.assertEqual(len([line for line in lines if "has other addresses" in line]), 2)

    def test_gone_for_some_answers(self) -> None:
        """An address that is missing from RECENT_ANSWERS is not one of the name any more."""
        for _ in range(RECENT_ANSWERS):
            self.assertEqual(self.moves, [])
            self.clock.advance(20)
            self.answer("192.0.2.1", ttl=20)
        self.assertEqual(self.moves, [("192.0.2.1",)])

    def test_away(self) -> None:
        """A failure moves nobody, and the look-ups go on."""
        self.clock.advance(20)
        self.fail()
        self.clock.advance(5)
        self.answer("192.0.2.3")
        self.assertEqual(self.moves, [("192.0.2.3",)])

    def test_short_ttl(self) -> None:
        """A name with a short TTL is looked up at its end; one without an address every five seconds."""
        self.clock.advance(20)
        for addresses, seconds in ((("192.0.2.1",), 1), ((), 5), ((), 5)):
            self.answer(*addresses, ttl=0)
            self.clock.advance(seconds - 0.1)
            self.assertEqual(self.pending, [])
            self.clock.advance(0.1)
            self.assertEqual(len(self.pending), 1)

    def test_unfollowed(self) -> None:
        """When nobody follows it any more, nothing is looked up, and no timer is left."""
        self.names.unfollow("a", self.moves.append)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.names.unfollow("b", self.moves.append)


class LogTests(NamesCase):
    def test_fields(self) -> None:
        """Each line about a name carries the name, its state, and the reason or the addresses as fields."""
        events: list[dict[str, object]] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.ask()
        self.answer("192.0.2.1", ttl=1)
        self.clock.advance(1)
        self.ask()
        self.fail()
        self.clock.advance(1)
        self.ask()
        self.answer("192.0.2.2", ttl=1)
        self.assertEqual(
            [(event["name"], event["state"], event.get("reason", event.get("addresses"))) for event in events],
            [
                ("a", "cannot be resolved", "the name servers do not answer"),
                ("a", "resolved", None),
                ("a", "moved", "192.0.2.2"),
            ],
        )
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "The name a cannot be resolved: the name servers do not answer; its last addresses are used",
                "The name a is resolved again",
                "The name a has other addresses: 192.0.2.2",
            ],
        )


class InterfaceTests(NamesCase):
    def test_resolver(self) -> None:
        """The names are those of the reactor's resolver as well, for addresses of the kinds that are wanted."""
        resolver = HostnameResolver(self.names)
        verifyObject(IHostnameResolver, resolver)
        heard: list[object] = []

        class Receiver:
            def resolutionBegan(self, resolution: object) -> None:
                heard.append("began")

            def addressResolved(self, address: object) -> None:
                heard.append(address)

            def resolutionComplete(self) -> None:
                heard.append("complete")

        resolver.resolveHostName(Receiver(), "a", 80, [IPv4Address])  # type: ignore[arg-type]
        self.answer("2001:db8::1", "192.0.2.1")
        resolver.resolveHostName(Receiver(), "a", 80)  # type: ignore[arg-type]
        four, six = IPv4Address("TCP", "192.0.2.1", 80), IPv6Address("TCP", "2001:db8::1", 80)
        self.assertEqual(heard, ["began", four, "complete", "began", six, four, "complete"])


class WatchingTests(NamesCase):
    def setUp(self) -> None:
        super().setUp()
        self.seen: list[Answer | None] = []

    def watch(self, longest: float = 30.0, name: str = "a") -> None:
        self.names.watch(name, self.seen.append, longest)

    def told_of(self) -> list[tuple[str, ...] | None]:
        seen, self.seen[:] = list(self.seen), []
        return [one and one.addresses for one in seen]

    def test_each_answer(self) -> None:
        """A watcher gets each answer, though nobody asks and nothing has changed: at the TTL, and no sooner."""
        self.watch()
        for _ in range(3):
            self.answer("192.0.2.1", ttl=10)
            self.assertEqual(self.told_of(), [("192.0.2.1",)])
            self.clock.advance(9.9)
            self.assertEqual(self.pending, [])
            self.clock.advance(1.2)
            self.assertEqual(len(self.pending), 1)

    def test_long_ttl(self) -> None:
        """A long TTL is cut to what the watcher wants, and so is that of a name that others know already."""
        self.ask()
        self.answer("192.0.2.1", ttl=600)
        self.names.follow("a", lambda addresses: None)
        self.clock.advance(10)
        self.watch(30)
        self.assertEqual(self.told_of(), [("192.0.2.1",)])
        self.clock.advance(23)
        self.answer("192.0.2.2", ttl=600)
        self.assertEqual(self.told_of(), [("192.0.2.2",)])
        self.clock.advance(29)
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(5)
        self.assertEqual(len(self.asked), 3)

    def test_no_answer(self) -> None:
        """A failure is told too; the name is looked up again after some seconds, with a TTL of 0 after one."""
        self.watch()
        self.fail()
        self.assertEqual(self.told_of(), [None])
        self.clock.advance(5)
        self.answer("192.0.2.1", ttl=0)
        self.clock.advance(1.1)
        self.answer()
        self.assertEqual(self.told_of(), [("192.0.2.1",), ()])
        self.clock.advance(5)
        self.assertEqual(len(self.pending), 1)

    def test_jitter(self) -> None:
        """Programs that were started together do not look names up at the same moments."""
        times = []
        for chance in (0.0, 0.5, 1.0):
            self.setUp()
            self.names = Names(self.clock, self.look_up, lambda chance=chance: chance)  # type: ignore[misc]
            self.watch()
            self.answer("192.0.2.1", ttl=20)
            times.append(min(call.getTime() for call in self.clock.getDelayedCalls()))
        self.assertEqual(times, [20, 21, 22])

    def test_unwatched(self) -> None:
        """A name that is watched no more is not looked up any more, and can be forgotten."""
        self.watch()
        self.answer("192.0.2.1", ttl=10)
        watcher = self.seen.append
        self.names.unwatch("a", watcher)
        self.names.unwatch("a", watcher)
        self.names.unwatch("unknown", watcher)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stays_watched(self) -> None:
        """Who follows a name is still told when a watcher has gone."""
        moved: list[object] = []
        self.names.follow("a", moved.append)
        self.watch()
        self.answer("192.0.2.1", ttl=10)
        self.names.unwatch("a", self.seen.append)
        self.clock.advance(11)
        self.answer("192.0.2.2")
        self.assertEqual(len(moved), 1)
