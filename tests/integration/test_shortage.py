"""A shortage of resources of this machine does not count as a failure of a server."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import PROJECT, ask

CHECKED = "health_check: {path: /, interval: 100ms, timeout: 30s, fails: 1}\nejection: {consecutive_failures: 1}\n"

# Runs where there are twelve local ports.
FEW_PORTS = """
import json, socket, subprocess
from pathlib import Path

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40011")
import tests.integration.origin as origin
import tests.integration.processes as processes

ports = iter(range(20000, 20100))
origin.free_port = processes.free_port = lambda: next(ports)
servers = origin.Servers(1).start()
balancer = processes.Balancer(CHECKED + servers.yaml()).start()
try:
    key = balancer.create_user("user1", 1000)
    connections = []
    for number in range(30):
        # They take no local port of that range, but each takes one to a server for as long as it waits.
        one = socket.socket()
        one.bind(("127.0.0.9", 30000 + number))
        one.connect(("127.0.0.1", balancer.port))
        one.sendall(f"GET /slow/5 HTTP/1.1\\r\\nHost: a\\r\\nAuthorization: {key}\\r\\n\\r\\n".encode())
        connections.append(one)
    for one in connections:
        one.settimeout(60)
    print(json.dumps({"statuses": [int(one.recv(65536)[9:12]) for one in connections], "log": balancer.log()}))
finally:
    balancer.close()
    servers.stop()
"""


def test_open_files(servers: Servers, new_balancer: Start) -> None:
    """Without an open file left, requests are 503 and their tokens come back; servers stay, and the log says why."""
    balancer = new_balancer(CHECKED + servers.yaml(), environment={"UPSTREAM_IDLE_CONNECTIONS": "0"}).start()
    key = balancer.create_user("user1", 10, 0)
    limits = resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE)
    with socket.create_connection(("127.0.0.1", balancer.port)) as client:
        client.settimeout(60)
        client.sendall(b"GET /user/tokens/profile HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % key.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        # Numbers of files that are open go on; a new one would have a higher number than this.
        resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        for _ in range(5):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % key.encode())
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in answer
        # Checks cannot be made either.
        time.sleep(0.5)
        resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, limits)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % key.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert balancer.tokens(key) == 9
    log = balancer.log()
    assert " is down" not in log and " is ejected" not in log
    assert log.count("Servers cannot be reached: this process has as many open files as it may") == 1
    seen = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    assert sum(server["failures"] for server in seen) == 0


CAN_UNSHARE = os.getuid() == 0 and shutil.which("unshare") and shutil.which("ip")


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs root, unshare and ip")
def test_local_ports() -> None:
    """Without a local port left, requests are 503, and the server and its checks are left alone."""
    program = FEW_PORTS.replace("CHECKED", repr(CHECKED))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    if done.returncode and "Operation not permitted" in done.stderr:
        pytest.skip("no network namespace can be made here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["statuses"]) == {200, 503}
    assert " is down" not in found["log"] and " is ejected" not in found["log"]
    assert "Servers cannot be reached: this machine has no local port left" in found["log"]
