"""The load: requests prepared in full beforehand, sent by one wrk thread, its result read back as JSON.

The requests are varied in path, query and key, so that no peer may profit from seeing the same bytes twice.  They come
from a fixed seed, so every peer and every run sees the same sequence.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.stage import Stage, StageError

REQUEST_COUNT = 4000  # prepared requests; each key is used this often divided by the number of keys
GRACE_SECONDS = 20.0  # beyond the duration asked for, before wrk is given up
SCRIPT = Path(__file__).with_name("load.lua")

USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
HEADER_SETS: dict[str, tuple[str, ...]] = {
    # What a client library sends.
    "client": (f"User-Agent: {USER_AGENT}", "Accept: application/json", "Accept-Encoding: gzip, deflate, br"),
    # What a browser's fetch() sends from a page of another origin.
    "browser": (
        f"User-Agent: {USER_AGENT}",
        "Accept: application/json, text/plain, */*",
        "Accept-Language: en-US,en;q=0.7,de;q=0.3",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Origin: https://app.example.com",
        "Connection: keep-alive",
        "Referer: https://app.example.com/dashboard/orders?range=30d",
        "Sec-Fetch-Dest: empty",
        "Sec-Fetch-Mode: cors",
        "Sec-Fetch-Site: cross-site",
        "Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=essential",
        "Cache-Control: no-cache",
        "Pragma: no-cache",
    ),
}


@dataclass(frozen=True)
class LoadResult:
    """What wrk counted.  Times are microseconds."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    status: int  # answers with a status of 400 or more
    connect: int  # the last four: socket errors by kind
    read: int
    write: int
    timeout: int

    @property
    def errors(self) -> int:
        """Every request that did not get its answer, whatever the reason."""
        return self.status + self.connect + self.read + self.write + self.timeout

    @property
    def requests_per_second(self) -> float:
        """Completed requests over the time that wrk took."""
        return self.requests * 1e6 / self.duration_us


def prepare_requests(keys: Sequence[str], port: int, header_set: str) -> list[bytes]:
    """REQUEST_COUNT requests, the keys in an order that does not repeat from round to round."""
    chance = random.Random(20240229)
    order: list[str] = []
    while len(order) < REQUEST_COUNT:
        order.extend(chance.sample(keys, len(keys)))
    rest = "".join(f"{line}\r\n" for line in HEADER_SETS[header_set])
    return [
        f"GET {_target(chance)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{rest}Authorization: {key}\r\n\r\n".encode()
        for key in order[:REQUEST_COUNT]
    ]


def _target(chance: random.Random) -> str:
    """A path as an API has them: some short, some deep, some with a query."""
    item = chance.randrange(1, 1_000_000)
    return chance.choice(
        (
            f"/api/v1/users/{item}",
            f"/api/v1/users/{item}/orders?page={chance.randrange(1, 50)}&per_page=25",
            f"/api/v2/search?q=item-{item}&sort=-created_at&fields=id,name,price",
            f"/static/img/{item:06x}.png",
            f"/catalog/{chance.choice(('books', 'music', 'garden', 'tools'))}/{item}/reviews",
            f"/r/{item:x}",
        )
    )


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Write the file that load.lua reads."""
    path.write_bytes(b"".join(request + b"\0" for request in requests))


def run_wrk(cores: str, port: int, connections: int, seconds: int, requests_file: Path) -> LoadResult:
    """Load the port for that many seconds.  Raises StageError when wrk fails or does not end."""
    with Stage() as stage:
        url = f"http://127.0.0.1:{port}"
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), url]
        wrk = stage.start("wrk", [*argv, "--", str(requests_file)], cores, stage.path)
        try:
            wrk.popen.wait(seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise StageError(f"wrk did not end {GRACE_SECONDS:.0f} s after its time") from None
        for line in wrk.log.read_text().splitlines():
            if line.startswith("RESULT "):
                return LoadResult(**json.loads(line.removeprefix("RESULT ")))
        raise StageError(f"wrk gave no result, status {wrk.popen.returncode}:\n{wrk.log_tail()}")
