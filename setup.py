"""How twisted_lb is packed.  The settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "twisted_lb" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)
README = HERE / "README.md"

setup(
    name="twisted_lb",
    version=VERSION,
    description="A load balancer and API gateway with exact token buckets, on Twisted",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    author="twisted_lb contributors",
    python_requires=">=3.11",
    # twisted/plugins is a directory that Twisted's own package of that name takes in, and so has no __init__.py.
    # The package_dir makes an editable install put this directory on the path, where Twisted looks for plugins.
    package_dir={"": "."},
    packages=[*find_packages(include=["twisted_lb", "twisted_lb.*"]), "twisted.plugins"],
    package_data={"twisted_lb.stores": ["*.lua"], "twisted_lb": ["py.typed"]},
    install_requires=[
        "Twisted[tls]>=25.5",
        "cryptography>=42",
        "hiredis>=3.0",
        "idna>=3.7",
        "klein>=24.8",
        "prometheus-client>=0.20",
        "pydantic>=2.7",
        "python-dotenv>=1.0",
        "PyYAML>=6.0.1",
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
            "pytest-twisted>=1.14.2",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "types-PyYAML",
            # Clients and servers of the integration tests, which skip those that are missing.
            "aiohttp>=3.9",
            "gunicorn>=22.0",
            "httpx>=0.27",
            "requests>=2.31",
            "treq>=24.9",
            "uvicorn>=0.30",
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
