"""The user API, the servers' answers and refusals, as a program on Twisted finds them."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from uuid import uuid4

import treq
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.web.client import FileBodyProducer
from twisted.web.iweb import UNKNOWN_LENGTH

from tests.integration.asynchronous.conftest import Ask
from tests.integration.origin import Servers, blocks, content_hash
from tests.integration.processes import Balancer

MIB = 1024 * 1024


class _Unmeasured(FileBodyProducer):
    """A body whose length is not told, so that it is sent in chunks."""

    def __init__(self, content: bytes) -> None:
        super().__init__(BytesIO(content))
        self.length = UNKNOWN_LENGTH


@ensureDeferred
async def test_the_user_api_and_the_servers(balancer: Balancer, servers: Servers, ask: Ask) -> None:
    """A user that treq creates has a profile and a bucket, changes it, and gets servers' answers."""
    name = f"user-{uuid4()}"
    created = await ask("POST", balancer.url + "/user/create", json={"name": name})
    assert created.code == 200
    key = (await treq.json_content(created))["api_key"]
    assert (await ask("POST", balancer.url + "/user/create", json={"name": name})).code == 409
    policy = {"capacity": 9, "rate_per_sec": 0}
    changed = await ask("POST", balancer.url + "/user/tokens/change", key, json=policy)
    assert (await treq.json_content(changed))["capacity"] == 9
    answers = [await ask("GET", balancer.url + "/", key) for _ in range(3)]
    texts = {await treq.text_content(answer) for answer in answers}
    assert texts == {f"Server server{number} answer" for number in (1, 2, 3)}
    profile = await treq.json_content(await ask("GET", balancer.url + "/user/tokens/profile", key))
    assert profile["current_capacity"] == 2


@ensureDeferred
async def test_a_refusal_says_when_to_come_back(balancer: Balancer, ask: Ask) -> None:
    """An empty bucket is 429, and after the seconds of Retry-After the next request passes."""
    key = balancer.create_user(f"user-{uuid4()}", 1, 0.4)
    assert (await ask("GET", balancer.url + "/", key)).code == 200
    refused = await ask("GET", balancer.url + "/", key)
    problem = await treq.json_content(refused)
    assert (refused.code, problem["status"]) == (429, 429)
    await deferLater(reactor, int(refused.headers.getRawHeaders("Retry-After")[0]), lambda: None)
    assert (await ask("GET", balancer.url + "/", key)).code == 200


@ensureDeferred
async def test_many_requests_at_once(balancer: Balancer, servers: Servers, ask: Ask) -> None:
    """300 requests, 10 at a time on kept connections, are all answered, and each server has 100."""
    key = balancer.create_user(f"user-{uuid4()}", 1000, 0)

    async def thirty() -> list[int]:
        statuses = []
        for number in range(30):
            answer = await ask("GET", f"{balancer.url}/{number}", key)
            await answer.content()
            statuses.append(answer.code)
        return statuses

    parts = await gatherResults([Deferred.fromCoroutine(thirty()) for _ in range(10)], consumeErrors=True)
    assert [status for part in parts for status in part] == [200] * 300
    assert [len(origin.seen) for origin in servers.all] == [100, 100, 100]


@ensureDeferred
async def test_bodies_both_ways(balancer: Balancer, ask: Ask) -> None:
    """Uploads with a length and in chunks, and downloads of both kinds, arrive byte for byte."""
    key = balancer.create_user(f"user-{uuid4()}", 1000, 0)
    size = 8 * MIB + 1
    content = b"".join(blocks(size))
    for body in (content, _Unmeasured(content)):
        received = json.loads(await (await ask("POST", balancer.url + "/upload", key, data=body)).content())
        assert (received["bytes"], received["sha256"]) == (size, content_hash(size))
    for kind in ("size", "chunks"):
        digest = hashlib.sha256()
        await treq.collect(await ask("GET", f"{balancer.url}/{kind}/{size}", key, unbuffered=True), digest.update)
        assert digest.hexdigest() == content_hash(size)
    head = await ask("HEAD", f"{balancer.url}/size/{size}", key)
    assert (head.code, await head.content()) == (200, b"")
