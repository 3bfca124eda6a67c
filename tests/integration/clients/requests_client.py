"""requests, with a session."""

from __future__ import annotations

import hashlib
from typing import Any

import requests

from tests.integration.clients.plan import GETS, read_startup, report


def main() -> None:
    plan = read_startup()
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = plan.key
    results: dict[str, Any] = {"get": [session.get(plan.url, timeout=20).text for _ in range(GETS)]}
    results["post"] = session.post(plan.url, data=plan.content(), timeout=20).json()
    results["chunked"] = session.post(plan.url, data=plan.pieces(), timeout=20).json()
    for name, url in plan.download_urls():
        digest = hashlib.sha256()
        with session.get(url, stream=True, timeout=20) as response:
            for data in response.iter_content(1024 * 1024):
                digest.update(data)
        results[name] = digest.hexdigest()
    report(**results)


if __name__ == "__main__":
    main()
