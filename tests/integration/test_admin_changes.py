"""Changes over the admin API while traffic flows, with real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.integration.conftest import Start
from tests.integration.origin import Servers, content_hash
from tests.integration.processes import Answer, Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer
from tests.integration.test_reload import DOWNLOAD_BYTES, Steady, answering, read_slowly, yaml_of
from tests.integration.websocket_server import WebSocketServer

TOKEN = {"ADMIN_TOKEN": "s3cret"}
FIELDS = {"Authorization": "Bearer s3cret"}


def change(balancer: Balancer, method: str, path: str, body: object = None) -> Answer:
    """A change of the pool, which must be accepted."""
    data = None if body is None else json.dumps(body).encode()
    answer = ask(balancer.admin_port, method, f"/pools/default{path}", data, fields=FIELDS)
    assert answer.status in (200, 201, 204), (method, path, answer)
    return answer


def seen(balancer: Balancer) -> dict[str, dict[str, Any]]:
    """The servers of the pool, by name."""
    answer = ask(balancer.admin_port, "GET", "/pools/default/servers", fields=FIELDS)
    return {server["name"]: server for server in json.loads(answer.body)}


def test_under_load(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """Under load, with downloads, a stream and WebSockets, no change fails a request or cuts anything."""
    servers, sockets = new_servers(3), WebSocketServer().start()
    try:
        text = yaml_of(servers.all[:2]) + f"  - {{name: sockets, url: 'http://127.0.0.1:{sockets.port}'}}\n"
        balancer = new_balancer(text, environment={**TOKEN, "SEND_TIMEOUT": "5m"}).start()
        key = balancer.create_user("user1", 1_000_000)
        path = f"ws://127.0.0.1:{balancer.port}/echo/long"
        change(balancer, "POST", "/servers/server1/disable")
        change(balancer, "POST", "/servers/server2/disable")
        with connect(path, additional_headers={"Authorization": key}) as socket:
            change(balancer, "POST", "/servers/server1/enable")
            change(balancer, "POST", "/servers/server2/enable")
            change(balancer, "POST", "/servers/sockets/drain")
            go_on = threading.Event()
            with ThreadPoolExecutor(4) as clients:
                paths = [f"/size/{DOWNLOAD_BYTES}", f"/chunks/{DOWNLOAD_BYTES}"]
                downloads = [clients.submit(read_slowly, balancer, key, path, go_on) for path in paths]
                drip = clients.submit(ask, balancer.port, "GET", "/drip/4", None, key)
                wait_until(lambda: sum(len(origin.seen) for origin in servers) == 3, what="all are under way")
                steady = [Steady(balancer, key) for _ in range(2)]
                added = {"name": "server3", "url": servers[2].url, "weight": 2}
                for _ in range(3):
                    change(balancer, "PATCH", "/servers/server1", {"weight": 3})
                    change(balancer, "POST", "/servers", added)
                    change(balancer, "POST", "/servers/server1/drain")
                    assert set(answering(balancer, key)) == {"server2", "server3"}
                    change(balancer, "POST", "/servers/server2/disable")
                    assert answering(balancer, key) == {"server3": 12}
                    change(balancer, "POST", "/servers/server1/undrain")
                    change(balancer, "DELETE", "/servers/server3")
                    assert answering(balancer, key) == {"server1": 12}
                    change(balancer, "POST", "/servers/server2/enable")
                for name in ("sockets", "server1"):
                    change(balancer, "DELETE", f"/servers/{name}")
                states = seen(balancer)
                assert (states["sockets"]["reason"], states["sockets"]["tunnels"]) == ("removed", 1)
                socket.send("still here")
                assert socket.recv() == "still here"
                go_on.set()
                assert {one.result(120) for one in downloads} == {content_hash(DOWNLOAD_BYTES)}
                assert drip.result(120).body == b"firstother"
                statuses = [one.stop() for one in steady]
        for counted in statuses:
            assert set(counted) == {200} and counted[200] > 10, statuses
        assert seen(balancer)["server2"]["failures"] == 0
        assert "Traceback" not in balancer.log()
    finally:
        sockets.stop()


def test_maintenance(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """In maintenance requests are answered 503 with the time, and cost nothing; after it they go on."""
    balancer = new_balancer(yaml_of(new_servers(1)), environment=TOKEN).start()
    key = balancer.create_user("user1", 100, 0)
    change(balancer, "PUT", "/maintenance", {"retry_after": "7s"})
    answer = ask(balancer.port, "GET", "/", key=key)
    assert (answer.status, answer.fields["Retry-After"]) == (503, "7")
    change(balancer, "DELETE", "/maintenance")
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    assert balancer.tokens(key) == 99


def test_in_the_file(new_balancer: Start, new_servers: Callable[..., Servers], tmp_path: Path) -> None:
    """With ADMIN_WRITES=file changes are in the file and outlive the program; each has a line in the audit log."""
    servers, log = new_servers(2), tmp_path / "audit.log"
    text = "# ours\n" + yaml_of(servers)
    environment = {**TOKEN, "ADMIN_WRITES": "file", "AUDIT_LOG": str(log)}
    balancer = new_balancer(text, environment=environment).start()
    key = balancer.create_user("user1", 1000)
    file = balancer.directory / "servers.yaml"
    change(balancer, "POST", "/servers/server1/drain")
    expected = text.replace(f"'{servers[0].url}'", f"'{servers[0].url}', admin_state: drain")
    assert file.read_text() == expected
    assert ask(balancer.admin_port, "DELETE", "/pools/default/servers/x", fields=FIELDS).status == 404
    assert ask(balancer.admin_port, "POST", "/pools/default/servers/server1/undrain").status == 401
    wait_until(lambda: len(log.read_text().splitlines()) == 3, what="three lines")
    log.rename(tmp_path / "audit.1")
    os.kill(balancer.pid, signal.SIGUSR1)
    wait_until(log.exists, what="a new file")
    assert [json.loads(line)["result"] for line in (tmp_path / "audit.1").read_text().splitlines()] == [
        "applied",
        "refused",
        "refused",
    ]
    balancer.terminate()
    assert balancer.wait() == 0
    balancer.start()
    assert answering(balancer, key) == {"server2": 12}
    change(balancer, "POST", "/servers/server1/enable")
    assert file.read_text() == text
    assert set(answering(balancer, key)) == {"server1", "server2"}
    assert "was reloaded" not in balancer.log() and "Traceback" not in balancer.log()


def test_workers(redis: RedisServer, new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """When a change is answered it holds in all workers, and in those that are started later."""
    servers = new_servers(2)
    redis.start()
    balancer = new_balancer(yaml_of(servers), "--redis-url", redis.url, "--workers", "2", environment=TOKEN).start()
    wait_until(lambda: "2 of 2" in str(ask(balancer.admin_port, "GET", "/readyz").body), what="both are ready")
    key = balancer.create_user("user1", 100_000)
    for number in range(10):
        name, other = ("server1", "server2") if number % 2 else ("server2", "server1")
        change(balancer, "POST", f"/servers/{name}/drain")
        assert answering(balancer, key, 8) == {other: 8}
        change(balancer, "POST", f"/servers/{name}/undrain")
    change(balancer, "POST", "/servers/server1/disable")
    explained = json.loads(ask(balancer.admin_port, "GET", "/explain?path=/x", fields=FIELDS).body)
    assert [(one["choice"], one["why_not"]) for one in explained["servers"]] == [
        (None, "an operator has disabled it"),
        (1, None),
    ]
    victim = balancer.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(set(balancer.workers()) - {victim}) == 2, what="a new worker")
    wait_until(lambda: "2 of 2" in str(ask(balancer.admin_port, "GET", "/readyz").body), what="it is ready")
    assert answering(balancer, key, 20) == {"server2": 20}


def test_settings(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """An audit log that may lose lines, or cannot be opened, ends the start."""
    text = yaml_of(new_servers(1))
    for place, expected in (("syslog:", "expected a file, or -"), ("/nonexistent/x", "No such file or directory")):
        ended = new_balancer(text, environment={"AUDIT_LOG": place}).run_to_end()
        assert ended.status == 1 and f"AUDIT_LOG (environment): {place!r}: " in ended.output
        assert expected in ended.output
    ended = new_balancer(text, environment={"ADMIN_WRITES": "both"}).run_to_end()
    assert ended.status == 1 and "ADMIN_WRITES (environment): 'both' is not live or file" in ended.output
