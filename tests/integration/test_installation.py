"""Compiling the data path, and installing without that where it cannot be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_floors import ROOT

TOOL = ROOT / "tools" / "compile_data_path.py"
PACKED = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "tools", "twisted", "twisted_lb")

# Stands in for mypyc, whose own work takes a minute.
MYPYC = """
from setuptools import Extension

def mypycify(paths, **options):
    {action}
"""


def run(command: list[str], directory: Path, **environment: str) -> tuple[int, list[str]]:
    """The exit status, and the lines that were printed."""
    environment = {**os.environ, "TOKENLB_PURE": "", **environment}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def compile_with(directory: Path, action: str = "", **environment: str) -> list[str]:
    """Run the tool where it must fail, with a mypyc that does this; what it has printed."""
    if action:
        package = directory / "stand-in" / "mypyc"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "build.py").write_text(MYPYC.format(action=action), encoding="utf-8")
        environment["PYTHONPATH"] = str(package.parent)
    target = directory / "out"
    target.mkdir()
    status, lines = run([sys.executable, str(TOOL), str(target)], directory, **environment)
    assert status == 1
    assert not list(target.iterdir())
    return lines


class TestNoCompilation:
    """Each failure is one line, and leaves nothing behind."""

    def test_no_compiler(self, tmp_path: Path) -> None:
        """A compiler that is not there is named."""
        [line] = compile_with(tmp_path, CC="no-such-compiler")
        assert line == "twisted_lb was not compiled: there is no C compiler (no-such-compiler)"

    def test_broken_compiler(self, tmp_path: Path) -> None:
        """A compiler that compiles nothing is found out before the work begins."""
        [line] = compile_with(tmp_path, CC="false")
        assert line == "twisted_lb was not compiled: false does not work"

    def test_no_mypy(self, tmp_path: Path) -> None:
        """Without mypy the line says what is missing."""
        [line] = compile_with(tmp_path, "raise ModuleNotFoundError(\"No module named 'mypyc'\")")
        assert "No module named 'mypyc'" in line

    def test_mypyc_ends_the_process(self, tmp_path: Path) -> None:
        """mypyc ends its process when it does not like what it reads, and may crash."""
        for number, action in enumerate(("raise SystemExit(1)", "import os; os.abort()")):
            directory = tmp_path / str(number)
            directory.mkdir()
            [line] = compile_with(directory, action)
            assert line.startswith("twisted_lb was not compiled: ")

    def test_compiler_error(self, tmp_path: Path) -> None:
        """An error in C is told by its own line."""
        broken = tmp_path / "broken.c"
        broken.write_text("int f(void) { return nothing; }\n", encoding="utf-8")
        [line] = compile_with(tmp_path, f"return [Extension('twisted_lb.broken', [{str(broken)!r}])]")
        assert "error: " in line and "nothing" in line

    def test_half_of_it(self, tmp_path: Path) -> None:
        """Not all of the modules are none."""
        lines = compile_with(tmp_path, "return []")
        assert len(lines) == 1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What pip is given: a copy, since it builds there."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    return copy


def wheel(source: Path, **environment: str) -> tuple[int, list[str], list[Path]]:
    """Have pip build a wheel: the exit status, what it has printed, and the wheel."""
    made = source.parent / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", f"--wheel-dir={made}", "."]
    status, lines = run(command, source, **environment)
    if any("Could not find a version that satisfies the requirement setuptools" in line for line in lines):
        pytest.skip("pip reaches no package index")
    return status, lines, sorted(made.glob("*.whl"))


class TestPure:
    """What pip makes of it."""

    def test_installs(self, source: Path) -> None:
        """Where it is not compiled, the wheel is one for any platform, and one line says why."""
        status, lines, [made] = wheel(source, CC="no-such-compiler")
        assert status == 0
        assert [line.strip() for line in lines if "pure Python" in line] == [
            "twisted_lb is installed as pure Python: there is no C compiler (no-such-compiler)"
        ]
        assert made.name.endswith("-py3-none-any.whl")
        names = zipfile.ZipFile(made).namelist()
        assert "twisted_lb/build_info.py" in names
        assert not [name for name in names if name.endswith(".so")]

    def test_asked_for(self, tmp_path: Path) -> None:
        """With TOKENLB_PURE=1 it is not tried, and the line says so."""
        status, lines = compiled(tmp_path, TOKENLB_PURE="1")
        assert (status, lines) == (0, ["twisted_lb is installed as pure Python: TOKENLB_PURE is set", "None"])

    def test_must_be_compiled(self, tmp_path: Path) -> None:
        """TOKENLB_PURE=0 fails where it cannot be compiled."""
        status, lines = compiled(tmp_path, TOKENLB_PURE="0", CC="no-such-compiler")
        assert status != 0
        assert lines == ["twisted_lb was not compiled: there is no C compiler (no-such-compiler)"]


# What setup.py does for a wheel before it is packed: without pip, which takes many seconds.
COMPILED = """
import runpy, setuptools, sys
setuptools.setup = lambda **arguments: None
made = runpy.run_path(sys.argv[1])["compiled"]()
print(made, file=sys.stderr)
"""


def compiled(directory: Path, **environment: str) -> tuple[int, list[str]]:
    """The exit status, and the lines that were printed: at the end None where nothing was compiled."""
    return run([sys.executable, "-c", COMPILED, str(ROOT / "setup.py")], directory, **environment)
