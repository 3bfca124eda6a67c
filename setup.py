"""How twisted_lb is packed.  The settings of the tools are in pyproject.toml.

A wheel, and so `pip install .`, has the data path compiled (tools/compile_data_path.py).  Where that cannot be done
it is one of pure Python, and a line says so.  An editable install is always pure.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "tools"))
from compile_data_path import NOT_PURE, PURE, NotCompiled, compile_into, pure_wanted  # noqa: E402

VERSION = next(
    line.split('"')[1]
    for line in (HERE / "twisted_lb" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)
README = HERE / "README.md"


class CompiledDistribution(Distribution):
    """What is packed, with what was compiled.  A wheel's tag tells of the latter, and is made before all else."""

    def __init__(self, attributes: Any = None) -> None:
        self.compiled: TemporaryDirectory[str] | None = None
        super().__init__(attributes)

    def run_commands(self) -> None:
        if "bdist_wheel" in self.commands:
            self.compiled = compiled()
        super().run_commands()

    def has_ext_modules(self) -> bool:
        return self.compiled is not None


class BuildPackage(build_py):
    """Adds what was compiled to a fresh copy of the package: what an earlier build has left is not packed."""

    def run(self) -> None:
        made = self.distribution.compiled
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if made is not None:
            shutil.copytree(made.name, self.build_lib, dirs_exist_ok=True)


def compiled() -> "TemporaryDirectory[str] | None":
    """A directory with the extension modules; None where it is pure Python."""
    wanted = pure_wanted()
    directory = TemporaryDirectory(prefix="tokenlb-compiled-")
    try:
        if wanted == PURE:
            raise NotCompiled("TOKENLB_PURE is set")
        compile_into(Path(directory.name))
    except NotCompiled as error:
        if wanted == NOT_PURE:
            raise SystemExit(f"twisted_lb was not compiled: {error}") from None
        print(f"twisted_lb is installed as pure Python: {error}", file=sys.stderr)
        return None
    return directory


setup(
    name="twisted_lb",
    version=VERSION,
    description="A load balancer and API gateway with exact token buckets, on Twisted",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    author="twisted_lb contributors",
    python_requires=">=3.11",
    distclass=CompiledDistribution,
    cmdclass={"build_py": BuildPackage},
    # What there is, is compiled already.
    ext_modules=[],
    # twisted/plugins is a directory that Twisted's own package of that name takes in, and so has no __init__.py.
    # The package_dir makes an editable install put this directory on the path, where Twisted looks for plugins.
    package_dir={"": "."},
    packages=[*find_packages(include=["twisted_lb", "twisted_lb.*"]), "twisted.plugins"],
    package_data={
        "twisted_lb.api": ["openapi_examples.json"],
        "twisted_lb.stores.redis": ["lua/*.lua"],
        "twisted_lb": ["py.typed"],
    },
    entry_points={"console_scripts": ["tokenlb = twisted_lb.cli.main:run"]},
    install_requires=[
        "Twisted[tls]>=25.5",
        "click>=8.2",
        "cryptography>=42",
        "hiredis>=3.0",
        "idna>=3.7",
        "klein>=24.8",
        "prometheus-client>=0.20",
        "pydantic>=2.7",
        "python-dotenv>=1.0",
        "PyYAML>=6.0.1",
        "rich>=13.7",
        "treq>=24.9",
        # Images without a database of time zones.
        "tzdata>=2025.2",
        "Werkzeug>=3.0",
        "txredisapi>=1.6",
        "zope.interface>=6.1",
    ],
    extras_require={
        "dev": [
            "hypothesis>=6.100",
            "mypy>=1.11",
            "mypy-zope>=1.0.8",
            "pytest>=8.0",
            "pytest-rerunfailures>=16.6",
            "pytest-twisted>=1.14.2",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "types-PyYAML",
            # Clients and servers of the integration tests, which skip those that are missing.
            "aiohttp>=3.9",
            "gunicorn>=22.0",
            "httpx>=0.27",
            "jsonschema>=4.21",
            "requests>=2.31",
            "schemathesis>=4.0",
            "uvicorn>=0.30",
            "websockets>=13.1",
        ],
    },
    classifiers=[
        "Framework :: Twisted",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
