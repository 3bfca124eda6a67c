"""Makes an object of a class that servers.yaml names as `package.module:Class`, with the options that stand beside it.

The class is looked up among the installed packages and beside the servers file.  Its options are keyword
arguments of its constructor.  Whatever it raises, SystemExit among it, is an error of the file.
Time and chance come in by the door: a class whose constructor has a parameter
named `now` or `chance` is given the clock or the random numbers by the program, and never by the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from random import Random
from typing import Any

# Parameters that the program fills in.
PROVIDED = ("now", "chance")


class NamedClassError(Exception):
    """There is no such class, or no object can be made of it; the text says what failed."""


def load_class(path: str) -> type[Any]:
    """The class at `package.module:Class`.  Raises NamedClassError."""
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise NamedClassError(f"{path!r} is not of the form package.module:Class")
    try:
        module = import_module(module_name)
    except BaseException as error:
        raise NamedClassError(_why_no_module(path, module_name, error)) from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        place = getattr(module, "__file__", None) or "built in"
        raise NamedClassError(f"{path}: the module {module_name} ({place}) has no class {class_name}")
    return found


def make_object(
    word: str,
    kind: type[Any],
    options: Mapping[str, object],
    now: Callable[[], float],
    chance: Random | None = None,
    plain: tuple[type[Exception], ...] = (),
) -> Any:
    """An object of the class `kind`, which the file calls `word`.  Raises NamedClassError.

    `now` is the reactor's clock in seconds, `chance` gives random numbers (None: new ones).  The text of an
    exception of one of the types in `plain` says all that a person needs, so its type is not told.
    """
    try:
        signature = inspect.signature(kind)
    except ValueError:
        # Some classes that are written in C do not say what they take.
        return _called(word, kind, dict(options), plain)
    named = signature.parameters
    provided = {"now": now, "chance": chance or Random()}
    arguments = {**options, **{name: provided[name] for name in PROVIDED if name in named}}
    try:
        signature.bind(**arguments)
        unwelcome = [name for name in PROVIDED if name in options and name in named]
        if unwelcome:
            raise TypeError(f"got an unexpected keyword argument '{unwelcome[0]}'")
    except TypeError as error:
        takes = ", ".join(name for name in named if name not in PROVIDED) or "none"
        raise NamedClassError(f"{word} does not take these options: {error}; it takes {takes}") from None
    return _called(word, kind, arguments, plain)


def _called(word: str, kind: type[Any], arguments: dict[str, Any], plain: tuple[type[Exception], ...]) -> Any:
    try:
        return kind(**arguments)
    except plain as error:
        raise NamedClassError(f"{word}: {error}") from error
    except BaseException as error:
        raise NamedClassError(f"{word} refused its options: {type(error).__name__}: {error}") from error


def _why_no_module(path: str, module_name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if module_name == error.name or module_name.startswith(error.name + "."):
            return f"{path}: there is no module {error.name} beside the servers file or among the installed packages"
    return f"{path}: the module {module_name} cannot be imported: {type(error).__name__}: {error}"
