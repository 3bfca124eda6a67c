"""What a balancer and a pricing class may ask of a request (IRequest) and of its response (IResponse)."""

from __future__ import annotations

from typing import Protocol

from zope.interface import implementer

from twisted_lb.interfaces import IRequest, IResponse, Taken
from twisted_lb.wire.head import RequestHead, ResponseHead


class Addressed(Protocol):
    """A client's connection."""

    address: str


@implementer(IRequest)
class RequestView:
    """A request's head and whose it is."""

    __slots__ = ("method", "target", "_head", "_framing", "_taken")

    method: bytes
    target: bytes
    _head: RequestHead
    _framing: int  # the length of the content, or CHUNKED, which is -1
    _taken: Taken | None

    def _sender(self) -> Addressed:
        raise NotImplementedError

    @property
    def consumer(self) -> bytes:
        return self._taken.name if self._taken else b""

    @property
    def client_address(self) -> str:
        return self._sender().address

    @property
    def content_length(self) -> int:
        return self._framing

    def header(self, name: bytes) -> bytes | None:
        # What a client calls itself is not who it is.
        if name.lower() == b"x-consumer-username":
            return self.consumer or None
        return first_value(self._head, name)


@implementer(IResponse)
class ResponseView:
    """A response's head, and how much content came after it."""

    __slots__ = ("_head", "token_cost", "body_bytes")

    def __init__(self, head: ResponseHead, token_cost: int | None) -> None:
        self._head = head
        self.token_cost = token_cost
        self.body_bytes = 0

    @property
    def status(self) -> int:
        return self._head.status

    def header(self, name: bytes) -> bytes | None:
        return first_value(self._head, name)


def first_value(head: RequestHead | ResponseHead, name: bytes) -> bytes | None:
    """The value of the first field of this name, in any case; None where there is none."""
    name = name.lower()
    values = head.notable.get(name)
    if values:
        return values[0]
    for line in head.fields.split(b"\r\n"):
        field, _, value = line.partition(b":")
        if field.lower() == name:
            return value.strip(b" \t")
    return None


def all_values(head: RequestHead, name: bytes) -> bytes:
    """The values of all fields of this lower-case name, which no head has among its notable ones, as one list."""
    lines = (line.partition(b":") for line in head.fields.split(b"\r\n"))
    return b",".join([value for field, _, value in lines if field.lower() == name])
