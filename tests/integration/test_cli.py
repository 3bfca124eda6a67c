"""The command `tokenlb` as operators run it, with real programs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.integration.conftest import Start
from tests.integration.openapi_walk import with_limits
from tests.integration.origin import Servers
from tests.integration.processes import PROJECT, Balancer, ask, wait_until
from tests.stores.certificates import Authority
from twisted_lb.cli.main import command as whole_command

DOCUMENT = (PROJECT / "docs" / "cli.md").read_text()
TOKEN = "correct-horse-battery"
SECONDS = 300
TOKENLB = str(Path(sys.executable).with_name("tokenlb"))
# Without variables of the developer's own.
ENVIRONMENT = {"PATH": f"{Path(TOKENLB).parent}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT), "LC_ALL": "C.UTF-8"}


def run(*arguments: str, stdin: bytes = b"", url: str = "", token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """The command, ended."""
    environment = {**ENVIRONMENT, "TOKENLB_URL": url, "TOKENLB_TOKEN": token}
    done = subprocess.run([TOKENLB, *arguments], env=environment, input=stdin, capture_output=True, timeout=SECONDS)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def document(balancer: Balancer, *arguments: str) -> Any:
    """The document of a command that must succeed."""
    done = run(*arguments, "--json", url=balancer.admin_url)
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def commands(group: click.Group = whole_command, before: str = "tokenlb") -> Iterator[str]:
    """All commands, with their groups."""
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from commands(one, f"{before} {name}")
        else:
            yield f"{before} {name}"


def started(new_balancer: Start, servers: Servers) -> Balancer:
    """A program with a token."""
    return new_balancer(servers.yaml(), environment={"ADMIN_TOKEN": TOKEN}).start()


def test_document(servers: Servers, new_balancer: Start) -> None:
    """Every command is in the document; all there are run as they are written, in the directory of the program."""
    text = "".join(re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL))
    lines = text.splitlines()
    for name in commands():
        assert any(f"{name} " in f"{line} " for line in lines), name
    other = started(new_balancer, servers)
    balancer = new_balancer(with_limits(servers.all))
    settings = f"ADMIN_LISTEN=tcp:{balancer.admin_port}:interface=127.0.0.1\nADMIN_TOKEN={TOKEN}\n"
    (balancer.directory / ".env").write_text(settings)
    balancer.start()
    script = "set -e -o pipefail\n" + text.replace("http://localhost:9091", other.admin_url)
    done = subprocess.run(
        ["bash"], input=script, cwd=balancer.directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS
    )
    once = "The API key is shown only now: it is not stored."
    assert (done.returncode, done.stderr.splitlines()) == (0, [once] * 2), done
    assert TOKEN not in done.stdout
    for part in ("state   ready\n", "stored     1\n", "unchanged  1\n", "twisted_lb: the configuration is valid\n"):
        assert part in done.stdout
    assert document(balancer, "users", "list") == {"users": [], "next": None}
    assert [user["name"] for user in document(other, "users", "list")["users"]] == ["ann"]
    assert [server["name"] for server in document(balancer, "servers", "list")["servers"]] == [
        server.name for server in servers.all
    ]


def test_round_trip(servers: Servers, new_balancer: Start, tmp_path: Path) -> None:
    """Users of any name go from one program to another; their keys work there, and a repetition changes nothing."""
    one, other = started(new_balancer, servers), started(new_balancer, servers)
    names = ["a/b", "..", ".", "é ü", "-x", "export", "?#%2F"]
    keys = {}
    for name in names:
        created = run("users", "create", "--json", "--label", "ø", "--", name, url=one.admin_url)
        assert created.returncode == 0, created
        keys[name] = json.loads(created.stdout)["api_key"]
        shown = run("users", "show", "--json", "--", name, url=one.admin_url)
        assert json.loads(shown.stdout)["name"] == name
    rotated = document(one, "users", "show", "a/b")["keys"][0]["key_id"]
    document(one, "keys", "disable", rotated)
    exported = run("users", "export", url=one.admin_url)
    assert exported.returncode == 0 and len(exported.stdout.splitlines()) == len(names)
    assert not any(key in exported.stdout for key in keys.values())
    file = tmp_path / "users.jsonl"
    file.write_text(exported.stdout)
    assert document(other, "users", "import", str(file)) == {"stored": len(names), "unchanged": 0, "errors": []}
    again = run("users", "import", "--json", stdin=exported.stdout.encode(), url=other.admin_url)
    assert json.loads(again.stdout) == {"stored": 0, "unchanged": len(names), "errors": []}
    assert run("users", "export", url=other.admin_url).stdout == exported.stdout
    for name, key in keys.items():
        assert ask(other.port, "GET", "/", key=key).status == (403 if name == "a/b" else 200)
    run("users", "set", "--capacity", "9", "--", "-x", url=other.admin_url)
    failed = run("users", "import", stdin=exported.stdout.encode(), url=other.admin_url)
    assert failed.returncode == 1
    assert re.search(r"^line \d+ \(-x\): there is a user of this name, with another capacity$", failed.stderr, re.M)


def test_refusals(servers: Servers, new_balancer: Start) -> None:
    """Each kind of refusal has its exit status; the token is in no message."""
    balancer = started(new_balancer, servers)
    url = balancer.admin_url
    document(balancer, "users", "create", "ann")
    key_id = document(balancer, "keys", "list", "ann")["keys"][0]["key_id"]
    document(balancer, "keys", "revoke", key_id, "--yes")
    for arguments, status, token in (
        (["users", "show", "bob"], 4, TOKEN),
        (["keys", "show", "key_0000000000000000"], 4, TOKEN),
        (["servers", "drain", "server9"], 4, TOKEN),
        (["users", "list"], 5, "wrong-token-of-somebody"),
        (["users", "create", "ann"], 6, TOKEN),
        (["keys", "enable", key_id], 6, TOKEN),
        (["users", "create", "bob", "--capacity", "0"], 1, TOKEN),
        (["users", "delete", "ann"], 2, TOKEN),
        (["users", "list", "--url", f"http://127.0.0.1:{servers.all[0].port}"], 3, TOKEN),
        (["check", "--servers", "no-such-file"], 1, TOKEN),
    ):
        done = run(*arguments, "--json", url=url, token=token)
        assert (done.returncode, done.stdout) == (status, ""), done
        error = json.loads(done.stderr)["error"]
        assert error["exit_status"] == status and error["message"]
        assert token not in done.stderr


class Tls:
    """Answers each connection with 404, over TLS."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory)
        self.ca_file = authority.ca_file
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.sign("localhost"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(65536)
                    body = b'{"detail":"Nothing here."}'
                    fields = f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
                    connection.sendall(f"HTTP/1.1 404 X\r\n{fields}\r\n".encode() + body)
            except OSError:
                plain.close()

    def close(self) -> None:
        """End it."""
        # close() alone would leave the thread waiting.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_certificates(tmp_path: Path) -> None:
    """A certificate must be trusted, and be for the name in the URL."""
    server = Tls(tmp_path)
    try:
        done = run("users", "show", "ann", url=server.url)
        assert done.returncode == 3 and "is not trusted" in done.stderr, done
        done = run("users", "show", "ann", "--cacert", server.ca_file, url=server.url)
        assert (done.returncode, done.stderr) == (4, "tokenlb: Nothing here.\n"), done
        done = run("users", "show", "ann", "--cacert", server.ca_file, url=server.url.replace("localhost", "127.0.0.1"))
        assert done.returncode == 3 and "is not trusted" in done.stderr, done
        done = run("users", "show", "ann", "--cacert", str(tmp_path / "none"), url=server.url)
        assert done.returncode == 2, done
    finally:
        server.close()


def test_quiet_ends(servers: Servers, new_balancer: Start) -> None:
    """A reader that goes and an interrupt end the command without a word, a full disk with one line."""
    balancer = started(new_balancer, servers)
    environment = {**ENVIRONMENT, "TOKENLB_URL": balancer.admin_url, "TOKENLB_TOKEN": TOKEN}
    document(balancer, "users", "create", "ann")
    for line in ("users export", "users list", "users list --json"):
        # The reader has gone before the command begins.
        reading, writing = os.pipe()
        os.close(reading)
        command = [TOKENLB, *line.split()]
        done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=SECONDS)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b""), (line, done)
    with open("/dev/full", "wb") as full:
        for line in ("users export", "users list", "--help"):
            done = subprocess.run([TOKENLB, *line.split()], env=environment, stdout=full, stderr=subprocess.PIPE)
            assert (done.returncode, done.stderr) == (1, b"tokenlb: input or output: No space left on device\n"), done
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(SECONDS)
        environment["TOKENLB_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        waiting = subprocess.Popen(
            [TOKENLB, "status"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell has its background jobs ignore it, and what they start inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)
            waiting.send_signal(signal.SIGINT)
            out, err = waiting.communicate(timeout=SECONDS)
    assert (waiting.returncode, out, err.strip()) == (130, b"", b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """The script for each shell is printed."""
    environment = {**ENVIRONMENT, "_TOKENLB_COMPLETE": f"{shell}_source"}
    done = subprocess.run([TOKENLB], env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0 and "_TOKENLB_COMPLETE" in done.stdout, done


def test_start_is_light() -> None:
    """The help imports neither Twisted nor what only some commands need."""
    program = (
        "import sys\nfrom twisted_lb.cli.main import run\nassert run(['users', '--help']) == 0\n"
        "print({'twisted', 'rich', 'yaml', 'dotenv', 'pydantic'} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS)
    assert done.stderr == "set()\n"


def test_unix_socket(servers: Servers, new_balancer: Start) -> None:
    """An admin listener may be a socket in the file system."""
    path = "admin.sock"
    balancer = new_balancer(servers.yaml(), "--admin-listen", f"unix:{path}", environment={"ADMIN_TOKEN": TOKEN})
    balancer.launch()
    url = f"unix:{balancer.directory / path}"
    wait_until(lambda: run("status", url=url).returncode == 0, what="an answer on the socket")
    assert run("users", "create", "ann", url=url).returncode == 0
