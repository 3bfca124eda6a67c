"""How many bytes an object keeps in memory, apart from what it shares with others."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType

_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType)


def kept_bytes(root: object, context: Iterable[object]) -> int:
    """Bytes of all that `root` refers to, directly or not, without code and what is reached through `shared` only."""
    known = {id(one) for one in context}
    total = 0
    found = [root]
    while found:
        one = found.pop()
        if id(one) in known or isinstance(one, _CODE):
            continue
        known.add(id(one))
        total += sys.getsizeof(one)
        found += gc.get_referents(one)
    return total
