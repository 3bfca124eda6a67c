"""Starts twisted_lb as an operator does, and creates its keys through the user API."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.ground import SERVER_NAMES, Ground
from bench.load import Tls
from bench.machine import free_port
from bench.peers.interface import BUCKET, KEY_COUNT, PROFILED_KEY_COUNT, StartedPeer, make_certificate
from bench.stage import Stage, StageError

CHECKOUT = Path(__file__).resolve().parent.parent.parent

# Every limit that there is, none of which is ever reached.
LIMITS = {
    "GLOBAL_CAPACITY": "1000000000",
    "GLOBAL_RATE_PER_SEC": "1000000",
    "MAX_IN_FLIGHT_PER_KEY": "1000000",
    "ADDRESS_CAPACITY": "1000000",
}
PRICES = '''
class Prices:
    """Asked for every request, before and after."""

    def cost(self, request):
        return 1

    def settle(self, request, response):
        return None
'''

API_SECONDS = 10.0  # for one answer of the API


class TokenlbPeer:
    """twisted_lb with everything at its default but the store; or with every limit and a pricing class, or a log."""

    def __init__(
        self,
        with_redis: bool,
        with_limits: bool = False,
        twistd: Path | None = None,
        tls: Tls = Tls.NONE,
        with_log: bool = False,
    ) -> None:
        """`twistd` is that of another installation, whose twisted_lb is run; None: this checkout.

        `tls` is how clients connect; `with_log`: an access log in a file, as JSON, and with it ids of requests.
        """
        self._tls = tls
        self._with_log = with_log
        self.uses_redis = with_redis
        self._limits = LIMITS if with_limits else {}
        self._twistd = twistd or Path(sys.executable).with_name("twistd")
        # Another installation must not import this checkout.
        self._environment = {} if twistd else {"PYTHONPATH": str(CHECKOUT)}

    def of(self, path: Path) -> TokenlbPeer:
        """The same of another installation: a venv, or a twistd."""
        twistd = path / "bin" / "twistd" if path.is_dir() else path
        return TokenlbPeer(self.uses_redis, bool(self._limits), twistd, self._tls, self._with_log)

    def with_settings(self, settings: Mapping[str, str]) -> TokenlbPeer:
        """The same with these settings in its environment."""
        other = TokenlbPeer(self.uses_redis, bool(self._limits), self._twistd, self._tls, self._with_log)
        other._environment = {**self._environment, **settings}
        return other

    def missing(self) -> str:
        """See Peer."""
        return "" if self._twistd.exists() else f"there is no {self._twistd}"

    def build(self) -> str:
        """What `--version` says of the build: "compiled" or "pure Python"; empty where it says neither."""
        argv = [str(self._twistd), "tokenlb", "--version"]
        with TemporaryDirectory() as directory:
            env = {**os.environ, "PYTHONPATH": "", **self._environment}
            said = subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True, check=False).stdout
        return next((build for build in ("compiled", "pure Python") if build in said), "")

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """See Peer."""
        directory, port, admin_port = stage.directory("twisted_lb"), free_port(), free_port()
        servers = directory / "servers.yaml"
        pricing = 'pricing: "prices:Prices"\n' if self._limits else ""
        servers.write_text(pricing + servers_yaml(ground))
        (directory / "prices.py").write_text(PRICES)
        profiling = [f"--profile={profile}", "--profiler=cprofile", "--savestats"] if profile else []
        argv = [str(self._twistd), "-n", "--pidfile=", *profiling, "tokenlb"]
        # The endpoint's default backlog is 50, too few for 512 clients that arrive at once.
        argv += ["--listen", f"tcp:{port}:interface=127.0.0.1:backlog=4096"]
        argv += ["--admin-listen", f"tcp:{admin_port}:interface=127.0.0.1"]
        argv += ["--servers", str(servers), "--data-dir", str(directory / "data")]
        if self.uses_redis:
            ground.redis.flush()
            argv += ["--redis-url", ground.redis.url]
        environment = {**self._environment, **self._limits}
        tls_port = port
        if self._tls is not Tls.NONE:
            certificate, key = make_certificate(directory)
            tls_port = free_port()
            environment["TLS_LISTEN"] = f"tcp:{tls_port}:interface=127.0.0.1:backlog=4096"
            environment.update(TLS_CERT_FILE=str(certificate), TLS_KEY_FILE=str(key))
        if self._with_log:
            environment["ACCESS_LOG"] = str(directory / "access.log")
        running = stage.start("twisted_lb", argv, cores, directory, port, env=environment)
        keys = create_keys(port, PROFILED_KEY_COUNT if profile else KEY_COUNT)
        return StartedPeer(running, tls_port, keys, self._tls)


def servers_yaml(ground: Ground) -> str:
    """The servers' file for the ground's servers."""
    lines = ["balancer: round_robin", "servers:"]
    for name, port in zip(SERVER_NAMES, ground.server_ports, strict=True):
        lines.append(f'  - {{name: {name}, url: "http://127.0.0.1:{port}"}}')
    return "\n".join(lines) + "\n"


def create_keys(port: int, count: int) -> list[str]:
    """Create users and return their keys; raises StageError with the answer when one is refused."""
    keys: list[str] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=API_SECONDS)
    try:
        for number in range(count):
            body = json.dumps({"name": f"user{number}", **BUCKET})
            connection.request("POST", "/user/create", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status not in (200, 201):
                raise StageError(f"POST /user/create {body}: {answer.status} {text.decode(errors='replace')}")
            keys.append(str(json.loads(text)["api_key"]))
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise StageError(f"POST /user/create failed after {len(keys)} keys: {error!r}") from error
    finally:
        connection.close()
    return keys
