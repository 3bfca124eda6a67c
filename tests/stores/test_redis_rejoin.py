"""Coming back from an outage together: until all are back the shares decide, and nobody takes before all charged."""

from __future__ import annotations

from tests.stores.contract import digest_of
from tests.stores.fake_redis import array
from tests.stores.redis_on_clock import ANN, LIMITS, StoreOnClock, account, read_batch
from twisted_lb.interfaces import MICROTOKENS, Limits, Taken
from twisted_lb.stores.redis.instances import ANNOUNCE_SECONDS
from twisted_lb.stores.redis.recovery import HELD_POLL_SECONDS, NEW_SECONDS, POLL_SECONDS
from twisted_lb.stores.redis.store import RedisStore
from twisted_lb.users import KEY_DISABLED

LOCAL = Taken(True, b"ann", 5, 0.5, 1_000_000)
OUTAGE = b"-OUTAGE balancers are coming back from an outage, and have not charged what they spent\r\n"
GO, WAIT = 0, -1


class RejoinOnClock(StoreOnClock):
    """A store that has lost its connection, and shares its Redis with others."""

    def set_up_with(self, limits: Limits) -> None:
        super().set_up_with(limits)
        self.fallback.answers[digest_of("a")] = LOCAL
        self.fallback.recent[digest_of("a")] = LOCAL, 0.0

    def come_back(self, wait: int = WAIT, missing: int = 1) -> None:
        """Lose the connection, and make another one, on which others are waited for."""
        self.server.lose()
        self.missing, self.wait = missing, wait
        self.reconnect(alive=2)

    def said(self) -> bytes:
        """What the one call that was sent says to the others."""
        [command] = self.server.commands()
        self.assertTrue(self.is_call_of("rejoin", command))
        return command[8]

    def poll(self, wait: int, missing: int = 1) -> None:
        """Let the next question for the others come, and answer it."""
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(self.said(), b"back")
        self.server.reply(array(2, missing, wait))

    def owe(self, **tokens: int) -> None:
        """What the fallback has spent."""
        debts = [(digest_of(name), count * MICROTOKENS) for name, count in tokens.items()]
        self.fallback.owed = (debts, sum(amount for _, amount in debts))


class WaitingTests(RejoinOnClock):
    """Others are not back yet."""

    def test_the_shares_decide_until_all_are_back(self) -> None:
        """While others are missing, takings are decided by the fallback within the call, and none is sent."""
        self.come_back()
        for _ in range(3):
            self.assertEqual(self.outcome(self.take("a")), LOCAL)
            self.poll(WAIT)
        self.end_of_turn()
        self.assertEqual((self.server.commands(), self.store.takes), ([], 0))

    def test_it_is_told_to_operators(self) -> None:
        """Until all are back the store is not up, and the reason says how many are missing."""
        self.come_back(missing=3)
        state = self.store.state()
        self.assertEqual((state.up, self.store.counts()["store_up"]), (False, 0.0))
        self.assertIn("Redis is back, and 3 balancers that shared it are waited for", state.reason)
        self.poll(GO)
        self.assertEqual((self.store.state().up, self.store.counts()["store_up"]), (True, 1.0))
        self.assertEqual(self.store.counts()["store_outages"], 1)

    def test_nothing_is_charged_before_the_moment(self) -> None:
        """What was spent on shares is asked of the fallback once, at the moment: until then the shares go on."""
        self.come_back()
        self.owe(a=2)
        for _ in range(3):
            self.poll(WAIT)
        self.poll(50_000, missing=0)
        self.assertEqual(self.server.commands(), [])
        self.clock.advance(0.05)
        self.assertEqual(self.batch().charged, [(account("a"), 2 * MICROTOKENS)])

    def test_requests_that_end_are_charged_to_the_shares(self) -> None:
        """A request that ends while others are missing is charged to its share, and its place is free at once."""
        self.set_up_with(LIMITS)
        self.come_back()
        self.take("a")
        self.store.release(digest_of("a"), 3)
        self.assertEqual(self.fallback.released, [(digest_of("a"), 3)])
        self.poll(GO)
        self.assertEqual(self.server.commands(), [])

    def test_another_outage_meanwhile(self) -> None:
        """A connection that is lost while others are missing is made anew under a new id, and the shares go on."""
        self.come_back()
        self.owe(a=2)
        self.come_back()
        self.assertEqual(self.greeted[6:], [b"id3", b"10000000", b"back", b"750000", b"id2"])
        self.assertEqual(self.outcome(self.take("a")), LOCAL)
        self.poll(GO)
        self.assertEqual(self.batch().charged, [(account("a"), 2 * MICROTOKENS)])

    def test_the_parts_of_a_share_stay(self) -> None:
        """While others are missing the number of balancers does not fall: a share is not a larger part meanwhile."""
        self.server.lose()
        self.reconnect(alive=5)
        self.come_back()
        self.assertEqual(self.fallback.instances, 5)
        self.poll(WAIT)
        self.assertEqual(self.fallback.instances, 5)
        self.poll(GO)
        self.assertEqual(self.fallback.instances, 2)

    def test_an_error_is_an_outage(self) -> None:
        """A Redis that refuses the question for the others is given up, and asked on the next connection."""
        self.come_back()
        self.clock.advance(POLL_SECONDS)
        self.server.commands()
        self.server.reply(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
        self.assertTrue(self.server.closing)
        self.wait = GO
        self.reconnect()
        self.assertTrue(self.store.state().up)


    def test_a_fault_of_our_own(self) -> None:
        """When coming back fails by a fault of ours, it is in the log, and the next connection begins anew."""
        self.come_back()
        self.clock.advance(POLL_SECONDS)
        self.server.commands()
        self.server.reply(array(b"bad", 0, 0))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertTrue(self.server.closing)
        self.wait = GO
        self.reconnect()
        self.assertTrue(self.store.state().up)


class MomentTests(RejoinOnClock):
    """All are back: the moment at which they go to Redis."""

    def at_the_moment(self) -> None:
        self.come_back(wait=120_000, missing=0)
        self.owe(a=2)
        self.clock.advance(0.12)
        self.assertEqual(self.batch().charged, [(account("a"), 2 * MICROTOKENS)])

    def test_shares_decide_until_the_moment(self) -> None:
        """Between the agreement and the moment takings are decided by the fallback."""
        self.come_back(wait=120_000, missing=0)
        self.clock.advance(0.119)
        self.assertEqual(self.outcome(self.take("a")), LOCAL)

    def test_takings_wait_until_all_have_charged(self) -> None:
        """From the moment on takings wait: first all that was spent is charged, then it is asked whether all have."""
        self.at_the_moment()
        receiver = self.take("a")
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])
        self.server.reply(b"*0\r\n")
        self.assertEqual(self.said(), b"charged")
        self.server.reply(array(2, 1, 1))
        self.clock.advance(HELD_POLL_SECONDS)
        self.assertEqual(self.said(), b"charged")
        self.assertEqual(receiver.answers, [])
        self.server.reply(array(2, 0, GO))
        self.assertEqual(self.batch().taken, [account("a")])
        self.server.reply(array(*ANN))
        self.assertTrue(self.outcome(receiver).admitted)
        self.assertTrue(self.store.state().up)

    def test_one_that_does_not_charge(self) -> None:
        """When not all charge in time, what waited is decided by the fallback, and all is asked for again."""
        self.at_the_moment()
        receiver = self.take("a")
        self.server.reply(b"*0\r\n")
        self.assertEqual(self.said(), b"charged")
        self.server.reply(array(2, 1, WAIT))
        self.assertEqual(self.outcome(receiver), LOCAL)
        self.assertEqual(self.said(), b"back")
        self.server.reply(array(2, 1, WAIT))
        self.assertEqual(self.outcome(self.take("a")), LOCAL)
        self.poll(GO)
        self.assertTrue(self.store.state().up)

    def test_a_loss_at_the_moment(self) -> None:
        """A connection that is lost while requests are held leaves them to the fallback, and charges the rest later."""
        self.at_the_moment()
        receiver = self.take("a")
        self.server.lose()
        self.assertEqual(self.outcome(receiver), LOCAL)
        self.wait = GO
        self.reconnect()
        self.assertEqual(self.batch().charged, [(account("a"), 2 * MICROTOKENS)])

    def test_alone(self) -> None:
        """An instance that is alone charges as soon as it is connected, and asks nobody."""
        self.owe(a=1)
        self.come_back(wait=GO, missing=0)
        self.take("a")
        self.assertEqual(self.batch().charged, [(account("a"), MICROTOKENS)])
        self.server.reply(b"*0\r\n")
        self.assertEqual(self.batch().taken, [account("a")])


class UnnoticedTests(RejoinOnClock):
    """Others come back from an outage that this instance has not noticed."""

    def rejoined(self) -> list[bytes]:
        [command] = self.server.commands()
        self.assertTrue(self.is_call_of("rejoin", command))
        return command[6:]

    def test_a_taking_that_is_refused(self) -> None:
        """Takings that Redis refuses for that are decided by the fallback, on the same connection, under a new id."""
        receiver = self.take("a")
        self.store.release(digest_of("b"), 3)
        self.end_of_turn()
        waiting = self.take("a")
        self.server.commands()
        self.server.reply(OUTAGE)
        self.assertEqual([self.outcome(receiver), self.outcome(waiting)], [LOCAL, LOCAL])
        self.assertEqual(self.fallback.released, [(digest_of("b"), 3)])
        self.assertEqual(self.rejoined(), [b"id2", b"10000000", b"back", b"750000", b"id1"])
        self.assertFalse(self.server.closing)
        self.assertFalse(self.store.state().up)
        self.assertEqual(self.store.counts()["store_outages"], 0)
        self.server.reply(array(2, 0, GO))
        self.take("a")
        self.end_of_turn()
        self.assertEqual(self.batch().constant[1], b"id2")

    def test_an_announcement_that_is_told(self) -> None:
        """An idle instance hears of it with its next announcement."""
        self.clock.advance(ANNOUNCE_SECONDS)
        self.server.commands()
        self.server.reply(array(2, 0, 1))
        self.assertEqual(self.rejoined()[2], b"back")
        self.assertEqual(self.outcome(self.take("a")), LOCAL)

    def test_a_call_under_way(self) -> None:
        """What Redis has carried out meanwhile is handed out, and what waited behind it is decided by the fallback."""
        self.clock.advance(ANNOUNCE_SECONDS)
        under_way = self.take("a")
        self.end_of_turn()
        waiting = self.take("a")
        self.server.commands()
        self.server.reply(array(2, 0, 1), array(*ANN))
        self.assertEqual(self.outcome(under_way).level, ANN[4])
        self.assertEqual(self.outcome(waiting), LOCAL)
        self.assertEqual(len(self.server.commands()), 1)


class NewTests(StoreOnClock):
    """An instance that has never decided about a request."""

    def test_it_looks_for_those_that_are_silent(self) -> None:
        """While some are silent a new instance is not reached yet; after a second it goes on without them."""
        self.server.lose()
        self.endpoint.attempts.clear()
        self.store = RedisStore("redis://redis", self.clock, LIMITS, self.fallback, 1.0, self.endpoint)
        self.store.start()
        self.missing, self.wait = 1, WAIT
        self.server = self.connect()
        said = [self.greeted[8]]
        self.assertEqual(self.store.state()[::2], (False, False))
        # It has no share, and asks for nobody's account.
        self.assertIn("waited for", self.outcome(self.take("a")))
        self.assertEqual(self.server.commands(), [])
        while said[-1] == b"new":
            self.clock.advance(POLL_SECONDS)
            [command] = self.server.commands()
            said.append(command[8])
            self.server.reply(array(1, 1, WAIT if said[-1] == b"new" else GO))
        self.assertEqual(said[-1], b"join")
        self.assertLess(abs(self.clock.seconds() - NEW_SECONDS), 2 * POLL_SECONDS)
        self.assertTrue(self.store.state().up)

    def test_one_without_shares_says_so(self) -> None:
        """The id of an instance that has no shares has a dot: nobody waits for what it might charge."""
        for mode, dotted in (("local", False), ("deny", True), ("allow", True)):
            self.fallback.mode = mode
            self.store = RedisStore("redis://redis", self.clock, LIMITS, self.fallback, 1.0, self.endpoint)
            self.store.start()
            self.connect()
            self.assertEqual(b"." in self.greeted[6], dotted, mode)


class UnknownKeyTests(RejoinOnClock):
    """Keys of which the fallback knows nothing, while others are missing."""

    PROFILE = (b"bob", b"7", b"0.5", 4_000_000, 0, 0, digest_of("new").encode(), 0, 0, b"0", 0, None, None)

    def test_redis_is_asked(self) -> None:
        """A key that is not known is looked up in Redis, and has its share of what is there."""
        self.come_back()
        self.fallback.answers[digest_of("new")] = LOCAL
        receiver = self.take("new")
        [command] = self.server.commands()
        self.assertTrue(self.is_call_of("read_account", command))
        self.assertEqual(command[3], account("new"))
        self.server.reply(array(*self.PROFILE))
        self.assertEqual(self.outcome(receiver), LOCAL)
        known, _ = self.fallback.recent[digest_of("new")]
        self.assertEqual(known, Taken(True, b"bob", 7, 0.5, 4_000_000))
        self.assertEqual(self.outcome(self.take("new")), LOCAL)

    def test_a_key_that_must_not_be_used(self) -> None:
        """A key that Redis says to be disabled is refused for that reason, and is not known from then on."""
        self.come_back()
        for _ in range(2):
            receiver = self.take("new")
            [command] = self.server.commands()
            self.assertTrue(self.is_call_of("read_account", command))
            self.server.reply(array(*self.PROFILE[:5], 91, *self.PROFILE[6:]))
            self.assertEqual(self.outcome(receiver), Taken(False, b"bob", 0, 0.0, 0, KEY_DISABLED))

    def test_a_further_key(self) -> None:
        """A further key has its share of the bucket of its user; that says nothing of the user's first key."""
        self.come_back()
        self.fallback.answers[digest_of("new")] = LOCAL
        receiver = self.take("new")
        self.server.commands()
        special = digest_of("first").encode(), 1_000_000, 3, b"0.25", 2_000_000, None, None
        self.server.reply(array(*self.PROFILE[:6], *special))
        self.assertEqual(self.outcome(receiver), LOCAL)
        self.assertTrue(self.fallback.knows(digest_of("new")))
        self.assertFalse(self.fallback.knows(digest_of("first")))

    def test_a_key_of_nobody(self) -> None:
        """A key that Redis does not know either is nobody's, not unavailable; it costs its network a token."""
        self.set_up_with(LIMITS)
        self.come_back()
        for _ in range(3):
            receiver = self.take("nobody", 1, "1.2.3.4")
            self.server.commands()
            self.server.reply(b"*-1\r\n")
            self.assertIsNone(self.outcome(receiver))
        self.assertFalse(self.outcome(self.take("nobody", 1, "1.2.3.4")).admitted)

    def test_a_loss_meanwhile(self) -> None:
        """A key whose look-up is lost with the connection is unavailable."""
        self.come_back()
        receiver = self.take("new")
        self.server.lose()
        self.assertIn("was lost", self.outcome(receiver))

    def test_deny_asks_nobody(self) -> None:
        """With ON_STORE_ERROR=deny a key is unavailable until all are back, and the reason says what is waited for."""
        self.come_back()
        self.fallback.mode = "deny"
        self.assertIn("Redis is back, and 1 balancers", self.outcome(self.take("new")))


class LeavingTests(RejoinOnClock):
    """An instance that stops while others are missing."""

    def test_it_charges_what_it_spent_and_leaves(self) -> None:
        """A stop charges what was spent on shares, and then takes the instance out of both lists."""
        self.come_back()
        self.owe(a=2)
        stopped = self.store.stop()
        self.assertEqual(self.batch().charged, [(account("a"), 2 * MICROTOKENS)])
        self.server.reply(b"*0\r\n")
        [noted] = self.server.commands()
        self.assertTrue(self.is_call_of("note_used", noted))
        self.server.reply(b":1\r\n")
        charged, left = self.server.commands()
        self.assertTrue(self.is_call_of("rejoin", charged))
        self.assertEqual((charged[8], left), (b"charged", [b"ZREM", b"tokenlb:instances", b"id2"]))
        self.server.reply(array(1, 0, GO), b":1\r\n")
        self.assertTrue(self.server.closing)
        self.server.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_question_under_way(self) -> None:
        """A stop while the others are asked for charges when the answer is there."""
        self.come_back()
        self.owe(a=2)
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(self.said(), b"back")
        self.store.stop()
        self.server.reply(array(2, 1, WAIT))
        self.assertEqual(read_batch(self.server.commands()[0]).charged, [(account("a"), 2 * MICROTOKENS)])

    def test_a_loss_meanwhile(self) -> None:
        """A stop does not wait for a connection that is lost."""
        self.come_back()
        self.owe(a=2)
        stopped = self.store.stop()
        self.server.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
