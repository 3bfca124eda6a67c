"""Starting the real program: its output, and how it ends when it cannot start."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.processes import PROJECT, ask, twistd, wait_until
from tests.integration.redis_server import free_port

SERVERS = "servers: [{name: a, url: 'http://127.0.0.1:1'}]"


def test_help() -> None:
    """twistd lists tokenlb, and tokenlb lists its options."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    for arguments, expected in ((["--help"], "tokenlb "), (["tokenlb", "--help"], "--redis-url=")):
        done = subprocess.run([*twistd(), *arguments], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        assert expected in done.stdout


def test_demo(new_balancer: Start) -> None:
    """With --demo the servers of the servers file answer with their names."""
    ports = [free_port(), free_port()]
    lines = [f"- {{name: demo{number}, url: 'http://localhost:{port}'}}" for number, port in enumerate(ports)]
    balancer = new_balancer("\n".join(["servers:", *lines]), "--demo").start()
    key = balancer.create_user("user1")
    answers = [ask(balancer.port, "GET", "/any", key=key).body for _ in range(4)]
    assert answers == [b"Server demo0 answer", b"Server demo1 answer"] * 2


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        (
            {"HEAD_TIMEOUT": "x"},
            ["--workers", "2", "--servers", "missing.yaml", "--listen", "tcp:http", "--data-dir", "/dev/null"],
            [
                "HEAD_TIMEOUT (environment): 'x'",
                "WORKERS (option --workers)",
                "missing.yaml: cannot be read: No such file or directory",
                "LISTEN (option --listen): 'tcp:http' is not an endpoint to listen on",
                "DATA_DIR (option --data-dir): ",
            ],
        ),
        (
            {},
            ["--env-file", "missing", "--redis-url", "http://:geheim@x"],
            ["missing: cannot be read", "REDIS_URL (option --redis-url): "],
        ),
    ],
)
def test_cannot_start(
    new_balancer: Start, environment: dict[str, str], options: list[str], expected: list[str]
) -> None:
    """What cannot be started ends with status 1 and every reason, and tells no password."""
    ended = new_balancer(SERVERS, *options, environment=environment).run_to_end()
    assert ended.status == 1
    for part in ["twisted_lb cannot start", *expected]:
        assert part in ended.output
    assert "geheim" not in ended.output


def test_port_in_use(new_balancer: Start) -> None:
    """A port that is taken ends the start with status 1, the reason, and no pid file left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        balancer = new_balancer(SERVERS, listen=taken.getsockname()[1])
        ended = balancer.run_to_end()
    assert ended.status == 1
    assert "cannot listen: Address already in use" in ended.output


def test_daemon_that_cannot_start(tmp_path: Path) -> None:
    """A daemon that cannot start tells its parent, which ends with status 1, and leaves no pid file."""
    (tmp_path / "servers.yaml").write_text(SERVERS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        admin = f"tcp:{free_port()}:interface=127.0.0.1"
        done = subprocess.run(
            [*twistd(), "tokenlb", "--listen", listen, "--admin-listen", admin],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "twisted_lb cannot start" in done.stderr
    # The parent ends as soon as it is told, and the daemon prints its reason last.
    wait_until(lambda: "Address already in use" in (tmp_path / "twistd.log").read_text())
    assert not (tmp_path / "twistd.pid").exists()


def test_redis_away_at_the_start(new_balancer: Start) -> None:
    """Without Redis the program starts all the same, and answers 503 until Redis is there."""
    balancer = new_balancer(SERVERS, "--redis-url", f"redis://127.0.0.1:{free_port()}").start_not_ready()
    answer = ask(balancer.port, "GET", "/", key="any")
    assert answer.status == 503
    assert answer.fields["Content-Type"] == "application/problem+json"
