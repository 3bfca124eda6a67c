"""An ASGI application, for uvicorn: what was received, and on /size/N the content of that size."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.integration.origin import blocks


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers any request."""
    assert scope["type"] == "http"
    path = scope["path"]
    if path.startswith("/size/"):
        size = int(path.rpartition("/")[2])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        for block in blocks(size):
            await send({"type": "http.response.body", "body": bytes(block), "more_body": True})
        await send({"type": "http.response.body"})
        return
    digest, received, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        received += len(message.get("body", b""))
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    text = json.dumps({"bytes": received, "sha256": digest.hexdigest()}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})
