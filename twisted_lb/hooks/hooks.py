"""The hooks of a route: calls the user's object and validates its results (IHooks).

1. When the configuration is read, the class is instantiated and its methods are checked: a class that cannot work is an
   error in the file.
2. Exceptions and invalid results are logged, at most once per second for each method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from random import Random
from types import CoroutineType
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog, shown
from twisted_lb.interfaces import HOOK_METHODS, HookResponse, IHookRequest, IHookResponse, IHooks
from twisted_lb.plugins import NamedClassError, load_marked, make_object, method_of
from twisted_lb.pool.pool import field_lines

RECEIVED: Final = "request_received"
CHOSEN: Final = "server_chosen"
STARTED: Final = "response_started"
FINISHED: Final = "request_finished"

EXPECTED_RESPONSE: Final = "None, or a HookResponse with a final status, valid fields, and a body if there may be one"

# RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5: they have no content.
_WITHOUT_CONTENT: Final = (204, 205, 304)


class HooksError(Exception):
    """The class does not exist, or cannot work; the text says what failed."""


class HooksFailed(Exception):
    """The hooks raised an exception, or returned an invalid result; the reason has been logged."""


class OwnResponse(NamedTuple):
    """A validated HookResponse."""

    status: int
    fields: bytes  # lines, each preceded by CRLF
    body: bytes


class Hooks:
    """The user's object with validation of its results, as the proxy uses it."""

    def __init__(self, class_name: str, hooks: object, now: Callable[[], float] = time.monotonic) -> None:
        """`class_name` names the object in errors and in the log; `now` is a clock in seconds.  Raises HooksError."""
        self._class_name = class_name
        self._log = BoundedLog(Logger(__name__), now)
        try:
            methods = {
                name: method_of(class_name, hooks, name, parameters, may_wait=name == RECEIVED)
                for name, parameters in HOOK_METHODS.items()
            }
        except NamedClassError as error:
            raise HooksError(str(error)) from error.__cause__
        if not any(methods.values()):
            raise HooksError(f"{class_name}: the class has none of the methods {', '.join(HOOK_METHODS)}")
        self._received = methods[RECEIVED]
        self._chosen = methods[CHOSEN]
        self._started = methods[STARTED]
        self._finished = methods[FINISHED]
        self.hears_of_choices = self._chosen is not None
        self.hears_of_responses = self._started is not None

    def request_received(self, request: IHookRequest) -> OwnResponse | Deferred[Any] | None:
        """The response to the request, or a Deferred for it; None: the request goes to a server.

        The result of the Deferred must be passed to `response_of` or `failed`.  Raises HooksFailed.
        """
        if self._received is None:
            return None
        try:
            result = self._received(request)
            if isinstance(result, CoroutineType):
                result = Deferred.fromCoroutine(result)
        except BaseException:
            raise self._failed(RECEIVED, None) from None
        return result if isinstance(result, Deferred) else self.response_of(result)

    def response_of(self, result: object) -> OwnResponse | None:
        """The validated result of `request_received`.  Raises HooksFailed."""
        if result is None:
            return None
        try:
            response = validated(result)
        except BaseException:
            raise self._failed(RECEIVED, None) from None
        if response is None:
            raise self._returned(RECEIVED, result, EXPECTED_RESPONSE)
        return response

    def failed(self, failure: Failure) -> HooksFailed:
        """Log the failure of a Deferred of `request_received`, and return the exception to raise."""
        return self._failed(RECEIVED, failure)

    def server_chosen(self, request: IHookRequest, backend: Backend) -> None:
        """The request goes to `backend`.  Does not raise."""
        try:
            self._called(CHOSEN, self._chosen, request, backend)
        except HooksFailed:
            pass

    def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
        """The head of a response has arrived.  Raises HooksFailed."""
        self._called(STARTED, self._started, request, backend, response)

    def request_finished(self, record: object) -> None:
        """The request has ended.  Does not raise."""
        try:
            self._called(FINISHED, self._finished, record)
        except HooksFailed:
            pass

    def _called(self, name: str, method: Callable[..., Any] | None, *arguments: object) -> None:
        if method is None:
            return
        try:
            result = method(*arguments)
        except BaseException:
            raise self._failed(name, None) from None
        if result is not None:
            raise self._returned(name, result, "None")

    def _failed(self, method: str, failure: Failure | None) -> HooksFailed:
        self._log.failure(
            f"{method} raised",
            "hooks: {class_name} raised in {method}, {then}",
            failure,
            class_name=self._class_name,
            method=method,
            then=_then(method),
        )
        return HooksFailed()

    def _returned(self, method: str, result: object, expected: str) -> HooksFailed:
        self._log.error(
            f"{method} returned",
            "hooks: {class_name} returned {result} from {method}, {then}; expected {expected}",
            class_name=self._class_name,
            result=shown(result),
            method=method,
            then=_then(method),
            expected=expected,
        )
        return HooksFailed()

    def __repr__(self) -> str:
        return f"<Hooks {self._class_name}>"


def _then(method: str) -> str:
    return "the request is answered 500" if method in (RECEIVED, STARTED) else "the request is not affected"


def validated(result: object) -> OwnResponse | None:
    """The response as the proxy uses it; None if it is not valid.  Raises what the objects in it raise."""
    if not isinstance(result, HookResponse):
        return None
    # In the compiled build, assigned values must match their annotations, and these have not been checked yet.
    given: tuple[Any, ...] = result
    status, fields, body = given
    if type(status) is not int or not 200 <= status <= 599 or type(body) is not bytes:
        return None
    if body and status in _WITHOUT_CONTENT:
        return None
    lines = field_lines(fields)
    return None if lines is None else OwnResponse(status, lines, body)


def make_hooks(
    class_name: str,
    options: Mapping[str, object],
    now: Callable[[], float] = time.monotonic,
    chance: Random | None = None,
) -> Hooks:
    """The hooks that servers.yaml names as `package.module:Class`.  Raises HooksError.

    `now` is the reactor's clock in seconds, and `chance` a source of random numbers, for classes with these parameters.
    """
    try:
        hooks = make_object(class_name, load_marked(class_name, IHooks), options, now, chance)
    except NamedClassError as error:
        raise HooksError(str(error)) from error.__cause__
    return Hooks(class_name, hooks, now)
