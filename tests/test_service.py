"""What is built of a plan, and what is said of it."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.build import ANNOUNCEMENT, _Announcement, build, url
from twisted_lb.app.demo import DemoSite
from twisted_lb.app.listener_tls import ListenerTls, new_contexts
from twisted_lb.app.startup import Startup
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Settings
from twisted_lb.network.certificate_files import CertificatePaths
from twisted_lb.network.certificate_set import CertificateSet
from twisted_lb.network.certificates import Certificates

FLEET = """
servers:
- {name: near, url: "http://127.0.0.1:9001"}
- {name: far, url: "http://10.0.0.1", weight: 0}
- {name: six, url: "http://[::1]:9003"}
"""


def startup_of(demo: bool = False, **settings: Any) -> Startup:
    return Startup(Settings(**settings), read_gateway(FLEET, "x.yaml"), FLEET, demo)


class FakePort:
    def __init__(self, address: object) -> None:
        self._address = address

    def getHost(self) -> object:
        return self._address


class BuildTests(SynchronousTestCase):
    def parts(self, startup: Startup) -> list[Any]:
        service: Any = build(MemoryReactorClock(), startup)
        return list(service)

    def kinds(self, startup: Startup) -> list[str]:
        return [type(part).__name__ for part in self.parts(startup)]

    def test_order(self) -> None:
        """The store comes first and the proxy last, so that they stop the other way round."""
        watching = ["Discovery", "ServersFile", "Hangups", "_Announcement"]
        serving = ["UsageService", "PoolsInProcess", "TunnelKeys", "ProxyService"]
        expected = ["StoreService", "AuditLog", "ListeningService", *serving, *watching]
        self.assertEqual(self.kinds(startup_of()), expected)
        self.assertEqual(self.kinds(startup_of(redis_url="redis://127.0.0.1:1")), expected)

    def test_demo(self) -> None:
        """With --demo each loopback server has a site, on its own address and port."""
        reactor = MemoryReactorClock()
        service: Any = build(reactor, startup_of(demo=True))
        service.privilegedStartService()
        demos = [(port, interface) for port, factory, _, interface in reactor.tcpServers if type(factory) is DemoSite]
        self.assertEqual(demos, [(9001, "127.0.0.1"), (9003, "::1")])

    def test_workers(self) -> None:
        """With several workers this process has no store and no proxy of its own."""
        kinds = self.kinds(startup_of(workers=2, redis_url="redis://127.0.0.1:1"))
        watching = ["Discovery", "ServersFile", "Hangups", "_Announcement"]
        self.assertEqual(kinds, ["AuditLog", "ListeningService", "Workers", *watching])

    def test_certificates(self) -> None:
        """Where there are certificates they are watched, by this process also for workers."""
        certificates = Certificates(new_contexts(Settings(), ""))
        tls = ListenerTls(CertificateSet(CertificatePaths(), lambda one: None), certificates)
        watching = ["ServersFile", "CertificateWatch", "TicketRotation", "Hangups", "_Announcement"]
        self.assertEqual(self.kinds(startup_of()._replace(tls=tls))[-5:], watching)
        workers = startup_of(workers=2, redis_url="redis://127.0.0.1:1")._replace(tls=tls)
        self.assertEqual(self.kinds(workers)[-5:], watching)

    def test_every_endpoint(self) -> None:
        """Each endpoint of LISTEN is bound by the proxy, and the admin endpoint by another service."""
        reactor = MemoryReactorClock()
        service: Any = build(reactor, startup_of(listen=("tcp:1", "tcp:2:interface=127.0.0.1")))
        service.privilegedStartService()
        bound = [(port, interface, type(factory).__name__) for port, factory, _, interface in reactor.tcpServers]
        self.assertEqual([entry[:2] for entry in bound], [(9090, "127.0.0.1"), (1, ""), (2, "127.0.0.1")])
        self.assertEqual({name for _, _, name in bound[1:]}, {"ProxyFactory"})
        self.assertNotEqual(bound[0][2], "ProxyFactory")


    def test_health(self) -> None:
        """Each endpoint of HEALTH_LISTEN is bound, with one process and with several."""
        for more in ({}, {"workers": 2, "redis_url": "redis://127.0.0.1:1"}):
            reactor = MemoryReactorClock()
            service: Any = build(reactor, startup_of(health_listen=("tcp:3", "tcp:4"), listen=(), **more))
            service.privilegedStartService()
            self.assertEqual([port for port, *_ in reactor.tcpServers], [9090, 3, 4])


class AnnouncementTests(SynchronousTestCase):
    def said(self, startup: Startup, *ports: FakePort) -> str:
        """What is logged when all parts run."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        listening: Any = type("Listening", (), {"ports": list(ports)})
        _Announcement(startup, listening, listening).startService()
        globalLogPublisher.removeObserver(events.append)
        return "".join(formatEvent(event) for event in events if event.get("log_format") == ANNOUNCEMENT)

    def test_text(self) -> None:
        """It says where the program listens, and gives lines that can be tried as they are."""
        said = self.said(startup_of(data_dir="/d"), FakePort(IPv4Address("TCP", "0.0.0.0", 8123)))
        for part in (
            "http://localhost:8123\n",
            "embedded, in /d",
            "near http://127.0.0.1:9001",
            "round_robin",
            "curl http://localhost:8123/user/create -H 'Content-Type: application/json' -d '{\"name\": \"user1\"}'",
        ):
            self.assertIn(part, said)

    def test_https(self) -> None:
        """The lines to try use https only where plain HTTP is redirected or not there."""
        clear, tls = FakePort(IPv4Address("TCP", "0.0.0.0", 80)), FakePort(IPv4Address("TCP", "0.0.0.0", 8443))
        listening: dict[str, Any] = {"listen": ("tcp:80",), "tls_listen": ("tcp:8443",)}
        for redirect, base in (("off", "http://localhost:80"), ("https", "https://localhost:8443")):
            said = self.said(startup_of(http_redirect=redirect, **listening), clear, tls)
            self.assertEqual(said.count(f"curl {base}/"), 3, said)
        listening["listen"] = ("unix:/s",)
        said = self.said(startup_of(**listening), FakePort(UNIXAddress("/s")), tls)
        self.assertIn("curl https://localhost:8443/", said)
        # A proxy in front ends TLS.
        said = self.said(startup_of(http_redirect="https", listen=("tcp:80",)), clear)
        self.assertIn("curl http://localhost:80/", said)

    def test_no_password(self) -> None:
        """The URL of Redis, which may hold a password, is not said."""
        self.assertNotIn("geheim", self.said(startup_of(redis_url="redis://:geheim@h"), FakePort(UNIXAddress("/s"))))

    def test_many_servers(self) -> None:
        """Of many servers the first ones are named, and the rest are counted."""
        lines = "\n".join(f"- {{name: s{number}, url: http://h:{number}}}" for number in range(1, 21))
        startup = startup_of()._replace(gateway=read_gateway(f"servers:\n{lines}", "x.yaml"))
        said = self.said(startup, FakePort(IPv4Address("TCP", "127.0.0.1", 1)))
        self.assertIn("s6 http://h:6, and 14 more", said)
        self.assertNotIn("s7 ", said)

    def test_url(self) -> None:
        """An address is shown as a client of this machine reaches it."""
        cases: list[tuple[object, str]] = [
            (IPv4Address("TCP", "0.0.0.0", 80), "http://localhost:80"),
            (IPv4Address("TCP", "127.0.0.2", 80), "http://127.0.0.2:80"),
            (IPv6Address("TCP", "::", 80), "http://localhost:80"),
            (IPv6Address("TCP", "::1", 80), "http://[::1]:80"),
            (UNIXAddress(b"/run/lb.sock"), "unix:/run/lb.sock"),
        ]
        for address, expected in cases:
            port: Any = FakePort(address)
            self.assertEqual(url(port), expected)
