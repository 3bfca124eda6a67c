"""Every kind of endpoint serves clients alike, in one process and with workers."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import WITHOUT_REDIS, Start
from tests.integration.origin import Servers
from tests.integration.processes import Asking, Balancer, wait_until
from tests.integration.redis_server import RedisServer, free_port

WORKERS = [False, pytest.param(True, marks=WITHOUT_REDIS)]


@pytest.fixture(params=WORKERS, ids=["one process", "workers"])
def started(request: pytest.FixtureRequest, servers: Servers, new_balancer: Start) -> Callable[..., Balancer]:
    """Starts a balancer: started(options, environment)."""

    def start(*options: str, **environment: str) -> Balancer:
        if request.param:
            redis: RedisServer = request.getfixturevalue("redis")
            redis.start()
            options += ("--workers", "2", "--redis-url", redis.url)
        balancer: Balancer = new_balancer(servers.yaml(), *options, environment=environment)
        return balancer.start()

    return start


def answer_over(connection: socket.socket, data: bytes) -> bytes:
    """Send a request that is the last one, and read to the end."""
    with connection:
        connection.settimeout(60)
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def over_unix(path: Path, key: str, target: str) -> bytes:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    head = f"GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n"
    return answer_over(connection, head.encode())


def test_unix_socket(started: Callable[..., Balancer], servers: Servers, tmp_path: Path) -> None:
    """A Unix socket is served as TCP is, by each process, with its mode; servers are told the address "unix:"."""
    path = tmp_path / "s"
    balancer = started("--listen", f"unix:{path}:mode=660")
    key = balancer.create_user("user1", 100, 0)
    for _ in range(20):
        assert over_unix(path, key, "/x").startswith(b"HTTP/1.1 200 ")
    seen = [request for origin in servers for request in origin.seen]
    assert len(seen) == 20
    assert {request.field("x-forwarded-for") for request in seen} == {"unix:"}
    assert {str(request.field("forwarded")).partition(";")[0] for request in seen} == {"for=unknown"}
    assert b'"current_capacity":80' in over_unix(path, key, "/user/tokens/profile").replace(b" ", b"")
    assert over_unix(path, "", "/x").startswith(b"HTTP/1.1 401 ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    balancer.terminate()
    assert balancer.wait() == 0
    assert not path.exists()


def test_unix_socket_and_workers_that_end(
    servers: Servers, new_balancer: Start, redis: RedisServer, tmp_path: Path
) -> None:
    """The file of a Unix socket stays when workers end, and the socket is served by those that follow."""
    redis.start()
    path = tmp_path / "s"
    options = ("--listen", f"unix:{path}", "--workers", "2", "--redis-url", redis.url)
    balancer = new_balancer(servers.yaml(), *options).start()
    key = balancer.create_user("user1", 100)
    for child in balancer.workers():
        os.kill(child, 15)
        wait_until(lambda: not Path(f"/proc/{child}").exists(), what="the end of the worker")
        assert over_unix(path, key, "/x").startswith(b"HTTP/1.1 200 ")
    assert path.exists()


def test_unix_socket_after_a_crash(servers: Servers, new_balancer: Start, tmp_path: Path) -> None:
    """The file that a process leaves behind when it is killed does not keep the next one from starting."""
    path = tmp_path / "s"
    balancer = new_balancer(servers.yaml(), "--listen", f"unix:{path}").start()
    key = balancer.create_user("user1", 100)
    balancer.kill()
    balancer.start()
    assert over_unix(path, key, "/x").startswith(b"HTTP/1.1 200 ")


def test_both_families(started: Callable[..., Balancer], servers: Servers) -> None:
    """tcp:P and tcp6:P together serve IPv4 and IPv6, each under its own addresses, in either order."""
    first, second = free_port(), free_port()
    endpoints = f"tcp:{first}", f"tcp6:{first}", f"tcp6:{second}", f"tcp:{second}"
    balancer = started(*(word for endpoint in endpoints for word in ("--listen", endpoint)))
    key = balancer.create_user("user1", 9)
    head = f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n"
    for port in (first, second):
        servers.forget()
        for host in ("127.0.0.1", "::1"):
            answer = answer_over(socket.create_connection((host, port)), head.encode())
            assert answer.startswith(b"HTTP/1.1 200 "), host
        seen = {request.field("x-forwarded-for") for origin in servers for request in origin.seen}
        assert seen == {"127.0.0.1", "::1"}


def test_systemd(servers: Servers, tmp_path: Path, new_balancer: Start) -> None:
    """A Unix socket that systemd passes is served, and keeps its file and its mode when the program ends."""
    path = tmp_path / "s"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    path.chmod(0o640)
    listening.listen()
    balancer = new_balancer(servers.yaml(), "--listen", "systemd:domain=UNIX:index=0", activated=listening).start()
    key = balancer.create_user("user1", 100)
    assert over_unix(path, key, "/x").startswith(b"HTTP/1.1 200 ")
    balancer.terminate()
    assert balancer.wait() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    listening.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--listen", "tcp:99999", "--listen", "ssl:1443", "--admin-listen", "tcp:82", "--listen", "tcp:82"],
            [
                "'tcp:99999' is not an endpoint to listen on: a port is a number",
                "'ssl:1443' is not an endpoint to listen on: for TLS, put",
                "'tcp:82' is where LISTEN 'tcp:82' listens",
            ],
        ),
        # They are opened when all are endpoints.
        (
            ["--listen", "unix:/no/such/dir/s", "--listen", "tcp:81:interface=192.0.2.1"],
            [
                "'unix:/no/such/dir/s': there is no directory /no/such/dir",
                "'tcp:81:interface=192.0.2.1': cannot listen: ",
            ],
        ),
    ],
)
def test_check_finds_what_could_not_start(new_balancer: Start, options: list[str], expected: list[str]) -> None:
    """--check ends with status 1 and the reason for endpoints that could not be opened."""
    ended = new_balancer("servers: [{name: a, url: 'http://127.0.0.1:1'}]", *options, "--check").run_to_end()
    assert ended.status == 1
    problems = [line for line in ended.output.splitlines() if "LISTEN" in line]
    for words in expected:
        assert len([line for line in problems if words in line]) == 1, ended.output


YAML = "servers: [{name: a, url: 'http://127.0.0.1:1'}]"


def make_directory(path: Path) -> None:
    path.mkdir()


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_lock(path: Path) -> None:
    Path(f"{path}.lock").symlink_to(str(os.getpid()))


IN_THE_WAY = [
    (make_directory, "{path} is a directory"),
    (make_file, "{path} is a regular file"),
    (make_link, "{path} is a symbolic link to nowhere, which does not exist"),
    (make_lock, "the lock file {path}.lock names process "),
]


def test_what_is_in_the_way_of_a_unix_socket(new_balancer: Start, tmp_path: Path) -> None:
    """--check and a start end with status 1 and the same reason, and leave what is in the way where it is."""
    listening, expected = [], []
    for number, (make, words) in enumerate(IN_THE_WAY):
        path = tmp_path / f"s{number}"
        make(path)
        listening.append(("--listen", f"unix:{path}"))
        expected.append(words.format(path=path))
    before = sorted(tmp_path.iterdir())
    # A check has the reasons of all, and a start that of the first.
    all_of_them = [word for words in listening for word in words]
    runs = [(["--check", *all_of_them], expected), *((list(one), [words]) for one, words in zip(listening, expected))]
    for options, reasons in runs:
        ended = new_balancer(YAML, *options).run_to_end()
        assert ended.status == 1
        assert [words for words in reasons if words not in ended.output] == [], ended.output
        assert sorted(tmp_path.iterdir()) == before


def test_unix_socket_in_use(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """The socket of a running balancer is not taken from it, with a lock file or without; --check names it."""
    path = tmp_path / "s"
    first = new_balancer(servers.yaml(), "--listen", f"unix:{path}").start()
    key = first.create_user("user1", 100)
    for lock_is_there in (True, False):
        if not lock_is_there:
            Path(f"{path}.lock").unlink()
        expected = f"{path} is in use by process {first.pid} ("
        second = new_balancer(YAML, "--listen", f"unix:{path}").run_to_end()
        assert (second.status, expected in second.output) == (1, True), second.output
        checked = new_balancer(YAML, "--listen", f"unix:{path}", "--check").run_to_end()
        assert (checked.status, f"notice     LISTEN: 'unix:{path}': {expected}" in checked.output) == (0, True)
        assert over_unix(path, key, "/x").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("lock", ["", ":lockfile=0"])
def test_socket_file_that_was_left_behind(
    started: Callable[..., Balancer], servers: Servers, tmp_path: Path, lock: str
) -> None:
    """A socket file on which nobody listens is replaced, with a lock file and without."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    balancer = started("--listen", f"unix:{path}{lock}")
    key = balancer.create_user("user1", 100)
    assert over_unix(path, key, "/x").startswith(b"HTTP/1.1 200 ")
    assert Path(f"{path}.lock").is_symlink() == (not lock)
    balancer.terminate()
    assert balancer.wait() == 0
    assert not list(tmp_path.iterdir())


def test_ipv4_mapped_address(new_balancer: Start, servers: Servers) -> None:
    """An IPv4-mapped address of tcp6 is served to IPv4 clients, and --check says that it can be."""
    port = free_port()
    endpoint = f"tcp6:{port}:interface=\\:\\:ffff\\:127.0.0.1"
    checked = new_balancer(YAML, "--listen", endpoint, "--check").run_to_end()
    assert checked.status == 0, checked.output
    balancer = new_balancer(servers.yaml(), "--listen", endpoint).start()
    key = balancer.create_user("user1", 100)
    head = f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n"
    answer = answer_over(socket.create_connection(("127.0.0.1", port)), head.encode())
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_files_that_were_removed(started: Callable[..., Balancer], servers: Servers, tmp_path: Path) -> None:
    """A program whose socket files, lock files, or both were removed meanwhile ends in order, and requests finish."""
    socket_gone, lock_gone, both_gone = (tmp_path / name for name in ("socket", "lock", "both"))
    listening = (word for path in (socket_gone, lock_gone, both_gone) for word in ("--listen", f"unix:{path}"))
    balancer = started(*listening)
    asking = Asking(balancer, balancer.create_user("user1", 9), "/slow/1")
    wait_until(lambda: any(origin.seen for origin in servers), what="the request at a server")
    for path in (socket_gone, both_gone):
        path.unlink()
    for path in (lock_gone, both_gone):
        Path(f"{path}.lock").unlink()
    balancer.terminate()
    assert balancer.wait() == 0
    asking.join()
    assert asking.status == 200
    assert not list(tmp_path.iterdir())


def test_socket_of_another_process(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """A program that ends leaves the file of a socket that another one has made in the place of its own."""
    path = tmp_path / "s"
    first = new_balancer(servers.yaml(), "--listen", f"unix:{path}:lockfile=0").start()
    path.unlink()
    second = new_balancer(servers.yaml(), "--listen", f"unix:{path}:lockfile=0").start()
    key = second.create_user("user1", 100)
    first.terminate()
    assert first.wait() == 0
    assert over_unix(path, key, "/x").startswith(b"HTTP/1.1 200 ")
