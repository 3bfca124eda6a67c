"""Work that is deferred until the current events have been delivered, and connections that wait for theirs."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import REFUSED
from tests.proxy.world import Client, World, request, response
from twisted_lb.network.posted import SHARE_SECONDS, PostedWork

WITHOUT_KEY = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Piece:
    """Work that takes some time, and may come again."""

    def __init__(self, name: str, case: PostedWorkTests, seconds: float = 0.0, again: int = 0) -> None:
        self.name = name
        self.case = case
        self.seconds = seconds
        self.again = again
        self.given_up = False
        self.error: Exception | None = None

    def resume(self) -> None:
        self.case.done.append(self.name)
        self.case.clock.rightNow += self.seconds
        if self.error is not None:
            raise self.error
        if self.again:
            self.again -= 1
            self.case.posted.post(self)

    def give_up(self) -> None:
        self.given_up = True
        if self.error is not None:
            raise self.error


class PostedWorkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.iterations = 0
        self.posted = PostedWork(self.clock.seconds, self.soon)
        self.done: list[str] = []

    def soon(self, act: object) -> object:
        self.iterations += 1
        return self.clock.callLater(0, act)

    def post(self, *work: Piece) -> None:
        for one in work:
            self.posted.post(one)

    def iterate(self) -> None:
        """One iteration of a reactor: what is due when it begins."""
        due, self.clock.calls = self.clock.calls, []
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)

    def test_not_at_once(self) -> None:
        """Nothing is done while it is posted."""
        self.post(Piece("a", self))
        self.assertEqual((self.done, len(self.posted)), ([], 1))
        self.iterate()
        self.assertEqual((self.done, len(self.posted)), (["a"], 0))

    def test_in_order(self) -> None:
        """What posts itself again comes after all that was there, in another iteration."""
        self.post(Piece("a", self, again=2), Piece("b", self))
        self.iterate()
        self.assertEqual(self.done, ["a", "b"])
        self.post(Piece("c", self))
        self.iterate()
        self.assertEqual(self.done, ["a", "b", "a", "c"])
        self.iterate()
        self.iterate()
        self.assertEqual(self.done, ["a", "b", "a", "c", "a"])
        self.assertEqual(self.clock.calls, [])

    def test_share(self) -> None:
        """An iteration ends with the piece that uses up its time, and the next one begins with what is left."""
        self.post(*(Piece(name, self, SHARE_SECONDS / 2) for name in "abcde"))
        for done in ("ab", "abcd", "abcde"):
            self.iterate()
            self.assertEqual("".join(self.done), done)
        self.assertEqual((len(self.posted), self.iterations), (0, 3))

    def test_long_piece(self) -> None:
        """A piece that takes longer than the share is done all the same, one in an iteration."""
        self.post(Piece("a", self, 1.0), Piece("b", self, 1.0))
        self.iterate()
        self.assertEqual(self.done, ["a"])
        self.iterate()
        self.assertEqual(self.done, ["a", "b"])

    def test_failure(self) -> None:
        """A piece that raises is logged and given up, and the others go on, even if it raises there, too."""
        bad = Piece("bad", self)
        bad.error = ZeroDivisionError()
        self.post(bad, Piece("good", self))
        self.iterate()
        self.assertEqual((self.done, bad.given_up), (["bad", "good"], True))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class TurnTests(SynchronousTestCase):
    """Clients whose requests cost them nothing."""

    def setUp(self) -> None:
        self.world = World()

    def iterate(self) -> None:
        """One iteration of the reactor."""
        clock = self.world.clock
        due = [call for call in clock.calls if call.getTime() <= clock.seconds()]
        for call in due:
            clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def answers(self, client: Client) -> int:
        return client.received.count(b"HTTP/1.1 ")

    def test_one_refusal_at_a_time(self) -> None:
        """Of many pipelined requests without a key, each iteration answers one, and others are served in between."""
        other, upstream = self.world.asked()
        upstream.send(response())
        flood = self.world.client()
        flood.transport.deliver(WITHOUT_KEY * 50)
        self.assertEqual(self.answers(flood), 0)
        for answered in range(1, 6):
            self.iterate()
            self.assertEqual(self.answers(flood), answered)
        other.transport.deliver(request("GET", "/2"))
        self.assertIn(b"GET /2 ", upstream.received)
        self.world.settle()
        self.assertEqual(self.answers(flood), 50)

    def test_every_kind(self) -> None:
        """The same holds for an empty bucket, an unknown key, two keys, the user API, and OPTIONS for this gateway."""
        for name, data in (
            ("empty", request()),
            ("unknown", request()),
            ("ambiguous", request("GET", "/", b"apikey: other")),
            ("door", request("GET", "/door")),
            ("ours", request("OPTIONS", "*", b"Max-Forwards: 0")),
        ):
            self.world = World()
            self.world.buckets.forgets = name == "unknown"
            if name == "empty":
                self.world.buckets.answer = REFUSED
            flood = self.world.client()
            flood.transport.deliver(data * 20)
            self.assertLessEqual(self.answers(flood), 1, name)
            for _ in range(5):
                before = self.answers(flood)
                self.iterate()
                self.assertLessEqual(self.answers(flood), before + 1, name)
            self.world.settle()
            self.assertEqual(self.answers(flood), 20, name)

    def test_one_request_a_segment(self) -> None:
        """Requests that come one by one wait as well when the one before was refused."""
        flood = self.world.client()
        for answered in (1, 2, 3):
            flood.transport.deliver(WITHOUT_KEY)
            self.assertEqual(self.answers(flood), answered - 1)
            self.world.settle()
            self.assertEqual(self.answers(flood), answered)

    def test_reading_is_held(self) -> None:
        """A client is not read while what it has sent waits, and is read again when that is done."""
        flood = self.world.client()
        flood.transport.deliver(WITHOUT_KEY * 3)
        self.assertTrue(flood.transport.reading)
        flood.transport.deliver(WITHOUT_KEY)
        self.assertFalse(flood.transport.reading)
        flood.transport.deliver(WITHOUT_KEY)
        self.assertEqual(flood.transport.unread, len(WITHOUT_KEY))
        self.world.settle()
        self.assertEqual((self.answers(flood), flood.transport.reading), (5, True))

    def test_new_connection(self) -> None:
        """The first request of a connection waits for its turn, so that opening many is no way past the others."""
        client = self.world.client()
        client.transport.deliver(request())
        self.assertEqual(self.world.dialled, [])
        self.iterate()
        self.assertEqual(self.world.dialled, [("127.0.0.1", 9001)])

    def test_paying_client(self) -> None:
        """A request whose predecessor was served by a server is begun at once."""
        client, upstream = self.world.asked()
        upstream.send(response())
        client.transport.deliver(request("GET", "/2"))
        self.assertIn(b"GET /2 ", upstream.received)

    def test_half_close(self) -> None:
        """A client that ends its direction gets the answers to all its whole requests."""
        client = self.world.client()
        client.transport.deliver(WITHOUT_KEY * 10)
        client.finish()
        self.assertEqual([answer.status for answer in client.responses()], [401] * 10)
        self.assertTrue(client.ended)

    def test_long_wait(self) -> None:
        """A request that is whole and waits for its turn is not taken for one that comes too slowly."""
        world = World(head_timeout=1.0)
        client = world.client()
        client.transport.deliver(request())
        client.transport.protocol.deadline_passed()  # type: ignore[union-attr]
        world.settle()
        world.server.last.send(response())
        self.assertEqual(client.response().status, 200)

    def test_gone(self) -> None:
        """A client that has left gets nothing more, and nothing more is done for it."""
        client = self.world.client()
        client.transport.deliver(request("GET", "/door") * 3)
        client.leave()
        self.assertEqual(self.world.door.calls, [])
        self.assertEqual(self.world.clock.getDelayedCalls()[1:], [])

    def test_drain(self) -> None:
        """What waits when the program stops is answered, and the connection ends."""
        client = self.world.client()
        client.transport.deliver(WITHOUT_KEY * 3)
        self.world.factory.drain(5.0)
        self.world.wait(6.0)
        answers = client.responses()
        self.assertEqual((answers[-1].closes, client.ended), (True, True))


class RefusalsInARowTests(SynchronousTestCase):
    def test_limit(self) -> None:
        """The last of MAX_REFUSALS in a row says that the connection ends, and it does."""
        for data in (WITHOUT_KEY, request("GET", "/door")):
            world = World(max_refusals=3)
            world.door.during = lambda call: call.answer(status=b"405 Method Not Allowed")
            client = world.client()
            client.send(data * 10)
            self.assertEqual([answer.closes for answer in client.responses()], [False, False, True])
            world.wait(3.0)
            client.finish()
            self.assertTrue(client.ended, data)

    def test_in_a_row(self) -> None:
        """A response of a server, and any other answer that is no refusal, begins the count anew."""
        world = World(max_refusals=3)
        client = world.client()
        for good in (request(), request("GET", "/door")):
            client.send(WITHOUT_KEY * 2)
            client.send(good)
            if good == request():
                world.server.last.send(response())
        client.send(WITHOUT_KEY * 2)
        answers = client.responses()
        self.assertEqual([answer.status for answer in answers], [401, 401, 200, 401, 401, 200, 401, 401])
        self.assertFalse(answers[-1].closes)

    def test_any_number(self) -> None:
        """0 is no limit."""
        client = World(max_refusals=0).client()
        client.send(WITHOUT_KEY * 500)
        self.assertEqual(len(client.responses()), 500)
        self.assertFalse(client.ended)
