"""Random sequences of events on a connection: whatever is cut or delayed, everything arrives, and no tap stays held."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import read_request
from tests.proxy.world import World, request

LIVES = 150
STEPS = 400  # of chance in a life, before all is let go


def in_chunks(random: Random, body: bytes) -> bytes:
    """`body` in the chunked coding, in random chunks; no content byte looks like a chunk line."""
    coded = b""
    while body:
        size = random.randint(1, len(body))
        coded += b"%x\r\n%b\r\n" % (size, body[:size])
        body = body[size:]
    return coded + b"0\r\n\r\n"


def in_pieces(random: Random, data: bytes) -> list[bytes]:
    pieces = []
    while data:
        size = random.choice((1, 10, 1000, 40_000, 300_000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


class Life:
    """A client that pipelines requests, and a server that answers each when it is whole."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.world = World()
        self.world.buckets.later = random.random() < 0.5
        self.client = self.world.client()
        self.bodies = [self.body(b"q", n) for n in range(random.randint(1, 5))]
        self.answers = [self.body(b"a", n) for n in range(len(self.bodies))]
        stream = b"".join(self.request(n, body) for n, body in enumerate(self.bodies))
        self.to_send = in_pieces(random, stream)
        self.seen: list[tuple[bytes, bytes]] = []
        self.to_answer: list[bytes] = []
        self.arrived = b""

    def body(self, letter: bytes, n: int) -> bytes:
        return letter * self.random.choice((0, 1, 500, 70_000, 200_000))

    def request(self, n: int, body: bytes) -> bytes:
        if body and self.random.random() < 0.5:
            coded = in_chunks(self.random, body)
            return request("PUT", f"/{n}", b"Transfer-Encoding: chunked") + coded
        return request("PUT", f"/{n}", body=body or None)

    def response(self, n: int) -> bytes:
        body = self.answers[n]
        if self.random.random() < 0.5:
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + in_chunks(self.random, body)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    # What may happen

    def client_sends(self) -> None:
        if self.to_send:
            self.client.send(self.to_send.pop(0))

    def server_reads(self) -> None:
        if self.world.server.connections:
            self.arrived += self.world.server.last.read()
        found = read_request(self.arrived)
        if found is not None:
            target, body, self.arrived = found
            self.to_answer += in_pieces(self.random, self.response(len(self.seen)))
            self.seen.append((target, body))

    def server_sends(self) -> None:
        if self.to_answer:
            self.world.server.last.send(self.to_answer.pop(0))

    def bucket_answers(self) -> None:
        self.world.buckets.answer_now()
        self.world.settle()

    def client_stalls(self) -> None:
        self.client.stop_taking()

    def client_takes(self) -> None:
        self.client.take()

    def server_stalls(self) -> None:
        if self.world.server.connections:
            self.world.server.last.transport.stop_taking()

    def server_takes(self) -> None:
        if self.world.server.connections:
            self.world.server.last.transport.take()
            self.world.settle()

    def live(self) -> None:
        chances = (
            [self.client_sends, self.server_reads, self.server_sends] * 3
            + [self.bucket_answers, self.client_takes, self.server_takes] * 2
            + [self.client_stalls, self.server_stalls]
        )
        for _ in range(STEPS):
            self.random.choice(chances)()
        for _ in range(3):
            while self.to_send or self.to_answer:
                self.let_go()
            for _ in self.bodies:
                self.let_go()

    def let_go(self) -> None:
        self.client_takes()
        self.server_takes()
        self.client_sends()
        self.bucket_answers()
        self.server_reads()
        self.server_sends()


class LivesTests(SynchronousTestCase):
    def test_lives(self) -> None:
        """Requests and answers arrive whole and in order, and in the end every connection is read and counted out."""
        for seed in range(LIVES):
            life = Life(seed)
            life.live()
            expected = [(b"/%d" % n, body) for n, body in enumerate(life.bodies)]
            self.assertTrue(life.seen == expected, f"requests of seed {seed}")
            answers = [answer.body for answer in life.client.responses()]
            self.assertTrue(answers == life.answers, f"answers of seed {seed}")
            upstream = life.world.server.last
            self.assertTrue(life.client.transport.reading and upstream.transport.reading, f"held, seed {seed}")
            self.assertEqual((len(life.world.server.connections), life.world.in_flight), (1, [0]), f"seed {seed}")
            self.assertEqual(len(life.world.buckets.asked), len(life.bodies), f"seed {seed}")
            self.assertEqual(life.world.buckets.refunded, [], f"seed {seed}")
