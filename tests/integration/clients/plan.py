"""What each client program does: `program URL KEY UPLOAD_BYTES DOWNLOAD_BYTES`, all in turn, and one line of JSON.

    get         five times GET /             -> the five texts
    post        POST /, with a length        -> the server's JSON
    chunked     POST /, in chunks            -> the server's JSON
    download    GET /size/N                  -> the SHA-256 of the content
    chunks      GET /chunks/N                -> the SHA-256 of the content
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

from tests.integration.origin import blocks

GETS = 5


class Startup(NamedTuple):
    """The arguments of a client program."""

    url: str
    key: str
    upload_bytes: int
    download_bytes: int

    def content(self) -> bytes:
        """What is uploaded."""
        return b"".join(blocks(self.upload_bytes))

    def pieces(self) -> Iterator[bytes]:
        """The same in pieces."""
        return (bytes(block) for block in blocks(self.upload_bytes))

    def download_urls(self) -> list[tuple[str, str]]:
        """The names and URLs of the downloads."""
        return [(name, f"{self.url}/{kind}/{self.download_bytes}") for name, kind in DOWNLOADS]


DOWNLOADS = (("download", "size"), ("chunks", "chunks"))


def read_startup() -> Startup:
    """The plan from the command line."""
    _, url, key, upload, download = sys.argv
    return Startup(url, key, int(upload), int(download))


def report(**results: object) -> None:
    """Print what came of it."""
    print(json.dumps(results))
