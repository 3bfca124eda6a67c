"""The wire cases at a running balancer, before a server that records every byte; and servers that misbehave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.integration.processes import Balancer, wait_until
from tests.integration.raw_client import Got, exchange
from tests.integration.raw_server import CLOSE, KEEP, RESET, RawServer, Script, answer
from tests.wire.cases import REQUEST_CASES, RESPONSE_CASES
from tests.wire.cases.case import Case, Refused, Request, Response, Unfinished

POISON = answer(b"poison")


def started(raw: RawServer, **environment: str) -> Iterator[Balancer]:
    """A balancer before the raw server."""
    balancer = Balancer(
        f"servers:\n  - {{name: raw, url: 'http://127.0.0.1:{raw.port}'}}\n", environment=environment
    )
    try:
        yield balancer.start()
        assert "Traceback" not in balancer.log(), balancer.log()
    finally:
        balancer.close()


@pytest.fixture(scope="module")
def balancer(raw: RawServer) -> Iterator[Balancer]:
    """A balancer that waits for a server longer than a busy machine keeps it from answering."""
    yield from started(raw)


@pytest.fixture(scope="module")
def quick_balancer(raw: RawServer) -> Iterator[Balancer]:
    """One that gives up on a server after a second."""
    yield from started(raw, UPSTREAM_TIMEOUT="1s")


@pytest.fixture(scope="module")
def key(balancer: Balancer) -> bytes:
    """An API key with tokens for all cases."""
    return balancer.create_user("wire", 1_000_000, 1_000_000).encode()


@pytest.fixture(autouse=True)
def forgetful(raw: RawServer) -> Iterator[None]:
    """Each test begins with nothing recorded."""
    raw.forget()
    yield
    raw.greeting = raw.early = b""


def get(target: str, key: bytes, method: bytes = b"GET") -> bytes:
    """A right request."""
    return b"%b %b HTTP/1.1\r\nHost: a.test\r\nX-API-Key: %b\r\n\r\n" % (method, target.encode(), key)


def with_key(data: bytes, key: bytes) -> bytes:
    """`data` with a field that carries the key behind its first line that is not empty."""
    empty = len(data) - len(data.lstrip(b"\r\n"))
    start, rest = data[:empty], data[empty:]
    return start + rest.replace(b"\r\n", b"\r\nX-API-Key: %b\r\n" % key, 1)


def assert_in_step(balancer: Balancer, key: bytes) -> None:
    """The next requests get the answers to themselves."""
    for _ in range(2):
        target = f"/probe/{uuid4()}"
        got = exchange(balancer.port, get(target, key))
        assert (got.status, got.content) == (200, b"asked " + target.encode()), got


@pytest.mark.parametrize("case", [case for case in REQUEST_CASES if case.at_proxy], ids=lambda case: case.claim)
def test_request(case: Case, balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """What the table says of a request holds for the whole balancer."""
    unfinished = isinstance(case.expected, Unfinished)
    method = case.expected.method if isinstance(case.expected, Request) else b"GET"
    refused = isinstance(case.expected, Refused)
    got = exchange(balancer.port, with_key(case.data, key), method, finish=unfinished, to_end=refused)
    if isinstance(case.expected, Request):
        assert (got.status, got.whole, got.surplus) == (200, True, b""), got
        request = raw.requests[0]
        assert len(raw.requests) == 1
        assert request.start == (case.expected.method, case.expected.target, b"HTTP/1.1")
        assert request.values(b"host") == [case.expected.host or b"127.0.0.1:%d" % raw.port]
        assert request.body == case.expected.content
        assert [name + b":" + value for name, value in request.trailers] == [
            b":".join(part.strip() for part in line.split(b":", 1)) for line in case.expected.trailers
        ]
    else:
        if refused:
            assert (got.status, got.whole, got.surplus) == (case.expected.status, True, b""), got  # type: ignore[union-attr]
            assert raw.received == b""
        assert got.ended
        assert raw.requests == []
    assert_in_step(balancer, key)


@pytest.mark.parametrize("case", RESPONSE_CASES, ids=lambda case: case.claim)
def test_response(case: Case, balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """What the table says of a response holds for the whole balancer."""
    expected = case.expected
    final = answer(b"final") if isinstance(expected, Response) and expected.status < 200 else b""
    until_close = isinstance(expected, Response) and expected.until_close
    end = CLOSE if until_close or isinstance(expected, Unfinished) else KEEP
    raw.scripts["case"] = Script((case.data + final,), end)
    got = exchange(balancer.port, get("/script/case", key, case.method), case.method)
    if isinstance(expected, Response):
        if final:
            assert (got.interim, got.status, got.content) == ([expected.status], 200, b"final")
        else:
            assert (got.status, got.content, got.whole) == (expected.status, expected.content, True), got
        assert got.surplus == b""
    else:
        assert_failed(got)
    assert_in_step(balancer, key)


SELF_DELIMITING = [
    case
    for case in RESPONSE_CASES
    if isinstance(case.expected, Response) and not case.expected.until_close and case.expected.status >= 200
]


@pytest.mark.parametrize("case", SELF_DELIMITING, ids=lambda case: case.claim)
@pytest.mark.parametrize("pause", [0.0, 0.002, 0.02])
def test_surplus(case: Case, pause: float, balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """What a server sends beyond its response reaches nobody."""
    name = str(uuid4())
    raw.scripts[name] = Script((case.data, pause, POISON) if pause else (case.data + POISON,))
    got = exchange(balancer.port, get(f"/script/{name}", key, case.method), case.method, linger=pause + 0.01)
    wait_until(lambda: raw.answered[f"/script/{name}"], what="the surplus was sent")
    assert (got.status, got.whole, got.surplus) == (case.expected.status, True, b""), got  # type: ignore[union-attr]
    assert_in_step(balancer, key)


MISBEHAVIOUR = {
    "closes without a word": Script((), CLOSE),
    "resets without a word": Script((), RESET),
    "closes in a status line": Script((b"HTTP/1.1 20",), CLOSE),
    "closes in a head": Script((b"HTTP/1.1 200 OK\r\nContent-Le", 0.02), CLOSE),
    "closes in a body": Script((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 0.02, b"half"), CLOSE),
    "resets in a body": Script((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 0.05), RESET),
    "closes in a chunk": Script((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", 0.02, b"ab"), CLOSE),
    "closes before the last chunk": Script(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", 0.02), CLOSE
    ),
    "closes in the trailers": Script(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 0.02, b"A: b\r\n"), CLOSE
    ),
    "breaks a chunk later": Script(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", 0.02, b"xyz\r\n" + POISON)
    ),
    "resets a body that its connection ends": Script((b"HTTP/1.1 200 OK\r\n\r\nhalf", 0.05), RESET),
    "switches protocols, which nobody has asked for": Script(
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", POISON)
    ),
    "sends interim responses without end": Script((b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 1000,)),
    "sends an endless head": Script((b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20000,)),
    "sends an endless line": Script((b"HTTP/1.1 200 " + b"a" * 200_000,)),
    "sends endless chunk extensions": Script(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"e" * 3000 + b"\r\na\r\n") * 20,)
    ),
    "sends endless trailers": Script(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 20000,)
    ),
    "frames an interim response": Script((b"HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\npoison" + POISON,)),
    "sends a compressed coding": Script((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",), CLOSE),
}
SILENCE = {
    "is silent": Script((2.0,)),
    "falls silent": Script((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 2.0)),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_misbehaving_server(name: str, method: bytes, balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A client whose server misbehaves gets 502 or 504, or can tell that its response is not whole."""
    raw.scripts["bad"] = MISBEHAVIOUR[name]
    # On a new connection, and on one that has served before.
    for _ in range(2):
        assert_failed(exchange(balancer.port, get("/script/bad", key, method), method))
        assert_in_step(balancer, key)


@pytest.mark.parametrize("name", SILENCE)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_silent_server(name: str, method: bytes, quick_balancer: Balancer, raw: RawServer) -> None:
    """A client whose server is silent for too long gets 504, or can tell that its response is not whole."""
    key = quick_balancer.create_user(str(uuid4()), 1_000_000).encode()
    raw.scripts["silent"] = SILENCE[name]
    for _ in range(2):
        got = exchange(quick_balancer.port, get("/script/silent", key, method), method)
        assert_failed(got)
        assert got.status == (504 if name == "is silent" else 200)
        target = f"/probe/{uuid4()}"
        probes: list[Got] = []

        def answered(target: str = target, probes: list[Got] = probes) -> bool:
            # On a busy machine the server may take longer than a second for this answer, too.
            probes.append(exchange(quick_balancer.port, get(target, key)))
            return probes[-1].status != 504

        wait_until(answered, what="an answer in time")
        assert (probes[-1].status, probes[-1].content) == (200, b"asked " + target.encode()), probes


def test_server_that_speaks_first(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A response that nobody asked for, sent on each new connection, reaches no second client."""
    raw.scripts["end"] = Script((answer(b"ended"),), CLOSE)
    # No connection from before is left.
    exchange(balancer.port, get("/script/end", key))
    time.sleep(0.05)
    raw.greeting = POISON
    for number in range(5):
        got = exchange(balancer.port, get(f"/{number}", key))
        assert got.content in (b"poison", b"asked /%d" % number) or got.status == 502, got
        time.sleep(0.02)
    raw.greeting = b""
    time.sleep(0.05)
    assert_in_step(balancer, key)


def test_early_response(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A server that answers before the request is whole is heard, and its connection is not used again."""
    half = b"POST / HTTP/1.1\r\nHost: a.test\r\nX-API-Key: %b\r\nContent-Length: 100\r\n\r\nhalf" % key
    raw.early = answer(b"early")
    got = exchange(balancer.port, half, to_end=True)
    raw.early = b""
    assert (got.status, got.content, got.whole, got.surplus) == (200, b"early", True, b""), got
    assert_in_step(balancer, key)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 0\r\n", 200),
        (b"Expect: 100-Continue\r\nContent-Length: 0\r\n", 200),
        (b"Expect: more\r\nContent-Length: 0\r\n", 417),
        (b"Expect: 100-continue, more\r\nContent-Length: 0\r\n", 417),
        (b"Expect: 100-continue\r\nExpect: more\r\nContent-Length: 0\r\n", 417),
    ],
)
def test_expectations(lines: bytes, status: int, balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """100-continue is the only expectation that is met (RFC 9110 section 10.1.1)."""
    data = b"POST / HTTP/1.1\r\nHost: a.test\r\nX-API-Key: %b\r\n%b\r\n" % (key, lines)
    assert exchange(balancer.port, data).status == status
    assert len(raw.requests) == (status == 200)


def test_expectation_of_http_1_0(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """HTTP/1.0 has no expectations: whatever it expects is ignored (RFC 9110 section 10.1.1)."""
    data = b"POST / HTTP/1.0\r\nX-API-Key: %b\r\nExpect: more\r\nContent-Length: 2\r\n\r\nab" % key
    assert exchange(balancer.port, data).status == 200
    assert raw.requests[0].values(b"expect") == []


def assert_failed(got: Got) -> None:
    """The client can tell that there is no whole response."""
    assert got.ended or got.whole, got
    if got.status not in (502, 504):
        assert not got.whole, got
    assert b"poison" not in got.content + got.surplus, got
