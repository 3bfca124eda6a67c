"""Makes an environment in which a process has no epoll, as on macOS, or not even poll."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Python imports a module of this name before all else.
SITE = """
import select
for name in list(vars(select)):
    if name.lower().startswith({names!r}):
        delattr(select, name)
"""


def without(directory: Path, *names: str) -> Mapping[str, str]:
    """The PYTHONPATH of a process without what of `select` begins with these names; uses the directory."""
    (directory / "sitecustomize.py").write_text(SITE.format(names=names))
    return {"PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}
