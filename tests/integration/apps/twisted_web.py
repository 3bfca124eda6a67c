"""A Twisted Web server: `PORT`; what was received, and on /size/N the content of that size."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.interfaces import IPullProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from tests.integration.origin import blocks


@implementer(IPullProducer)
class Download:
    """Writes the blocks as they are asked for."""

    def __init__(self, request: Request, content: Iterator[Any]) -> None:
        self._request = request
        self._content = content

    def resumeProducing(self) -> None:
        block = next(self._content, None)
        if block is None:
            self._request.unregisterProducer()
            self._request.finish()
        else:
            self._request.write(bytes(block))

    def stopProducing(self) -> None:
        """The client has left."""


class Answers(Resource):
    """Answers any request."""

    isLeaf = True

    def render(self, request: Request) -> Any:
        path = request.path.decode()
        if path.startswith("/size/"):
            size = int(path.rpartition("/")[2])
            request.setHeader(b"content-length", b"%d" % size)
            request.registerProducer(Download(request, blocks(size)), False)
            return NOT_DONE_YET
        body = request.content.read() if request.content else b""
        request.setHeader(b"content-type", b"application/json")
        return json.dumps({"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}).encode()


if __name__ == "__main__":
    running: Any = reactor
    running.listenTCP(int(sys.argv[1]), Site(Answers()), interface="127.0.0.1")
    running.run()
