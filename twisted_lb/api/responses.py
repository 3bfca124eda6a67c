"""Responses of the user API and the admin API, and the request class that suppresses Twisted's own pages.

An endpoint returns the result of `json_answer`, or raises.  `failure_answer` is the one place that converts an error to
a response.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import NotStored, StoreUnavailable
from twisted_lb.limits.rejection import REFUSED_STATUS, key_refusal
from twisted_lb.users import KeyRefused
from twisted_lb.wire.problem import CONTENT_TYPE as PROBLEM_TYPE
from twisted_lb.wire.problem import problem

JSON_TYPE = "application/json"

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)

log = BoundedLog(Logger())


class Refusal(Exception):
    """The response is a problem document (RFC 9457), with a status, a detail, extra fields, and extension members."""

    def __init__(
        self,
        status: int,
        detail: str,
        fields: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.fields = fields or {}
        self.members = members or {}


def store_away(also: str = "") -> Refusal:
    """The response when the store is unavailable.  The reason is logged and not sent to clients: it may name hosts."""
    detail = f"Users and their tokens are unavailable at the moment. {also or 'Try again in a moment.'}"
    return Refusal(503, detail, {"Retry-After": "1"})


def not_stored() -> Refusal:
    """The response when the store cannot write.  The reason is in the log, and on the admin listener."""
    detail = "This cannot be stored now, so nothing was created or changed. Try again in a moment."
    return Refusal(503, detail, {"Retry-After": "1"})


def answer(request: IRequest, status: int, content_type: str, body: bytes) -> bytes:
    """Set the head of the response; the body is returned for Klein to write."""
    # Twisted does not know the phrases of all statuses.
    request.setResponseCode(status, HTTPStatus(status).phrase.encode())
    fields = request.responseHeaders
    fields.setRawHeaders("Content-Type", [content_type])
    fields.setRawHeaders("Cache-Control", ["no-store"])
    fields.setRawHeaders("Content-Length", [str(len(body))])
    return body


def json_answer(request: IRequest, value: object, status: int = 200) -> bytes:
    """`value` as compact JSON in UTF-8, with a final newline for terminals."""
    return answer(request, status, JSON_TYPE, json_text(value).encode() + b"\n")


def json_text(value: object) -> str:
    """`value` as compact JSON; it must not contain itself."""
    return _ENCODER.encode(value)


def failure_answer(request: IRequest, failure: Failure) -> bytes:
    """The problem document for `failure`.  Unexpected exceptions are logged here, and only here."""
    error = failure.value
    if isinstance(error, Refusal):
        refusal = error
    elif isinstance(error, KeyRefused):
        detail, members = key_refusal(error.reason)
        refusal = Refusal(REFUSED_STATUS, detail, None, members)
    elif isinstance(error, NotStored):
        refusal = not_stored()
    elif isinstance(error, StoreUnavailable):
        refusal = store_away()
    elif isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        refusal = Refusal(405, f"{_path(request)} takes {allowed} only.", {"Allow": allowed})
    elif isinstance(error, HTTPException):
        # Routing also raises redirects to similar paths, which are answered with 404 as well.
        refusal = Refusal(404, f"There is nothing at {_path(request)}.")
    else:
        log.failure("request", "{method} {path} failed", failure, method=request.method, path=request.path)
        refusal = Refusal(500, "An internal error occurred and was logged. Your request may be correct.")
    for name, value in refusal.fields.items():
        request.responseHeaders.setRawHeaders(name, [value])
    extended = dict(refusal.members)
    # Where the resource is served by another twisted.web Site, the transport has no request_id.
    request_id: bytes = getattr(getattr(getattr(request, "channel", None), "transport", None), "request_id", b"")
    if request_id:
        extended["request_id"] = request_id.decode("ascii")
    return answer(request, refusal.status, PROBLEM_TYPE, problem(refusal.status, refusal.detail, **extended))


class ApiRequest(Request):
    """A request that never sends Twisted's own pages, name or version."""

    def render(self, resrc: IResource) -> None:
        """Reject what Klein's routing cannot handle: it ignores the case of methods, and needs paths in UTF-8."""
        self.responseHeaders.setRawHeaders("Server", ["twisted_lb"])
        if self.method != self.method.upper():
            # RFC 9110 section 9.1: methods are case-sensitive, and an unknown one is 501.
            self._refuse(Refusal(501, "Methods are written in capitals, such as GET or POST."))
            return
        try:
            b"/".join(self.postpath or ()).decode()
        except UnicodeDecodeError:
            self._refuse(Refusal(404, "The path is not UTF-8, and there is nothing at it."))
            return
        super().render(resrc)

    def getRequestHostname(self) -> bytes:
        """A constant: no route depends on the host, and werkzeug rejects names that HTTP allows."""
        return b"localhost"

    def processingFailed(self, reason: Failure) -> Failure:
        """For an exception that Klein itself raised."""
        if self.startedWriting:
            log.failure("half-way", "{method} {path} failed half-way", reason, method=self.method, path=self.path)
            # Only a closed connection distinguishes a truncated response from a complete one.
            self.loseConnection()
        else:
            self._finish_with(reason)
        return reason

    def _refuse(self, refusal: Refusal) -> None:
        self._finish_with(Failure(refusal))

    def _finish_with(self, failure: Failure) -> None:
        self.write(failure_answer(self, failure))
        self.finish()


def _path(request: IRequest) -> str:
    path: bytes = request.path
    return path.decode("ascii", "backslashreplace")
