#!/usr/bin/env python3
"""Compiles the data path with mypyc: the modules in COMPILED of twisted_lb/build_info.py.

    compile_data_path.py [DIRECTORY]     compile into a directory; without one, beside the sources in this checkout
    compile_data_path.py --remove        remove what lies beside the sources

It writes all extension modules or none.  The exit status is 0, or 1 with a last line that says why not.

mypyc reads copies of the sources, in which two things are different.  It makes a class with a decorator that it does
not know a slow one, so `@implementer(...)`, which only declares, is moved to the end of the module, as
`classImplements`; and the classes in INHERITED are marked for it.  Types are checked by `make check`, which knows
zope.interface; here, where nobody does, errors are ignored.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "twisted_lb"
INFO = runpy.run_path(str(PACKAGE / "build_info.py"))

# For the compilation only.  What is other people's is Any, installed here or not (pip builds without it).
MYPY_CONFIG = """\
[mypy]
ignore_errors = True
follow_imports = skip
ignore_missing_imports = True

[mypy-twisted_lb.*]
follow_imports = silent
"""


# What TOKENLB_PURE may say: stay pure Python; or compile, and fail where that fails.  Else it is tried.
PURE = "1"
NOT_PURE = "0"


class NotCompiled(Exception):
    """It could not be compiled; the text is one line."""


def pure_wanted() -> str:
    """PURE, NOT_PURE, or "" where the environment does not say.  Ends the program where it says something else."""
    value = os.environ.get("TOKENLB_PURE", "")
    if value not in ("", PURE, NOT_PURE):
        raise SystemExit(f"TOKENLB_PURE: expected {PURE} or {NOT_PURE}, not {value!r}")
    return value


def why_not() -> str:
    """What is missing here for a compilation, besides mypy; "" if nothing is."""
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} is not CPython"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler ({compiler[0]})"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").exists():
        return f"the C headers of Python are not installed ({headers}/Python.h)"
    # What is missing for any program at all is found out before minutes of work.
    command = [*compiler, "-x", "c", f"-I{headers}", "-c", "-o", os.devnull, "-"]
    tried = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True)
    return _reason(tried.stderr or f"{compiler[0]} does not work") if tried.returncode else ""


def compile_into(directory: Path) -> None:
    """Write the extension modules into a directory, laid out as the package and what lies beside it.

    It is done by a process of its own: a compiler may end its process.  Raises NotCompiled.
    """
    reason = why_not()
    if reason:
        raise NotCompiled(reason)
    with TemporaryDirectory(prefix="tokenlb-compile-") as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            command = [sys.executable, __file__, "--in", scratch]
            failed = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output).returncode
        made = Path(scratch) / "out"
        wanted = [made / PACKAGE.name / INFO["extension"](name) for name in INFO["COMPILED"]]
        wanted.append(made / INFO["library"]())
        if failed or not all(file.is_file() for file in wanted):
            raise NotCompiled(_reason(log.read_text(errors="replace")))
        _strip(wanted)
        for file in wanted:
            target = directory / file.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)


def remove() -> None:
    """Remove what was compiled beside the sources."""
    for file in [*PACKAGE.rglob("*.so"), *ROOT.glob(f"{PACKAGE.name}_*__mypyc*.so")]:
        file.unlink()


def _reason(log: str) -> str:
    """The line of the log that most likely tells why."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"(\w+Error|\berror):", line)]
    return (errors or lines or ["the compiler has ended without a word"])[0][:300]


def _strip(files: list[Path]) -> None:
    """Take out what only debuggers need: nine tenths of the bytes.  Without binutils it stays."""
    strip = shutil.which("strip")
    if strip is not None:
        subprocess.run([strip, "--strip-debug", *map(str, files)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# In the process that compiles


def _compile_in(scratch: Path) -> None:
    source = scratch / "source"
    for file in PACKAGE.rglob("*.py"):
        target = source / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8")
        name = str(file.relative_to(PACKAGE))
        target.write_text(for_mypyc(text) if name in INFO["COMPILED"] else text, encoding="utf-8")
    config = scratch / "mypy.ini"
    config.write_text(MYPY_CONFIG, encoding="utf-8")
    os.chdir(source)
    from mypyc.build import mypycify
    from setuptools import setup

    paths = [f"{PACKAGE.name}/{name}" for name in INFO["COMPILED"]]
    options = [f"--config-file={config}", f"--cache-dir={scratch / 'cache'}"]
    group = INFO["library"]().partition("__mypyc")[0]
    modules = mypycify([*options, *paths], group_name=group, target_dir=str(scratch / "c"), debug_level="0")
    for module in modules:
        # Looking for warnings, which nobody reads in generated C, takes more time than all the rest.
        module.extra_compile_args.append("-w")
        # Only the functions that load the modules are for others: the rest calls each other directly, without a table.
        module.extra_compile_args += ["-fvisibility=hidden", "-fno-plt"]
    built: dict[str, Any] = {"name": PACKAGE.name, "packages": [], "ext_modules": modules}
    where = [f"--build-lib={scratch / 'out'}", f"--build-temp={scratch / 'objects'}"]
    setup(script_args=["build_ext", f"--parallel={os.cpu_count() or 1}", *where], **built)


def for_mypyc(text: str, inherited: Sequence[str] = INFO["INHERITED"]) -> str:
    """A module as mypyc is to read it.  All lines stay where they are, for tracebacks."""
    lines = text.splitlines()
    declared = []
    marked = False
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "implementer":
                for number in range(decorator.lineno - 1, decorator.end_lineno or decorator.lineno):
                    lines[number] = ""
                interfaces = ", ".join(map(ast.unparse, decorator.args))
                declared.append(f"classImplements({node.name}, {interfaces})")
        if node.name in inherited:
            # There are two empty lines before a class.
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines[first - 2] = "@mypyc_attr(allow_interpreted_subclasses=True)"
            marked = True
    if declared:
        lines += ["from zope.interface import classImplements", *declared]
    if marked:
        # It is for the compiler only, and need not be installed where the compiled module runs.
        lines += ["from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    from mypy_extensions import mypyc_attr"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--in"]:
        _compile_in(Path(arguments[1]))
    elif arguments == ["--remove"]:
        remove()
    else:
        if not arguments:
            remove()
        try:
            compile_into(Path(arguments[0]) if arguments else ROOT)
        except NotCompiled as error:
            print(f"twisted_lb was not compiled: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
