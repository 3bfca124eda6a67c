"""The servers that are found while the program runs: when they are applied, and what changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured
from twisted_lb.discovery.list_file import read_lists
from twisted_lb.discovery.service import Discovery, Found
from twisted_lb.discovery.sources import MAX_ADDRESSES, NAME_SECONDS, SERVICE_SECONDS
from twisted_lb.network.dns_query import Answer, LookupFailed
from twisted_lb.network.names import Names

WEB = "servers: [{name: web, url: 'http://web.test:8000'}]\n"
SRV = "servers: [{name: app, url: 'srv+http://_http._tcp.app.test'}]\n"
SERVICE = "_http._tcp.app.test"
TTL = 5
STEP_SECONDS = 0.05


class DiscoveryCase(SynchronousTestCase):
    """A name server whose answers are `known`: addresses or records by name, None while it is away."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.known: dict[str, list[str] | None] = {}
        self.asked: list[str] = []
        self.ttl = TTL
        self.local = False
        self.whole = True
        self.silent = False
        self.applied: list[list[str]] = []
        self.problem: Misconfigured | None = None
        self.log: list[str] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)

    def note(self, event: Any) -> None:
        self.log.append(event["log_format"].format(**event) if event.get("log_format") else "")

    def look_up(self, name: str) -> Deferred[Answer]:
        self.asked.append(name)
        if self.silent:
            return Deferred()
        found = self.known.get(name, [])
        if found is None:
            return fail(LookupFailed("away"))
        return succeed(Answer(tuple(found), self.ttl, whole=self.whole, local=self.local))

    def start(self, text: str, wait: float = 1) -> Discovery:
        spec = read_gateway(text, "/x/servers.yaml")
        answers = read_lists(spec).answers
        names, services = (Names(self.clock, self.look_up, lambda: 0.0) for _ in range(2))
        self.discovery = Discovery(self.clock, spec, answers, names, services, self.apply)
        self.discovery.startService()
        self.addCleanup(self.discovery.stopService)
        self.wait(wait)
        return self.discovery

    def apply(self, found: Found) -> Deferred[str]:
        if self.problem is not None:
            return fail(self.problem)
        self.found = found
        self.applied.append([server.name for server in found.spec.servers])
        return succeed("everything")

    def wait(self, seconds: float = TTL + 1) -> None:
        """Time passes in short steps."""
        for _ in range(round(seconds / STEP_SECONDS)):
            self.clock.advance(STEP_SECONDS)

    def use(self, text: str) -> Deferred[str]:
        used = self.discovery.use(read_gateway(text, "/x/servers.yaml"), text)
        self.wait(1)
        return used


class NameTests(DiscoveryCase):
    def test_changes(self) -> None:
        """Other addresses are applied at the TTL, and the same ones in another order are not."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.start(WEB)
        expected = [f"web@10.0.0.{number}:8000" for number in (1, 2, 3)]
        self.assertEqual(self.applied, [expected[:2]])
        self.known["web.test"] = ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
        self.wait()
        self.known["web.test"] = ["10.0.0.3", "10.0.0.1", "10.0.0.2"]
        self.wait()
        self.assertEqual(self.applied, [expected[:2], expected])
        self.assertEqual(len(self.asked), 3)
        self.assertEqual(self.log.count("Other servers were found: everything"), 2)
        self.assertEqual(self.found.answers, {"web.test": ("10.0.0.1", "10.0.0.2", "10.0.0.3")})

    def test_start(self) -> None:
        """The start waits for the addresses, but not long: with an unknown one, the server is that of the file."""
        self.silent = True
        discovery = self.start(WEB, wait=0.5)
        self.assertNoResult(discovery.started)
        self.wait(NAME_SECONDS)
        self.successResultOf(discovery.started)
        self.assertEqual(self.applied, [])

    def test_one_address(self) -> None:
        """A name with one address is the server of the file, also when the address changes."""
        for address in ("10.0.0.1", "10.0.0.2"):
            self.known["web.test"] = [address]
            self.start(WEB).stopService()
        self.assertEqual(self.applied, [])

    def test_away(self) -> None:
        """While name servers are away the servers stay, and while they deny the name as well; each is logged once."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.start(WEB)
        for answer, once, again in (
            (None, "cannot be resolved", "resolved again"),
            ([], "has no address; its servers stay as they are", "has addresses again"),
        ):
            self.log.clear()
            self.known["web.test"] = answer
            self.wait(60)
            self.known["web.test"] = ["10.0.0.2", "10.0.0.1"]
            self.wait(10)
            lines = [line for line in self.log if "web.test" in line]
            self.assertEqual((len(lines), once in lines[0], again in lines[-1]), (2, True, True), lines)
        self.assertEqual(len(self.applied), 1)

    def test_moved(self) -> None:
        """When all addresses are others, the former servers are removed at once."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.start(WEB)
        self.known["web.test"] = ["10.0.0.3", "10.0.0.4"]
        self.wait()
        self.assertEqual(self.applied[-1], ["web@10.0.0.3:8000", "web@10.0.0.4:8000"])

    def test_name_that_changes_at_each_answer(self) -> None:
        """Of a name that changes at every answer, the servers are those of the last three answers."""
        for number in range(50):
            self.known["web.test"] = [f"10.0.0.{number}", f"10.0.0.{number + 1}"]
            if number == 0:
                self.start(WEB)
            else:
                self.wait()
        self.assertEqual(self.applied[-1], [f"web@10.0.0.{number}:8000" for number in (47, 48, 49, 50)])

    def test_many(self) -> None:
        """A thousand addresses are a thousand servers; what is more is left out, which is logged once."""
        self.known["web.test"] = [f"10.0.{number // 250}.{number % 250}" for number in range(MAX_ADDRESSES)]
        self.start(WEB)
        self.assertEqual([len(names) for names in self.applied], [MAX_ADDRESSES])
        self.assertEqual(self.applied[0][999], "web@10.0.3.249:8000")
        self.known["web.test"] += ["10.9.0.1"]
        self.wait(30)
        self.assertEqual(len(self.applied), 1)
        self.assertEqual(len([line for line in self.log if "1001 addresses, of which 1000 are used" in line]), 1)
        self.assertLess(max(map(len, self.log)), 300)

    def test_hosts_file(self) -> None:
        """What the hosts file has is one server, such as localhost with its two addresses."""
        self.local = True
        self.known["web.test"] = ["127.0.0.1", "127.0.0.2"]
        self.start(WEB)
        self.assertEqual(self.applied, [])

    def test_addresses_of_the_other_kind_may_follow(self) -> None:
        """Addresses of IPv6 are not servers while it is not known whether there are some of IPv4."""
        self.whole = False
        self.known["web.test"] = ["2001:db8::1", "2001:db8::2"]
        self.start(WEB)
        self.assertEqual(self.applied, [])
        self.whole = True
        self.wait()
        self.assertEqual(self.applied, [["web@[2001:db8::1]:8000", "web@[2001:db8::2]:8000"]])

    def test_rejected(self) -> None:
        """Servers that are rejected are tried again when there is another answer; until then the former ones stay."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.problem = Misconfigured(["balancer: no"])
        self.start(WEB)
        self.assertEqual(set(self.log), {"The servers that were found cannot be used: balancer: no"})
        self.problem = None
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        self.wait()
        self.assertEqual(len(self.applied[-1]), 3)

    def test_max_ttl(self) -> None:
        """A pool says after which time its names are looked up at the latest; a name of two pools at the sooner one."""
        text = (
            "pools:\n"
            "  a: {servers: [{url: 'http://a.test'}, {url: 'http://c.test'}]}\n"
            "  b: {servers: [{url: 'http://b.test'}, {url: 'http://c.test'}], discover: {max_ttl: 2s}}\n"
            "routes: [{pool: a}]\n"
        )
        self.ttl = 60
        self.known.update({f"{name}.test": ["10.0.0.1"] for name in "abc"})
        self.start(text)
        self.wait(4)
        self.assertEqual([self.asked.count(f"{name}.test") for name in "abc"], [1, 3, 3])
        self.use(text.replace("2s", "10s"))
        self.asked.clear()
        self.wait(20)
        self.assertEqual([self.asked.count(f"{name}.test") for name in "abc"], [0, 2, 2])
        self.wait(10)
        self.assertEqual([self.asked.count(f"{name}.test") for name in "abc"], [1, 3, 3])

    def test_stopped(self) -> None:
        """After the stop nothing is looked up or applied."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.start(WEB).stopService()
        self.known["web.test"] = ["10.0.0.3", "10.0.0.2"]
        self.wait(60)
        self.assertEqual((len(self.applied), len(self.asked), self.clock.getDelayedCalls()), (1, 1, []))


class ServiceTests(DiscoveryCase):
    def test_start_with_targets(self) -> None:
        """The start waits for the addresses of the targets too, so that the first servers are the final ones."""
        self.known.update({SERVICE: ["0 0 80 a.test"], "a.test": ["10.0.0.1", "10.0.0.2"]})
        self.start(SRV)
        self.successResultOf(self.discovery.started)
        self.assertEqual(self.applied, [["app@a.test:80"], ["app@10.0.0.1:80", "app@10.0.0.2:80"]])

    def test_start(self) -> None:
        """The start waits for the records, and not for ever."""
        self.silent = True
        discovery = self.start(SRV)
        self.assertNoResult(discovery.started)
        self.wait(SERVICE_SECONDS)
        self.successResultOf(discovery.started)
        discovery.stopService()
        self.silent = False
        self.known[SERVICE] = ["0 0 80 a.test"]
        self.start(SRV)
        self.successResultOf(self.discovery.started)
        self.assertEqual(self.applied, [["app@a.test:80"]])

    def test_targets_with_several_addresses(self) -> None:
        """The targets of the records are looked up too."""
        self.known.update({SERVICE: ["0 0 80 a.test"], "a.test": ["10.0.0.1", "10.0.0.2"]})
        self.start(SRV)
        self.wait(1)
        self.assertEqual(self.applied[-1], ["app@10.0.0.1:80", "app@10.0.0.2:80"])
        self.known[SERVICE] = ["0 0 80 b.test"]
        self.wait()
        self.assertEqual(self.applied[-1], ["app@b.test:80"])
        self.asked.clear()
        self.wait(20)
        self.assertNotIn("a.test", self.asked)

    def test_weight(self) -> None:
        """A record with another weight is the same server, with the other weight at once."""
        self.known[SERVICE] = ["0 1 80 a.test", "0 1 80 b.test"]
        self.start(SRV)
        self.known[SERVICE] = ["0 5 80 a.test", "0 1 80 b.test"]
        self.wait()
        self.assertEqual([server.weight for server in self.found.spec.servers], [5, 1])

    def test_unknown(self) -> None:
        """A service without records is logged once."""
        self.start(SRV)
        self.wait(30)
        self.assertEqual((self.log, self.applied), ([f"The name {SERVICE} has no address"], []))

    def test_reload(self) -> None:
        """Another configuration is applied when its services were looked up; until then the former one stays."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.start(WEB)
        self.silent = True
        used = self.use(SRV)
        self.assertNoResult(used)
        self.assertEqual(len(self.applied), 1)
        self.wait(SERVICE_SECONDS)
        self.assertEqual(self.successResultOf(used), "everything")
        self.assertEqual(self.applied[1:], [[]])
        self.assertEqual(self.found.text, SRV)


class ReloadTests(DiscoveryCase):
    def test_names_stay(self) -> None:
        """Another file with the same name has the servers that were found, at once and without a look-up."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.start(WEB)
        self.use(WEB.replace("8000'", "8000', weight: 2"))
        self.assertEqual(self.applied[1:], [["web@10.0.0.1:8000", "web@10.0.0.2:8000"]])
        self.assertEqual([server.weight for server in self.found.spec.servers], [2, 2])
        self.assertEqual(len(self.asked), 1)

    def test_rejected(self) -> None:
        """A rejected file changes nothing: the former names are watched as before, and those of the file are not."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        self.start(WEB)
        self.problem = Misconfigured(["balancer: no"])
        self.failureResultOf(self.use(SRV), Misconfigured)
        self.problem = None
        self.asked.clear()
        self.known["web.test"] = ["10.0.0.3", "10.0.0.4"]
        self.wait(11)
        self.assertEqual(set(self.asked), {"web.test"})
        self.assertEqual(self.applied[1:], [["web@10.0.0.3:8000", "web@10.0.0.4:8000"]])

    def test_list(self) -> None:
        """The list of another file is read before that is applied; an invalid one, or a name in both, rejects it."""
        self.known["web.test"] = ["10.0.0.1", "10.0.0.2"]
        path = Path(self.mktemp()).absolute()
        self.start(WEB)
        listed = WEB + f"discover: {{file: {path}}}\n"
        for text in ('[{"name": "web", "url": "http://a"}]', "["):
            path.write_text(text)
            failure = self.failureResultOf(self.use(listed), Misconfigured)
            self.assertIn(f"{path}:1: ", failure.value.problems[0])
        path.write_text('["a.test:80"]')
        self.successResultOf(self.use(listed))
        self.assertEqual(self.applied[1:], [["web@10.0.0.1:8000", "web@10.0.0.2:8000", "a.test:80"]])
        path.write_text('["a.test:80", "b.test:80"]')
        self.wait(2)
        self.assertEqual(self.applied[-1][-2:], ["a.test:80", "b.test:80"])
        self.assertEqual(json.loads(self.found.answers[f"file {path}"][1])["name"], "b.test:80")
        # The name of a listed server cannot be taken by the file.
        failure = self.failureResultOf(self.use(listed.replace("web,", "'b.test:80',")), Misconfigured)
        self.assertIn("servers in this list have the names of others: b.test:80", failure.value.problems[0])
