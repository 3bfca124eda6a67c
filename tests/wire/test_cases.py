"""Each case of the tables, read in three ways: whole, byte by byte, and followed by another message."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.trial.unittest import SynchronousTestCase

from tests.wire.cases import REQUEST_CASES, RESPONSE_CASES
from tests.wire.cases.case import Case, Refused, Request, Response, Unfinished
from tests.wire.reading import byte_by_byte, read_request, read_response
from twisted_lb.wire.errors import WireError
from twisted_lb.wire.framing import UNTIL_CLOSE

NEXT_REQUEST = b"GET /next HTTP/1.1\r\nHost: b.test\r\n\r\n"
NEXT_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

Outcome = Request | Response | Refused | Unfinished


def request_outcome(case: Case, pieces: Iterable[bytes]) -> tuple[Outcome, bytes]:
    """What came of a request, and what was left over."""
    try:
        read = read_request(pieces)
    except WireError as error:
        return Refused(error.status), b""
    if read is None or not read[1].done:
        return Unfinished(), b""
    head, body = read
    looked_at = isinstance(case.expected, Request) and case.expected.fields is not None
    return (
        Request(
            head.method,
            head.target,
            head.host,
            body.content,
            head.fields if looked_at else None,
            body.trailers,
            head.minor,
            head.keep_alive,
        ),
        body.rest,
    )


def response_outcome(case: Case, pieces: Iterable[bytes]) -> tuple[Outcome, bytes]:
    """What came of a response, and what was left over."""
    try:
        read = read_response(pieces, case.method)
    except WireError as error:
        return Refused(error.status), b""
    if read is None or not (read[1].done or read[1].framing == UNTIL_CLOSE):
        return Unfinished(), b""
    head, body = read
    looked_at = isinstance(case.expected, Response) and case.expected.fields is not None
    return (
        Response(
            head.status,
            body.content,
            head.fields if looked_at else None,
            body.trailers,
            head.keep_alive,
            body.framing == UNTIL_CLOSE,
        ),
        body.rest,
    )


def claims(
    cases: list[Case], outcome: Callable[[Case, Iterable[bytes]], tuple[Outcome, bytes]], following: bytes
) -> type[SynchronousTestCase]:
    """A test case with a method for each case."""

    def make(case: Case) -> Callable[[SynchronousTestCase], None]:
        def test(self: SynchronousTestCase) -> None:
            self.assertEqual(outcome(case, [case.data]), (case.expected, b""), "whole")
            self.assertEqual(outcome(case, byte_by_byte(case.data)), (case.expected, b""), "byte by byte")
            ends = isinstance(case.expected, Request) or (
                isinstance(case.expected, Response) and not case.expected.until_close
            )
            if ends:
                self.assertEqual(outcome(case, [case.data + following]), (case.expected, following), "with a tail")
                pieces = byte_by_byte(case.data + following)
                self.assertEqual(outcome(case, pieces), (case.expected, following), "byte by byte, with a tail")
            elif isinstance(case.expected, Refused) and b"\r\n\r\n" in case.data:
                self.assertEqual(outcome(case, [case.data + following]), (case.expected, b""), "with a tail")

        test.__doc__ = f"{case.claim[0].upper()}{case.claim[1:]} (RFC {case.rfc})."
        return test

    methods = {f"test_{number:03}": make(case) for number, case in enumerate(cases)}
    return type("Claims", (SynchronousTestCase,), methods)


class RequestCases(claims(REQUEST_CASES, request_outcome, NEXT_REQUEST)):  # type: ignore[misc]
    """What clients send."""


class ResponseCases(claims(RESPONSE_CASES, response_outcome, NEXT_RESPONSE)):  # type: ignore[misc]
    """What servers send."""


class Tables(SynchronousTestCase):
    """The tables themselves."""

    def test_claims_are_unique(self) -> None:
        """No two cases claim the same."""
        all_claims = [case.claim for case in REQUEST_CASES + RESPONSE_CASES]
        self.assertEqual(sorted(set(all_claims)), sorted(all_claims))
