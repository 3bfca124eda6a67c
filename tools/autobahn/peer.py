"""Python's `websockets` as the peer of the suite: `serve PORT`, or `ask URL NAME` for all cases of its server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import WebSocketException

OPTIONS: Any = {"max_size": 256 * 1024 * 1024, "ping_interval": None}


async def echo(socket: Any) -> None:
    """Until the connection ends, however it does."""
    with contextlib.suppress(WebSocketException):
        async for message in socket:
            await socket.send(message)


async def serve_at(port: int) -> None:
    """Until the process is ended."""
    async with serve(echo, "127.0.0.1", port, **OPTIONS) as server:
        await server.serve_forever()


async def ask(url: str, name: str) -> None:
    """All cases, one after another."""
    async with connect(url + "/getCaseCount", proxy=None, **OPTIONS) as socket:
        count = int(await socket.recv())
    paths = [f"/runCase?case={number}&agent={name}" for number in range(1, count + 1)]
    for path in [*paths, f"/updateReports?agent={name}"]:
        with contextlib.suppress(WebSocketException):
            async with connect(url + path, proxy=None, **OPTIONS) as socket:
                await echo(socket)


if __name__ == "__main__":
    logging.disable()  # what it is given by the suite
    what, *more = sys.argv[1:]
    asyncio.run(serve_at(int(more[0])) if what == "serve" else ask(*more))
