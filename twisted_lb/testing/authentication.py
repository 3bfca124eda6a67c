"""The contract of an authenticator as a suite of tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from twisted_lb.interfaces import CredentialsRejected, IAuthenticator, IRequest
from twisted_lb.testing.fakes import ODD_REQUESTS, FakeRequest
from twisted_lb.testing.interfaces import check_provides, hold
from twisted_lb.testing.pricing import BLOCKING_SECONDS, TRIES

KEY = b"3b241101-e2bb-4255-8caf-4136c566a962"
# Clients can send these, and many more.
ODD_CREDENTIALS = tuple(
    FakeRequest(headers={b"authorization": value, b"x-api-key": value})
    for value in (
        b"",
        b"Bearer",
        b"Bearer ",
        b"bearer  " + KEY,
        b"Basic !",
        b"Basic /w==",
        b"Basic " + b"Og" * 4000,
        b"Digest username=\xff",
        b"Bearer a.b",
        b"Bearer ..",
        b"Bearer eyJhbGciOiJub25lIn0.e30.",
        b"Bearer \xff\xfe",
        KEY + b", " + KEY,
    )
)


class AuthenticatorContract:
    """A mixin for a TestCase.  Set `requests` to try further ones that matter to your class.

    Set `keys` to pairs of a request and its expected key, None for no credentials.
    """

    requests: Iterable[IRequest] = ()
    keys: Iterable[tuple[IRequest, bytes | None]] = ()
    # A clock in seconds, by which calls are timed.
    seconds: Callable[[], float] = staticmethod(time.perf_counter)

    def make(self) -> Any:
        """A new authenticator."""
        raise NotImplementedError("define make(self), which returns a new authenticator")

    def test_provides_the_interface(self) -> None:
        """The authenticator and its class have the signature of IAuthenticator."""
        check_provides(IAuthenticator, self.make())

    def test_without_credentials(self) -> None:
        """A request without header fields has no key, unless something else in it identifies its client."""
        self._identify(self.make(), FakeRequest())

    def test_keys(self) -> None:
        """The requests in `keys` have their keys."""
        authenticator = self.make()
        for request, expected in self.keys:
            key = self._identify(authenticator, request)
            hold(key == expected, f"identify returned {key!r} for {request} where `keys` has {expected!r}")

    def test_odd_requests(self) -> None:
        """Whatever the request holds or lacks, the result is bytes or None, or CredentialsRejected is raised."""
        authenticator = self.make()
        for request in self._requests():
            self._identify(authenticator, request)

    def test_asked_again(self) -> None:
        """The same request has the same key when it is asked for again."""
        authenticator = self.make()
        for request in self._requests():
            first, second = self._identify(authenticator, request), self._identify(authenticator, request)
            hold(first == second, f"identify returned another key the second time for {request}")

    def test_blocks_nothing(self) -> None:
        """Each call returns at once."""
        authenticator = self.make()
        for request in (*ODD_CREDENTIALS[:1], *(request for request, _ in self.keys)):
            seconds = min(self._timed(authenticator, request) for _ in range(TRIES))
            hold(
                seconds < BLOCKING_SECONDS,
                f"identify took {seconds * 1000:.1f} ms each time: meanwhile every client of the process waits",
            )

    def _timed(self, authenticator: Any, request: IRequest) -> float:
        begun = self.seconds()
        self._identify(authenticator, request)
        return self.seconds() - begun

    def _identify(self, authenticator: Any, request: IRequest) -> bytes | None:
        try:
            key = authenticator.identify(request)
        except CredentialsRejected as error:
            hold(bool(str(error)), f"CredentialsRejected has no text for {request}: the client is not told why")
            return None
        except Exception as error:
            message = f"identify raised {error!r} for {request}: the client would get 500, and not 401"
            raise AssertionError(message) from error
        hold(
            key is None or type(key) is bytes,
            f"identify returned a {type(key).__name__} for {request}; expected bytes or None: the client would get 500",
        )
        return key or None

    def _requests(self) -> list[IRequest]:
        return [*ODD_REQUESTS, *ODD_CREDENTIALS, *self.requests]
