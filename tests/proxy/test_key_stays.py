"""The key goes to no server, wherever else in a request a client has put it."""

from __future__ import annotations

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY
from tests.proxy.world import World, request, response
from twisted_lb.credentials import digest

OTHER = b"7c9e6679-7425-40de-944b-e07fc1f90ae7"  # of the form that is issued


def keyed(*fields: bytes, target: bytes = b"/") -> bytes:
    """A request with the key in X-API-Key, and these fields."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: api.example", b"X-API-Key: " + KEY, *fields, b"", b""])


class OwnKeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def forwarded(self, data: bytes) -> bytes:
        self.world.client().send(data)
        return self.world.server.last.received

    def test_in_credentials(self) -> None:
        """Credentials of any scheme that hold the key are not passed on; the request is, and all else of it."""
        pair = b64encode(b"user:" + KEY)
        for value in (b"DPoP " + KEY, b"Token token=" + KEY, b"Basic " + pair, b"Bearer, " + KEY, KEY + b" x"):
            forwarded = self.forwarded(keyed(b"A: 1", b"Authorization: " + value, b"B: 2"))
            self.assertIn(b"\r\nA: 1\r\nB: 2\r\nX-Consumer-Username: user1\r\n", forwarded)
            self.assertNotIn(b"authorization", forwarded.lower())
            self.assertNotIn(KEY, forwarded)
            self.assertNotIn(pair, forwarded)

    def test_elsewhere(self) -> None:
        """In any other place of the head the key is replaced, and what stands around it is passed on."""
        fields = b"Cookie: a=1; key=%b; b=2", b"X-Auth-Token: %b", b"Via: 1.0 %b", b"Content-Type: a/b;k=%b"
        fields += b"Referer: http://a.test/?apikey=%b", b"X-%b: 1"
        sent = keyed(*(field % KEY for field in fields), target=b"/a/%b?apikey=%b&x=1" % (KEY, KEY))
        forwarded = self.forwarded(sent)
        self.assertNotIn(KEY, forwarded)
        self.assertTrue(forwarded.startswith(b"GET /a/REDACTED?apikey=REDACTED&x=1 HTTP/1.1\r\n"))
        for field in fields:
            self.assertIn(b"\r\n" + field % b"REDACTED", forwarded)

    def test_in_trailers(self) -> None:
        """In trailers the key is replaced too, whether they come with the head or later."""
        head = request("POST", "/", b"Transfer-Encoding: chunked")
        body = b"1\r\na\r\n", b"0\r\nX-Sum: 1%b;2\r\nX-Key: %b\r\n\r\n" % (KEY, KEY)
        for pieces in ((head + b"".join(body),), (head, *body)):
            client = self.world.client()
            client.send(*pieces)
            self.assertTrue(
                self.world.server.last.received.endswith(b"0\r\nX-Sum: 1REDACTED;2\r\nX-Key: REDACTED\r\n\r\n")
            )

    def test_content(self) -> None:
        """The content of a request is the client's own business."""
        self.assertTrue(self.forwarded(request("POST", "/", body=b"key=" + KEY)).endswith(b"\r\n\r\nkey=" + KEY))

    def test_hidden_by_connection(self) -> None:
        """What Connection names counts for the rule of two keys, in every field that may carry one."""
        places = {b"Authorization": b"%b", b"authorization": b"Bearer %b", b"X-API-Key": b"%b", b"apikey": b"%b"}
        for one, first in places.items():
            for other, second in places.items():
                if one.lower() == other.lower():
                    continue
                for named in (one, other, one + b", " + other):
                    client = self.world.client()
                    lines = [b"%b: %b" % (one, first % KEY), b"%b: %b" % (other, second % b"another")]
                    lines += [b"Connection: keep-alive, " + named, b"Host: a", b"", b""]
                    client.send(b"\r\n".join([b"GET / HTTP/1.1", *lines]))
                    self.assertIn("two different API keys", client.response().detail)
        self.assertEqual((self.world.buckets.asked, self.world.dialled), ([], []))

    def test_named_by_connection(self) -> None:
        """A key is found where Connection names its field too, by the proxy and by the user API."""
        for field in (b"Authorization: ", b"Authorization: Bearer ", b"X-API-Key: ", b"apikey: "):
            lines = [b"Host: a", field + KEY, b"Connection: keep-alive, " + field.partition(b":")[0], b"", b""]
            forwarded = self.forwarded(b"\r\n".join([b"GET / HTTP/1.1", *lines]))
            self.assertIn(b"\r\nX-Consumer-Username: user1\r\n", forwarded)
            self.assertNotIn(KEY, forwarded)
            self.world.client().send(b"\r\n".join([b"GET /door HTTP/1.1", *lines]))
            self.assertIn(KEY, self.world.door.calls.pop().head)


class SecondKeyTests(SynchronousTestCase):
    """Credentials of another scheme that hold what looks like an issued key."""

    def setUp(self) -> None:
        self.world = World(counts_in_flight=True)

    def test_of_a_user(self) -> None:
        """Another user's key in them is a second key: 400, no server hears of it, and nothing is spent."""
        self.world.buckets.others.add(digest(OTHER))
        for value in (b"DPoP " + OTHER, b"Basic " + b64encode(b"user:" + OTHER), b"Bearer, " + OTHER, OTHER + b" x"):
            client = self.world.client()
            client.send(keyed(b"Authorization: " + value))
            answer = client.response()
            self.assertEqual(answer.status, 400)
            self.assertIn("two different API keys", answer.detail)
            self.assertFalse(answer.closes)
        self.assertEqual(self.world.dialled, [])
        self.assertEqual(self.world.buckets.refunded, [digest(KEY)] * 4)
        self.assertEqual(self.world.buckets.unreleased, 0)

    def test_of_nobody(self) -> None:
        """Identifiers of the server's own are passed on as they came, at the price of one request."""
        value = b"Token %b, %b" % (OTHER, OTHER.replace(b"7", b"1"))
        client, upstream = self.world.asked(keyed(b"Authorization: " + value))
        self.assertIn(b"\r\nAuthorization: %b\r\n" % value, upstream.received)
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")
        self.assertEqual(self.world.buckets.costs, [1, 0, 0])
        self.assertEqual(self.world.buckets.unreleased, 0)

    def test_store_away(self) -> None:
        """While the store cannot tell, they stay here."""
        self.world.buckets.later = True
        client = self.world.client()
        client.send(keyed(b"Authorization: DPoP " + OTHER))
        self.world.buckets.answer_now()
        self.assertEqual(self.world.dialled, [])
        self.world.buckets.answer = "Redis does not answer."
        self.world.buckets.answer_now()
        self.world.settle()
        self.assertIn(b"\r\nX-Consumer-Username: user1\r\n", self.world.server.last.received)
        self.assertNotIn(OTHER, self.world.server.last.received)

    def test_client_leaves(self) -> None:
        """A client that leaves while it is looked up is asked for no more, and its place in flight is free."""
        self.world.buckets.later = True
        client = self.world.client()
        client.send(keyed(b"Authorization: DPoP " + OTHER))
        self.world.buckets.answer_now()
        client.leave()
        self.world.buckets.answer_now()
        self.assertEqual((self.world.dialled, self.world.buckets.unreleased), ([], 0))
