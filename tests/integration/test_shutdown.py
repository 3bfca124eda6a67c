"""The end of the program: SIGTERM lets what is under way finish, for some time."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.integration.conftest import STORES, Start
from tests.integration.origin import Servers
from tests.integration.processes import Answer, ask, ask_on, wait_until

DRAIN = "DRAIN_SECONDS"


def refused(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def under_way(servers: Servers, count: int) -> None:
    """Wait until the servers have this many requests."""
    wait_until(lambda: sum(len(origin.seen) for origin in servers.all) >= count, what="requests reach the servers")


@pytest.mark.parametrize("store_options", STORES, indirect=True)
def test_what_is_under_way_finishes(
    new_balancer: Start, servers: Servers, store_options: tuple[str, ...]
) -> None:
    """Slow answers, downloads and uploads all end well after SIGTERM; nobody new gets in; the exit status is 0."""
    balancer = new_balancer(servers.yaml(), *store_options, environment={DRAIN: "120"}).start()
    key = balancer.create_user(f"user-{uuid4()}", 100, 0)
    upload = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=120)
    with ThreadPoolExecutor(8) as clients:
        paths = ["/slow/1.5"] * 4 + ["/drip/1.5"] * 2
        answers: list[Future[Answer]] = [clients.submit(ask, balancer.port, "GET", path, key=key) for path in paths]
        upload.putrequest("POST", "/upload")
        upload.putheader("Authorization", key)
        upload.putheader("Content-Length", "10")
        upload.endheaders(b"first")
        under_way(servers, 7)
        began = time.monotonic()
        balancer.terminate()
        wait_until(lambda: refused(balancer.port), what="the port is closed")
        readiness = ask(balancer.admin_port, "GET", "/readyz")
        assert (readiness.status, json.loads(readiness.body)["reason"]) == (503, "draining")
        time.sleep(0.5)
        upload.send(b"other")
        response = upload.getresponse()
        assert (response.status, json.loads(response.read())["bytes"]) == (200, 10)
        assert response.headers["Connection"] == "close"
        upload.close()
        for path, answer in zip(paths, answers):
            body = answer.result(120).body
            assert answer.result().status == 200
            assert body == b"firstother" or (b"answer" in body and path.startswith("/slow"))
    assert balancer.wait() == 0
    assert time.monotonic() - began < 100


def test_idle_connections_do_not_hold_it_up(new_balancer: Start, servers: Servers) -> None:
    """A client that keeps an idle connection sees it closed, and the program ends at once."""
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user(f"user-{uuid4()}")
    idle = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    assert ask_on(idle, "GET", "/", key=key).status == 200
    silent = socket.create_connection(("127.0.0.1", balancer.port), timeout=60)
    began = time.monotonic()
    balancer.terminate()
    assert balancer.wait() == 0
    assert time.monotonic() - began < 15  # half of DRAIN_SECONDS
    assert idle.sock.recv(1) == b"" and silent.recv(1) == b""
    idle.close()
    silent.close()


def test_what_hangs_is_cut_when_the_time_is_up(new_balancer: Start, servers: Servers) -> None:
    """An exchange that does not end holds the program for DRAIN_SECONDS and no longer."""
    balancer = new_balancer(servers.yaml(), environment={DRAIN: "1"}).start()
    key = balancer.create_user(f"user-{uuid4()}")
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=120)
    connection.request("GET", "/slow/30", headers={"Authorization": key})
    under_way(servers, 1)
    began = time.monotonic()
    balancer.terminate()
    assert balancer.wait() == 0
    assert 1 <= time.monotonic() - began < 15
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.getresponse()
    connection.close()


def test_connections_that_wait_to_be_accepted_are_served(new_balancer: Start, servers: Servers) -> None:
    """Requests that had reached the machine before SIGTERM are answered, all forty of them."""
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user(f"user-{uuid4()}", 100, 0)
    os.kill(balancer.pid, signal.SIGSTOP)
    waiting = [http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=120) for _ in range(40)]
    try:
        for connection in waiting:
            connection.request("GET", "/", headers={"Authorization": key})
        balancer.terminate()
    finally:
        os.kill(balancer.pid, signal.SIGCONT)
    for connection in waiting:
        response = connection.getresponse()
        assert response.status == 200 and b"answer" in response.read()
        connection.close()
    assert balancer.wait() == 0


def test_an_interrupt_ends_it_as_well(new_balancer: Start, servers: Servers) -> None:
    """SIGINT, which is Ctrl-C, ends the program as SIGTERM does."""
    balancer = new_balancer(servers.yaml()).start()
    balancer.process.send_signal(signal.SIGINT)
    assert balancer.wait() == 0


def test_levels_survive_a_restart(new_balancer: Start, servers: Servers) -> None:
    """After an orderly end the embedded store knows the accounts and the level of each bucket."""
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user(f"user-{uuid4()}", 5, 0)
    for _ in range(3):
        assert ask(balancer.port, "GET", "/", key=key).status == 200
    balancer.terminate()
    assert balancer.wait() == 0
    balancer.start()
    assert balancer.tokens(key) == 2
