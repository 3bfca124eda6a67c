"""Parses and validates request bodies; error messages say what was expected.

1) bytes -> JSON, as strictly as RFC 8259 allows: UTF-8 only, no duplicate members.
2) JSON -> model, by pydantic.  An error becomes one sentence for each member, made from the description of that member,
   which stands beside the rule.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import core_schema

from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC
from twisted_lb.timestamps import MAX_DURATION_US, TIME, read_duration, read_rfc3339
from twisted_lb.user_names import MAX_NAME_CHARACTERS, user_name
from twisted_lb.users import MAX_LABEL_CHARACTERS, check_label

# The slowest rate other than 0, one token in 32 years.  With a slower one, capacity / rate, the time until the bucket
# is full, would exceed the range in which seconds and microseconds are exact.
MIN_RATE_PER_SEC = 1e-9
# More digits than any valid number has; longer numbers need not be converted to exact integers.
_MAX_INTEGER_DIGITS = 20
_MAX_SHOWN_CHARACTERS = 40
_MAX_MEMBERS_EXPLAINED = 4


class BadBody(ValueError):
    """The body is invalid; the text names the member and the expected value."""


def _fast_enough(rate: float) -> float:
    if 0 < rate < MIN_RATE_PER_SEC:
        raise ValueError
    return rate


def whole(value: object) -> object:
    """JSON has one type of number, so 5.0 is accepted as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _NotNull:
    """Of a member that may be absent, which is None: null is not the same, and not valid."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(_given, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = handler(schema)
        [given] = [one for one in described["anyOf"] if one != {"type": "null"}]
        return dict(given)


def _given(value: object) -> object:
    if value is None:
        raise ValueError
    return value


NOT_NULL: Final = _NotNull()

# The schemas are for the description of the API.  A rule that has no place in them is in the description of the member.
Name = Annotated[
    str,
    AfterValidator(user_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS}),
]
Capacity = Annotated[int, Field(ge=1, le=MAX_CAPACITY), BeforeValidator(whole)]
Rate = Annotated[
    float,
    Field(ge=0, le=MAX_RATE_PER_SEC, allow_inf_nan=False),
    AfterValidator(_fast_enough),
    WithJsonSchema(
        {"type": "number", "maximum": MAX_RATE_PER_SEC, "anyOf": [{"const": 0}, {"minimum": MIN_RATE_PER_SEC}]}
    ),
]


class Body(BaseModel):
    """A body, or an object in one."""

    # Its validator is built when the first such body arrives.
    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)


class Policy(Body):
    """The policy of a bucket; absent members are None."""

    capacity: Annotated[Capacity | None, NOT_NULL] = Field(
        None, description=f"a whole number from 1 to {MAX_CAPACITY}"
    )
    rate_per_sec: Annotated[Rate | None, NOT_NULL] = Field(
        None, description=f"a number from 0 to {MAX_RATE_PER_SEC}, and not between 0 and 0.000000001"
    )


class PolicyChange(Policy):
    """The body of `POST /user/tokens/change`."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})


class NewUser(Policy):
    """The body of `POST /user/create`."""

    name: Name = Field(
        description=f"a string of 1 to {MAX_NAME_CHARACTERS} printable characters without white space at its ends"
    )


def read_time(value: object) -> int:
    """Microseconds since 1970.  Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError
    return read_rfc3339(value)


Time = Annotated[int, BeforeValidator(read_time), WithJsonSchema({"type": "string", "format": "date-time"})]


def _label(text: str) -> str:
    check_label(text)
    return text


Label = Annotated[
    str, AfterValidator(_label), WithJsonSchema({"type": "string", "maxLength": MAX_LABEL_CHARACTERS})
]
LABEL = f"one line of at most {MAX_LABEL_CHARACTERS} characters"


class NewKey(Policy):
    """The body of `POST /user/keys`: the policy is that of a bucket of the key's own."""

    model_config = ConfigDict(
        json_schema_extra={"dependentRequired": {"capacity": ["rate_per_sec"], "rate_per_sec": ["capacity"]}}
    )

    label: Label = Field("", description=LABEL)
    expires_at: Annotated[Time | None, NOT_NULL] = Field(None, description=TIME)


class KeyLabel(Body):
    """The body of `PATCH /user/keys/<key_id>`."""

    label: Label = Field(description=LABEL)


def _duration(value: object) -> int:
    """In microseconds.  Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    return read_duration(value if isinstance(value, str) else f"{value:.6f}")


Duration = Annotated[
    int,
    BeforeValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": MAX_DURATION_US // 1_000_000},
                {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,6})? ?(ms|s|m|h|d)?$"},
            ]
        }
    ),
]


class Rotation(Body):
    """The body of `POST /user/keys/<key_id>/rotate`."""

    grace: Duration = Field(description='seconds, or a duration such as "1h" or "7d", of at most a year')


def read_new_key(body: bytes) -> NewKey:
    """Raises BadBody."""
    key = read_model(NewKey, body)
    if (key.capacity is None) != (key.rate_per_sec is None):
        raise BadBody("For a bucket of the key's own, give both capacity and rate_per_sec.")
    return key


def read_key_label(body: bytes) -> KeyLabel:
    """Raises BadBody."""
    return read_model(KeyLabel, body)


def read_rotation(body: bytes) -> Rotation:
    """Raises BadBody."""
    return read_model(Rotation, body)


def read_new_user(body: bytes) -> NewUser:
    """Raises BadBody."""
    return read_model(NewUser, body)


def read_policy_change(body: bytes) -> PolicyChange:
    """A change with at least one member.  Raises BadBody."""
    change = read_model(PolicyChange, body)
    if not change.model_fields_set:
        raise BadBody("There is nothing to change: give capacity, rate_per_sec or both.")
    return change


_Model = TypeVar("_Model", bound=BaseModel)


def read_model(model: type[_Model], body: bytes) -> _Model:
    """The body as this model.  Raises BadBody."""
    members = read_object(body)
    # Not by pydantic, which fails for names of members with a lone surrogate.
    wrong: dict[tuple[int | str, ...], str] = {(one,): "" for one in members if one not in model.model_fields}
    if not wrong:
        try:
            return model.model_validate(members)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            wrong = {one["loc"]: str(one.get("ctx", {}).get("error", "")) for one in found}
    explained = [_explain(model, path, members, why) for path, why in wrong.items()]
    raise BadBody(" ".join(dict.fromkeys(explained[:_MAX_MEMBERS_EXPLAINED])))


def _explain(model: type[BaseModel], path: tuple[int | str, ...], members: dict[str, object], why: str) -> str:
    """One sentence about the member at this path; `why` is the text of the error of what has read it."""
    parents = ""
    member, *inner = path
    while inner and isinstance(value := members.get(str(member)), dict):
        below = _model_in(model.model_fields[str(member)].annotation)
        if below is None:
            break
        parents, model, members = f"{parents}{member}.", below, value
        member, *inner = inner
    field, name = model.model_fields.get(str(member)), f"{parents}{member}"
    if field is None:
        known = ", ".join(sorted(model.model_fields))
        where = f"in {parents[:-1]}" if parents else "here"
        return f"Unknown member {_shown(member)} {where}; expected {known}."
    if member not in members:
        return f"{name} is missing; expected {field.description}."
    if why.endswith("."):
        return f"{why} {name} is {_shown(members[str(member)])}; expected {field.description}."
    # What is only said in other words is left out, and so is the value, which is shown here.
    reason = "" if "expected" in why or not why else f", {why.partition(': ')[0]}"
    return f"{name} is {_shown(members[str(member)])}{reason}; expected {field.description}."


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of an object, which may be optional or annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one)) is not None), None)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[:_MAX_SHOWN_CHARACTERS] + "..."


def read_object(body: bytes) -> dict[str, object]:
    """The members of the body.  Raises BadBody."""
    if not body:
        raise BadBody("The body is empty; expected a JSON object.")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique_members, parse_int=_read_integer)
    except UnicodeDecodeError as error:
        raise BadBody(f"The body is not UTF-8 at byte {error.start}; expected a JSON object.") from None
    except json.JSONDecodeError as error:
        raise BadBody(
            f"The body is not JSON at line {error.lineno}, column {error.colno}: {error.msg}; expected a JSON object."
        ) from None
    except RecursionError:
        raise BadBody("The body is nested too deeply; expected a flat JSON object.") from None
    if not isinstance(value, dict):
        raise BadBody("The body is JSON but not an object; expected a JSON object.")
    return value


def read_nothing(body: bytes) -> None:
    """No body, or an object without members.  Raises BadBody."""
    if body and read_object(body):
        raise BadBody("The body is not empty; expected none.")


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            # RFC 8259 section 4: the behavior of receivers of duplicate names is unpredictable.
            raise BadBody(f"The member {_shown(name)} appears more than once; expected each member once.")
        members[name] = value
    return members


def _read_integer(digits: str) -> int | float:
    """A number; one that is too long is rejected by its value later, where its member is known."""
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else float(digits)
