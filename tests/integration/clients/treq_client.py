"""treq, with a pool of one connection."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.iweb import UNKNOWN_LENGTH

from tests.integration.clients.plan import GETS, read_startup, report


async def main(reactor: Any) -> None:
    plan = read_startup()
    pool = HTTPConnectionPool(reactor, persistent=True)
    agent = Agent(reactor, pool=pool)
    headers: Any = {"Authorization": plan.key}

    async def ask(method: str, url: str, **more: Any) -> Any:
        return await treq.request(method, url, headers=headers, agent=agent, timeout=20, **more)

    results: dict[str, Any] = {"get": [await (await ask("GET", plan.url)).text() for _ in range(GETS)]}
    results["post"] = await (await ask("POST", plan.url, data=plan.content())).json()
    unmeasured = FileBodyProducer(BytesIO(plan.content()))
    unmeasured.length = UNKNOWN_LENGTH
    results["chunked"] = await (await ask("POST", plan.url, data=unmeasured)).json()
    for name, url in plan.download_urls():
        digest = hashlib.sha256()
        await treq.collect(await ask("GET", url, unbuffered=True), digest.update)
        results[name] = digest.hexdigest()
    await pool.closeCachedConnections()
    report(**results)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
