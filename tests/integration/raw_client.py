"""A client of raw bytes."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

PATIENCE_SECONDS = 30.0


@dataclass
class Got:
    """What came back for one request."""

    status: int = 0  # 0: nothing that is a response
    content: bytes = b""
    interim: list[int] = field(default_factory=list)
    whole: bool = False  # the response is as long as it says
    ended: bool = False  # the connection has ended
    surplus: bytes = b""  # what came behind the response


def exchange(
    port: int, data: bytes, method: bytes = b"GET", finish: bool = False, to_end: bool = False, linger: float = 0.0
) -> Got:
    """Send `data` on a connection of its own and read one response, or all until the end where there is none.

    `finish`: say that nothing more will be sent.  `to_end`: read until the end also after a response.  `linger`:
    seconds to read on after a response.  Raises TimeoutError when nothing comes for PATIENCE_SECONDS.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(data)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        ended = False
        while not ended:
            got = _response(received, method)
            if got.whole and not (finish or to_end):
                if not linger:
                    return got
                connection.settimeout(linger)
            try:
                more = connection.recv(65536)
            except ConnectionResetError:
                more = b""
            except TimeoutError:
                if got.whole and linger:
                    return got
                raise
            received += more
            ended = not more
        got = _response(received, method)
        got.ended = True
        return got


def _response(data: bytes, method: bytes) -> Got:
    got = Got()
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return got
        version, status, _ = head.split(b"\r\n")[0].split(b" ", 2)
        assert version == b"HTTP/1.1", head
        if not 100 <= int(status) < 200:
            break
        got.interim.append(int(status))
        data = rest
    got.status = int(status)
    fields = {name.lower(): value.strip() for name, _, value in (x.partition(b":") for x in head.split(b"\r\n")[1:])}
    if method == b"HEAD" or got.status in (204, 304):
        got.whole, got.surplus = True, rest
    elif b"content-length" in fields:
        length = int(fields[b"content-length"])
        got.content, got.surplus = rest[:length], rest[length:]
        got.whole = len(got.content) == length
    elif fields.get(b"transfer-encoding") == b"chunked":
        _read_chunks(got, rest)
    else:
        got.content = rest
    return got


def _read_chunks(got: Got, data: bytes) -> None:
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return
        size = int(line, 16)
        if not size:
            break
        if len(data) < size + 2:
            return
        assert data[size : size + 2] == b"\r\n", data
        got.content += data[:size]
        data = data[size + 2 :]
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return
        if not line:
            got.whole, got.surplus = True, data
            return
