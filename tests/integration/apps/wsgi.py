"""A WSGI application, for gunicorn: what was received, and on /size/N the content of that size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from tests.integration.origin import blocks


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers any request."""
    path = environ["PATH_INFO"]
    if path.startswith("/size/"):
        size = int(path.rpartition("/")[2])
        start_response("200 OK", [("Content-Length", str(size))])
        return (bytes(block) for block in blocks(size))
    body = environ["wsgi.input"].read()
    text = json.dumps({"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
