"""Fields that a balancer adds to responses."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.proxy.scripted import OrderedServices
from tests.proxy.world import World, request, response
from twisted_lb.backend import Backend
from twisted_lb.interfaces import IRequest, IResponseFields


@implementer(IResponseFields)
class Baker(OrderedServices):
    """Sets a cookie that names the server, or fails."""

    fails = False

    def response_fields(self, request: IRequest, backend: Backend) -> list[tuple[bytes, bytes]]:
        if self.fails:
            raise ZeroDivisionError
        return [(b"Set-Cookie", b"at=%b%b" % (backend.name.encode(), request.target.replace(b"/", b"-")))]


class FieldTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.balancer = Baker()
        self.world = World(servers=2, balancer=self.balancer)

    def test_said(self) -> None:
        """The fields are of the server that answered, not of the first choice."""
        self.world.server.refuses = True
        client = self.world.client()
        client.send(request("GET", "/x"))
        self.world.servers[1].last.send(response(b"two"))
        self.assertEqual(client.response().field("Set-Cookie"), "at=s2-x")

    def test_fails(self) -> None:
        """A balancer that fails to say it costs a line in the log, not the response."""
        self.balancer.fails = True
        client = self.world.client()
        client.send(request())
        self.world.server.last.send(response(b"one"))
        answer = client.response()
        self.assertEqual((answer.body, answer.field("Set-Cookie")), (b"one", None))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
