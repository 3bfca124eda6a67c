"""Errors as RFC 9457 problem details: what every door and the proxy answer with."""

from __future__ import annotations

import json
from http import HTTPStatus

CONTENT_TYPE = "application/problem+json"


def problem(status: int, detail: str, **members: object) -> bytes:
    """The body of an error response.

    `detail` tells a person what happened and what to do; `members` are extension members
    (RFC 9457 section 3.2).  `type` is left out, which means "about:blank": the status says it all.
    """
    body: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body.update(members)
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"
