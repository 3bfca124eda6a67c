"""The user's hooks are checked when they are loaded, and their results when they are called."""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.hooks.hooks import Hooks, HooksError, HooksFailed, OwnResponse, make_hooks
from twisted_lb.interfaces import HookResponse, IHooks
from twisted_lb.testing import FakeHookRequest, FakeHookResponse, FakeRecord

SERVER = Backend("a", "127.0.0.1", 1)


@implementer(IHooks)
class Good:
    def __init__(self, now: Any = None, **options: object) -> None:
        self.now, self.options = now, options

    def request_received(self, request: Any) -> Any:
        return None


@implementer(IHooks)
class Empty:
    pass


class Unmarked:
    def request_received(self, request: Any) -> Any:
        return None


@implementer(IHooks)
class Parameters:
    def server_chosen(self, request: Any) -> Any:
        return None


@implementer(IHooks)
class Coroutine:
    async def response_started(self, request: Any, backend: Any, response: Any) -> Any:
        return None


@implementer(IHooks)
class Generator:
    def request_received(self, request: Any) -> Any:
        yield None


@implementer(IHooks)
class Exits:
    def __init__(self) -> None:
        raise SystemExit(0)

    def request_received(self, request: Any) -> Any:
        return None


class Returning:
    """Every method returns the same, or raises it."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def request_received(self, request: Any) -> Any:
        return self._done()

    def server_chosen(self, request: Any, backend: Any) -> Any:
        return self._done()

    def response_started(self, request: Any, backend: Any, response: Any) -> Any:
        return self._done()

    def request_finished(self, record: Any) -> Any:
        return self._done()

    def _done(self) -> Any:
        if isinstance(self._result, type):
            raise self._result("on purpose")
        return self._result


class LoadingTests(SynchronousTestCase):
    def test_options(self) -> None:
        """Options are keyword arguments, and the clock is given to a class that wants it."""
        hooks = make_hooks(f"{__name__}:Good", {"tenant": "a"})
        self.assertIsNone(hooks.request_received(FakeHookRequest()))
        self.assertEqual((hooks.hears_of_choices, hooks.hears_of_responses), (False, False))
        self.assertEqual(repr(hooks), f"<Hooks {__name__}:Good>")

    def test_errors(self) -> None:
        """A class that cannot work is an error that names it and says why."""
        cases: list[tuple[str, dict[str, object], str]] = [
            ("Missing", {}, "has no class Missing"),
            ("Unmarked", {}, "mark"),
            ("Empty", {}, "none of the methods request_received, server_chosen, response_started, request_finished"),
            ("Parameters", {}, "server_chosen cannot be called as server_chosen(request, backend)"),
            ("Coroutine", {}, "response_started is a coroutine or a generator"),
            ("Generator", {}, "request_received is a coroutine or a generator"),
            ("Exits", {}, "rejected its options: SystemExit: 0"),
            ("Empty", {"a": 1}, "does not take these options"),
        ]
        for name, options, text in cases:
            error = self.assertRaises(HooksError, make_hooks, f"{__name__}:{name}", options)
            self.assertIn(text, str(error))
            self.assertIn(f"{__name__}:{name}" if name != "Missing" else "Missing", str(error))


class CallTests(SynchronousTestCase):
    def call_all(self, result: Any) -> list[str]:
        """What follows from each method."""
        hooks = Hooks("mine:Hooks", Returning(result))
        request, response = FakeHookRequest(), FakeHookResponse()
        said = []
        for call in (
            lambda: hooks.request_received(request),
            lambda: hooks.server_chosen(request, SERVER),
            lambda: hooks.response_started(request, SERVER, response),
            lambda: hooks.request_finished(FakeRecord()),
        ):
            try:
                said.append(repr(call()))  # type: ignore[func-returns-value]
            except HooksFailed:
                said.append("failed")
        return said

    def test_exceptions(self) -> None:
        """Whatever is raised is logged; where there is no response yet, the request fails."""
        kinds: list[type[BaseException]] = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit]
        for kind in [*kinds, asyncio.CancelledError]:
            self.assertEqual(self.call_all(kind), ["failed", "None", "failed", "None"], kind)
            self.assertEqual(len(self.flushLoggedErrors(kind)), 4)

    def test_results(self) -> None:
        """Of `request_received`, a valid HookResponse is passed on; of all methods, None."""
        self.assertEqual(self.call_all(None), ["None"] * 4)
        for valid in (
            HookResponse(200),
            HookResponse(204, [(b"X-A", b"b")]),
            HookResponse(599, ((b"X-A", b"b"), (b"x-a", b"")), b"body"),
        ):
            self.assertNotIn("failed", self.call_all(valid)[0])
        found = Hooks("mine:Hooks", Returning(HookResponse(403, [(b"X-A", b"b")], b"no"))).request_received(
            FakeHookRequest()
        )
        self.assertEqual(found, OwnResponse(403, b"\r\nX-A: b", b"no"))

    def test_invalid_results(self) -> None:
        """Any other result fails as an exception does."""
        for result in (
            False,
            403,
            (403, (), b""),
            "no",
            HookResponse(100),
            HookResponse(600),
            HookResponse(True),
            HookResponse(200.0),  # type: ignore[arg-type]
            HookResponse(200, [(b"Content-Length", b"1")]),
            HookResponse(200, [(b"Transfer-Encoding", b"chunked")]),
            HookResponse(200, [(b"Connection", b"close")]),
            HookResponse(200, [(b"Upgrade", b"x")]),
            HookResponse(200, [(b"X-A", b"b\r\nX-C: d")]),
            HookResponse(200, [(b"X-A\r\nX-C", b"d")]),
            HookResponse(200, [(b"X A", b"b")]),
            HookResponse(200, [("X-A", b"b")]),  # type: ignore[list-item]
            HookResponse(200, b"X-A: b"),  # type: ignore[arg-type]
            HookResponse(200, [b"X-A: b"]),  # type: ignore[list-item]
            HookResponse(200, (), "body"),  # type: ignore[arg-type]
            HookResponse(204, (), b"body"),
            HookResponse(304, (), b"body"),
        ):
            self.assertEqual(self.call_all(result)[0], "failed", result)
            self.assertEqual(self.call_all(result)[2], "failed", result)

    def test_later(self) -> None:
        """A Deferred is passed on, and of a coroutine a Deferred of its result; an awaitable of asyncio is not one."""
        later: Deferred[Any] = Deferred()
        hooks = Hooks("mine:Hooks", Returning(later))
        self.assertIs(hooks.request_received(FakeHookRequest()), later)

        async def coroutine() -> Any:
            await later
            return HookResponse(200)

        found = Hooks("mine:Hooks", Returning(coroutine())).request_received(FakeHookRequest())
        assert isinstance(found, Deferred)
        self.assertNoResult(found)
        later.callback(None)
        self.assertEqual(self.successResultOf(found), HookResponse(200))

        class Awaitable:
            def __await__(self) -> Any:
                yield

        self.assertEqual(self.call_all(Awaitable())[0], "failed")
