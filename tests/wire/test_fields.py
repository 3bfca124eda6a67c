"""The table of fields: the treatment of each, in the heads that are read and written."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.own_fields import OWN_FIELDS, RESPONSE_FIELDS, request_fields
from twisted_lb.wire.fields import DEFAULT_FIELDS, TABLE, RequestFields, Use
from twisted_lb.wire.head import HeadLimits, read_request_head, read_response_head

ROWS = (*TABLE, *OWN_FIELDS)
LIMITS = HeadLimits(table=request_fields())


class TableTests(SynchronousTestCase):
    def test_rows(self) -> None:
        """Each field has one row, in lower case, with a reason."""
        names = [field.name for field in ROWS]
        self.assertEqual(sorted(names), sorted(set(names)))
        for field in ROWS:
            self.assertEqual(field.name, field.name.lower())
            self.assertTrue(field.because, field.name)

    def test_requests(self) -> None:
        """Of a request's head, just what is not passed on is taken out of the lines."""
        for field in ROWS:
            value = {b"host": b"a", b"content-length": b"0", b"connection": b"close"}.get(field.name, b"1")
            host = b"" if field.name == b"host" else b"Host: a\r\n"
            head = read_request_head(b"GET / HTTP/1.1\r\n%b%b: %b\r\n\r\n" % (host, field.name, value), 0, LIMITS)
            assert head is not None
            self.assertEqual(field.name in head.fields, field.request is Use.PASSED_ON, field.name)
            self.assertEqual(field.name in head.notable, field.request is not Use.PASSED_ON, field.name)

    def test_responses(self) -> None:
        """So it is of a response's head."""
        for field in ROWS:
            head = read_response_head(b"HTTP/1.1 200 OK\r\n%b: 1\r\n\r\n" % field.name, 0, 65536, RESPONSE_FIELDS)
            assert head is not None
            self.assertEqual(field.name in head.fields, field.response is Use.PASSED_ON, field.name)
            self.assertEqual(field.name in RESPONSE_FIELDS.notable, field.response is not Use.PASSED_ON, field.name)

    def test_keys(self) -> None:
        """A field that may carry a key is taken out, may come once, is no trailer, and stays if Connection names it."""
        fields = RequestFields([b"x-key"])
        self.assertIn(b"x-key", fields.notable & fields.singletons & fields.forbidden_trailers)
        self.assertNotIn(b"x-key", fields.nominable | DEFAULT_FIELDS.notable)

    def test_trailers(self) -> None:
        """What frames, routes or authenticates is no trailer; what a request has cost may be one."""
        for name in (b"transfer-encoding", b"content-length", b"host", b"authorization", b"x-consumer-username"):
            self.assertIn(name, LIMITS.table.forbidden_trailers & RESPONSE_FIELDS.forbidden_trailers)
        self.assertNotIn(b"x-token-cost", RESPONSE_FIELDS.forbidden_trailers)

    def test_fields_of_http(self) -> None:
        """Without further rows, only the fields of HTTP are treated, and all others are passed on."""
        own = {field.name for field in OWN_FIELDS}
        self.assertEqual(own & DEFAULT_FIELDS.notable, set())
        self.assertEqual(DEFAULT_FIELDS.notable, {field.name for field in TABLE if field.request is not Use.PASSED_ON})
        head = read_response_head(b"HTTP/1.1 200 OK\r\nX-Token-Cost: 1\r\n\r\n", 0, 65536)
        assert head is not None
        self.assertEqual(head.fields, b"\r\nX-Token-Cost: 1")
