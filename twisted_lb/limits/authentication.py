"""The keys of requests: calls the user's authenticator and validates its results (IAuthenticator).

1. At start-up the class is instantiated and checked against IAuthenticator: if it cannot work, the start fails.
2. Failures are logged at most once per second, without the texts of exceptions: these often contain the value that was
   looked up, which is a credential here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from traceback import format_tb
from typing import Any, Final

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import CredentialsRejected, IAuthenticator, IRequest
from twisted_lb.plugins import NamedClassError, load_plugin, make_object, method_of

IDENTIFY: Final = "identify"


class AuthenticatorError(Exception):
    """The authenticator does not exist, or cannot work; the text says what failed."""


class AuthenticationFailed(Exception):
    """The authenticator failed to identify a request; the reason has been logged."""


class Authentication:
    """The user's authenticator with validation of its results, as the proxy uses it."""

    def __init__(self, class_name: str, authenticator: object, now: Callable[[], float] = time.monotonic) -> None:
        """`class_name` names the authenticator in errors and in the log; `now` is a clock in seconds.

        Raises AuthenticatorError.
        """
        self._class_name = class_name
        self._log = BoundedLog(Logger(__name__), now)
        try:
            identify: Callable[..., Any] | None = method_of(class_name, authenticator, IDENTIFY, ("request",))
        except NamedClassError as error:
            raise AuthenticatorError(str(error)) from error.__cause__
        if identify is None:
            raise AuthenticatorError(f"{class_name}: the class has no method identify(request)")
        self._identify = identify

    def key(self, request: IRequest) -> bytes | None:
        """The key of the request; None if it has no credentials.

        Raises CredentialsRejected, and AuthenticationFailed after logging the reason.
        """
        try:
            key = self._identify(request)
        except CredentialsRejected:
            raise
        except BaseException as error:
            self._log.error(
                "raised",
                "authenticator: {class_name} raised {kind} in identify, the request is answered 500\n{traceback}",
                class_name=self._class_name,
                kind=type(error).__name__,
                traceback="".join(format_tb(error.__traceback__)),
            )
            raise AuthenticationFailed from None
        if key is None or type(key) is bytes:
            return key or None
        self._log.error(
            "returned",
            "authenticator: {class_name} returned {kind} from identify, the request is answered 500; "
            "expected bytes or None",
            class_name=self._class_name,
            kind=type(key).__name__,
        )
        raise AuthenticationFailed


def make_authentication(class_name: str, now: Callable[[], float] = time.monotonic) -> Authentication | None:
    """The authenticator that the setting names as `package.module:Class`; None for "".  Raises AuthenticatorError.

    `now` is the reactor's clock in seconds, for classes with this parameter.
    """
    if not class_name:
        return None
    try:
        authenticator = make_object(class_name, load_plugin(class_name, IAuthenticator), {}, now)
    except NamedClassError as error:
        raise AuthenticatorError(str(error)) from error.__cause__
    return Authentication(class_name, authenticator, now)
