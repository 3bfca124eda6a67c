"""What all sections of servers.yaml have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from twisted_lb.config.readers import LONGEST_SECONDS, Reader, duration
from twisted_lb.config.server_url import shortened

MAINTENANCE_SECONDS = 60.0  # of Retry-After, by default
CLASS_FORM = "package.module:Class"
NAME_FORM = "a text of 1 to 64 letters, digits and . _ : -"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"


class Section(BaseModel):
    """A mapping in the file."""

    # Each is validated as a part of the whole file, whose validator has all others in it.
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


def keys_of(section: type[Section]) -> str:
    """What error messages expect in place of a section."""
    return f"a mapping with any of the keys {', '.join(section.model_fields)}"


def whole(lowest: int, highest: int, default: int) -> Any:
    """A whole number within these bounds."""
    return Field(default, ge=lowest, le=highest, description=f"a whole number from {lowest} to {highest}")


def share(default: float) -> Any:
    """A fraction of 1."""
    return Field(default, ge=0, le=1, description="a number from 0 to 1")


class Reading(NamedTuple):
    """How a value is read, as by a BeforeValidator, and the JSON Schema of what is read."""

    read: Callable[[object], object]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self.schema)


def seconds(lowest: float) -> Reading:
    """A time as in .env, or a number of seconds."""
    number = {"type": "number", "minimum": lowest, "maximum": LONGEST_SECONDS}
    text = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h)?$"}
    return Reading(lambda value: _duration_of(value, lowest), {"anyOf": [number, text]})


def _duration_of(value: object, lowest: float) -> float:
    return float(read_with(duration(lowest), value))


def read_with(reader: Reader, value: object) -> Any:
    """A number, or a text with a unit, as in settings.  Raises ValueError."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return reader.read(str(value).strip())
        except ValueError:
            pass
    raise ValueError(f"expected {reader.expected}, not {shortened.repr(value)}")


def _maintenance(value: object) -> object:
    if isinstance(value, bool):
        return MAINTENANCE_SECONDS if value else 0.0
    return _duration_of(value, 1)


Maintenance = Annotated[float, BeforeValidator(_maintenance)]


# A name and its options.
Named = tuple[str, dict[str, Any]]


def named(name: str, whose: str) -> BeforeValidator:
    """Parse a name, or a mapping of name and options; error messages expect `name`, or the key 'name' with `whose`."""

    def read(value: object) -> object:
        if isinstance(value, str) and value:
            return value, {}
        if not isinstance(value, dict):
            raise ValueError(f"expected {name}, or {{name: ..., and its options}}, not {shortened.repr(value)}")
        options = dict(value)
        word = options.pop("name", None)
        if not isinstance(word, str) or not word:
            raise ValueError(f"expected the key 'name' with {whose}")
        for key in options:
            if not isinstance(key, str) or not key.isidentifier():
                raise ValueError(f"expected names as the keys of options, not {shortened.repr(key)}")
        return word, options

    return BeforeValidator(read)


HOOKS_FORM = f"{CLASS_FORM}, or {{name: ..., and its options}}"
HooksNamed = Annotated[Named, named(CLASS_FORM, f"{CLASS_FORM} of your own")]
