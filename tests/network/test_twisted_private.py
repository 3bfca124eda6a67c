"""What is used of Twisted beyond its public interfaces is in one file, and exists in the installed Twisted."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from twisted.internet import abstract, tcp, unix
from twisted.internet.base import DelayedCall
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.network import twisted_private
from twisted_lb.network.twisted_private import OF_EPOLL, USED, EPollReactor

PACKAGE = Path(twisted_private.__file__).parent.parent
HERE = Path(twisted_private.__file__)
# Private by their name only: of NamedTuple.
DOCUMENTED = {"_replace", "_asdict", "_fields"}


@cache
def trees() -> list[tuple[Path, ast.Module]]:
    return [(file, ast.parse(file.read_text(encoding="utf-8"))) for file in sorted(PACKAGE.rglob("*.py"))]


def made_here() -> set[str]:
    """The private names that this package defines or assigns itself, outside of the one file."""
    names: set[str] = set()
    for file, tree in trees():
        if file == HERE:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


class UsedTests(SynchronousTestCase):
    def test_twisted_has_it(self) -> None:
        """Each attribute is there: in the class itself, or in an object of it."""
        reactor = MemoryReactorClock()
        # Some are there only while it listens.
        port = tcp.Port(0, Factory(), interface="127.0.0.1", reactor=reactor)
        port.startListening()
        self.addCleanup(port.connectionLost, None)
        made = {
            abstract.FileDescriptor: abstract.FileDescriptor(reactor),
            tcp.Port: port,
            unix.Port: unix.Port(b"/nonexistent", Factory(), reactor=reactor),
            DelayedCall: reactor.callLater(1, list),
        }
        if EPollReactor is not None:
            made[EPollReactor] = stock = EPollReactor()
            self.addCleanup(stock._poller.close)
            self.addCleanup(stock.disconnectAll)
        for kind, attributes in USED.items():
            for name in attributes:
                found = hasattr(kind, name) or hasattr(made.get(kind), name)
                self.assertTrue(found, f"Twisted's {kind.__module__}.{kind.__name__} has no {name} any more")

    def test_twisted_uses_it(self) -> None:
        """What is set or overridden here is looked at by Twisted: a name that nobody reads would change nothing."""
        looked_at: set[str] = set()
        for module in ("abstract", "base", "tcp", "unix", "epollreactor"):
            source = Path(str(abstract.__file__)).with_name(f"{module}.py").read_text(encoding="utf-8")
            looked_at |= {
                node.attr
                for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            }
        for kind, attributes in USED.items():
            for name, how in attributes.items():
                if "set" in how.partition(":")[0] or "overridden" in how:
                    self.assertIn(name, looked_at, f"{kind.__name__}.{name}: {how}")

    def test_all_in_one_file(self) -> None:
        """No other file uses a private attribute that is not of this package."""
        ours = made_here() | DOCUMENTED
        for file, tree in trees():
            if file == HERE:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                    self.assertIn(node.attr, ours, f"{file}:{node.lineno}")

    def test_listed(self) -> None:
        """What the one file uses is in its list: each private name, and those without an underscore elsewhere not."""
        listed = {name for attributes in [*USED.values(), OF_EPOLL] for name in attributes}
        [tree] = [tree for file, tree in trees() if file == HERE]
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        found = {name for name in attributes if name.startswith("_") and not name.startswith("__")}
        self.assertLessEqual(found, listed)
        only_there = {"dataBuffer", "numberAccepts", "_makeTransport"} | {n for n in listed if n[0] == "_"}
        for file, tree in trees():
            if file == HERE:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    self.assertNotIn(node.attr, only_there, f"{file}:{node.lineno}")
