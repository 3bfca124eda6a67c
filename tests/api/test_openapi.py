"""The description of the APIs: it has all that is served, and the schemas say what the readers accept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from klein import Klein
from twisted.trial.unittest import SynchronousTestCase

from tests.api.users_case import UsersCase
from twisted_lb.api.admin import _AdminApi, _HealthApi
from twisted_lb.api.bodies import BadBody, read_model, read_new_key, read_policy_change, read_rotation
from twisted_lb.api.limits import LimitsApi
from twisted_lb.api.openapi import document, openapi_text, operations
from twisted_lb.api.pools import PoolsApi
from twisted_lb.api.user import UserApi
from twisted_lb.api.user_bodies import Level, QuotaUsed, UserToCreate, read_key_patch, read_user_patch
from twisted_lb.api.users import UsersApi
from twisted_lb.api.users_transfer import TransferApi

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"
APPS = (UserApi._app, _HealthApi.app, _AdminApi.app, PoolsApi.app, LimitsApi.app, UsersApi.app, TransferApi.app)
CHOICE = re.compile(r"<any\(([a-z,]+)\):[a-z]+>")
MEMBER = re.compile(r"<([a-z_]+)>")
REFERENCE = re.compile(r'"#/components/([a-zA-Z]+)/([A-Za-z]+)"')


def served(app: Klein) -> Iterator[tuple[str, str]]:
    """The methods and paths of an application, in the notation of OpenAPI."""
    for rule in app.url_map.iter_rules():
        choice = CHOICE.search(rule.rule)
        for word in choice[1].split(",") if choice is not None else [""]:
            path = MEMBER.sub(r"{\1}", CHOICE.sub(word, rule.rule))
            for method in rule.methods or ():
                if method not in ("HEAD", "OPTIONS"):
                    yield method, path


class DocumentTests(SynchronousTestCase):
    """The document."""

    def test_routes(self) -> None:
        """What is served is described, and nothing else is."""
        found = {one for app in APPS for one in served(app)}
        self.assertEqual(found, set(operations(document()["paths"])))

    def test_file(self) -> None:
        """The file in docs/ is the document; `python tools/write_openapi.py` writes it."""
        self.assertEqual(FILE.read_text(encoding="utf-8"), openapi_text())

    def test_parameters(self) -> None:
        """The parameters in a path are described, and each once."""
        for (_, path), operation in operations(document()["paths"]).items():
            described = [one["name"] for one in operation.get("parameters", []) if one["in"] == "path"]
            self.assertEqual(described, re.findall(r"\{([a-z_]+)\}", path))

    def test_names(self) -> None:
        """What is referred to exists, ids are unique, and tags and schemes are those that are listed."""
        found = document()
        for kind, name in REFERENCE.findall(openapi_text()):
            self.assertIn(name, found["components"][kind])
        every = list(operations(found["paths"]).values())
        self.assertEqual(len({one["operationId"] for one in every}), len(every))
        self.assertEqual({tag for one in every for tag in one["tags"]}, {tag["name"] for tag in found["tags"]})
        schemes = {name for one in every for needed in one["security"] for name in needed}
        self.assertEqual(schemes, set(found["components"]["securitySchemes"]))

    def test_sentences(self) -> None:
        """Each operation has one sentence."""
        for one in operations(document()["paths"]).values():
            self.assertRegex(one["summary"], r"\A[A-Z][^.]+\.\Z")


class AccessTests(UsersCase):
    """Who is shown the document."""

    def test_scopes(self) -> None:
        """It is shown to those who may read, as /servers is."""
        answer = self.call("GET", "/openapi.json", None, b"Authorization: Bearer reader")
        self.assertEqual((answer.status, answer.field("content-type")), (200, "application/json"))
        self.assertEqual(answer.body.decode(), openapi_text())
        self.refused(403, "GET", "/openapi.json", None, b"Authorization: Bearer keeper")
        self.refused(401, "GET", "/openapi.json", None, b"X: y")


# Readers by the schema of what they read, and bodies that both must judge alike: True where they are valid.  None: the
# reader alone decides, and refuses it.
BODIES: list[tuple[str, Any, list[tuple[dict[str, Any], bool | None]]]] = [
    (
        "PolicyChange",
        read_policy_change,
        [
            ({"capacity": 5}, True),
            ({"capacity": 5.0, "rate_per_sec": 0}, True),
            ({}, False),
            ({"capacity": None}, False),
            ({"rate_per_sec": None}, False),
            ({"capacity": 0}, False),
            ({"capacity": True}, False),
            ({"capacity": "5"}, False),
            ({"rate_per_sec": 1e-10}, False),
            ({"rate_per_sec": 1e-9}, True),
            ({"other": 1}, False),
        ],
    ),
    (
        "NewKey",
        read_new_key,
        [
            ({}, True),
            ({"capacity": 1}, False),
            ({"rate_per_sec": 1}, False),
            ({"capacity": 1, "rate_per_sec": 0.5}, True),
            ({"label": None}, False),
            ({"label": "x" * 201}, False),
            ({"expires_at": None}, False),
            ({"expires_at": 5}, False),
            ({"expires_at": "4307-03-01T12:05:23Z"}, None),
            ({"expires_at": "2030-01-01T00:00:00Z"}, True),
        ],
    ),
    (
        "Rotation",
        read_rotation,
        [
            ({"grace": 0}, True),
            ({"grace": 0.5}, True),
            ({"grace": "1h"}, True),
            ({"grace": "10"}, True),
            ({"grace": "1.5 d"}, True),
            ({"grace": -1}, False),
            ({"grace": "-1"}, False),
            ({"grace": "1w"}, False),
            ({"grace": None}, False),
            ({"grace": True}, False),
            ({"grace": 366 * 86_400}, True),
            ({"grace": 366 * 86_400 + 1}, False),
            ({}, False),
        ],
    ),
    (
        "UserToCreate",
        lambda body: read_model(UserToCreate, body),
        [
            ({"name": "ann"}, True),
            ({}, False),
            ({"name": None}, False),
            ({"name": ""}, False),
            ({"name": "ann", "metadata": None}, False),
            ({"name": "ann", "metadata": []}, False),
            ({"name": "ann", "metadata": {"a": [None]}}, True),
            ({"name": "ann", "expires_at": None}, False),
        ],
    ),
    (
        "UserPatch",
        read_user_patch,
        [
            ({}, False),
            ({"disabled": None}, False),
            ({"disabled": 1}, False),
            ({"disabled": True}, True),
            ({"metadata": None}, False),
            ({"metadata": {}}, True),
            ({"quota": None}, True),
            ({"quota": {"requests": 5.0, "per": "day"}}, True),
            ({"quota": {"tokens": 5, "per": "month", "time_zone": "Europe/Berlin"}}, True),
            ({"quota": {"tokens": 5, "per": "month", "time_zone": "Europe/Atlantis"}}, None),
            ({"quota": {"tokens": 5, "per": "month", "time_zone": "a//b"}}, False),
            ({"quota": {"tokens": 5, "per": "month", "time_zone": None}}, False),
            ({"quota": {"tokens": 5, "requests": 5, "per": "day"}}, False),
            ({"quota": {"per": "day"}}, False),
            ({"quota": {"requests": 0, "per": "day"}}, False),
            ({"quota": {"requests": 10**12 + 1, "per": "day"}}, False),
            ({"quota": {"requests": None, "tokens": 5, "per": "day"}}, False),
            ({"quota": {"requests": 5}}, False),
            ({"quota": {"requests": 5, "per": "week"}}, False),
            ({"quota": {"requests": 5, "per": "day", "used": 1}}, False),
            ({"quota": 5}, False),
        ],
    ),
    (
        "QuotaUsed",
        lambda body: read_model(QuotaUsed, body),
        [
            ({"used": 0}, True),
            ({"used": 5.0}, True),
            ({"used": -1}, False),
            ({"used": None}, False),
            ({}, False),
        ],
    ),
    (
        "KeyPatch",
        read_key_patch,
        [
            ({}, False),
            ({"label": None}, False),
            ({"expires_at": None}, True),
            ({"expires_at": ""}, None),
            ({"capacity": 5.0, "rate_per_sec": 1.0}, True),
            ({"capacity": 5}, False),
            ({"capacity": None}, False),
            ({"capacity": None, "rate_per_sec": None}, True),
            ({"capacity": 5, "rate_per_sec": None}, False),
            ({"capacity": None, "rate_per_sec": 5}, False),
        ],
    ),
    (
        "Level",
        lambda body: read_model(Level, body),
        [
            ({"current_capacity": 3.0}, True),
            ({"current_capacity": -3}, True),
            ({"current_capacity": None}, False),
            ({"current_capacity": 3.5}, False),
            ({}, False),
        ],
    ),
]


class SchemaTests(SynchronousTestCase):
    """Schemas and readers."""

    def test_agree(self) -> None:
        """What a reader accepts has the schema, and what it refuses has not."""
        try:
            from jsonschema import Draft202012Validator
        except ImportError:
            self.skipTest("no jsonschema; `pip install jsonschema` enables this")
        components = {"components": {"schemas": document()["components"]["schemas"]}}
        for name, read, cases in BODIES:
            validator = Draft202012Validator({**components, "$ref": f"#/components/schemas/{name}"})
            for body, valid in cases:
                try:
                    read(json.dumps(body).encode())
                    accepted = True
                except BadBody:
                    accepted = False
                self.assertEqual(accepted, bool(valid), (name, body))
                if valid is not None:
                    self.assertEqual(validator.is_valid(body), accepted, (name, body))
