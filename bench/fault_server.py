"""A small HTTP server that misbehaves on demand: `python bench/fault_server.py NAME PORT MODE_FILE`.

For each request it reads its mode from the file:

    ok      200, with its name in the body            error   the same with 500
    slow    200 after SLOW_SECONDS                    close   closes the connection without a word, new ones too

/health is answered in the same way as all else.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

SLOW_SECONDS = 0.3
WORK_SECONDS = 0.002  # of an ordinary request

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)\r\n")


class FaultServer:
    """One server."""

    def __init__(self, name: str, mode_file: Path) -> None:
        self._body = f"{name}\n".encode()
        self._mode_file = mode_file

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while self._mode() != "close":
                head = await reader.readuntil(b"\r\n\r\n")
                if length := _LENGTH.search(head):
                    await reader.readexactly(int(length[1]))
                mode = self._mode()
                if mode == "close":
                    break
                await asyncio.sleep(SLOW_SECONDS if mode == "slow" else WORK_SECONDS)
                status = b"500 Internal Server Error" if mode == "error" else b"200 OK"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(self._body), self._body))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the balancer has closed the connection
        finally:
            writer.close()

    def _mode(self) -> str:
        return self._mode_file.read_text()


async def main(name: str, port: str, mode_file: str) -> None:
    """Serve until the process ends."""
    server = await asyncio.start_server(FaultServer(name, Path(mode_file)).serve, "127.0.0.1", int(port), backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
