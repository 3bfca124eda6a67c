"""Parts of an OpenAPI document: schemas, parameters, responses and operations.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from twisted_lb.wire.problem import CONTENT_TYPE as PROBLEM_TYPE

Part = dict[str, Any]

JSON: Final = "application/json"
LINES: Final = "application/x-ndjson"
REFERENCE: Final = "#/components/schemas/{model}"


class _Generator(GenerateJsonSchema):
    """Shows defaults that are plain values; a default of None or "" stands for a member that is absent."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        default = described.get("default")
        if default == "" or not isinstance(default, (str, int, float)):
            described.pop("default", None)
        return described

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schemas_of(*models: type[BaseModel]) -> dict[str, Part]:
    """The schemas of bodies and of what they refer to, by the names of their models."""
    found: dict[str, Part] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=REFERENCE, schema_generator=_Generator)
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    for schema in found.values():
        # Unknown members are refused, by `bodies.read_model` and in servers.yaml.
        schema["additionalProperties"] = False
        schema.pop("title", None)
    return found


def ref(name: str) -> Part:
    """A schema of the components."""
    return {"$ref": REFERENCE.format(model=name)}


def or_null(schema: Part) -> Part:
    """This, or null."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def text(description: str = "", **more: Any) -> Part:
    """A string."""
    return {"type": "string", **({"description": description} if description else {}), **more}


def whole(description: str = "", **more: Any) -> Part:
    """An integer."""
    return {"type": "integer", **({"description": description} if description else {}), **more}


def number(description: str = "", **more: Any) -> Part:
    """A number."""
    return {"type": "number", **({"description": description} if description else {}), **more}


def flag(description: str = "") -> Part:
    """A boolean."""
    return {"type": "boolean", **({"description": description} if description else {})}


def array(items: Part, description: str = "") -> Part:
    """An array."""
    return {"type": "array", "items": items, **({"description": description} if description else {})}


def members(description: str, required: Mapping[str, Part], optional: Mapping[str, Part] = {}) -> Part:
    """An object with these members."""
    return {
        "type": "object",
        "description": description,
        "properties": {**required, **optional},
        "required": list(required),
    }


def parameter(name: str, where: str, description: str, schema: Part) -> Part:
    """A parameter `where`: path, query or header."""
    return {"name": name, "in": where, "description": description, "required": where == "path", "schema": schema}


def body(schema: Part, required: bool = True, media_type: str = JSON, description: str = "") -> Part:
    """The body of a request."""
    shown = {"description": description} if description else {}
    return {**shown, "required": required, "content": {media_type: {"schema": schema}}}


def answer(description: str, schema: Part | None = None, media_type: str = JSON, **fields: Part) -> Part:
    """A response; the names of `fields` have _ in place of -."""
    found: Part = {"description": description}
    if fields:
        found["headers"] = {name.replace("_", "-"): field for name, field in fields.items()}
    if schema is not None:
        found["content"] = {media_type: {"schema": schema}}
    return found


def field(description: str, schema: Part | None = None) -> Part:
    """A header field of a response."""
    return {"description": description, "schema": schema or {"type": "string"}}


RETRY_AFTER: Final = field("Seconds to wait before the next attempt.", {"type": "integer", "minimum": 0})
LOCATION: Final = field("The path of the new resource.")

# What error responses of a status have in common.
_PROBLEMS: Final[Mapping[int, tuple[str, Mapping[str, Part]]]] = {
    400: ("The request is not valid; the detail says what was expected.", {}),
    401: ("There is no valid API key or token.", {"WWW_Authenticate": field("The scheme that is expected.")}),
    403: ("This is not allowed; the detail says why.", {}),
    404: ("What the path names does not exist.", {}),
    409: ("The request conflicts with the present state.", {}),
    413: ("The body is too large.", {}),
    415: ("The body is not JSON in UTF-8.", {}),
    429: ("The bucket of requests from the client's network is empty.", {"Retry_After": RETRY_AFTER}),
    503: ("This is unavailable at the moment.", {"Retry_After": RETRY_AFTER}),
}


def problem_name(status: int) -> str:
    """The name of the response among the components."""
    return HTTPStatus(status).phrase.replace(" ", "")


def problem_responses() -> dict[str, Part]:
    """The error responses, for the components."""
    found = {
        problem_name(status): answer(description, ref("Problem"), PROBLEM_TYPE, **fields)
        for status, (description, fields) in _PROBLEMS.items()
    }
    return {**found, "Other": answer("Any other error.", ref("Problem"), PROBLEM_TYPE)}


def operation(
    name: str,
    tag: str,
    summary: str,
    answers: Mapping[int, Part],
    problems: Sequence[int],
    security: Sequence[Mapping[str, Sequence[str]]],
    parameters: Sequence[Part] = (),
    request: Part | None = None,
) -> Part:
    """One method of a path; `problems` are the statuses of its errors."""
    responses: Part = {str(status): one for status, one in answers.items()}
    responses |= {str(status): {"$ref": f"#/components/responses/{problem_name(status)}"} for status in problems}
    responses["default"] = {"$ref": "#/components/responses/Other"}
    found: Part = {"operationId": name, "tags": [tag], "summary": summary, "security": list(security)}
    if parameters:
        found["parameters"] = list(parameters)
    if request is not None:
        found["requestBody"] = request
    return {**found, "responses": responses}
