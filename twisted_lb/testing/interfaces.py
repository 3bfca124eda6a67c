"""The checks that all suites use: that a plug-in has the interface that it claims, and does what it should."""

from __future__ import annotations

from zope.interface import Interface
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyClass, verifyObject


def check_provides(interface: type[Interface], plugin: object) -> None:
    """Raise AssertionError unless `plugin` and its class have the signatures of `interface`."""
    try:
        verifyObject(interface, plugin)
        verifyClass(interface, type(plugin))
    except Invalid as error:
        message = f"mark the class with @implementer({interface.__name__}), and keep its signatures: {error}"
        raise AssertionError(message) from None


def hold(condition: bool, otherwise: str) -> None:
    """Raise AssertionError with the text `otherwise` unless the condition is true."""
    if not condition:
        raise AssertionError(otherwise)
