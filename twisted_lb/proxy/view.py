"""What a balancer may ask of a request (IRequest)."""

from __future__ import annotations

from typing import Protocol

from zope.interface import implementer

from twisted_lb.interfaces import IRequest, Taken
from twisted_lb.wire.head import RequestHead


class Addressed(Protocol):
    """A client's connection."""

    address: str


@implementer(IRequest)
class RequestView:
    """A request's head and whose it is."""

    __slots__ = ("method", "target", "_head", "_taken")

    method: bytes
    target: bytes
    _head: RequestHead
    _taken: Taken | None

    def _sender(self) -> Addressed:
        raise NotImplementedError

    @property
    def consumer(self) -> bytes:
        return self._taken.name if self._taken else b""

    @property
    def client_address(self) -> str:
        return self._sender().address

    def header(self, name: bytes) -> bytes | None:
        name = name.lower()
        values = self._head.notable.get(name)
        if values:
            return values[0]
        for line in self._head.fields.split(b"\r\n"):
            field, _, value = line.partition(b":")
            if field.lower() == name:
                return value.strip(b" \t")
        return None
