"""Sticky: which cookies are valid."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.balancers.pools import names
from twisted_lb.backend import Backend
from twisted_lb.balancers.first import First
from twisted_lb.balancers.sticky import Sticky
from twisted_lb.interfaces import IBalancer, IRequest, IResponseFields
from twisted_lb.testing import FakeRequest, servers

SECRET = "a secret of the tests"


@implementer(IBalancer, IResponseFields)
class Speaking(First):
    """A balancer that has something to say to the client."""

    def response_fields(self, request: IRequest, backend: Backend) -> list[tuple[bytes, bytes]]:
        return [(b"X-Server", backend.name.encode())]


def sticky(backends: list[Backend], **options: Any) -> Sticky:
    balancer = Sticky(**{"secret": SECRET, "over": "first", **options}, now=Clock().seconds, chance=Random(1))
    balancer.backends_changed(list(backends))
    return balancer


def carrying(cookies: bytes) -> FakeRequest:
    return FakeRequest(headers={b"cookie": cookies})


def cookie_of(balancer: Sticky, backend: Backend) -> bytes:
    """The cookie, name=value, of the first response of `backend`."""
    [(_, value)] = balancer.response_fields(FakeRequest(), backend)
    return value.partition(b";")[0]


class StickyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.backends = servers(1, 1, 1)
        self.balancer = sticky(self.backends)

    def test_provides_response_fields(self) -> None:
        """It keeps IResponseFields."""
        verifyObject(IResponseFields, self.balancer)

    def test_cookie(self) -> None:
        """The response of a client's first server sets a signed cookie for the whole site that scripts cannot read."""
        [(name, value)] = self.balancer.response_fields(FakeRequest(), self.backends[1])
        self.assertEqual(name, b"Set-Cookie")
        self.assertRegex(value, rb"\Alb=b\.[\w-]{24}; Path=/; HttpOnly; SameSite=Lax\Z")
        secure = sticky(self.backends, secure=True, cookie="route")
        [(_, value)] = secure.response_fields(FakeRequest(), self.backends[1])
        self.assertRegex(value, rb"\Aroute=b\.[\w-]{24}; Path=/; HttpOnly; SameSite=Lax; Secure\Z")

    def test_stays(self) -> None:
        """A request with the cookie goes to its server, then as the other balancer chooses, and sets no cookie."""
        for backend, expected in zip(self.backends, ("abc", "bac", "cab"), strict=True):
            request = carrying(b"theme=dark; %b; x" % cookie_of(self.balancer, backend))
            self.assertEqual(names(self.balancer, request), expected)
            self.assertEqual(self.balancer.response_fields(request, backend), [])

    def test_stays_with_a_full_server(self) -> None:
        """A client's server stays its first choice when it is full."""
        self.backends[2].maxconn = self.backends[2].in_flight = 1
        self.assertEqual(names(self.balancer, carrying(cookie_of(self.balancer, self.backends[2]))), "cab")

    def test_moves_when_the_server_is_down(self) -> None:
        """A cookie of a server that is down is ignored, and the response sets one for the new server."""
        request = carrying(cookie_of(self.balancer, self.backends[2]))
        self.balancer.backends_changed(self.backends[:2])
        self.assertEqual(names(self.balancer, request), "ab")
        self.assertIn(b"lb=a.", self.balancer.response_fields(request, self.backends[0])[0][1])
        self.balancer.backends_changed(list(self.backends))
        self.assertEqual(names(self.balancer, request), "cab")

    def test_addresses_are_not_shown(self) -> None:
        """The cookie of a discovered server has the name of the configured one, and leads to that address alone."""
        backends = [Backend(f"web@10.0.0.{number}:80", f"10.0.0.{number}", 80) for number in (1, 2, 3)]
        balancer = sticky(backends)
        cookies = [cookie_of(balancer, backend) for backend in backends]
        self.assertEqual({cookie.partition(b".")[0] for cookie in cookies}, {b"lb=web"})
        for cookie, backend in zip(cookies, backends):
            self.assertIs(next(iter(balancer.choices(carrying(cookie)))), backend)

    def test_forged_cookies(self) -> None:
        """A cookie that was not signed with the secret, for this cookie's name and this server, is ignored."""
        good = cookie_of(self.balancer, self.backends[2])
        forged = [
            b"lb=c",
            b"lb=c.",
            b"lb=",
            good[:-1],
            good + b"x",
            good.replace(b"lb=c", b"lb=b"),
            good.upper(),
            cookie_of(sticky(self.backends, secret=SECRET + "!"), self.backends[2]),
            cookie_of(sticky(self.backends, cookie="other"), self.backends[2]).replace(b"other", b"lb"),
            b"LB" + good[2:],
            b"x" + good,
        ]
        for cookie in forged:
            self.assertEqual(names(self.balancer, carrying(cookie)), "abc", cookie)
            [(_, value)] = self.balancer.response_fields(carrying(cookie), self.backends[0])
            self.assertIn(b"lb=a.", value)

    def test_workers_agree(self) -> None:
        """A cookie of one instance counts at another that has the same secret."""
        other = sticky(servers(1, 1, 1))
        self.assertEqual(names(other, carrying(cookie_of(self.balancer, self.backends[1]))), "bac")

    def test_over_any_balancer(self) -> None:
        """The other balancer is made by its name and options, and is told of the servers."""
        balancer = sticky(servers(1, 1), over={"name": "hash", "by": "address"})
        self.assertIn("over <ConsistentHash by address among ['a', 'b']>", repr(balancer))

    def test_other_balancers_fields(self) -> None:
        """What the other balancer has to say to the client is said, with and without a new cookie."""
        balancer = sticky(self.backends, over=f"{__name__}:Speaking")
        request = carrying(cookie_of(self.balancer, self.backends[0]))
        self.assertEqual(balancer.response_fields(request, self.backends[0]), [(b"X-Server", b"a")])
        fields = balancer.response_fields(FakeRequest(), self.backends[0])
        self.assertEqual([name for name, _ in fields], [b"X-Server", b"Set-Cookie"])
