"""Calls a door as the proxy does, and reads what comes back as a client does."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from twisted_lb.interfaces import IDoor, IReply, IServing

PEER = IPv4Address("TCP", "192.0.2.1", 54321)


@implementer(IReply)
class RecordedReply:
    """Keeps what the door says, in order."""

    request_id = b""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.endings: list[bool] = []

    def write(self, data: bytes) -> None:
        assert not self.endings, "written after the end"
        self.writes.append(data)

    def finished(self, close: bool) -> None:
        self.endings.append(close)

    @property
    def received(self) -> bytes:
        return b"".join(self.writes)


class Answer(NamedTuple):
    """A response as read by a client."""

    status: int
    fields: dict[str, list[str]]  # by lower-case name
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def field(self, name: str) -> str:
        [value] = self.fields[name]
        return value


def head_of(method: str, target: str, body: bytes, *fields: bytes, version: str = "1.1") -> bytes:
    """A request head as the proxy hands it over."""
    lines = [f"{method} {target} HTTP/{version}".encode(), b"Host: balancer.example:8080", *fields]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""])


def start(
    door: IDoor, method: str, target: str, body: bytes = b"", *fields: bytes, peer: IAddress = PEER
) -> tuple[IServing, RecordedReply]:
    """Hand a request to the door."""
    reply = RecordedReply()
    return door.serve(head_of(method, target, body, *fields), body, peer, reply), reply


def call(
    door: IDoor, method: str, target: str, body: bytes = b"", *fields: bytes, peer: IAddress = PEER
) -> Answer:
    """Make a call that is answered at once on a connection that goes on."""
    _, reply = start(door, method, target, body, *fields, peer=peer)
    assert reply.endings == [False], reply.endings
    return read_answer(reply.received, method)


def read_answer(received: bytes, method: str = "GET") -> Answer:
    """Read a whole response, whose length must be what its head says."""
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    version, status, phrase = status_line.split(" ", 2)
    assert (version, phrase) == ("HTTP/1.1", HTTPStatus(int(status)).phrase), status_line
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields.setdefault(name.lower(), []).append(value)
    if method == "HEAD":
        assert body == b"", body
    elif status == "204":
        # RFC 9110 section 8.6.
        assert body == b"" and not {"content-length", "transfer-encoding"} & fields.keys(), fields
    else:
        assert fields["content-length"] == [str(len(body))], fields
    return Answer(int(status), fields, body)
