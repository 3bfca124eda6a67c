"""A class of the user's own that finds the key of requests: what clients, servers and the log see of it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.proxy.scripted import KEY
from tests.proxy.world import World, response
from twisted_lb import bounded_log
from twisted_lb.credentials import digest
from twisted_lb.interfaces import ADDRESS, CredentialsRejected, IAuthenticator, IRequest, Taken
from twisted_lb.limits.authentication import Authentication, AuthenticatorError, make_authentication
from twisted_lb.limits.client_networks import KnownKeys

NAME = f"{__name__}:ByTenant"


@implementer(IAuthenticator)
class ByTenant:
    """The key is that of the tenant, whom a field names."""

    def __init__(self, **tenants: Any) -> None:
        self.tenants = {b"one": KEY, **{name.encode(): key for name, key in tenants.items()}}
        self.asked = 0

    def identify(self, request: IRequest) -> bytes | None:
        self.asked += 1
        tenant = request.header(b"X-Tenant")
        if tenant == b"bad":
            raise CredentialsRejected("There is no such tenant.")
        return self.tenants[tenant] if tenant else None


class Unmarked:
    def identify(self, request: IRequest) -> bytes | None:
        return None


@implementer(IAuthenticator)
class Later(ByTenant):
    async def identify(self, request: IRequest) -> bytes | None:  # type: ignore[override]
        return None


def get(*fields: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: api.example", *fields, b"", b""])


class AuthenticationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tenants = ByTenant(wrong="text", empty=b"")
        self.world = World(authentication=Authentication("tenants", self.tenants, Clock().seconds))

    def status(self, *fields: bytes, world: World | None = None) -> tuple[int, str]:
        """The status and detail that a client gets."""
        client = (world or self.world).client()
        client.send(get(*fields))
        answer = client.response()
        return answer.status, answer.detail

    def test_key(self) -> None:
        """The user whose key it is pays for the request, and a server sees the user, but no field that carries keys."""
        client = self.world.client()
        credentials = b"Authorization: Basic " + b64encode(b"a:b"), b"X-API-Key: other"
        client.send(get(b"X-Tenant: one", *credentials))
        self.assertEqual(self.world.buckets.asked, [digest(KEY)])
        forwarded = self.world.server.last.received
        self.assertIn(b"\r\nX-Tenant: one\r\nX-Consumer-Username: user1\r\n", forwarded)
        self.assertNotIn(b"Basic", forwarded)
        self.assertNotIn(b"other", forwarded)
        self.world.server.last.send(response(b"hello"))
        self.assertEqual((client.response().status, self.tenants.asked), (200, 1))

    def test_other_fields_for_keys(self) -> None:
        """Where KEY_FIELDS does not list Authorization, it is passed on, unless it contains the key."""
        world = World(authentication=Authentication("tenants", self.tenants), key_fields=("x-api-key",))
        for credentials, passed in ((b"Bearer a.b.c", True), (b"Basic " + b64encode(KEY + b":"), False)):
            world.client().send(get(b"X-Tenant: one", b"Authorization: " + credentials))
            self.assertEqual(credentials in world.server.last.received, passed, credentials)

    def test_key_stays(self) -> None:
        """What the authenticator returns is removed from a head, and from trailers that came with it."""
        body = b"0\r\nX-Sum: " + KEY + b"\r\n\r\n"
        head = get(b"X-Tenant: one", b"Cookie: k=" + KEY, b"Transfer-Encoding: chunked")
        self.world.client().send(head.replace(b"GET / ", b"POST /" + KEY + b" ") + body)
        forwarded = self.world.server.last.received
        self.assertNotIn(KEY, forwarded)
        self.assertEqual(forwarded.count(b"REDACTED"), 3)

    def test_no_credentials(self) -> None:
        """None, or an empty key, is 401; no bucket is asked, and the request reaches no server."""
        for fields in ((), (b"X-Tenant: empty",)):
            self.assertEqual(self.status(*fields), (401, "The request has no credentials."))
        self.assertEqual((self.world.buckets.asked, self.world.dialled), ([], []))

    def test_rejected(self) -> None:
        """Credentials that are not valid are 401 with the text, and a token of the address."""
        self.assertEqual(self.status(b"X-Tenant: bad"), (401, "There is no such tenant."))
        world = World(known_keys=KnownKeys(10), authentication=Authentication("tenants", self.tenants))
        self.assertEqual(self.status(b"X-Tenant: bad", world=world), (401, "There is no such tenant."))
        world.buckets.of_address = Taken(False, b"", 20, 2.0, 0, ADDRESS)
        self.assertEqual(self.status(b"X-Tenant: bad", world=world)[0], 429)
        self.assertEqual((len(world.buckets.addresses), world.buckets.asked, world.dialled), (2, [], []))

    def logged(self, *requests: bytes) -> list[str]:
        """What is logged of requests with these fields, each of which is 500."""
        log: list[LogEvent]
        with capturedLogs() as log:
            for fields in requests:
                self.assertEqual(self.status(fields), (500, "The request could not be identified."))
        return [formatEvent(event) for event in log]

    def test_failed(self) -> None:
        """What raises or returns anything else is 500; the log has where, once a second, and no credentials."""
        self.patch(bounded_log, "LOG_SECONDS", 1.0)
        lines = self.logged(b"X-Tenant: secret-one", b"X-Tenant: secret-two", b"X-Tenant: wrong")
        self.assertEqual(len(lines), 2)
        self.assertIn("tenants raised KeyError in identify", lines[0])
        self.assertIn("in identify\n    return self.tenants[tenant]", lines[0])
        self.assertIn("tenants returned str from identify", lines[1])
        self.assertNotIn("secret", "".join(lines))
        self.assertEqual(self.world.dialled, [])


class MakingTests(SynchronousTestCase):
    def test_made(self) -> None:
        """The setting names a class; empty is none."""
        self.assertIsNone(make_authentication(""))
        self.assertIsInstance(make_authentication(NAME), Authentication)

    def test_problems(self) -> None:
        """A class that cannot work is an error that says why."""
        for name, why in (
            ("Missing", "has no class Missing"),
            ("Unmarked", "is it marked with @implementer(IAuthenticator)?"),
            ("Later", "identify is a coroutine or a generator"),
        ):
            error = self.assertRaises(AuthenticatorError, make_authentication, f"{__name__}:{name}")
            self.assertIn(why, str(error))
