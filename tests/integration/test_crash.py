"""kill -9 and the embedded store: what was answered is there afterwards, and a data directory has one owner."""

from __future__ import annotations

import threading
import time

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import ask


def test_no_account_is_lost(new_balancer: Start, servers: Servers) -> None:
    """Each account whose creation was answered before a kill -9 in the middle of it all works after the restart."""
    balancer = new_balancer(servers.yaml()).start()
    keys: list[str] = []

    def create_many() -> None:
        try:
            while True:
                keys.append(balancer.create_user(f"user{len(keys)}", 2, 0))
        except OSError:
            pass

    creating = threading.Thread(target=create_many, daemon=True)
    creating.start()
    give_up_at = time.monotonic() + 60
    while len(keys) < 50 and time.monotonic() < give_up_at:
        time.sleep(0.01)
    balancer.kill()
    creating.join(60)
    assert len(keys) >= 50
    balancer.start()
    for number, key in enumerate(keys):
        profile = ask(balancer.port, "GET", "/user/tokens/profile", key=key)
        expected = f'{{"name":"user{number}","capacity":2,"rate_per_sec":0,"current_capacity":2}}'
        assert (profile.status, profile.body.decode().strip()) == (200, expected)
    assert ask(balancer.port, "GET", "/", key=keys[-1]).status == 200
    assert ask(balancer.port, "POST", "/user/create", b'{"name": "user0"}').status == 409


def test_a_data_directory_has_one_owner(new_balancer: Start, servers: Servers) -> None:
    """A second process on the same directory ends with status 1 and says why; the first goes on; a crash frees it."""
    first = new_balancer(servers.yaml()).start()
    data = str(first.directory / "data")
    key = first.create_user("user1", 2, 0)
    second = new_balancer(servers.yaml(), "--data-dir", data)
    ended = second.run_to_end()
    assert ended.status == 1
    assert ended.output.count("twisted_lb cannot start") == 1
    assert data in ended.output and "Traceback" not in ended.output
    assert ask(first.port, "GET", "/", key=key).status == 200
    first.kill()
    second.start()
    assert second.tokens(key) in (1, 2)
