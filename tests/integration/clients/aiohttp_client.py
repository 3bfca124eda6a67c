"""aiohttp, with a session."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.integration.clients.plan import GETS, Startup, read_startup, report


async def pieces(plan: Startup) -> AsyncIterator[bytes]:
    for piece in plan.pieces():
        yield piece


async def main() -> None:
    plan = read_startup()
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(headers={"Authorization": plan.key}, timeout=timeout) as session:

        async def text(method: str, **more: Any) -> Any:
            async with session.request(method, plan.url, **more) as response:
                return await (response.text() if method == "GET" else response.json())

        results: dict[str, Any] = {"get": [await text("GET") for _ in range(GETS)]}
        results["post"] = await text("POST", data=plan.content())
        results["chunked"] = await text("POST", data=pieces(plan))
        for name, url in plan.download_urls():
            digest = hashlib.sha256()
            async with session.get(url) as response:
                async for data in response.content.iter_any():
                    digest.update(data)
            results[name] = digest.hexdigest()
    report(**results)


if __name__ == "__main__":
    asyncio.run(main())
