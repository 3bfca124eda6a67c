"""Requests and responses to try plug-ins with, including unusual ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from zope.interface import implementer

from twisted_lb.hooks.field_changes import FieldChanges
from twisted_lb.interfaces import IHookRequest, IHookResponse, IRequest, IResponse, Taken


@implementer(IRequest)
class FakeRequest:
    """A request as balancers and pricing classes see it; `number` makes each one different.

    As with the proxy's own requests, attributes cannot be added.
    """

    __slots__ = ("method", "target", "consumer", "client_address", "content_length", "_headers")

    def __init__(
        self,
        number: int = 0,
        *,
        method: bytes = b"GET",
        target: bytes | None = None,
        consumer: bytes | None = None,
        client_address: str | None = None,
        content_length: int = 0,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """`content_length` is -1 when it is not known; `headers` are by their names in lower case."""
        self.method = method
        self.target = b"/page/%d" % number if target is None else target
        self.consumer = b"user%d" % number if consumer is None else consumer
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self.client_address = address if client_address is None else client_address
        self.content_length = content_length
        self._headers = dict(headers or {})

    def header(self, name: bytes) -> bytes | None:
        """The value of a field."""
        return self._headers.get(name.lower())

    def __repr__(self) -> str:
        what = f"{self.method!r} {self.target!r} of {self.consumer!r} from {self.client_address!r}"
        return f"<FakeRequest {what} with {self._headers} and {self.content_length} bytes>"


@implementer(IResponse)
class FakeResponse:
    """A server's response as pricing classes see it, once it is over."""

    __slots__ = ("status", "body_bytes", "token_cost", "_headers")

    def __init__(
        self,
        status: int = 200,
        *,
        body_bytes: int = 0,
        token_cost: int | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """`token_cost` is the value of the server's X-Token-Cost; `headers` are by their names in lower case."""
        self.status = status
        self.body_bytes = body_bytes
        self.token_cost = token_cost
        self._headers = dict(headers or {})

    def header(self, name: bytes) -> bytes | None:
        """The value of a field."""
        return self._headers.get(name.lower())

    def __repr__(self) -> str:
        what = f"{self.status}, {self.body_bytes} bytes, token cost {self.token_cost}"
        return f"<FakeResponse {what}, with {self._headers}>"


@implementer(IHookRequest)
class FakeHookRequest(FakeRequest):
    """A request as hooks see it."""

    __slots__ = ("fields", "state")

    def __init__(self, request: FakeRequest | None = None) -> None:
        """A request like this one, or any."""
        like = request or FakeRequest()
        super().__init__(
            method=like.method,
            target=like.target,
            consumer=like.consumer,
            client_address=like.client_address,
            content_length=like.content_length,
            headers=like._headers,
        )
        self.fields = FieldChanges(of_request=True)
        self.state: object = None

    def header(self, name: bytes) -> bytes | None:
        """The value of a field, with the changes."""
        return self.fields.value(name, super().header(name))


@implementer(IHookResponse)
class FakeHookResponse(FakeResponse):
    """A response as hooks see it when its head has arrived."""

    __slots__ = ("fields",)

    def __init__(self, response: FakeResponse | None = None) -> None:
        """A response like this one, or any."""
        like = response or FakeResponse()
        super().__init__(like.status, token_cost=like.token_cost, headers=like._headers)
        self.fields = FieldChanges(of_request=False)

    def header(self, name: bytes) -> bytes | None:
        """The value of a field, with the changes."""
        return self.fields.value(name, super().header(name))


class FakePeer(NamedTuple):
    """The client of a request that is over."""

    address: str
    scheme: bytes = b"http"


class FakeRecord:
    """The record of a request that is over; see `request_record.RequestRecord`."""

    def __init__(self, request: FakeRequest | None = None, status: int = 200, reason: str = "complete") -> None:
        """`status` 0: there was no response."""
        like = request or FakeRequest()
        self.peer = FakePeer(like.client_address)
        self.taken: Taken | None = None
        self.method = like.method
        self.target = like.target
        self.host = b"localhost"
        self.minor = 1
        self.fields = b""
        self.user = like.consumer
        self.status = status
        self.reason = reason
        self.state: object = like.state if isinstance(like, FakeHookRequest) else None
        self.started_at = 1000.0
        self.sent_at = self.first_byte_at = 1000.001 if status else -1.0
        self.ended_at = 1000.002
        self.bytes_in = self.bytes_out = 100
        self.content_out = 10
        self.request_id = self.trace_id = b""
        self.detail = self.key_id = self.limit = ""
        self.route = self.pool = self.server = ""
        self.cost = self.level = self.attempts = 0
        self.wait = 0.0
        self.connect_seconds = -1.0


# Each of these can reach a balancer or a pricing class.
ODD_REQUESTS = (
    FakeRequest(target=b""),
    FakeRequest(target=b"*", method=b"OPTIONS"),
    FakeRequest(target=b"http://other.example:80/absolute?x=1"),
    FakeRequest(target=b"/%ff\xff\xfe?" + b"x" * 8000),
    FakeRequest(method=b"M-SEARCH"),
    FakeRequest(consumer=b""),
    FakeRequest(consumer="ü\u2028".encode()),
    FakeRequest(client_address=""),
    FakeRequest(client_address="2001:db8::1"),
    FakeRequest(headers={b"cookie": b"", b"x-tenant": b""}),
    FakeRequest(headers={b"cookie": b";;=;lb;lb=;lb=\xff\x00.\xff; lb=a.b.c; =x", b"x-tenant": b"\xff"}),
    FakeRequest(headers={b"cookie": b"lb=" + b"a" * 30_000}),
    FakeRequest(method=b"POST", content_length=1),
    FakeRequest(method=b"POST", content_length=-1, headers={b"transfer-encoding": b"chunked"}),
    FakeRequest(method=b"PUT", content_length=10**15),
)

# Each of these can be a response's end.
ODD_RESPONSES = (
    FakeResponse(),
    FakeResponse(204),
    FakeResponse(304, headers={b"content-length": b"1000000"}),
    FakeResponse(body_bytes=10**15),
    FakeResponse(body_bytes=3, headers={b"content-length": b"1000000"}),
    FakeResponse(token_cost=0),
    FakeResponse(token_cost=1_000_000_000),
    FakeResponse(404, body_bytes=20, token_cost=7),
    FakeResponse(500, body_bytes=10),
    FakeResponse(599, headers={b"x-usage": b""}),
    FakeResponse(headers={b"x-usage": b"\xff", b"content-type": b"text/event-stream", b"content-length": b""}),
)
