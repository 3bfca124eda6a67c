"""Validates the rules for header fields of pools and routes in servers.yaml.  A ValueError says what was expected."""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Final

from pydantic import BeforeValidator

from twisted_lb.config.cors_values import is_token
from twisted_lb.config.pool import HeaderRules, HeaderValue
from twisted_lb.config.sections import Section
from twisted_lb.config.server_url import shortened
from twisted_lb.listed import from_list

# What values may contain, in braces; see `Exchange.value_of`.
VALUES: Final = (
    "client_address",
    "host",
    "method",
    "path",
    "pool",
    "query",
    "request_id",
    "route",
    "scheme",
    "server",
    "user",
)
# The fields of the framing and the connection, and Date, are left to this gateway.
NOT_FOR_RULES: Final = frozenset(
    (
        "connection",
        "content-length",
        "date",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_TEXT: Final = re.compile(r"[\t -~\u0080-\U0010ffff]{0,4096}")


def _name(name: object, removed: bool) -> str:
    if not isinstance(name, str) or not is_token(name):
        raise ValueError(f"expected the name of a header field, not {shortened.repr(name)}")
    if name.lower() in NOT_FOR_RULES or (removed and name.lower() == "host"):
        raise ValueError(f"expected no {name}, which this gateway decides about")
    return name


def _value(name: str, value: object) -> HeaderValue:
    """The parts of a value; `{{` and `}}` are braces."""
    if not isinstance(value, str) or _TEXT.fullmatch(value) is None:
        raise ValueError(f"expected a text of one line for {name}, not {shortened.repr(value)}")
    parts = []
    try:
        for text, field, spec, conversion in Formatter().parse(value):
            if field is not None and (field not in VALUES or spec or conversion):
                raise ValueError
            parts.append((text, field or ""))
    except ValueError:
        some = ", ".join(f"{{{one}}}" for one in VALUES)
        raise ValueError(f"expected braces in the value of {name} only for {some}, or doubled: {{{{ }}}}") from None
    return tuple(parts)


def _set(value: object) -> tuple[tuple[str, HeaderValue], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping of field names to values, not {shortened.repr(value)}")
    names = [_name(name, False) for name in value]
    for index, name in enumerate(names):
        if name.lower() in [other.lower() for other in names[:index]]:
            raise ValueError(f"expected each field once, not {name!r} twice")
    return tuple((name, _value(name, text)) for name, text in value.items())


def _add(value: object) -> tuple[tuple[str, HeaderValue], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping of field names to values or lists of values, not {shortened.repr(value)}")
    return tuple(
        (_name(name, True), _value(name, text))
        for name, texts in value.items()
        for text in (texts if isinstance(texts, list) else [texts])
    )


def _remove(value: object) -> tuple[str, ...]:
    names = from_list(value)
    if not isinstance(names, list):
        raise ValueError(f"expected a list of field names, not {shortened.repr(value)}")
    return tuple(_name(name, True) for name in names)


class HeaderRulesModel(Section):
    """request_headers: and response_headers: of a pool or a route."""

    set: Annotated[tuple[tuple[str, HeaderValue], ...], BeforeValidator(_set)] = ()
    add: Annotated[tuple[tuple[str, HeaderValue], ...], BeforeValidator(_add)] = ()
    remove: Annotated[tuple[str, ...], BeforeValidator(_remove)] = ()


def rules_of(model: HeaderRulesModel | None) -> HeaderRules | None:
    """The rules; None where there are none."""
    if model is None or not (model.set or model.add or model.remove):
        return None
    removed = dict.fromkeys([*model.remove, *(name for name, _ in model.set)])
    return HeaderRules(tuple(removed), (*model.set, *model.add))
