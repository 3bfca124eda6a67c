"""Python's own http.client."""

from __future__ import annotations

import hashlib
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from tests.integration.clients.plan import GETS, read_startup, report


def main() -> None:
    plan = read_startup()
    address = urlsplit(plan.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    headers = {"Authorization": plan.key}

    def ask(method: str, url: str, body: Any = None, chunked: bool = False) -> http.client.HTTPResponse:
        connection.request(method, urlsplit(url).path or "/", body, headers, encode_chunked=chunked)
        return connection.getresponse()

    results: dict[str, Any] = {"get": [ask("GET", plan.url).read().decode() for _ in range(GETS)]}
    results["post"] = json.loads(ask("POST", plan.url, plan.content()).read())
    # A body of unknown length is chunked of itself.
    results["chunked"] = json.loads(ask("POST", plan.url, plan.pieces(), chunked=True).read())
    for name, url in plan.download_urls():
        digest = hashlib.sha256()
        response = ask("GET", url)
        while data := response.read(1024 * 1024):
            digest.update(data)
        results[name] = digest.hexdigest()
    report(**results)


if __name__ == "__main__":
    main()
