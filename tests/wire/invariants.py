"""What must be true of a message that is passed on, according to the strict reader.

Used by the property tests and the fuzzer.
"""

from __future__ import annotations

from tests.wire.reading import Body, read_request, read_response
from tests.wire.strict_reader import TOKEN, Message, read_requests
from tests.wire.strict_reader import read_response as read_strictly
from twisted_lb.own_fields import RESPONSE_FIELDS, consumer_line, request_fields
from twisted_lb.wire.body import chunk, last_chunk
from twisted_lb.wire.errors import WireError
from twisted_lb.wire.forwarding import ForwardedFields, interim_head, response_head
from twisted_lb.wire.framing import CHUNKED

REQUEST_FIELDS = request_fields()
HOP = ForwardedFields("192.0.2.1", b"http")
DATE = b"Mon, 23 Nov 2026 21:15:43 GMT"

# A request has each of these at most once, whatever the client sent.
AT_MOST_ONCE = REQUEST_FIELDS.notable | {b"content-length"}
# The only characters of names that servers keep apart.
PLAIN = frozenset(b"-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# These are the gateway's to say.
OURS = {
    b"x-consumer-username": b"ann",
    b"x-forwarded-for": b"192.0.2.1",
    b"x-forwarded-proto": b"http",
    b"x-real-ip": b"192.0.2.1",
}


def check_forwarded_request(wire: bytes) -> bool:
    """Pass a request on and read it again.  Returns whether there was a whole request."""
    try:
        read = read_request([wire])
    except WireError:
        return False
    if read is None or not read[1].done:
        return False
    head, body = read
    sent = HOP.request_head(head, body.framing, consumer_line(b"ann"), b"server:9001") + _framed(body)
    requests = read_requests(sent)
    assert len(requests) == 1, sent
    request = requests[0]
    assert request.start == (head.method, head.target, b"HTTP/1.1"), sent
    assert request.values(b"host") == [head.host or b"server:9001"], sent
    assert request.body == body.content, sent
    named = _named_by_connection(wire)
    assert _others(request, REQUEST_FIELDS.notable) == _kept(wire, REQUEST_FIELDS.notable | named, PLAIN), sent
    for name in AT_MOST_ONCE:
        assert len(request.values(name)) <= 1, (name, sent)
    for name, value in OURS.items():
        assert request.values(name) == [value], (name, sent)
    element = b'for=192.0.2.1;host="%b";proto=http' % (head.host or b"server:9001")
    assert request.values(b"forwarded") == [element], sent
    for name in (b"x-api-key", b"apikey", b"http2-settings", b"proxy-authorization"):
        assert not request.values(name), sent
    protocols = [protocol.strip() for protocol in b", ".join(request.values(b"upgrade")).split(b",")]
    assert protocols == head.upgrade.split(b", ") and b"h2c" not in [one.lower() for one in protocols], sent
    if head.upgrade:
        assert head.minor == 1 and not head.keep_alive and b"upgrade" in named, sent
    options = [option for value in request.values(b"connection") for option in value.lower().split(b", ")]
    assert options == [b"upgrade"] * bool(head.upgrade) + [b"te"] * bool(request.values(b"te")), sent
    _check_trailers(request, PLAIN)
    return True


def check_forwarded_response(wire: bytes, method: bytes) -> bool:
    """Pass a response on, to HTTP/1.1 and HTTP/1.0, and read it again.  Returns whether there was a whole response."""
    try:
        read = read_response([wire], method)
    except WireError:
        return False
    if read is None:
        return False
    head, body = read
    if head.status < 200:
        sent = interim_head(head)
        assert sent.endswith(b"\r\n\r\n") and sent.count(b"\r\n\r\n") == 1, sent
        return True
    if body.framing >= 0 and not body.done:
        return False
    for minor in (1, 0):
        sent = response_head(head, body.framing, minor, b"\r\nRateLimit: ours", minor == 0, DATE)
        if body.framing < 0 and minor:
            sent += (chunk(body.content) if body.content else b"") + last_chunk(body.trailers)
        else:
            sent += body.content
        response = read_strictly(sent, method)
        assert int(response.start[1]) == head.status, sent
        assert response.body == body.content, sent
        named = _named_by_connection(wire)
        assert _others(response, RESPONSE_FIELDS.notable) == _kept(wire, RESPONSE_FIELDS.notable | named, TOKEN), sent
        assert len(response.values(b"date")) == 1, sent
        assert response.values(b"ratelimit") == [b"ours"], sent
        _check_trailers(response, TOKEN)
    return True


def _framed(body: Body) -> bytes:
    if body.framing == CHUNKED:
        return (chunk(body.content) if body.content else b"") + last_chunk(body.trailers)
    return body.content


def _fields(wire: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of an accepted message as they were sent."""
    while wire.startswith(b"\r\n"):
        wire = wire[2:]
    block = wire.partition(b"\r\n\r\n")[0]
    fields = [line.partition(b":") for line in block.split(b"\r\n")[1:]]
    return [(name, value.strip(b" \t")) for name, _, value in fields]


def _named_by_connection(wire: bytes) -> set[bytes]:
    values = b",".join(value for name, value in _fields(wire) if name.lower() == b"connection")
    return {option.strip(b" \t") for option in values.lower().split(b",")}


def _others(message: Message, but: frozenset[bytes] | set[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in message.fields if name.lower() not in but]


def _kept(wire: bytes, but: frozenset[bytes] | set[bytes], letters: frozenset[int]) -> list[tuple[bytes, bytes]]:
    """The fields that are passed on unchanged: those whose names have these letters only."""
    return [(name, value) for name, value in _fields(wire) if name.lower() not in but and letters.issuperset(name)]


def _check_trailers(message: Message, letters: frozenset[int]) -> None:
    for name, _ in message.trailers:
        variable = bytes(byte if byte in PLAIN else ord("-") for byte in name).lower()
        assert variable not in REQUEST_FIELDS.forbidden_trailers and letters.issuperset(name), message.trailers
