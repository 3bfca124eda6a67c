"""What plug-ins can read of a request (IRequest) and its response (IResponse), and what hooks can change."""

from __future__ import annotations

from zope.interface import implementer

from twisted_lb.credentials import REDACTED
from twisted_lb.hooks.field_changes import FieldChanges
from twisted_lb.interfaces import IHookResponse, IRequest, IResponse
from twisted_lb.own_fields import CONSUMER
from twisted_lb.wire.field_value import field_value
from twisted_lb.wire.fields import ABOUT_THE_CLIENT
from twisted_lb.wire.head import RequestHead, ResponseHead


@implementer(IRequest)
class RequestView:
    """A request's head and its user, without the key."""

    __slots__ = ("method", "target", "_head", "_framing", "_key", "_changes")

    method: bytes
    target: bytes
    _head: RequestHead
    _framing: int  # the length of the content, or CHUNKED, which is -1
    _key: bytes  # which no plug-in may see
    _changes: FieldChanges | None  # of hooks; None: there are none

    @property
    def consumer(self) -> bytes:
        raise NotImplementedError

    @property
    def client_address(self) -> str:
        raise NotImplementedError

    @property
    def content_length(self) -> int:
        return self._framing

    def _forwarded(self, name: bytes) -> bytes | None:
        """The value that servers get in a field of ABOUT_THE_CLIENT."""
        raise NotImplementedError

    def header(self, name: bytes) -> bytes | None:
        changes = self._changes
        return self._unchanged(name) if changes is None else changes.value(name, self._unchanged(name))

    def _unchanged(self, name: bytes) -> bytes | None:
        """The same without the changes of hooks."""
        # A name that the client sends is not that of its user.
        lower = name.lower()
        if lower == CONSUMER:
            return self.consumer or None
        value = self._forwarded(lower) if lower in ABOUT_THE_CLIENT else field_value(self._head, name)
        key = self._key
        return value.replace(key, REDACTED) if value and key and key in value else value


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
        return field_value(self._head, name)


@implementer(IHookResponse)
class HookResponseView(ResponseView):
    """The same for hooks, which may change its fields."""

    __slots__ = ("fields",)

    def __init__(self, head: ResponseHead, token_cost: int | None) -> None:
        ResponseView.__init__(self, head, token_cost)
        self.fields = FieldChanges(of_request=False)

    def header(self, name: bytes) -> bytes | None:
        return self.fields.value(name, field_value(self._head, name))
