"""What is read and checked at the start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.stores.certificates import Authority
from twisted_lb.app.startup import Startup, read_startup
from twisted_lb.config.settings import Misconfigured

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

    def read(self, env_file: str | None = None, demo: bool = False, **options: Any) -> Startup:
        return read_startup(options, env_file, demo, {})

    def problems(self, env_file: str | None = None, demo: bool = False, **options: Any) -> tuple[str, ...]:
        return self.assertRaises(Misconfigured, self.read, env_file, demo, **options).problems

    def test_plan(self) -> None:
        """A good start has the settings, the pool, and the text that the pool was read from."""
        startup = self.read(demo=True, data_dir="d")
        self.assertEqual([server.name for server in startup.gateway.servers], ["a"])
        self.assertEqual((startup.servers_text, startup.demo), (SERVERS, True))

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
        """Problems of the settings, the endpoints, the Redis URL and the pool come together."""
        Path("servers.yaml").write_text("balancer: x")
        problems = self.problems(workers="x", listen=["tcp:x"], admin_listen="nope:1", redis_url="http://x")
        listen = "LISTEN (option --listen): 'tcp:x'", "ADMIN_LISTEN (option --admin-listen): 'nope:1'"
        for part in ("WORKERS", *listen, "REDIS_URL (option", "servers.yaml:1: "):
            self.assertTrue(any(part in problem for problem in problems), (part, problems))

    def test_password_is_not_told(self) -> None:
        """A Redis URL that cannot be used is not repeated."""
        self.assertNotIn("geheim", "".join(self.problems(redis_url="redis://user:geheim@host/x/y")))

    def test_contradictions_about_redis(self) -> None:
        """A setting for TLS or for sentinels that REDIS_URL makes no use of is a problem that names it."""
        for url in ("", "redis://h"):
            for name in ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file", "redis_sentinel_password"):
                (problem,) = self.problems(redis_url=url, **{name: "geheim"})
                expected = f"{name.upper()} (option --{name.replace('_', '-')}): it is set, but REDIS_URL "
                self.assertTrue(problem.startswith(expected), problem)
                self.assertNotIn("geheim", problem)

    def test_certificates_that_cannot_be_used(self) -> None:
        """A certificate that is not there, and one without its key, are problems of the start."""
        (problem,) = self.problems(redis_url="rediss://h", redis_tls_ca_file="missing.pem")
        expected = "REDIS_TLS_CA_FILE (option --redis-tls-ca-file): cannot read 'missing.pem'"
        self.assertTrue(problem.startswith(expected), problem)
        (problem,) = self.problems(redis_url="rediss://h", redis_tls_cert_file="a.pem")
        self.assertTrue(problem.startswith("REDIS_TLS_KEY_FILE: "), problem)

    def test_contradictions_about_https(self) -> None:
        """A certificate that no listener needs, and a redirect that leads nowhere, are problems."""
        for name in ("tls_cert_file", "tls_cert_dir"):
            problems = self.problems(**{name: "missing"})
            where = f"{name.upper()} (option --{name.replace('_', '-')})"
            self.assertIn(f"{where}: it is set, but TLS_LISTEN is empty, and nothing else needs it", problems)
        for listen in ("unix:/s", "tcp:0", "tcp:x"):
            problems = self.problems(http_redirect="https", tls_listen=listen)
            expected = "HTTP_REDIRECT (option --http-redirect): no TLS_LISTEN has a port"
            self.assertTrue(any(expected in problem for problem in problems), listen)
        first, second = self.problems(http_redirect="https", https_port="443", hsts="1")
        expected = "HTTP_REDIRECT (option --http-redirect): no request can come over https: set TLS_LISTEN, or "
        self.assertTrue(first.startswith(expected), first)
        self.assertTrue(second.startswith("HSTS (option --hsts): no request can come over https"), second)

    def test_port_of_https(self) -> None:
        """A redirect leads to HTTPS_PORT, or to the first TLS_LISTEN that has a port, or to 443 of a proxy."""
        chain, key = Authority(".").sign("a.test")
        more = {"http_redirect": "https", "tls_listen": "unix:/s tcp:8443 tcp:443"}
        more |= {"tls_cert_file": chain, "tls_key_file": key}
        self.assertEqual(self.read(**more).settings.https_port, 8443)
        self.assertEqual(self.read(https_port="443", **more).settings.https_port, 443)
        in_front = {"trusted_proxies": "10.0.0.0/8", "hsts": "1"}
        self.assertEqual(self.read(http_redirect="https", **in_front).settings.https_port, 443)

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
        self.assertEqual(self.read().gateway.pools[0].balancer, "mine_here:Mine")

    def test_data_directory(self) -> None:
        """A data directory that cannot be made is a problem of the start, and with Redis it does not matter."""
        (problem,) = self.problems(data_dir="servers.yaml/data")
        self.assertTrue(problem.startswith("DATA_DIR (option --data-dir): cannot make the data directory "), problem)
        self.assertEqual(self.read(data_dir="servers.yaml/data", redis_url="redis://h").settings.workers, 1)

    def test_notices(self) -> None:
        """A name that is no setting is no problem, and is told with the plan."""
        Path(".env").write_text("LOG_LEVEL=debug\nSELF_SERVICE_CREATE=off")
        (notice,) = self.read().notices
        self.assertIn("LOG_LEVEL (.env line 1): this is not a setting", notice)

    def test_demo_servers_need_places_of_their_own(self) -> None:
        """Two servers at one loopback address cannot both have a demo server."""
        Path("servers.yaml").write_text(
            "servers: [{name: a, url: 'http://localhost:1'}, {name: b, url: 'http://127.0.0.1:1'}]"
        )
        (problem,) = self.problems(demo=True)
        self.assertEqual(problem, "option --demo: b would listen on tcp:1:interface=127.0.0.1, as a does")
        Path("servers.yaml").write_text("servers: [{name: a, url: 'http://127.0.0.1:8080'}]")
        (problem,) = self.problems(demo=True)
        expected = "option --demo: a would listen on tcp:8080:interface=127.0.0.1, where LISTEN does: tcp:8080"
        self.assertEqual(problem, expected)
        self.assertFalse(self.read().demo)

    def test_demo_needs_a_loopback_address(self) -> None:
        """--demo without any loopback address in the servers file is a problem."""
        Path("servers.yaml").write_text("servers: [{name: a, url: 'http://10.0.0.1'}]")
        self.assertIn("--demo: servers.yaml names no http:// server on a loopback address", self.problems(demo=True)[0])
        self.assertFalse(self.read().demo)
