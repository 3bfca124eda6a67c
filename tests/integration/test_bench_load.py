"""The benchmark's load (bench/load.c) counts what a server really did, so that a broken peer cannot appear fast."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load import Load, LoadResult, start_load, write_requests
from bench.stage import Stage

CONNECTIONS = 2
REQUESTS = [b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Where the processes and the file of requests are."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    with Stage() as stage:
        write_requests(stage.path / "requests", REQUESTS)
        yield stage


@pytest.fixture(scope="module")
def load(stage: Stage) -> Load:
    """The process, on any core."""
    return start_load(stage, "0-1023")


ENOUGH = 30  # answers


def load_server(load: Load, requests: Path, answer: bytes, closes: bool) -> tuple[LoadResult, int, set[bytes]]:
    """What the load counts of a server with this answer, how often that server answered, and the requests it got."""
    answered = 0
    seen: set[bytes] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        try:
            while True:
                seen.add(await reader.readuntil(b"\r\n\r\n"))
                await asyncio.sleep(0.002)
                answered += 1
                writer.write(answer)
                await writer.drain()
                if closes:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    async def run() -> LoadResult:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            with load.run(server.sockets[0].getsockname()[1], CONNECTIONS, requests) as load_run:
                give_up_at = time.monotonic() + 60
                while answered < ENOUGH and time.monotonic() < give_up_at:
                    await asyncio.sleep(0.01)
                return load_run.stop()

    return asyncio.run(run()), answered, seen


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: close\r\n\r\nok", True),
        (b"HTTP/1.0 200 OK\r\n\r\nok", True),
    ],
)
def test_every_answer_is_a_request_and_no_error(stage: Stage, load: Load, answer: bytes, closes: bool) -> None:
    """All answers are counted, all prepared requests are sent, and nothing is an error."""
    result, answered, seen = load_server(load, stage.path / "requests", answer, closes)
    assert result.errors == 0
    assert answered - CONNECTIONS <= result.requests <= answered and result.requests > 10
    assert 2 * result.requests <= result.bytes <= 2 * (result.requests + CONNECTIONS)
    assert result.p50_us >= 2000
    assert seen == set(REQUESTS)


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Le", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"garbage\r\n\r\n", False),
    ],
)
def test_a_broken_answer_is_an_error_and_no_request(stage: Stage, load: Load, answer: bytes, closes: bool) -> None:
    """What ends early, is too long or cannot be read does not count as a request."""
    result, answered, _ = load_server(load, stage.path / "requests", answer, closes)
    assert result.requests == 0
    assert answered - CONNECTIONS <= result.errors <= answered and result.errors > 10


def test_refusals_are_errors(stage: Stage, load: Load) -> None:
    """A peer that answers 503 quickly has as many errors as requests."""
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    result, _, _ = load_server(load, stage.path / "requests", answer, False)
    assert result.status == result.requests > 10


def test_silence_is_an_error(stage: Stage, load: Load) -> None:
    """A connection that was not answered after a reset is counted as a timeout."""

    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async def run() -> LoadResult:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with load.run(port, CONNECTIONS, stage.path / "requests") as load_run:
                give_up_at = time.monotonic() + 60
                while len(asked) < CONNECTIONS and time.monotonic() < give_up_at:
                    await asyncio.sleep(0.01)
                load_run.reset()
                return load_run.stop()

    assert asyncio.run(run()).timeout == CONNECTIONS


def test_its_servers_answer_and_send_large_bodies(stage: Stage, load: Load) -> None:
    """Loaded without a proxy, the load's own servers make no error, and a large body arrives whole."""
    write_requests(stage.path / "large", [b"GET /bytes/10000000 HTTP/1.1\r\nHost: x\r\n\r\n"])
    for requests, size in (("requests", len(b"Server server2 answer\n")), ("large", 10_000_000)):
        for seconds in (0.2, 1.0, 5.0, 20.0):
            with load.run(load.server_ports[1], CONNECTIONS, stage.path / requests) as load_run:
                time.sleep(seconds)
                result = load_run.stop()
            # On a busy machine a large body takes a while.
            if result.requests:
                break
        assert result.errors == 0 and result.requests > 0
        assert result.requests * size <= result.bytes <= (result.requests + CONNECTIONS) * size
