"""httpx, with a client that keeps connections."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx

from tests.integration.clients.plan import GETS, read_startup, report


def main() -> None:
    plan = read_startup()
    with httpx.Client(headers={"Authorization": plan.key}, timeout=20, trust_env=False) as client:
        results: dict[str, Any] = {"get": [client.get(plan.url).text for _ in range(GETS)]}
        results["post"] = client.post(plan.url, content=plan.content()).json()
        results["chunked"] = client.post(plan.url, content=plan.pieces()).json()
        for name, url in plan.download_urls():
            digest = hashlib.sha256()
            with client.stream("GET", url) as response:
                for data in response.iter_raw():
                    digest.update(data)
            results[name] = digest.hexdigest()
    report(**results)


if __name__ == "__main__":
    main()
