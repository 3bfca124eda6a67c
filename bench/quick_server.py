"""A server that answers every GET at once, so that the load of a test is the balancers': `quick_server.py PORT`.

`QuickOrigin` is the process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import cast

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class QuickOrigin:
    """The server as a process of its own, until `close`."""

    def __init__(self, port: int) -> None:
        self._popen = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), str(port)])
        self.pid = self._popen.pid
        self.servers_yaml = f"servers: [{{name: quick, url: 'http://127.0.0.1:{port}'}}]\n"

    def close(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.wait()


class _QuickServer(asyncio.Protocol):
    """One connection.  Requests have no bodies, so each ends with an empty line."""

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        self._transport.write(_ANSWER * len(heads))


async def main(port: str) -> None:
    """Serve until the process ends."""
    server = await asyncio.get_running_loop().create_server(_QuickServer, "127.0.0.1", int(port), backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
