"""The build backend of pip: that of setuptools, which also asks for mypy where the data path can be compiled.

mypy needs libraries of its own that are compiled too.  Where there are no wheels of these, asking for it could fail an
installation, so there twisted_lb stays pure Python.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from setuptools.build_meta import *  # noqa: F403
from setuptools.build_meta import get_requires_for_build_wheel as _requires

sys.path.insert(0, str(Path(__file__).parent))
from compile_data_path import PURE, pure_wanted, why_not  # noqa: E402

MYPY = ["mypy>=1.18,<3"]
MACHINES_WITH_WHEELS = ("x86_64", "aarch64", "arm64")


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What a wheel is built with; an editable install is not compiled, and needs none of this."""
    compiles = pure_wanted() != PURE and not why_not() and platform.machine() in MACHINES_WITH_WHEELS
    return [*_requires(config_settings), *(MYPY if compiles else [])]
