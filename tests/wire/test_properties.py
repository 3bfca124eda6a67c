"""Properties that hold for any bytes."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.wire import messages
from tests.wire.invariants import check_forwarded_request, check_forwarded_response
from tests.wire.reading import read_body, read_request, read_response
from twisted_lb.wire.errors import ResponseError, WireError
from twisted_lb.wire.framing import CHUNKED

# The same examples in every run.
bounded = settings(
    max_examples=400,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def request_summary(pieces: Iterable[bytes]) -> object:
    """All that a reader makes of a request; "refused" when it is."""
    try:
        read = read_request(pieces)
    except WireError:
        return "refused"
    if read is None:
        return None
    head, body = read
    return head.method, head.target, head.host, head.minor, head.notable, head.fields, head.size, head.keep_alive, body


def response_summary(pieces: Iterable[bytes], method: bytes) -> object:
    """All that a reader makes of a response; "refused" when it is."""
    try:
        read = read_response(pieces, method)
    except WireError:
        return "refused"
    if read is None:
        return None
    head, body = read
    return head.status, head.minor, head.reason, head.notable, head.fields, head.size, head.keep_alive, body


def chunked_summary(pieces: list[bytes]) -> object:
    """All that a reader makes of a chunked body; "refused" when it is."""
    try:
        return read_body(CHUNKED, b"", pieces, ResponseError)
    except WireError:
        return "refused"


class AnyBytes(SynchronousTestCase):
    """Each of these also fails on any exception but a WireError."""

    @bounded
    @given(st.data())
    def test_splits_of_requests(self, data: DataObject) -> None:
        """Any bytes are a request, the beginning of one, or refused; and how they are cut makes no difference."""
        wire = data.draw(messages.requests)
        self.assertEqual(request_summary(data.draw(messages.splits(wire))), request_summary([wire]))

    @bounded
    @given(st.data(), st.sampled_from([b"GET", b"HEAD"]))
    def test_splits_of_responses(self, data: DataObject, method: bytes) -> None:
        """Any bytes are a response, the beginning of one, or refused; and how they are cut makes no difference."""
        wire = data.draw(messages.responses)
        self.assertEqual(response_summary(data.draw(messages.splits(wire)), method), response_summary([wire], method))

    @bounded
    @given(st.data())
    def test_splits_of_chunks(self, data: DataObject) -> None:
        """Any bytes are a chunked body, the beginning of one, or refused; and how they are cut makes no difference."""
        wire = data.draw(messages.chunk_bodies | messages.good_chunks)
        self.assertEqual(chunked_summary(data.draw(messages.splits(wire))), chunked_summary([wire]))

    @bounded
    @given(messages.requests | messages.calm_requests)
    def test_requests_forwarded(self, wire: bytes) -> None:
        """A forwarded request has one reading, with the same method, target, fields and body."""
        check_forwarded_request(wire)

    @bounded
    @given(messages.responses | messages.calm_responses, st.sampled_from([b"GET", b"HEAD"]))
    def test_responses_forwarded(self, wire: bytes, method: bytes) -> None:
        """A forwarded response has one reading, with the same status, fields and body."""
        check_forwarded_response(wire, method)


class Strategies(SynchronousTestCase):
    """The properties above are worth what their examples are."""

    def test_calm_requests_are_accepted(self) -> None:
        """Of the calm requests, many are accepted and many are not."""
        outcomes = {"refused": 0, "accepted": 0}

        @bounded
        @given(messages.calm_requests)
        def count(wire: bytes) -> None:
            outcomes["refused" if request_summary([wire]) in ("refused", None) else "accepted"] += 1

        count()
        self.assertGreater(min(outcomes.values()), 50, outcomes)
