"""Names of fields that servers may mistake for one another."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.wire.cases.case import get
from twisted_lb.own_fields import request_fields
from twisted_lb.wire.body import ChunkedDecoder
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.field_names import UNUSUAL_NAME, folded, is_usual
from twisted_lb.wire.head import HeadLimits, read_request_head

SPECIALS = b"!#$%&'*+.^_`|~"  # the tchar of RFC 9110 section 5.6.2 that are no letter, digit or hyphen
FIELDS = request_fields()
OURS = sorted(FIELDS.notable)


def lookalikes(name: bytes) -> list[bytes]:
    """Names that become the same variable as `name`: with each special for each hyphen, and for all of them."""
    places = [place for place, byte in enumerate(name) if byte == ord("-")]
    one = [name[:place] + bytes([other]) + name[place + 1 :] for place in places for other in SPECIALS]
    return [*one, *(name.replace(b"-", bytes([other])).upper() for other in SPECIALS if places)]


def passed_on(lines: list[bytes], any_name: bool) -> bytes:
    head = read_request_head(get(*lines), 0, HeadLimits(1 << 20, fields=100_000, any_name=any_name, table=FIELDS))
    assert head is not None
    return head.fields


def trailers(lines: list[bytes], any_name: bool) -> list[bytes]:
    forbidden = FIELDS.forbidden_trailers
    decoder = ChunkedDecoder(lambda detail: RequestError(400, detail), any_name=any_name, forbidden=forbidden)
    decoder.feed(b"0\r\n%b\r\n\r\n" % b"\r\n".join(lines))
    assert decoder.done
    return decoder.trailers


class FieldNameTests(SynchronousTestCase):
    def test_variables(self) -> None:
        """Two names fold to one exactly when CGI, at its widest, makes one variable of them."""
        names = [b"X-A", b"x.a", b"X_A", b"xa", b"X-A-", b"x-a~", b"X--A", b"X-B", b"X9A"]

        def variable(name: bytes) -> str:
            return "".join(letter if letter.isalnum() else "_" for letter in name.decode().upper())

        for one in names:
            for other in names:
                self.assertEqual(folded(one) == folded(other), variable(one) == variable(other), (one, other))

    def test_every_byte(self) -> None:
        """The pattern over a head and the test of one name agree on every character, at every place of a name."""
        for byte in SPECIALS + b"-09azAZ":
            for name in (b"%c" % byte, b"%ca" % byte, b"a%c" % byte, b"a-%c-a" % byte):
                found = UNUSUAL_NAME.search(b"\r\nA: b.c_d\r\n%b: .x\r\nB: c" % name)
                self.assertEqual(found is None, is_usual(name), name)
                self.assertEqual(is_usual(name), byte not in SPECIALS, name)

    def test_dropped(self) -> None:
        """A request goes on without a field or trailer whose name has another character than letters, digits, `-`."""
        names = [b"X%cName" % other for other in SPECIALS] + [name for ours in OURS for name in lookalikes(ours)]
        lines = [b"%b: evil" % name for name in names]
        self.assertEqual(passed_on([b"A: 1", *lines, b"B: 2"], False), b"\r\nA: 1\r\nB: 2")
        self.assertEqual(trailers([b"A: 1", *lines[:300], b"B: 2"], False), [b"A: 1", b"B: 2"])

    def test_passed(self) -> None:
        """Where the setting passes unusual names, they go on as they came; those that could be one of ours do not."""
        for ours in OURS:
            lines = [b"%b: evil" % name for name in lookalikes(ours)]
            self.assertEqual(passed_on([b"X_Odd.Name~: 1", *lines, b"B: 2"], True), b"\r\nX_Odd.Name~: 1\r\nB: 2")
        for forbidden in sorted(FIELDS.forbidden_trailers):
            lines = [b"%b: evil" % name for name in [*lookalikes(forbidden), forbidden.upper()]]
            self.assertEqual(trailers([b"X_Odd: 1", *lines], True), [b"X_Odd: 1"])

    def test_what_connection_names(self) -> None:
        """An unusual name that Connection names does not go on, whatever the setting."""
        lines = [b"Connection: X_Hop, close", b"X_Hop: 1", b"A: 2"]
        self.assertEqual(passed_on(lines, True), b"\r\nA: 2")
