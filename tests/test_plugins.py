"""An object of a class that the servers file names."""

from __future__ import annotations

from datetime import datetime

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.plugins import NamedClassError, load_class, make_object


class Picky:
    def __init__(self, wish: object = None, *, now: object = None) -> None:
        if wish is not None:
            raise LookupError(f"no {wish}")


class NamedClassTests(SynchronousTestCase):
    def refusal(self, options: dict[str, object], plain: tuple[type[Exception], ...] = ()) -> str:
        error = self.assertRaises(NamedClassError, make_object, "a:Picky", Picky, options, Clock().seconds, None, plain)
        return str(error)

    def test_load(self) -> None:
        """package.module:Class is the class itself, also of a built-in module."""
        self.assertIs(load_class("datetime:datetime"), datetime)
        self.assertIs(load_class("builtins:dict"), dict)
        error = self.assertRaises(NamedClassError, load_class, "builtins:nothing")
        self.assertEqual(str(error), "builtins:nothing: the module builtins (built in) has no class nothing")

    def test_class_without_signature(self) -> None:
        """A class that does not say what it takes is given the options and nothing else."""
        self.assertEqual(make_object("a:b", dict, {"x": 1}, Clock().seconds), {"x": 1})

    def test_exceptions(self) -> None:
        """What a class raises is told with its type, unless its text says it all."""
        self.assertEqual(self.refusal({"wish": 3}), "a:Picky rejected its options: LookupError: no 3")
        self.assertEqual(self.refusal({"wish": 3}, (LookupError,)), "a:Picky: no 3")

    def test_unwelcome(self) -> None:
        """An option that is not there, or is the program's, is told with those that are there."""
        for name in ("now", "wash"):
            why = f"got an unexpected keyword argument '{name}'; it takes wish"
            self.assertEqual(self.refusal({name: 1}), f"a:Picky does not take these options: {why}")
