"""The servers that a configuration stands for: addresses, SRV records, lists."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.pool import ServerSpec
from twisted_lb.config.server_list import read_list
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.servers_schema import ServerModel
from twisted_lb.discovery.expansion import expanded

WEB = "servers: [{name: web, url: 'http://web.test:8000', weight: 3, maxconn: 5}]\n"
SRV = "servers: [{name: a, url: 'srv+http://_http._tcp.app.test'}]\n"
LISTED = "discover: {file: list.json}\n"
SERVICE = "srv _http._tcp.app.test"


def pool(text: str) -> GatewaySpec:
    return read_gateway(text, "/etc/tokenlb/x.yaml", {"": b""}.__getitem__)


def servers(text: str, **answers: tuple[str, ...]) -> tuple[ServerSpec, ...]:
    return expanded(pool(text), answers).spec.servers


def shown(found: tuple[ServerSpec, ...]) -> list[str]:
    return [f"{one.name} {one.host} {one.port} {one.weight}{' backup' if one.backup else ''}" for one in found]


class NameTests(SynchronousTestCase):
    def test_several(self) -> None:
        """Each address is a server with everything that the configured one has, and with its Host."""
        found = servers(WEB, **{"web.test": ("10.0.0.7", "10.0.0.8")})
        self.assertEqual(
            shown(found), ["web@10.0.0.7:8000 10.0.0.7 8000 3", "web@10.0.0.8:8000 10.0.0.8 8000 3"]
        )
        self.assertEqual({(one.maxconn, one.authority) for one in found}, {(5, "web.test:8000")})
        self.assertEqual(found[0].url, "http://10.0.0.7:8000")

    def test_one(self) -> None:
        """With one address, or none, it is the configured server itself."""
        spec = pool(WEB)
        for answers in ({}, {"web.test": ("10.0.0.7",)}, {"web.test": ()}):
            self.assertIs(expanded(spec, answers).spec, spec)

    def test_ipv6(self) -> None:
        """Addresses of IPv6 are in brackets where a port follows."""
        found = servers(WEB, **{"web.test": ("2001:db8::1", "2001:db8::2")})
        self.assertEqual(found[0].name, "web@[2001:db8::1]:8000")
        self.assertEqual((found[0].host, found[0].url), ("2001:db8::1", "http://[2001:db8::1]:8000"))

    def test_not_expanded(self) -> None:
        """Addresses are themselves, and so are names for which the file says so; they are not looked up."""
        text = (
            "servers: [{name: a, url: 'http://10.0.0.1'}, {name: b, url: 'http://[::1]'},"
            " {name: c, url: 'http://web.test', expand: false}]"
        )
        found = expanded(pool(text), {"web.test": ("10.0.0.7", "10.0.0.8")})
        self.assertEqual(([one.name for one in found.spec.servers], found.sources), (["a", "b", "c"], {}))

    def test_case(self) -> None:
        """A name in any case has the same answer."""
        text = "servers: [{name: a, url: 'http://Web.Test'}, {name: b, url: 'http://web.test:81'}]"
        found = expanded(pool(text), {"web.test": ("10.0.0.7", "10.0.0.8")})
        self.assertEqual((len(found.spec.servers), found.sources), (4, {"web.test": 30.0}))

    def test_tls(self) -> None:
        """The certificates have to be for the configured name, not for the address."""
        found = servers(WEB.replace("http:", "https:"), **{"web.test": ("10.0.0.7", "10.0.0.8")})
        self.assertEqual({one.tls.server_name for one in found if one.tls}, {"web.test"})
        self.assertEqual(found[0].url, "https://10.0.0.7:8000")


class ServiceTests(SynchronousTestCase):
    def test_records(self) -> None:
        """Weights are those of the records, and all but the best priority are backups."""
        records = ("20 7 81 c.test", "10 5 8000 B.test.", "10 0 8000 a.test")
        found = servers(SRV, **{SERVICE: records})
        self.assertEqual(
            shown(found),
            ["a@a.test:8000 a.test 8000 1", "a@b.test:8000 b.test 8000 5", "a@c.test:81 c.test 81 7 backup"],
        )
        self.assertEqual((found[2].authority, found[2].url), ("app.test:81", "http://c.test:81"))

    def test_targets(self) -> None:
        """The targets are looked up as well; one with several addresses stands for several servers."""
        answers = {SERVICE: ("0 1 80 a.test", "0 1 81 b.test"), "a.test": ("10.0.0.7", "10.0.0.8")}
        found = expanded(pool(SRV), answers)
        self.assertEqual(
            [one.name for one in found.spec.servers], ["a@10.0.0.7:80", "a@10.0.0.8:80", "a@b.test:81"]
        )
        self.assertEqual(found.sources.keys(), {SERVICE, "a.test", "b.test"})

    def test_unknown(self) -> None:
        """While no record is known there is no server."""
        found = expanded(pool(SRV + WEB.replace("servers: [", "# ")), {})
        self.assertEqual((found.spec.servers, found.sources), ((), {SERVICE: 30.0}))

    def test_two_targets_with_one_address(self) -> None:
        """An address and port that two records lead to is one server."""
        both = ("10.0.0.7", "10.0.0.8")
        answers = {SERVICE: ("0 1 80 a.test", "0 1 80 b.test"), "a.test": both, "b.test": both}
        self.assertEqual([one.name for one in servers(SRV, **answers)], ["a@10.0.0.7:80", "a@10.0.0.8:80"])

    def test_high_weights(self) -> None:
        """Weights of 65535 are scaled down, with the same shares."""
        found = servers(SRV, **{SERVICE: ("0 65535 80 a.test", "0 6553 80 b.test", "0 1 80 c.test")})
        self.assertEqual([one.weight for one in found], [1000, 99, 1])

    def test_weight_of_the_server(self) -> None:
        """The configured weight multiplies those of the records; 0 drains all."""
        for weight, weights in ((2, [6, 2]), (0, [0, 0])):
            text = SRV.replace("'}", f"', weight: {weight}}}")
            found = servers(text, **{SERVICE: ("0 3 80 a.test", "0 1 80 b.test")})
            self.assertEqual([one.weight for one in found], weights)

    def test_tls(self) -> None:
        """The certificates have to be for the domain of the service (RFC 9525), or for the configured name."""
        secure = SRV.replace("http:", "https:")
        for more, name in (("", "app.test"), ("tls: {server_name: b.test}\n", "b.test")):
            (found,) = servers(secure + more, **{SERVICE: ("0 1 443 node1.test",)})
            self.assertEqual(found.tls and found.tls.server_name, name)


class ListTests(SynchronousTestCase):
    def entries(self, *entries: object) -> dict[str, tuple[str, ...]]:
        return {"file /etc/tokenlb/list.json": tuple(map(json.dumps, entries))}

    def test_after_the_others(self) -> None:
        """Servers of a list come after those of the file."""
        found = expanded(pool(WEB + LISTED), self.entries({"name": "x", "url": "http://10.0.0.1:80", "weight": 2}))
        self.assertEqual(shown(found.spec.servers), ["web web.test 8000 3", "x 10.0.0.1 80 2"])
        self.assertEqual(found.sources.keys(), {"web.test", "file /etc/tokenlb/list.json"})

    def test_settings_of_the_pool(self) -> None:
        """What the list does not say is what the pool says of all servers."""
        text = LISTED + "health_check: {path: /h, interval: 1s}\nsend_proxy: v2\ntls: {verify: false}\n"
        entries = self.entries(
            {"name": "x", "url": "https://x.test"},
            {"name": "y", "url": "http://y.test", "health_check": {"path": "/y", "status": [[200, 200]]}},
            {"name": "z", "url": "http://z.test", "health_check": None, "send_proxy": 0},
        )
        x, y, z = expanded(pool(text), entries).spec.servers
        assert x.health_check and y.health_check and x.tls
        self.assertEqual((x.health_check.path, x.health_check.interval, x.send_proxy), ("/h", 1.0, 2))
        self.assertEqual((x.tls.server_name, x.tls.files.verify), ("x.test", False))
        self.assertEqual((y.health_check.path, y.health_check.interval), ("/y", 1.0))
        self.assertEqual((y.health_check.status, y.tls), (((200, 200),), None))
        self.assertEqual((z.health_check, z.send_proxy), (None, 0))

    def test_every_key(self) -> None:
        """An entry means what it would mean among the servers of the pool."""
        server: dict[str, object] = {
            "name": "x",
            "url": "http://x.test:81",
            "weight": 7,
            "maxconn": 8,
            "backup": True,
            "slowstart": "9s",
            "send_proxy": "v1",
            "health_check": {"path": "/x"},
            "admin_state": "drain",
            "expand": False,
        }
        self.assertEqual({*server, "tls"}, set(ServerModel.model_fields))
        answers = {"file /etc/tokenlb/list.json": read_list(json.dumps([server]), "list.json")}
        self.assertEqual(expanded(pool(LISTED), answers).spec.servers, pool(f"servers: [{json.dumps(server)}]").servers)

    def test_server_name(self) -> None:
        """One name can be given for all, since lists mostly have addresses."""
        (found,) = expanded(
            pool(LISTED + "tls: {server_name: app.test}\n"), self.entries({"name": "x", "url": "https://10.0.0.1"})
        ).spec.servers
        self.assertEqual(found.tls and found.tls.server_name, "app.test")

    def test_names_in_a_list(self) -> None:
        """Names and services in a list are looked up like others."""
        entries = self.entries({"name": "x", "url": "http://web.test:80"}, {"name": "y", "url": "srv+http://_a._tcp.b"})
        found = expanded(pool(LISTED), {**entries, "web.test": ("10.0.0.1", "10.0.0.2"), "srv _a._tcp.b": ("0 1 1 c",)})
        self.assertEqual([one.name for one in found.spec.servers], ["x@10.0.0.1:80", "x@10.0.0.2:80", "y@c:1"])
