"""The description of the user API and the admin API in OpenAPI 3.1.

The schemas of bodies come from the models that validate them; the examples are real answers, in openapi_examples.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final

from twisted_lb import __version__
from twisted_lb.api import openapi_admin, openapi_user, openapi_users
from twisted_lb.api.bodies import KeyLabel, NewKey, NewUser, PolicyChange, Rotation
from twisted_lb.api.openapi_answers import SCHEMAS
from twisted_lb.api.openapi_parts import JSON, Part, problem_name, problem_responses, schemas_of
from twisted_lb.api.user_bodies import KeyPatch, Level, QuotaUsed, UserPatch, UserToCreate
from twisted_lb.config.servers_schema import ServerModel
from twisted_lb.wire.problem import CONTENT_TYPE as PROBLEM_TYPE

PUBLIC_SERVER: Final = {"url": "http://localhost:8080", "description": "The public listener."}
ADMIN_SERVER: Final = {"url": "http://localhost:9090", "description": "The admin listener."}
BODIES: Final = (
    NewUser, PolicyChange, NewKey, KeyLabel, Rotation, UserToCreate, UserPatch, KeyPatch, Level, QuotaUsed, ServerModel,
)  # fmt: skip
EXAMPLES: Final = Path(__file__).with_name("openapi_examples.json")


@cache
def openapi_text() -> str:
    """The document as JSON, made at the first call."""
    return json.dumps(document(_examples()), indent=1, ensure_ascii=False) + "\n"


def _examples() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    return found


def document(examples: Mapping[str, Any] = {}) -> Part:
    """The document; `examples` has responses by the id of the operation and the status, and `problems` by status."""
    schemas = schemas_of(*BODIES)
    schemas["ServerPatch"] = openapi_admin.server_patch(schemas[ServerModel.__name__])
    paths: dict[str, Part] = {
        **{path: {"servers": [PUBLIC_SERVER], **deepcopy(one)} for path, one in openapi_user.PATHS.items()},
        **deepcopy(dict(openapi_admin.PATHS)),
        **deepcopy(dict(openapi_users.PATHS)),
    }
    for operation in operations(paths).values():
        for status, example in examples.get(operation["operationId"], {}).items():
            operation["responses"][status]["content"][JSON]["example"] = example
    responses = problem_responses()
    for status, example in examples.get("problems", {}).items():
        responses.get(problem_name(int(status)), responses["Other"])["content"][PROBLEM_TYPE]["example"] = example
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "twisted_lb",
            "version": __version__,
            "description": "The user API on the public listener, and the admin API on the admin listener.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [ADMIN_SERVER],
        "tags": [
            {"name": openapi_user.TAG, "description": "For users with their API keys, on the public listener."},
            {"name": openapi_admin.STATE, "description": "The state of the program."},
            {"name": openapi_admin.POOLS, "description": "Servers, pools and routes, and changes to them."},
            {"name": openapi_users.TAG, "description": "Users and keys, for operators."},
        ],
        "paths": paths,
        "components": {
            "schemas": {**schemas, **SCHEMAS},
            "responses": responses,
            "securitySchemes": {
                **openapi_user.KEY_SCHEMES,
                "AdminToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "ADMIN_TOKEN, or a token of ADMIN_TOKENS_FILE that has the scope.",
                },
            },
        },
    }


def operations(paths: Mapping[str, Part]) -> dict[tuple[str, str], Part]:
    """The operations by method and path."""
    return {
        (method.upper(), path): one
        for path, methods in paths.items()
        for method, one in methods.items()
        if method != "servers"
    }
