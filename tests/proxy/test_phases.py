"""A balancer is notified of the phases of a request by `server_chosen` and `response_started`."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.proxy.scripted import OrderedServices
from tests.proxy.world import World, request, response
from twisted_lb.backend import Backend
from twisted_lb.balancers.failover import Failover
from twisted_lb.balancers.registry import BalancerError, make_balancer
from twisted_lb.interfaces import OPTIONAL_METHODS, IBalancer, IRequest, IResponse
from twisted_lb.testing import FakeRequest, FakeResponse, servers

NAME = f"{__name__}:Listening"


@implementer(IBalancer)
class Listening(OrderedServices):
    """Notes the phases, the server, and the requests in flight or the status."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str, int]] = []

    def server_chosen(self, request: IRequest, backend: Backend) -> None:
        self.heard.append(("server_chosen", backend.name, backend.in_flight))

    def response_started(self, request: IRequest, backend: Backend, response: IResponse) -> None:
        assert response.header(b"Content-Length") is not None and response.body_bytes == 0
        self.heard.append(("response_started", backend.name, response.status))

    def request_finished(self, request: IRequest, backend: Backend) -> None:
        self.heard.append(("request_finished", backend.name, backend.in_flight))


class Raising(OrderedServices):
    def server_chosen(self, request: IRequest, backend: Backend) -> None:
        raise ZeroDivisionError

    def response_started(self, request: IRequest, backend: Backend, response: IResponse) -> None:
        raise SystemExit


@implementer(IBalancer)
class Wrong(OrderedServices):
    def server_chosen(self, request: IRequest) -> None:
        pass


class PhaseTests(SynchronousTestCase):
    def test_order(self) -> None:
        """Each server that is tried is told of, and the response of the one that answers."""
        balancer = Listening()
        world = World(2, balancer)
        world.server.refuses = True
        client = world.client()
        client.send(request())
        world.servers[1].last.send(response(b"two", status=b"203 Else"))
        self.assertEqual(client.response().status, 203)
        heard = [one for one in balancer.heard if one[0] != "request_finished"]
        expected = [("server_chosen", "s1", 1), ("server_chosen", "s2", 1), ("response_started", "s2", 203)]
        self.assertEqual(heard, expected)

    def test_raising(self) -> None:
        """A method that raises is logged, and the request goes on."""
        world = World(balancer=Raising())
        client, upstream = world.asked()
        upstream.send(response(b"one"))
        self.assertEqual(client.response().body, b"one")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, SystemExit)), 2)

    def test_other_signature(self) -> None:
        """A method that cannot be called so is an error when the balancer is made."""
        error = self.assertRaises(BalancerError, make_balancer, f"{__name__}:Wrong")
        self.assertIn("server_chosen cannot be called as server_chosen(request, backend)", str(error))

    def test_around_others(self) -> None:
        """Balancers that use others pass the calls on: to the one that has the server, and not if it has no methods."""
        regular, spare = Listening(), Listening()
        one, other = servers(1, 1)
        other.backup = True
        failover: object = Failover(regular, spare)
        sticky = make_balancer("sticky", {"secret": "s" * 32, "over": NAME}, lambda: 0.0, Random(1))
        for name, parameters in OPTIONAL_METHODS.items():
            arguments = (FakeRequest(), FakeResponse(headers={b"content-length": b"0"}))
            more = arguments[1:] if "response" in parameters else ()
            for backend in (one, other):
                getattr(failover, name)(arguments[0], backend, *more)
            getattr(sticky, name)(arguments[0], one, *more)
        for part, server in ((regular, "a"), (spare, "b")):
            heard = [(name, place) for name, place, _ in part.heard]
            self.assertEqual(heard, [(name, server) for name in OPTIONAL_METHODS])
        plain = Failover(OrderedServices(), OrderedServices())
        plain_sticky = make_balancer("sticky", {"secret": "s" * 32}, lambda: 0.0, Random(1))
        for name in OPTIONAL_METHODS:
            self.assertFalse(hasattr(plain, name) or hasattr(plain_sticky, name))
