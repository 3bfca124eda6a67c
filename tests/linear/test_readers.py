"""The code that reads bytes from clients and servers takes linear time, up to the limits and beyond."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import PEER, RecordedReply, head_of
from tests.api.memory_accounts import MemoryAccounts
from tests.linear.growth import Attack, slow_size
from tests.wire.reading import read_body, read_request, read_response
from twisted_lb.api.bodies import BadBody, read_new_user
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.balancers.consistent_hash import cookie_value
from twisted_lb.credentials import PARAMETER, AmbiguousKey, KeyPlaces
from twisted_lb.limits.client_networks import network_of
from twisted_lb.limits.prefer import preferred_wait
from twisted_lb.limits.pricing import token_cost
from twisted_lb.own_fields import RESPONSE_FIELDS, consumer_line, request_fields
from twisted_lb.proxy.request_view import field_value
from twisted_lb.wire.errors import ResponseError, WireError
from twisted_lb.wire.forwarding import ForwardedFields, interim_head, response_head
from twisted_lb.wire.framing import CHUNKED
from twisted_lb.wire.head import HeadLimits, RequestHead, read_request_head, read_response_head
from twisted_lb.wire.query import take_parameter

LARGEST = 24_576  # bytes; the limit on a head is 32 KiB
# Bytes that some reader gives a meaning to, and one that none does.
SPECIAL = b"a", b"0", b",", b";", b"=", b'"', b"\\", b" ", b"\t", b":", b"%", b"-", b"_", b"\r\n", b"\r", b"\n", b"\xc3"
ANY_SIZE = HeadLimits(1 << 20, 1 << 20, 1 << 20, table=request_fields())
PIECE = 500

REQUEST_FIELDS = (
    b"Authorization: Bearer ",
    b"Connection: ",
    b"Content-Length: 1",
    b"Content-Type: a/b;",
    b"Cookie: lb=",
    b"Expect: ",
    b'Forwarded: for="',
    b"Host: a",
    b"Max-Forwards: 1",
    b"Prefer: wait",
    b"TE: ",
    b"Transfer-Encoding: chunked",
    b"Via: ",
    b"X-Forwarded-For: ",
    b"X-Other: ",
    b"",
)
RESPONSE_LINES = (b"Connection: ", b"Content-Length: 1", b"Date: ", b"Trailer: ", b"X-Token-Cost: 0", b"")


def pumps(longest: int, *more: bytes) -> Iterator[bytes]:
    """What is repeated: all rows of SPECIAL up to a length, and more.

    Of rows that are the same when they are repeated, such as (a, b) and (b, a), there is one.
    """
    for length in range(1, longest + 1):
        for row in product(range(len(SPECIAL)), repeat=length):
            if row == min(row[at:] + row[:at] for at in range(length)):
                yield b"".join(SPECIAL[number] for number in row)
    yield from more


def pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


def forward(head: RequestHead) -> None:
    """All that is done with a request's head on its way to a server."""
    head.target, head.notable[PARAMETER] = take_parameter(head.target, b"&")
    with contextlib.suppress(AmbiguousKey):
        KeyPlaces(parameter=b"&").take(head.notable)
    preferred_wait(field_value(head, b"prefer") or b"")
    field_value(head, b"x-not-there")
    ForwardedFields("192.0.2.1", b"http").request_head(head, 0, consumer_line(b"user"), b"server:80")


def read_whole_request(data: bytes) -> None:
    with contextlib.suppress(WireError):
        head = read_request_head(data, 0, ANY_SIZE)
        if head is not None:
            forward(head)


def read_slow_request(data: bytes) -> None:
    with contextlib.suppress(WireError):
        read_request(pieces(data))


def read_whole_response(data: bytes) -> None:
    with contextlib.suppress(WireError):
        head = read_response_head(data, 0, 1 << 20, RESPONSE_FIELDS)
        if head is not None:
            response_head(head, 0, 1, b"", False, b"", RESPONSE_FIELDS.consumed)
            interim_head(head)
            token_cost(head.notable.get(b"x-token-cost", ()))


def read_slow_response(data: bytes) -> None:
    with contextlib.suppress(WireError):
        read_response(pieces(data), b"GET")


def read_whole_chunks(data: bytes) -> None:
    with contextlib.suppress(WireError):
        read_body(CHUNKED, data, [], ResponseError)


def read_slow_chunks(data: bytes) -> None:
    with contextlib.suppress(WireError):
        read_body(CHUNKED, b"", pieces(data), ResponseError)


def read_json(data: bytes) -> None:
    with contextlib.suppress(BadBody):
        read_new_user(data)


class Cookies:
    """A request of which only the cookies matter."""

    def __init__(self, cookies: bytes) -> None:
        self.cookies = cookies

    def header(self, name: bytes) -> bytes:
        return self.cookies


class ReaderTests(SynchronousTestCase):
    def check(self, act: Callable[[bytes], object], attacks: Iterable[Attack]) -> None:
        for attack in attacks:
            self.assertIsNone(slow_size(act, attack, LARGEST), f"{act.__name__} of {attack}")

    def test_request_heads(self) -> None:
        """A request head, in one piece or many, and all that is read in it."""
        for field in REQUEST_FIELDS:
            start = b"GET / HTTP/1.1\r\nHost: a\r\n" if not field.startswith(b"Host") else b"GET / HTTP/1.1\r\n"
            attacks = [Attack(start + field, pump, b"\r\n\r\n") for pump in pumps(2, b"a: b\r\n", b"a_: b\r\n")]
            self.check(read_whole_request, attacks)
            self.check(read_slow_request, [Attack(start + field, pump, b"\r\n\r\n") for pump in pumps(1)])
        for start in (b"", b"GET ", b"GET http://", b"GET / ", b"\r\n"):
            self.check(read_whole_request, [Attack(start, pump, b"") for pump in pumps(2)])
            self.check(read_slow_request, [Attack(start, pump, b"") for pump in pumps(1)])

    def test_response_heads(self) -> None:
        """A response head, final or interim, in one piece or many."""
        for status, field in product((b"HTTP/1.1 200 ", b"HTTP/1.1 103\r\n"), RESPONSE_LINES):
            start = status + (b"OK\r\n" + field if status.endswith(b" ") else field)
            self.check(read_whole_response, [Attack(start, pump, b"\r\n\r\n") for pump in pumps(2, b"a: b\r\n")])
            self.check(read_slow_response, [Attack(start, pump, b"\r\n\r\n") for pump in pumps(1)])
        self.check(read_slow_response, [Attack(b"", b"HTTP/1.1 100\r\n\r\n", b"")])

    def test_chunks(self) -> None:
        """A chunked body: sizes, extensions, contents, trailers."""
        more = b"1\r\nx\r\n", b'1;a="b"\r\nx\r\n', b";a", b';a="b"', b"a: b\r\n", b"a_: b\r\n"
        for start in (b"", b"1", b"1;a", b"1;a=", b'1;a="', b"1\r\n", b"0\r\n", b"0\r\na:"):
            self.check(read_whole_chunks, [Attack(start, pump, b"\r\n\r\n") for pump in pumps(2, *more)])
            self.check(read_slow_chunks, [Attack(start, pump, b"\r\n\r\n") for pump in pumps(1, *more)])

    def test_values(self) -> None:
        """The values that are taken apart by themselves."""
        self.check(preferred_wait, [Attack(b"wait", pump, b"") for pump in pumps(3)])
        self.check(preferred_wait, [Attack(b'a="', pump, b"") for pump in pumps(2)])
        self.check(lambda data: token_cost([data]), [Attack(b"0", pump, b"") for pump in pumps(2)])
        self.check(lambda data: cookie_value(Cookies(data), b"lb"), [Attack(b"", pump, b"") for pump in pumps(2)])
        self.check(lambda data: network_of(data.decode("latin-1")), [Attack(b"", pump, b"") for pump in pumps(2)])

    def test_json(self) -> None:
        """A body of the user API."""
        more = b"[", b"{", b"[]", b'{"a":', b'"a":1,', b"\\u0061", b"\\ud800", b"1e", b".1", b"\\"
        for start in (b"", b"{", b'{"name":', b'{"name":"', b'{"capacity":', b'{"capacity":0.', b'{"capacity":1e'):
            self.check(read_json, [Attack(start, pump, end) for pump in pumps(2, *more) for end in (b"", b"}", b'"}')])

    def test_user_api(self) -> None:
        """A whole request of the user API, as twisted.web and Klein read it."""
        door = ApiDoor(UserApi(MemoryAccounts(), 5, 1.0).resource())

        def serve(data: bytes) -> None:
            target, _, field = data.partition(b"\x00")
            head = head_of("POST", target.decode("latin-1"), b"{}", field)
            door.serve(head, b"{}", PEER, RecordedReply())

        for field in (b"Content-Type: application/json;", b"Cookie: a", b"Authorization: ", b"Accept: ", b"X-Other: "):
            found = [pump for pump in pumps(1, b";a=", b';a="', b"*0=", b"=?", b"%2") if not pump.strip(b"\r\n") == b""]
            self.check(serve, [Attack(b"/user/create\x00" + field, pump, b"") for pump in found])
        for pump in (b"a", b"&", b"a=b&", b"%2f", b";", b"/", b"="):
            self.check(serve, [Attack(b"/user/create?", pump, b"\x00X: y")])
