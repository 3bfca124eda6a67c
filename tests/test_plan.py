"""What a start reads and checks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.plan import Plan, read_plan
from twisted_lb.settings import Misconfigured

SERVERS = "servers: [{name: a, url: 'http://127.0.0.1:9001'}]"


class ReadPlanTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        before = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, before)
        self.patch(sys, "path", list(sys.path))
        Path("servers.yaml").write_text(SERVERS)

    def read(self, env_file: str | None = None, demo: bool = False, **options: Any) -> Plan:
        return read_plan(options, env_file, demo, {}, MemoryReactorClock())

    def problems(self, env_file: str | None = None, demo: bool = False, **options: Any) -> tuple[str, ...]:
        return self.assertRaises(Misconfigured, self.read, env_file, demo, **options).problems

    def test_plan(self) -> None:
        """A good start has the settings, the fleet, and the text that the fleet was read from."""
        plan = self.read(demo=True, data_dir="d")
        self.assertEqual([server.name for server in plan.fleet.servers], ["a"])
        self.assertEqual((plan.fleet_text, plan.demo), (SERVERS, True))

    def test_data_directory_is_absolute(self) -> None:
        """The data directory and the servers file do not move when the working directory does; no file stays none."""
        settings = self.read(data_dir="d").settings
        self.assertEqual(settings.data_dir, os.path.abspath("d"))
        self.assertEqual(settings.servers_file, os.path.abspath("servers.yaml"))
        self.assertEqual(settings.redis_tls_ca_file, "")

    def test_env_file(self) -> None:
        """.env is read where it is, and another file where it is named."""
        Path(".env").write_text("HEAD_TIMEOUT=7")
        Path("other").write_text("HEAD_TIMEOUT=8")
        self.assertEqual(self.read().settings.head_timeout, 7)
        self.assertEqual(self.read("other").settings.head_timeout, 8)

    def test_files_that_cannot_be_read(self) -> None:
        """A named file that is missing, a directory, or no text is a problem; a missing .env is none."""
        Path("latin").write_bytes(b"servers: \xe4")
        self.assertEqual(self.problems("missing"), ("missing: cannot be read: No such file or directory",))
        self.assertEqual(self.problems(servers_file="."), (".: cannot be read: Is a directory",))
        self.assertEqual(self.problems(servers_file="latin"), ("latin: cannot be read: it is not UTF-8 text",))

    def test_everything_at_once(self) -> None:
        """Problems of the settings, the endpoints, the Redis URL and the fleet come together."""
        Path("servers.yaml").write_text("balancer: x")
        problems = self.problems(workers="x", listen=["tcp:x"], admin_listen="nope:1", redis_url="http://x")
        for part in ("WORKERS", "LISTEN: 'tcp:x'", "ADMIN_LISTEN: 'nope:1'", "REDIS_URL: ", "servers.yaml:1: servers"):
            self.assertTrue(any(part in problem for problem in problems), (part, problems))

    def test_password_is_not_told(self) -> None:
        """A Redis URL that cannot be used is not repeated."""
        self.assertNotIn("geheim", "".join(self.problems(redis_url="redis://user:geheim@host/x/y")))

    def test_contradictions_about_redis(self) -> None:
        """A setting for TLS or for sentinels that REDIS_URL makes no use of is a problem that names it."""
        for url in ("", "redis://h"):
            for name in ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file", "redis_sentinel_password"):
                (problem,) = self.problems(redis_url=url, **{name: "geheim"})
                self.assertTrue(problem.startswith(f"{name.upper()}: it is set, but REDIS_URL "), problem)
                self.assertNotIn("geheim", problem)

    def test_certificates_that_cannot_be_used(self) -> None:
        """A certificate that is not there, and one without its key, are problems of the start."""
        (problem,) = self.problems(redis_url="rediss://h", redis_tls_ca_file="missing.pem")
        self.assertTrue(problem.startswith("REDIS_TLS_CA_FILE: cannot read 'missing.pem'"), problem)
        (problem,) = self.problems(redis_url="rediss://h", redis_tls_cert_file="a.pem")
        self.assertTrue(problem.startswith("REDIS_TLS_KEY_FILE: "), problem)

    def test_unknown_balancer(self) -> None:
        """A balancer that cannot be made is a problem of the servers file."""
        Path("servers.yaml").write_text("balancer: rond_robin\n" + SERVERS)
        (problem,) = self.problems()
        self.assertTrue(problem.startswith("servers.yaml:1: balancer: there is no balancer 'rond_robin'"), problem)

    def test_own_balancer_in_the_working_directory(self) -> None:
        """A balancer of one's own may lie where the program is started."""
        Path("mine_here.py").write_text("from twisted_lb.balancers.round_robin import RoundRobin as Mine\n")
        self.addCleanup(sys.modules.pop, "mine_here", None)
        Path("servers.yaml").write_text("balancer: mine_here:Mine\n" + SERVERS)
        self.assertEqual(self.read().fleet.balancer, "mine_here:Mine")

    def test_demo_needs_a_loopback_address(self) -> None:
        """--demo without any loopback address in the servers file is a problem."""
        Path("servers.yaml").write_text("servers: [{name: a, url: 'http://10.0.0.1'}]")
        self.assertIn("--demo: servers.yaml names no server on a loopback address", self.problems(demo=True)[0])
        self.assertFalse(self.read().demo)
