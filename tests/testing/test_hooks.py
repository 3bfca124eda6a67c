"""The public contract suite reports what is wrong with hooks."""

from __future__ import annotations

import unittest
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.interfaces import HookResponse, IHooks
from twisted_lb.network.peer import PeerInfo
from twisted_lb.request_record import RequestRecord
from twisted_lb.testing import FakeRecord, HookContract


@implementer(IHooks)
class Good:
    """Has all methods, and keeps something with the request."""

    def __init__(self) -> None:
        self.open = 0

    def request_received(self, request: Any) -> Any:
        request.state = self
        self.open += 1
        if request.header(b"x-tenant") == b"\xff":
            return HookResponse(400, [(b"Content-Type", b"text/plain")], b"not a tenant")
        request.fields.set(b"X-Tenant", b"a")
        return None

    def server_chosen(self, request: Any, backend: Backend) -> None:
        request.fields.set(b"X-Server", backend.name.encode())

    def response_started(self, request: Any, backend: Backend, response: Any) -> None:
        response.fields.remove(b"Server")

    def request_finished(self, record: Any) -> None:
        if record.state is not None:
            self.open -= 1


@implementer(IHooks)
class Later:
    """Asks somebody else."""

    async def request_received(self, request: Any) -> Any:
        if request.method == b"PUT":
            return HookResponse(403)
        await maybeDeferred(int)
        await Deferred()
        return None


class Unmarked:
    def request_finished(self, record: Any) -> None:
        pass


@implementer(IHooks)
class Empty:
    pass


@implementer(IHooks)
class Assuming:
    def request_received(self, request: Any) -> None:
        request.header(b"cookie").partition(b"=")


@implementer(IHooks)
class Text:
    def request_received(self, request: Any) -> Any:
        return HookResponse(403, [("X-Why", "because")])  # type: ignore[list-item]


@implementer(IHooks)
class FailingLater:
    async def request_received(self, request: Any) -> Any:
        raise ValueError("on purpose")


@implementer(IHooks)
class Uncancellable:
    async def request_received(self, request: Any) -> Any:
        while True:
            try:
                await Deferred()
            except Exception:
                pass


@implementer(IHooks)
class Unreceived:
    """Expects that each request was received before."""

    def request_received(self, request: Any) -> None:
        request.state = []

    def request_finished(self, record: Any) -> None:
        record.state.append(1)


@implementer(IHooks)
class Splitting:
    def response_started(self, request: Any, backend: Backend, response: Any) -> None:
        response.fields.set(b"X-Status", b"%d\r\n" % response.status)


@implementer(IHooks)
class Returning:
    def server_chosen(self, request: Any, backend: Backend) -> Any:
        return backend


class ContractTests(SynchronousTestCase):
    def outcome(self, kind: type, **attributes: Any) -> dict[str, str]:
        """The failed tests with their messages."""
        suite = type("Suite", (HookContract, unittest.TestCase), {"make": lambda _: kind(), **attributes})
        failed = {}
        for name in unittest.defaultTestLoader.getTestCaseNames(suite):
            result = unittest.TestResult()
            suite(name).run(result)
            failed.update({name: text for _, text in [*result.failures, *result.errors]})
        return failed

    def test_good(self) -> None:
        """Classes that keep the contract pass."""
        for kind in (Good, Later):
            self.assertEqual(self.outcome(kind), {}, kind)

    def test_faults(self) -> None:
        """Each fault is found, and the message says what clients would notice."""
        for kind, test, message in (
            (Unmarked, "test_methods", "mark the class with @implementer(IHooks)"),
            (Empty, "test_methods", "none of the methods request_received"),
            (Assuming, "test_request_received", "the client would get 500"),
            (Text, "test_request_received", "expected None, or a HookResponse with a final status, valid fields"),
            (FailingLater, "test_request_received", "request_received failed with ValueError('on purpose')"),
            (Uncancellable, "test_request_received", "cannot be cancelled"),
            (Unreceived, "test_request_finished", "it would be logged"),
            (Splitting, "test_response_started", "the client would get 500"),
            (Returning, "test_server_chosen", "expected None"),
        ):
            self.assertIn(message, self.outcome(kind).get(test, ""), kind)

    def test_blocking(self) -> None:
        """A call that takes long each time is found."""
        times = iter(range(1000))
        failed = self.outcome(Good, seconds=staticmethod(lambda: next(times)))
        self.assertIn("took 1000.0 ms each time", failed["test_blocks_nothing"])

    def test_record(self) -> None:
        """The record of the suite has what a request's record has, but what hooks have no use for."""
        record = RequestRecord(PeerInfo("192.0.2.7", "192.0.2.7", b"http"), 0.0)
        names = {name for name in dir(record) if not name.startswith("_") and not callable(getattr(record, name))}
        missing = names - set(vars(FakeRecord()))
        self.assertEqual(missing, {"connect_since", "waits_since", "finished"})
