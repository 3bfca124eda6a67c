"""A servers file that another process reads, and how its answer is put together."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.servers_reader import SHORT, Reading, _answer, _put_together
from twisted_lb.config.edits import Edit, NotEditable, edited
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured
from twisted_lb.steps import finish

HEAD = """
balancer: {name: hash, bound: 2, since: 2026-01-01}
pricing: {name: "mine:Class", factor: 3}
health_check: {path: /h}
retries: {attempts: 2}
servers:
"""


def text(servers: int) -> str:
    return HEAD + "".join(f"- {{name: s{number}, url: 'http://a:{number + 1}'}}\n" for number in range(servers))


class AnswerTests(SynchronousTestCase):
    def read(self, text: str, edit: Edit | None = None) -> object:
        return finish(_put_together(b"".join(_answer(text, "x.yaml", None, edit)), text))

    def test_same_as_here(self) -> None:
        """What the process says is what would have been read here, whatever the number of servers."""
        for count in (1, 249, 250, 251, 1000):
            spec, lines, same = self.read(text(count))  # type: ignore[misc]
            self.assertEqual((spec, same), (read_gateway(text(count), "x.yaml"), text(count)))
            places = {key: place for (_, key), place in lines.items()}
            self.assertEqual(places, {"balancer": (2, "balancer"), "pricing": (3, "pricing"), "hooks": (2, "hooks")})

    def test_routes(self) -> None:
        """So are the hooks and the mirror of a route."""
        pools = "pools: {a: {servers: [{url: 'http://a'}]}, b: {servers: [{url: 'http://b'}]}}\n"
        file = pools + "routes: [{pool: a, mirror: b, hooks: {name: 'mine:Hooks', factor: 3}}]\nhooks: mine:All"
        spec, lines, _ = self.read(file)  # type: ignore[misc]
        self.assertEqual(spec, read_gateway(file, "x.yaml"))
        self.assertEqual(lines["routes[0]", "hooks"], (2, "routes[0].hooks"))
        self.assertEqual(lines["b", "hooks"], (3, "hooks"))

    def test_problems(self) -> None:
        """Its problems are those that would have been found here."""
        wrong = text(3) + "- {name: s1, url: nonsense}\n"
        here = self.assertRaises(Misconfigured, read_gateway, wrong, "x.yaml")
        there = self.assertRaises(Misconfigured, self.read, wrong)
        self.assertEqual(there.problems, here.problems)

    def test_edit(self) -> None:
        """A change is made in the text, which comes back with what it says now."""
        edit = Edit("default", "s2", {"weight": 7})
        spec, _, changed = self.read(text(300), edit)  # type: ignore[misc]
        self.assertEqual(changed, edited(text(300), edit))
        self.assertEqual([one.weight for one in spec.servers[1:4]], [1, 7, 1])
        self.assertRaises(NotEditable, self.read, text(3), edit._replace(server="s3"))
        self.assertRaises(Misconfigured, self.read, text(3), edit._replace(keys={"weight": -1}))


class ReadingTests(SynchronousTestCase):
    def test_short(self) -> None:
        """A short text needs no process: it is read within the call."""
        spec, lines, _ = self.successResultOf(Reading(Clock()).read(text(2), "x.yaml"))
        self.assertEqual((len(spec.servers), lines["default", "pricing"]), (2, (3, "pricing")))
        self.failureResultOf(Reading(Clock()).read("servers: 3", "x.yaml"), Misconfigured)

    def test_no_process(self) -> None:
        """Where no process can be started, a long text is read all the same."""

        class Full(Clock):
            def spawnProcess(self, *arguments: object, **more: object) -> None:
                raise BlockingIOError(11, "Resource temporarily unavailable")

        long = text(SHORT // 20)
        clock = Full()
        spec, _, _ = self.successResultOf(Reading(clock).read(long, "x.yaml"))
        self.assertEqual(len(spec.servers), SHORT // 20)
