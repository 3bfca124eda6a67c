"""Creates an object of a class that servers.yaml names as `package.module:Class`, with its options.

The class is looked up among the installed packages and beside the servers file.  Options are keyword arguments of its
constructor.  Any exception that it raises, even SystemExit, is an error in the file.  A parameter of the constructor
named `now` or `chance` receives the clock or a source of random numbers from the program; the file cannot set it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from random import Random
from typing import Any

from zope.interface import Interface
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyClass

from twisted_lb.bounded_log import described

# Parameters that the program fills in.
PROVIDED = ("now", "chance")


class NamedClassError(Exception):
    """The class does not exist, or cannot be instantiated; the text says what failed."""


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


def load_plugin(path: str, interface: type[Interface]) -> type[Any]:
    """The class at `package.module:Class`, which provides `interface`.  Raises NamedClassError."""
    found = load_marked(path, interface)
    try:
        verifyClass(interface, found)
    except Invalid as error:
        name = interface.__name__
        raise NamedClassError(f"{path}: the class does not keep {name}: {' '.join(str(error).split())}") from error
    return found


def load_marked(path: str, interface: type[Interface]) -> type[Any]:
    """The same for an interface whose methods are optional."""
    found = load_class(path)
    name = interface.__name__
    if not interface.implementedBy(found):
        raise NamedClassError(f"{path}: the class does not provide {name}; is it marked with @implementer({name})?")
    return found


def method_of(
    class_name: str, plugin: object, name: str, parameters: tuple[str, ...], may_wait: bool = False
) -> Callable[..., Any] | None:
    """The method with this name, which accepts these arguments; None if it does not exist.  Raises NamedClassError.

    `class_name` names the plug-in in errors; `may_wait`: the method may be a coroutine.
    """
    form = f"{name}({', '.join(parameters)})"
    try:
        method = getattr(plugin, name)
    except AttributeError:
        return None
    except BaseException as error:
        raise NamedClassError(f"{class_name}: {name} cannot be looked up: {described(error)}") from error
    if not callable(method):
        raise NamedClassError(f"{class_name}: {name} is not a method; expected {form}")
    kinds = [inspect.isgeneratorfunction, inspect.isasyncgenfunction]
    if not may_wait:
        kinds.append(inspect.iscoroutinefunction)
    if any(is_kind(method) for is_kind in kinds):
        expected = f"expected {form}" if may_wait else f"expected {form} that returns at once"
        raise NamedClassError(f"{class_name}: {name} is a coroutine or a generator; {expected}")
    try:
        inspect.signature(method).bind(*parameters)
    except TypeError as error:
        raise NamedClassError(f"{class_name}: {name} cannot be called as {form}: {error}") from None
    except ValueError:
        # Some methods written in C have no signature.
        pass
    return method  # type: ignore[no-any-return]


def make_object(
    class_name: str,
    kind: type[Any],
    options: Mapping[str, object],
    now: Callable[[], float],
    chance: Random | None = None,
    plain: tuple[type[Exception], ...] = (),
) -> Any:
    """An object of the class `kind`, which the file calls `class_name`.  Raises NamedClassError.

    `now` is the reactor's clock in seconds, `chance` the source of random numbers (None: a new one).  The messages of
    exceptions of the types in `plain` are shown without their type.
    """
    try:
        signature = inspect.signature(kind)
    except ValueError:
        # Some classes written in C have no signature.
        return _called(class_name, kind, dict(options), plain)
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
        raise NamedClassError(f"{class_name} does not take these options: {error}; it takes {takes}") from None
    return _called(class_name, kind, arguments, plain)


def _called(class_name: str, kind: type[Any], arguments: dict[str, Any], plain: tuple[type[Exception], ...]) -> Any:
    try:
        return kind(**arguments)
    except plain as error:
        raise NamedClassError(f"{class_name}: {error}") from error
    except BaseException as error:
        raise NamedClassError(f"{class_name} rejected its options: {described(error)}") from error


def _why_no_module(path: str, module_name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if module_name == error.name or module_name.startswith(error.name + "."):
            return f"{path}: there is no module {error.name} beside the servers file or among the installed packages"
    return f"{path}: the module {module_name} cannot be imported: {described(error)}"
