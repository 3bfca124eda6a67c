"""treq as the client: Twisted's own agent on a real reactor, with a pool of kept connections.

These are Twisted's test cases, so that they run under trial too.
"""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from typing import Any
from uuid import uuid4

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.iweb import UNKNOWN_LENGTH

from tests.integration.conftest import assert_calm
from tests.integration.origin import Servers, blocks, content_hash
from tests.integration.processes import Balancer

MIB = 1024 * 1024
SECONDS = 20


class _Unmeasured(FileBodyProducer):
    """A body whose length is not told, so that it is sent in chunks."""

    def __init__(self, content: bytes) -> None:
        super().__init__(BytesIO(content))
        self.length = UNKNOWN_LENGTH


class TreqTests(TestCase):
    """Each test has a balancer with the embedded store, three servers, and a pool of connections of its own."""

    def setUp(self) -> None:
        self.servers = Servers(3).start()
        self.addCleanup(self.servers.stop)
        self.balancer = Balancer(self.servers.yaml())
        self.addCleanup(self.balancer.close)
        self.balancer.start()
        self.addCleanup(assert_calm, self.balancer)
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = 10
        self.addCleanup(pool.closeCachedConnections)
        self._agent = Agent(reactor, pool=pool)

    async def ask(self, method: str, path: str, key: str = "", **more: Any) -> Any:
        """One request; its response."""
        headers: Any = {"Authorization": key} if key else {}
        return await treq.request(
            method, self.balancer.url + path, headers=headers, agent=self._agent, timeout=SECONDS, **more
        )

    def test_the_user_api_and_the_servers(self) -> Deferred[None]:
        """A user that treq creates has a profile and a bucket, changes it, and gets servers' answers."""

        async def walk() -> None:
            name = f"user-{uuid4()}"
            created = await self.ask("POST", "/user/create", json={"name": name})
            self.assertEqual(created.code, 200)
            key = (await treq.json_content(created))["api_key"]
            self.assertEqual((await self.ask("POST", "/user/create", json={"name": name})).code, 409)
            changed = await self.ask("POST", "/user/tokens/change", key, json={"capacity": 9, "rate_per_sec": 0})
            self.assertEqual((await treq.json_content(changed))["capacity"], 9)
            answers = [await self.ask("GET", "/", key) for _ in range(3)]
            texts = [await treq.text_content(answer) for answer in answers]
            self.assertEqual(texts, [f"Server server{number} answer" for number in (1, 2, 3)])
            profile = await treq.json_content(await self.ask("GET", "/user/tokens/profile", key))
            self.assertEqual(profile["current_capacity"], 2)

        return Deferred.fromCoroutine(walk())

    def test_many_requests_at_once(self) -> Deferred[None]:
        """300 requests, 10 at a time on kept connections, are all answered, and each server has 100."""
        key = self.balancer.create_user(f"user-{uuid4()}", 1000, 0)

        async def thirty() -> list[int]:
            statuses = []
            for number in range(30):
                answer = await self.ask("GET", f"/{number}", key)
                await answer.content()
                statuses.append(answer.code)
            return statuses

        async def all_of_them() -> None:
            parts = await gatherResults([Deferred.fromCoroutine(thirty()) for _ in range(10)], consumeErrors=True)
            self.assertEqual([status for part in parts for status in part], [200] * 300)
            self.assertEqual([len(origin.seen) for origin in self.servers.all], [100, 100, 100])

        return Deferred.fromCoroutine(all_of_them())

    def test_bodies_both_ways(self) -> Deferred[None]:
        """Uploads with a length and in chunks, and downloads of both kinds, arrive byte for byte."""
        key = self.balancer.create_user(f"user-{uuid4()}", 1000, 0)
        size = 8 * MIB + 1

        async def both_ways() -> None:
            content = b"".join(blocks(size))
            for body in (content, _Unmeasured(content)):
                received = json.loads(await (await self.ask("POST", "/upload", key, data=body)).content())
                self.assertEqual((received["bytes"], received["sha256"]), (size, content_hash(size)))
            for kind in ("size", "chunks"):
                digest = hashlib.sha256()
                await treq.collect(await self.ask("GET", f"/{kind}/{size}", key, unbuffered=True), digest.update)
                self.assertEqual(digest.hexdigest(), content_hash(size))
            head = await self.ask("HEAD", f"/size/{size}", key)
            self.assertEqual((head.code, await head.content()), (200, b""))

        return Deferred.fromCoroutine(both_ways())
