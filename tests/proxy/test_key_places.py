"""Where a key may be: beside the application's own credentials, in configured fields, in the query."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import OrderedServices
from tests.proxy.world import World
from twisted_lb.credentials import digest
from twisted_lb.proxy.exchange import Exchange

KEY = b"0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = b"7c9e6679-7425-40de-944b-e07fc1f90ae7"
TOKEN = b"eyJhbGciOiJub25lIn0.e30.c2ln"


def get(*fields: bytes, target: bytes = b"/") -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: api.example", *fields, b"", b""])


class PlacesCase(SynchronousTestCase):
    settings: dict[str, object] = {}

    def setUp(self) -> None:
        self.world = World(**self.settings)  # type: ignore[arg-type]
        self.world.buckets.others.add(digest(KEY))

    def forwarded(self, data: bytes) -> bytes:
        """What the server gets of a request that is admitted by KEY."""
        self.world.client().send(data)
        self.assertEqual(self.world.buckets.asked[-1:], [digest(KEY)])
        received = self.world.server.last.received
        self.assertIn(b"\r\nX-Consumer-Username: user1\r\n", received)
        return received

    def refused(self, data: bytes) -> tuple[int, str]:
        """Status and detail of what no server gets to see."""
        before = len(self.world.dialled)
        client = self.world.client()
        client.send(data)
        self.assertEqual(len(self.world.dialled), before)
        answer = client.response()
        return answer.status, answer.detail


class ApplicationsTokenTests(PlacesCase):
    """Authorization beside a key in another field."""

    def test_goes_on(self) -> None:
        """The application's own token goes on byte for byte, whatever the field of the key."""
        for field in (b"X-API-Key: ", b"apikey: ", b"x-api-key:"):
            for value in (b"Bearer " + TOKEN, b"bearer  abc", TOKEN, b"Basic dXNlcjpwYXNz", b"Token a, b"):
                forwarded = self.forwarded(get(field + KEY, b"Authorization: " + value))
                self.assertIn(b"\r\nAuthorization: %b\r\n" % value, forwarded)
                self.assertNotIn(KEY, forwarded)
        self.assertEqual(set(self.world.buckets.costs), {1})

    def test_same_key(self) -> None:
        """The key itself in Authorization is one key, and stays here."""
        for value in (b"Bearer " + KEY, KEY, b"Bearer {%b}" % KEY, b"Bearer x" + KEY):
            self.assertNotIn(b"uthorization", self.forwarded(get(b"X-API-Key: " + KEY, b"Authorization: " + value)))

    def test_two_keys(self) -> None:
        """Two keys of the form that is issued are 400 whether or not either is somebody's, and nobody is asked."""
        for first, second in ((KEY, OTHER), (OTHER, KEY), (OTHER, OTHER[:-1] + b"8")):
            for value in (second, b"Bearer " + second):
                status, detail = self.refused(get(b"X-API-Key: " + first, b"Authorization: " + value))
                self.assertEqual((status, "two different API keys" in detail), (400, True))
        self.assertEqual(self.world.buckets.asked, [])

    def test_unknown_key(self) -> None:
        """The application's token does not stand in for a key that nobody has, nor for none."""
        token = b"Authorization: Bearer " + TOKEN
        self.assertEqual(self.refused(get(b"X-API-Key: " + OTHER, token))[0], 401)
        self.assertEqual(self.refused(get(b"X-API-Key:", token))[0], 401)
        self.assertEqual(self.refused(get(token))[0], 401)

    def test_plug_ins(self) -> None:
        """A balancer sees the application's token, and the key nowhere."""
        target = b"/a/%b?x=%b" % (KEY, KEY)
        self.forwarded(get(b"X-API-Key: " + KEY, b"Authorization: Bearer a", b"Cookie: k=" + KEY, target=target))
        assert isinstance(self.world.balancer, OrderedServices)
        [seen] = self.world.balancer.requests
        self.assertEqual(seen.header(b"authorization"), b"Bearer a")
        self.assertIsNone(seen.header(b"x-api-key"))
        self.assertEqual(seen.header(b"cookie"), b"k=REDACTED")
        self.assertEqual(seen.target, b"/a/REDACTED?x=REDACTED")

    def test_user_api(self) -> None:
        """The user API gets both fields, and judges as the proxy does."""
        self.world.client().send(get(b"X-API-Key: " + KEY, b"Authorization: Bearer a", target=b"/door"))
        [call] = self.world.door.calls
        self.assertIn(b"\r\nauthorization: Bearer a\r\nx-api-key: " + KEY, call.head)


class ChosenFieldsTests(PlacesCase):
    """KEY_FIELDS=x-key x-api-key"""

    settings = {"key_fields": ("x-key", "x-api-key")}

    def test_where(self) -> None:
        """The fields that are listed open, and no others do; the answer says which one to use."""
        for field in (b"X-Key: ", b"x-api-key: "):
            self.assertNotIn(KEY, self.forwarded(get(field + KEY)))
        for field in (b"Authorization: ", b"Authorization: Bearer ", b"apikey: "):
            client = self.world.client()
            client.send(get(field + KEY))
            answer = client.response()
            self.assertEqual((answer.status, answer.detail), (401, "Send your API key as: X-Key: <key>."))
            self.assertEqual(answer.field("www-authenticate"), 'Key realm="twisted_lb"')

    def test_authorization(self) -> None:
        """Authorization is the application's, whatever the token; only somebody's key does not go through it."""
        for value in (b"Bearer " + TOKEN, b"abc", b"Basic dXNlcjpwYXNz", b"Bearer " + OTHER):
            self.world.client().send(get(b"X-Key: " + KEY, b"Authorization: " + value))
            self.assertIn(b"\r\nAuthorization: %b\r\n" % value, self.world.server.last.received)
        for value in (b"Bearer " + KEY, KEY):
            self.assertNotIn(b"uthorization", self.forwarded(get(b"X-Key: " + KEY, b"Authorization: " + value)))
        self.world.buckets.others.add(digest(OTHER))
        self.assertEqual(self.refused(get(b"X-Key: " + KEY, b"Authorization: Bearer " + OTHER))[0], 400)

    def test_other_fields(self) -> None:
        """What was a field for keys is any field now: it goes on, as often as it comes."""
        forwarded = self.forwarded(get(b"X-Key: " + KEY, b"apikey: one", b"apikey: two"))
        self.assertIn(b"\r\napikey: one\r\napikey: two\r\n", forwarded)

    def test_stays_here(self) -> None:
        """A field for keys goes on under no spelling, in no trailer, and is no less there when Connection names it."""
        for setting in ("drop", "pass"):
            self.settings = {"key_fields": ("x-key",), "unusual_field_names": setting}
            self.setUp()
            head = get(b"X-Key: " + KEY, b"X_Key: root", b"Connection: x-key", b"Transfer-Encoding: chunked")
            self.world.client().send(head + b"0\r\nX-Key: root\r\nx_key: root\r\nX-Sum: 1\r\n\r\n")
            received = self.world.server.last.received
            self.assertTrue(received.endswith(b"0\r\nX-Sum: 1\r\n\r\n"), received)
            self.assertNotIn(b"root", received)
        self.assertEqual(self.refused(get(b"X-Key: a", b"X-Key: a"))[0], 400)


class ParameterTests(PlacesCase):
    """KEY_QUERY_PARAMETER=api_key"""

    settings = {"key_query_parameter": "api_key"}

    def test_taken_out(self) -> None:
        """The key opens, and the rest of the target goes on as it came; the balancer sees no more either."""
        for sent, left in (
            (b"/a?api_key=%b", b"/a"),
            (b"/a?x=%%20;&api_key=%b&y", b"/a?x=%20;&y"),
            (b"/a?%%61pi_key=%b&x=1", b"/a?x=1"),
            (b"/a?api_key=%b;x=1", b"/a?x=1"),
            (b"http://b.test?api_key=%b", b"/"),
        ):
            forwarded = self.forwarded(get(target=sent % KEY))
            self.assertTrue(forwarded.startswith(b"GET %b HTTP/1.1\r\n" % left), forwarded)
            self.assertNotIn(KEY, forwarded)
            assert isinstance(self.world.balancer, OrderedServices)
            self.assertEqual(self.world.balancer.requests[-1].target, left)

    def test_percent_encoded(self) -> None:
        """A key that is percent-encoded is the same key, and no part of it is left."""
        encoded = b"".join(b"%%%02x" % byte for byte in KEY)
        self.assertTrue(self.forwarded(get(target=b"/?api_key=" + encoded)).startswith(b"GET / HTTP/1.1\r\n"))

    def test_with_fields(self) -> None:
        """The same key in a field is one key, another one is 400, and the application's token goes on."""
        target = b"/?api_key=" + KEY
        for line in (b"Authorization: " + KEY, b"X-API-Key: " + KEY, b"Authorization: Bearer " + KEY):
            self.assertNotIn(KEY, self.forwarded(get(line, target=target)))
        for line in (b"Authorization: " + OTHER, b"X-API-Key: " + OTHER, b"apikey: x"):
            self.assertEqual(self.refused(get(line, target=target))[0], 400)
        self.assertEqual(self.refused(get(target=target + b"&api_key=" + OTHER))[0], 400)
        forwarded = self.forwarded(get(b"Authorization: Bearer " + TOKEN, target=target + b"&api_key=" + KEY))
        self.assertIn(b"\r\nAuthorization: Bearer %b\r\n" % TOKEN, forwarded)

    def test_none(self) -> None:
        """An empty parameter and one of another name are no key."""
        for query in (b"api_key=", b"api_key", b"API_KEY=" + KEY, b"xapi_key=" + KEY, b"x=api_key%3D" + KEY):
            self.assertEqual(self.refused(get(target=b"/?" + query))[0], 401)

    def test_line_ends(self) -> None:
        """What is no key can end no line, neither towards the store nor in the user API."""
        target = b"?api_key=x%0d%0aAuthorization:%20" + KEY
        self.assertEqual(self.refused(get(target=b"/" + target))[0], 401)
        self.world.client().send(get(target=b"/door" + target))
        self.assertEqual(self.world.door.calls[0].head.lower().count(b"\r\nauthorization: "), 1)
        self.assertIn(b"\r\nauthorization: x%0d%0aAuthorization:%20", self.world.door.calls[0].head)

    def test_user_api(self) -> None:
        """The user API finds the key too, and two that differ are 400."""
        self.world.client().send(get(target=b"/door?api_key=" + KEY))
        [call] = self.world.door.calls
        self.assertTrue(call.head.startswith(b"GET /door HTTP/1.1\r\n"))
        self.assertEqual(call.head.count(KEY), 1)
        self.assertIn(b"\r\nauthorization: " + KEY, call.head)
        self.assertEqual(self.refused(get(b"X-API-Key: " + OTHER, target=b"/door?api_key=" + KEY))[0], 400)
        self.assertEqual(len(self.world.door.calls), 1)

    def test_not_shown(self) -> None:
        """What the log may show of an exchange has no key."""
        self.world.buckets.later = True
        client = self.world.client()
        client.send(get(target=b"/%b?api_key=%b" % (KEY, KEY)))
        exchange = client.transport.protocol._exchange
        assert isinstance(exchange, Exchange)
        self.assertNotIn(KEY.decode(), repr(exchange))

    def test_off(self) -> None:
        """Without the setting a parameter is the server's."""
        self.settings = {}
        self.setUp()
        self.assertEqual(self.refused(get(target=b"/?api_key=" + KEY))[0], 401)
        forwarded = self.forwarded(get(b"apikey: " + KEY, target=b"/?api_key=1"))
        self.assertTrue(forwarded.startswith(b"GET /?api_key=1 "))
