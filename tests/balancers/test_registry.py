"""Finding a balancer by its name, and the error messages."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.balancers.registry import BALANCERS, BalancerError, find_balancer, make_balancer
from twisted_lb.balancers.round_robin import RoundRobin

OWN = """
from zope.interface import implementer
from twisted_lb.interfaces import IBalancer

@implementer(IBalancer)
class Own:
    def __init__(self, start=0):
        if start < 0:
            raise ValueError("start is below 0")
        self.start = start
    def backends_changed(self, backends):
        self.backends = backends
    def choices(self, request):
        return iter(self.backends)

@implementer(IBalancer)
class Clocked:
    def __init__(self, speed=1, *, now, chance):
        self.now = now
        self.chance = chance
    def backends_changed(self, backends):
        pass
    def choices(self, request):
        return iter(())

@implementer(IBalancer)
class Half:
    def backends_changed(self, backends):
        pass

class Unmarked:
    pass

not_a_class = 3
"""


class RegistryTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "own_balancers.py").write_text(OWN)
        (directory / "broken_balancers.py").write_text("1 / 0\n")
        (directory / "needy_balancers.py").write_text("import surely_not_installed\n")
        self.patch(sys, "path", [str(directory.absolute()), *sys.path])
        for name in ("own_balancers", "broken_balancers", "needy_balancers"):
            self.addCleanup(sys.modules.pop, name, None)

    def refusal(self, word: str, options: dict[str, object] | None = None) -> str:
        return str(self.assertRaises(BalancerError, make_balancer, word, options))

    def test_names(self) -> None:
        """Each name of the registry leads to a class."""
        for name in BALANCERS:
            self.assertIsInstance(find_balancer(name), type)
        self.assertIs(find_balancer("round_robin"), RoundRobin)

    def test_own_class(self) -> None:
        """package.module:Class makes a balancer of the user's own, with its options."""
        self.assertEqual(make_balancer("own_balancers:Own").start, 0)
        self.assertEqual(make_balancer("own_balancers:Own", {"start": 7}).start, 7)

    def test_unknown_name(self) -> None:
        """A name that is not there is told with the nearest one, or with all of them."""
        self.assertIn("'rond_robin'; did you mean round_robin?", self.refusal("rond_robin"))
        self.assertIn(f"there are: {', '.join(sorted(BALANCERS))} (or", self.refusal("xyz"))

    def test_failures_name_what_failed(self) -> None:
        """Each way in which a user's own class cannot be loaded has its own words."""
        cases = [
            ("no_such_module:Own", "there is no module no_such_module"),
            ("own_balancers.deeper:Own", "there is no module own_balancers.deeper"),
            ("broken_balancers:Own", "broken_balancers cannot be imported: ZeroDivisionError"),
            ("needy_balancers:Own", "needy_balancers cannot be imported: ModuleNotFoundError: "),
            ("own_balancers:Other", "has no class Other"),
            ("own_balancers:not_a_class", "has no class not_a_class"),
            ("own_balancers:Unmarked", "does not provide IBalancer; is it marked with @implementer(IBalancer)?"),
            ("own_balancers:Half", "does not keep IBalancer"),
            ("own_balancers:", "is not of the form package.module:Class"),
            (":Own", "is not of the form package.module:Class"),
            ("../own:Own", "is not of the form package.module:Class"),
        ]
        for word, expected in cases:
            self.assertIn(expected, self.refusal(word), word)

    def test_options(self) -> None:
        """Options that a balancer does not take, or does not accept, are told with those it has."""
        self.assertIn("round_robin does not take these options", self.refusal("round_robin", {"speed": 1}))
        self.assertIn("it takes none", self.refusal("round_robin", {"speed": 1}))
        self.assertIn("it takes start", self.refusal("own_balancers:Own", {"strat": 1}))
        self.assertIn("ValueError: start is below 0", self.refusal("own_balancers:Own", {"start": -1}))

    def test_time_and_chance(self) -> None:
        """A class that names `now` and `chance` is given the program's, and one that does not is given neither."""
        chance = Random(1)
        clock = Clock()
        balancer = make_balancer("own_balancers:Clocked", {}, clock.seconds, chance)
        self.assertEqual((balancer.now, balancer.chance), (clock.seconds, chance))
        self.assertIsInstance(make_balancer("own_balancers:Clocked").chance, Random)
        make_balancer("own_balancers:Own", {}, clock.seconds, chance)

    def test_time_and_chance_are_no_options(self) -> None:
        """The file cannot set `now` or `chance`, and they are not told as options."""
        for name in ("now", "chance"):
            refusal = self.refusal("own_balancers:Clocked", {name: 1})
            self.assertIn(f"unexpected keyword argument '{name}'", refusal)
            self.assertIn("it takes speed", refusal)

    def test_refused_values(self) -> None:
        """A value that a balancer of ours cannot use is told with its option, what was expected, and what was given."""
        keys = "address, consumer, cookie, header, path"
        a_text = "a text of at least 16 characters"
        cases: list[tuple[str, dict[str, object], str]] = [
            ("hash", {"by": "user"}, f"hash: by: expected one of {keys}, not 'user'"),
            ("hash", {"by": ["path"]}, f"hash: by: expected one of {keys}, not ['path']"),
            ("hash", {"by": "header"}, "hash: header: expected the name of a header"),
            ("hash", {"by": "header", "header": "X Tenant"}, "not 'X Tenant'"),
            ("hash", {"by": "cookie"}, "hash: cookie: expected the name of a cookie"),
            ("hash", {"by": "path", "cookie": "id"}, "hash: cookie: expected this option only with by: cookie"),
            ("hash", {"bound": 1}, "hash: bound: expected a number from 1.01 to 100, not 1"),
            ("hash", {"bound": float("nan")}, "hash: bound: expected a number from 1.01 to 100, not nan"),
            ("hash", {"bound": True}, "hash: bound: expected a number from 1.01 to 100, not True"),
            ("ewma", {"decay": "10s"}, "ewma: decay: expected a number of seconds from 0.1 to 3600, not '10s'"),
            ("sticky", {}, f"sticky: secret: expected {a_text}, not nothing"),
            ("sticky", {"secret": "hunter2"}, f"sticky: secret: expected {a_text}, not the one given"),
            ("sticky", {"secret": "x" * 16, "cookie": "a;b"}, "sticky: cookie: expected the name of a cookie"),
            ("sticky", {"secret": "x" * 16, "secure": "yes"}, "sticky: secure: expected true or false, not 'yes'"),
            ("sticky", {"secret": "x" * 16, "over": "sticky"}, "sticky: over: expected the name of another balancer"),
            ("sticky", {"secret": "x" * 16, "over": 3}, "sticky: over: expected the name of another balancer"),
            ("sticky", {"secret": "x" * 16, "over": "fist"}, "sticky: over: there is no balancer 'fist'; did"),
            ("sticky", {"secret": "x" * 16, "over": {"name": "ewma", "decay": 0}}, "over: ewma: decay: expected"),
        ]
        for word, options, expected in cases:
            self.assertIn(expected, self.refusal(word, options))
