"""The contract of hooks as a suite of tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import CoroutineType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_lb.backend import Backend
from twisted_lb.hooks.hooks import EXPECTED_RESPONSE, RECEIVED, Hooks, HooksError, validated
from twisted_lb.interfaces import IHooks
from twisted_lb.testing.fakes import (
    ODD_REQUESTS,
    ODD_RESPONSES,
    FakeHookRequest,
    FakeHookResponse,
    FakeRecord,
    FakeRequest,
    FakeResponse,
)
from twisted_lb.testing.interfaces import hold
from twisted_lb.testing.pricing import BLOCKING_SECONDS, TRIES

# How requests end: with a response, refused by a limit, without a server, and abandoned by their clients.
ENDS = ((200, "complete"), (429, "limited"), (503, "no_server"), (499, "client_left"), (0, "client_left"))


class HookContract:
    """A mixin for a TestCase.  Set `requests` and `responses` to try further ones that matter to your class.

    A result of `request_received` that does not come at once is cancelled, as when the client disconnects.
    """

    requests: Iterable[FakeRequest] = ()
    responses: Iterable[FakeResponse] = ()
    # A clock in seconds, by which calls are timed.
    seconds: Callable[[], float] = staticmethod(time.perf_counter)

    def make(self) -> Any:
        """New hooks."""
        raise NotImplementedError("define make(self), which returns new hooks")

    def test_methods(self) -> None:
        """The class is marked with IHooks, and has some of its methods, with their arguments."""
        hooks = self.make()
        hold(IHooks.providedBy(hooks), "mark the class with @implementer(IHooks): the program does not start with it")
        try:
            Hooks(type(hooks).__name__, hooks)
        except HooksError as error:
            raise AssertionError(f"{error}: the program does not start with it") from None

    def test_request_received(self) -> None:
        """Whatever the request holds or lacks, the result is None or a valid HookResponse."""
        hooks = self.make()
        for request in self._requests():
            self._receive(hooks, request)

    def test_server_chosen(self) -> None:
        """Several servers may be chosen for one request."""
        hooks = self.make()
        for request in self._requests():
            self._receive(hooks, request)
            for name in ("a", "b"):
                self._call(hooks, "server_chosen", request, _server(name))

    def test_response_started(self) -> None:
        """Whatever the response is, nothing is raised."""
        hooks = self.make()
        for response in [*ODD_RESPONSES, *self.responses]:
            for request in self._requests():
                self._receive(hooks, request)
                self._call(hooks, "server_chosen", request, _server())
                self._call(hooks, "response_started", request, _server(), FakeHookResponse(response))

    def test_request_finished(self) -> None:
        """A request may end in any way after `request_received`, and also before it was called."""
        hooks = self.make()
        for status, reason in ENDS:
            for request in self._requests():
                self._call(hooks, "request_finished", FakeRecord(request, status, reason))
                self._receive(hooks, request)
                self._call(hooks, "request_finished", FakeRecord(request, status, reason))

    def test_requests_overlap(self) -> None:
        """Requests end in any order."""
        hooks = self.make()
        requests = self._requests()
        for request in requests:
            self._receive(hooks, request)
        for request in reversed(requests):
            self._call(hooks, "server_chosen", request, _server())
        for request in requests[1::2] + requests[::2]:
            self._call(hooks, "response_started", request, _server(), FakeHookResponse())
            self._call(hooks, "request_finished", FakeRecord(request))

    def test_blocks_nothing(self) -> None:
        """Each call returns at once."""
        hooks = self.make()
        calls: dict[str, Callable[[FakeHookRequest], tuple[object, ...]]] = {
            RECEIVED: lambda request: (request,),
            "server_chosen": lambda request: (request, _server()),
            "response_started": lambda request: (request, _server(), FakeHookResponse()),
            "request_finished": lambda request: (FakeRecord(request),),
        }
        for name, arguments in calls.items():
            method = getattr(hooks, name, None)
            if method is not None:
                seconds = min(self._timed(method, arguments(FakeHookRequest())) for _ in range(TRIES))
                hold(
                    seconds < BLOCKING_SECONDS,
                    f"{name} took {seconds * 1000:.1f} ms each time: meanwhile every client of the process waits",
                )

    def _timed(self, method: Callable[..., Any], arguments: tuple[object, ...]) -> float:
        begun = self.seconds()
        result = _called(method, *arguments)
        seconds = self.seconds() - begun
        _settled(result)
        return seconds

    def _receive(self, hooks: Any, request: FakeHookRequest) -> None:
        method = getattr(hooks, RECEIVED, None)
        if method is None:
            return
        result = _settled(_called(method, request))
        if isinstance(result, Failure):
            if result.check(CancelledError) is None:
                message = f"{RECEIVED} failed with {result.value!r} for {request}: the client would get 500"
                raise AssertionError(message) from result.value
            return
        if result is not None:
            response = validated(result)
            expected = f"expected {EXPECTED_RESPONSE}: the client would get 500"
            hold(response is not None, f"{RECEIVED} returned {result!r} for {request}; {expected}")

    def _call(self, hooks: Any, name: str, *arguments: object) -> None:
        method = getattr(hooks, name, None)
        if method is not None:
            result = _called(method, *arguments)
            hold(result is None, f"{name} returned {result!r}; expected None")

    def _requests(self) -> list[FakeHookRequest]:
        return [FakeHookRequest(request) for request in [*ODD_REQUESTS, *self.requests]]


def _server(name: str = "a") -> Backend:
    return Backend(name, "127.0.0.1", 9001)


def _called(method: Callable[..., Any], *arguments: object) -> Any:
    try:
        return method(*arguments)
    except Exception as error:
        given = ", ".join(map(repr, arguments))
        raise AssertionError(f"{method.__name__} raised {error!r} for {given}: {_what_follows(method)}") from error


def _what_follows(method: Callable[..., Any]) -> str:
    return "the client would get 500" if method.__name__ in (RECEIVED, "response_started") else "it would be logged"


def _settled(result: Any) -> Any:
    """The outcome of a result that may be a Deferred, which is cancelled if it has not fired yet."""
    if isinstance(result, CoroutineType):
        result = Deferred.fromCoroutine(result)
    if not isinstance(result, Deferred):
        return result
    found: list[Any] = []
    result.addBoth(found.append)
    result.cancel()
    hold(bool(found), f"the result of {RECEIVED} cannot be cancelled: it would be kept although its client has left")
    return found[0]
