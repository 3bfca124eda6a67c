"""The wall clock is set while the program runs: only the time of day is affected."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import MISSING_CLOCK, Asking, Balancer, ask, wait_until, wrong_clock

pytestmark = pytest.mark.skipif(bool(MISSING_CLOCK), reason=MISSING_CLOCK)
HOUR = 3600


class Clock:
    """The wall clock of a process."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)
        self.environment = {
            **wrong_clock("+0s"),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
        }
        del self.environment["FAKETIME"]

    def set(self, seconds: int) -> None:
        """So many seconds from the right time."""
        self._file.write_text(f"{seconds:+d}s\n")


@pytest.mark.parametrize("shift", [-HOUR, HOUR])
def test_clock_is_set(
    new_balancer: Start, servers: Servers, processes: tuple[str, ...], shift: int, tmp_path: Path
) -> None:
    """Requests, deadlines, checks, the servers file and the store go on, and Date tells the new time."""
    clock = Clock(tmp_path)
    settings = {**clock.environment, "UPSTREAM_TIMEOUT": "2s", "HEAD_TIMEOUT": "2s"}
    checks = "health_check: {path: /, interval: 200ms, timeout: 30s, fails: 1, passes: 1}\nretries: {attempts: 1}\n"
    balancer = new_balancer(servers.yaml() + checks, *processes, environment=settings).start()
    key = balancer.create_user("user1", 100, 0)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    slow = Asking(balancer, key, "/slow/0.7")
    wait_until(lambda: any(seen.path == "/slow/0.7" for one in servers for seen in one.seen), what="the request")
    clock.set(shift)
    slow.join(60)
    assert slow.status == 200
    # Date is brought up to date four times a second.
    wait_until(lambda: abs(date_of(balancer, key) - time.time() - shift) < 60, what="the new time of day")
    began = time.monotonic()
    assert ask(balancer.port, "GET", "/slow/30", key=key).status == 504
    assert time.monotonic() - began > 1.9
    servers[2].stop()
    wait_until(lambda: "server server3 is down" in balancer.log(), what="a check that fails")
    servers[2].start()
    wait_until(lambda: "server server3 is up" in balancer.log(), what="a check that passes")
    (balancer.directory / "servers.yaml").write_text(servers.yaml("random") + checks)
    wait_until(lambda: "balancer round_robin -> random" in balancer.log(), what="the new servers file")
    if not processes:
        # Levels are written each second.
        level = balancer.tokens(key)
        time.sleep(4)
        balancer.kill()
        clock.set(0)
        balancer.start()
        assert balancer.tokens(key) == level


def date_of(balancer: Balancer, key: str) -> float:
    """The time of day, as an answer made here tells it."""
    return parsedate_to_datetime(ask(balancer.port, "GET", "/").fields["Date"]).timestamp()
