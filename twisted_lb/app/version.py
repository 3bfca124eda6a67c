"""The versions of this program, Twisted and Python."""

from __future__ import annotations

import platform

import twisted
from twisted_lb import BUILD, __version__


def version_text() -> str:
    """One line, such as "tokenlb 1.2.3 (compiled, Twisted 26.4.0, CPython 3.11.2)".

    The parts are all that distinguishes one installation from another.
    """
    python = f"{platform.python_implementation()} {platform.python_version()}"
    parts = [BUILD, f"Twisted {twisted.__version__}", python]
    return f"tokenlb {__version__} ({', '.join(parts)})"
