"""A server of WebSockets in a thread, with the package `websockets`; what it does depends on the path.

    /echo           sends back each message, as it came: text or binary
    /close/CODE     closes with this code
    /listen         reads until the client closes
    /ping           sends a ping and, when the pong is there, a message
    /flood          sends messages of 64 KiB until the client closes; how many is in `flooded`, by the path
    /abort          ends the connection without a close frame
    /refuse         answers the handshake with 403

A path may have more parts, so that a test tells its connections from those of others: /echo/NAME.  With which code a
connection has ended is in `codes`.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

MESSAGE = b"x" * 65536
MAX_BYTES = 20 * 1024 * 1024


class WebSocketServer:
    """Listens on a free loopback port from `start` to `stop`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """`context`: with TLS."""
        self.port = 0
        self._context = context
        self.codes: list[tuple[str, int | None]] = []  # the path, and the code of the close frame
        self.headers: list[Any] = []  # of the handshakes
        self.flooded: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run()], daemon=True)

    def start(self) -> WebSocketServer:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def codes_of(self, part: str) -> list[int | None]:
        """The codes of the connections that have ended and whose path has this part."""
        return [code for path, code in self.codes if part in path]

    def stop(self) -> None:
        """End all connections too."""
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def yaml(self, name: str = "server1") -> str:
        """A servers.yaml with this server."""
        return f'balancer: round_robin\nservers: [{{name: {name}, url: "http://127.0.0.1:{self.port}"}}]\n'

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        async with serve(
            self._serve, "127.0.0.1", 0, process_request=self._answer, max_size=MAX_BYTES, ping_interval=None,
            close_timeout=1, ssl=self._context,
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    def _answer(self, connection: ServerConnection, request: Any) -> Any:
        self.headers.append(request.headers)
        return connection.respond(HTTPStatus.FORBIDDEN, "no\n") if request.path == "/refuse" else None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        _, what, *more = socket.request.path.split("/")
        try:
            if what == "echo":
                async for message in socket:
                    await socket.send(message)
            elif what == "close":
                await socket.close(int(more[0]), "as asked")
            elif what == "ping":
                await (await socket.ping(b"are you there"))
                await socket.send("pong")
                await socket.wait_closed()
            elif what == "flood":
                while True:
                    await socket.send(MESSAGE)
                    self.flooded[socket.request.path] += 1
                    # What is sent on a connection that is lost waits for nothing, and its end would not be heard.
                    await asyncio.sleep(0)
            elif what == "abort":
                socket.transport.abort()
                await socket.wait_closed()
            else:
                await socket.wait_closed()
        except ConnectionClosed:
            pass
        finally:
            self.codes.append((socket.request.path, socket.close_code))
