"""curl as a client: one call is one process, and what came back is taken apart."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any, NamedTuple

MISSING = "" if shutil.which("curl") else "no curl; `apt-get install curl` enables this"

_SECONDS = 60


class Curled(NamedTuple):
    """What curl received."""

    statuses: list[int]  # of each response: interim ones, then the final one
    version: str  # of the status line, such as HTTP/1.1
    fields: Message  # of the final response
    body: bytes
    exit_status: int
    connections: list[int]  # how many were opened for each URL

    @property
    def status(self) -> int:
        return self.statuses[-1]

    def json(self) -> Any:
        return json.loads(self.body)


def curl(*arguments: str, sent: bytes | None = None) -> Curled:
    """Run curl; `sent` is its standard input."""
    with tempfile.TemporaryDirectory(prefix="tokenlb-curl-") as directory:
        heads, body = Path(directory, "heads"), Path(directory, "body")
        command = ["curl", "-q", "--noproxy", "*", "--silent", "--max-time", str(_SECONDS), "--dump-header", str(heads)]
        # The default is a second, after which it sends a body that nobody has asked for.
        command += ["--expect100-timeout", "20"]
        command += ["--output", str(body), "--write-out", "%{num_connects} "]
        done = subprocess.run([*command, *arguments], input=sent, capture_output=True, timeout=_SECONDS + 5)
        parts = heads.read_text().replace("\r\n", "\n").strip().split("\n\n") if heads.exists() else []
        lines = [part.partition("\n") for part in parts if part]
        return Curled(
            [int(line.split()[1]) for line, _, _ in lines],
            lines[-1][0].split()[0] if lines else "",
            Parser().parsestr(lines[-1][2] if lines else "", headersonly=True),
            body.read_bytes() if body.exists() else b"",
            done.returncode,
            [int(word) for word in done.stdout.split()],
        )
