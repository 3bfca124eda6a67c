"""Errors as RFC 9457 problem details, used by all APIs and the proxy."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

CONTENT_TYPE: Final = "application/problem+json"


def problem(status: int, detail: str, **members: object) -> bytes:
    """The body of an error response.

    `detail` says what happened and what to do; `members` are extension members (RFC 9457 section 3.2).  `type` is
    omitted, which means "about:blank": the status alone identifies the problem.
    """
    body: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body.update(members)
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"
