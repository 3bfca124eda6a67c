"""Which build of the data path this is, and whether compiled code is that of its sources."""

from __future__ import annotations

import ast
import builtins
import runpy
import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import twisted_lb
from tests.test_floors import PACKAGE, ROOT, own_imports
from twisted_lb.build_info import COMPILED, COMPILED_BUILD, PURE_BUILD, READ, build, extension, library

TOOL = ROOT / "tools" / "compile_data_path.py"


class Copied(SynchronousTestCase):
    """With a copy of the sources."""

    def setUp(self) -> None:
        self.package = Path(self.mktemp()).absolute() / PACKAGE
        for name in (*COMPILED, *READ):
            target = self.package / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / PACKAGE / name, target)

    def compile(self) -> None:
        """As the compiler leaves it: the files are empty, but have the names."""
        for name in COMPILED:
            (self.package / extension(name)).touch()
        (self.package.parent / library(self.package)).touch()

    def refused(self) -> str:
        """Why the package is not imported."""
        return str(self.assertRaises(ImportError, build, self.package))


class BuildTests(Copied):
    def test_pure(self) -> None:
        """Sources alone are pure Python."""
        self.assertEqual(build(self.package), PURE_BUILD)

    def test_compiled(self) -> None:
        """With all extension modules and the library of the sources, it is compiled."""
        self.compile()
        self.assertEqual(build(self.package), COMPILED_BUILD)

    def test_this_one(self) -> None:
        """The package says of itself which it is."""
        self.assertEqual(twisted_lb.BUILD, build())


class StaleTests(Copied):
    def test_changed_source(self) -> None:
        """After a change of any source that was read, what is compiled is refused, and the error says what to do."""
        self.compile()
        for name in (*COMPILED, *READ):
            source = self.package / name
            text = source.read_text(encoding="utf-8")
            source.write_text(text + "\n", encoding="utf-8")
            why = self.refused()
            self.assertIn("`make compiled`", why)
            self.assertIn("`make pure`", why)
            source.write_text(text, encoding="utf-8")
        self.assertEqual(build(self.package), COMPILED_BUILD)

    def test_library_of_other_sources(self) -> None:
        """The library of an earlier version does not do."""
        self.compile()
        there = self.package.parent / library(self.package)
        there.rename(there.with_name(f"{PACKAGE}_0123456789abcdef__mypyc.so"))
        self.assertIn("other sources", self.refused())

    def test_half(self) -> None:
        """Compiled and interpreted modules are not mixed: one that is missing is an error, too."""
        self.compile()
        (self.package / extension(COMPILED[-1])).unlink()
        self.assertIn("in part", self.refused())


class ListTests(SynchronousTestCase):
    def test_complete(self) -> None:
        """What a compiled module imports of the package is compiled, or is in READ, so that the digest knows it."""
        known = {*COMPILED, *READ}
        for module, target in own_imports():
            if source(module) in COMPILED:
                self.assertIn(source(target), known, f"{module} imports {target}")

    def test_needed(self) -> None:
        """READ has nothing else."""
        targets = {source(target) for module, target in own_imports() if source(module) in COMPILED}
        self.assertEqual(set(READ) - targets, set())
        self.assertEqual(set(READ) & set(COMPILED), set())


    def test_compiled_bases(self) -> None:
        """No compiled class inherits from another interpreted one than those that mypyc knows.

        It would be taken for a class without a base, and the process would crash.
        """
        trees = {name: ast.parse((ROOT / PACKAGE / name).read_text(encoding="utf-8")) for name in COMPILED}
        classes = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        known = {"Protocol", "NamedTuple", "Enum", "IntEnum", "dict"}
        for name, tree in trees.items():
            twisted = {
                alias.asname or alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twisted.")
                for alias in node.names
            }
            for node in ast.walk(tree):
                for base in node.bases if isinstance(node, ast.ClassDef) else []:
                    text = ast.unparse(base).partition("[")[0]
                    fits = text in classes | known or issubclass(getattr(builtins, text, int), BaseException)
                    self.assertTrue(fits and text not in twisted, f"{name}: class {node.name}({text})")

    def test_loggers(self) -> None:
        """A logger in a compiled module is told its name, which it would look for in the frame of its caller."""
        for name in COMPILED:
            self.assertNotIn("Logger()", (ROOT / PACKAGE / name).read_text(encoding="utf-8"), name)


def source(module: str) -> str:
    """The file of a module in the package."""
    name = module.removeprefix(PACKAGE + ".").replace(".", "/")
    return f"{name}.py" if (ROOT / PACKAGE / f"{name}.py").exists() else f"{name}/__init__.py"


def moved_in(text: str) -> str:
    """As the compiler is given a module of this text."""
    found: str = runpy.run_path(str(TOOL))["for_mypyc"](text, ["C"])
    return found


class DeclarationTests(SynchronousTestCase):
    def test_moved(self) -> None:
        """The compiler is given declarations of interfaces after their classes; no other line changes its place."""
        text = (
            "from zope.interface import implementer\n\n"
            "@other\n@implementer(IOne, ITwo)\nclass A:\n    x = 1\n\n"
            "@implementer(\n    IOne\n)\nclass B:\n    pass\n"
        )
        lines = moved_in(text).splitlines()
        self.assertEqual(lines[2:6], ["@other", "", "class A:", "    x = 1"])
        self.assertEqual(lines[10], "class B:")
        self.assertEqual(
            lines[12:],
            [
                "from zope.interface import classImplements",
                "classImplements(A, IOne, ITwo)",
                "classImplements(B, IOne)",
            ],
        )

    def test_inherited(self) -> None:
        """A class that is inherited from by interpreted ones is marked, on the empty line before it."""
        lines = moved_in("import re\n\n\n@implementer(IOne)\nclass C:\n    pass\n").splitlines()
        self.assertEqual(lines[2:5], ["@mypyc_attr(allow_interpreted_subclasses=True)", "", "class C:"])
        self.assertEqual(lines[-1], "    from mypy_extensions import mypyc_attr")

    def test_nothing_to_move(self) -> None:
        """A module without them is given as it is."""
        self.assertEqual(moved_in("class A:\n    pass\n"), "class A:\n    pass\n")
