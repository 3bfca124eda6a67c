"""The walk of the README, pasted into a shell in one go, prints what stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.processes import PROJECT
from tests.integration.redis_server import free_port

README = (PROJECT / "README.md").read_text()
WALK = README.partition("## A walk with curl\n")[2].partition("\n## ")[0]
# Commands, and what they print.
STEP = re.compile(r"```sh\n(.*?)```\n```\n(.*?)```", re.DOTALL)
# What is another one each time.
OTHER_EACH_TIME = (
    (r'"api_key":"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"', '"api_key":"..."'),
    (r"(?m)^Server: TwistedWeb/[0-9.]+$", "Server: TwistedWeb/..."),
    (r"(?m)^Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$", "Date: ..."),
)


# The section with a certificate: the commands that make it, that start the program, and that use it.
HTTPS = README.partition("## HTTPS\n")[2].partition("\n## ")[0]


def comparable(text: str) -> list[str]:
    text = text.replace("\r\n", "\n")
    for pattern, word in OTHER_EACH_TIME:
        text = re.sub(pattern, word, text)
    return text.splitlines()


def demo_servers() -> str:
    """The servers.yaml that `make run` has, with ports that are free."""
    return re.sub(r"localhost:\d+", lambda _: f"localhost:{free_port()}", (PROJECT / "servers.yaml").read_text())


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl; `apt-get install curl` enables this")
def test_walk(new_balancer: Start, tmp_path: Path) -> None:
    """Each line is the one that the README has, but for the key, the date and a version."""
    steps = STEP.findall(WALK)
    assert len(steps) == WALK.count("```") // 4 >= 4
    expected = comparable("".join(printed for _, printed in steps))
    for _ in range(3):
        balancer = new_balancer(demo_servers(), "--demo").start()
        commands = "".join(commands for commands, _ in steps).replace("localhost:8080", f"127.0.0.1:{balancer.port}")
        # A shell at a terminal reads commands so, one after the other, and programs that it starts leave them to it.
        done = subprocess.run(["bash"], input=commands, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.stderr == ""
        # On a busy machine six requests in a row may take a second, after which there is another token.
        if comparable(done.stdout) == expected:
            break
    assert comparable(done.stdout) == expected


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("openssl")), reason="no curl or no openssl; see `apt-get install`"
)
def test_https(new_balancer: Start, tmp_path: Path) -> None:
    """The three lines make a certificate that the program uses and that curl trusts."""
    ((commands, printed),) = STEP.findall(HTTPS)
    make, run, use = commands.splitlines()
    subprocess.run(["bash", "-ec", make], cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert run.endswith(" make run")
    settings = dict(word.split("=", 1) for word in run.split()[:-2])
    port = free_port()
    settings["TLS_LISTEN"] = settings["TLS_LISTEN"].replace("8443", f"{port}:interface=127.0.0.1")
    files = {name: str(tmp_path / value) for name, value in settings.items() if name.endswith("_FILE")}
    balancer = new_balancer(demo_servers(), "--demo", environment={**settings, **files}).start()
    command = use.replace("localhost:8443", f"localhost:{port}")
    environment = {"PATH": os.environ["PATH"], "KEY": balancer.create_user("user1")}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (printed, "")
