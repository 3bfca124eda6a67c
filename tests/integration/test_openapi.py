"""The description of the APIs, compared with the responses of a real process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.openapi_walk import TOKEN, Step, Walk, started
from tests.integration.origin import Servers
from tests.integration.processes import Balancer
from twisted_lb.api.openapi import document, openapi_text, operations
from twisted_lb.api.openapi_parts import JSON, LINES
from twisted_lb.wire.problem import CONTENT_TYPE as PROBLEM_TYPE

validators = pytest.importorskip("jsonschema")

SCHEMATHESIS = shutil.which("st", path=str(Path(sys.executable).parent))

# TRACE is not implemented, which is 501: for schemathesis an internal error.
CONFIGURATION = """
[phases.coverage]
unexpected-methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
"""


@pytest.fixture(scope="module")
def balancer(servers: Servers) -> Iterator[Balancer]:
    """One for the walk."""
    balancer = started(servers)
    yield balancer
    balancer.close()


@pytest.fixture(scope="module")
def steps(balancer: Balancer) -> list[Step]:
    """All requests with their answers."""
    walk = Walk(balancer, document())
    walk.everything()
    return walk.steps


def strict(part: Any) -> Any:
    """The schema without members that it does not name."""
    if isinstance(part, list):
        return [strict(one) for one in part]
    if not isinstance(part, Mapping):
        return part
    found = {name: strict(one) for name, one in part.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


COMPONENTS = strict({"components": {"schemas": document()["components"]["schemas"]}})


def validate(value: Any, schema: Mapping[str, Any]) -> None:
    """Raise ValidationError for what does not have the schema, or has members that are not described."""
    kind = validators.Draft202012Validator
    kind({**COMPONENTS, **strict(schema)}, format_checker=kind.FORMAT_CHECKER).validate(value)


def resolved(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """The response, or what it refers to."""
    if "$ref" not in response:
        return response
    found: Mapping[str, Any] = document()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return found


def test_answers(steps: list[Step]) -> None:
    """Each answer has a status, a type, fields and a schema that are described."""
    for step in steps:
        case = (step.method, step.path, step.answer.status)
        response = resolved(step.response)
        kinds = response.get("content", {})
        assert ([step.media_type] if step.answer.body else []) == list(kinds), case
        for name in response.get("headers", {}):
            assert name in step.answer.fields or name == "Retry-After", (case, name)
        if step.media_type in (JSON, PROBLEM_TYPE):
            validate(step.json(), kinds[step.media_type]["schema"])
        elif step.media_type == LINES:
            name = "UserRecord" if "export" in step.path else "ImportedLine"
            for line in step.answer.body.splitlines():
                validate(json.loads(line), {"$ref": f"#/components/schemas/{name}"})


def test_bodies(steps: list[Step]) -> None:
    """A body has the schema of bodies exactly if it is accepted, as far as the schema decides it."""
    decided = 0
    for step in steps:
        media = step.operation.get("requestBody", {}).get("content", {}).get(JSON)
        if media is None or not isinstance(step.body, dict) or step.answer.status not in (200, 201, 400):
            continue
        try:
            validate(step.body, media["schema"])
        except validators.ValidationError:
            assert step.answer.status == 400, (step.method, step.path, step.body)
        else:
            assert step.answer.status != 400, (step.method, step.path, step.body)
        decided += 1
    assert decided > 15


def test_every_operation(steps: list[Step]) -> None:
    """Each operation was answered with each status of success that it describes."""
    answered = {(step.operation["operationId"], str(step.answer.status)) for step in steps}
    for operation in operations(document()["paths"]).values():
        for status in operation["responses"]:
            if status.startswith("2"):
                assert (operation["operationId"], status) in answered


def test_shown(steps: list[Step]) -> None:
    """The admin listener shows the document that is in docs/, to those who may read."""
    [shown] = [step for step in steps if step.path == "/openapi.json"]
    assert shown.answer.body.decode() == openapi_text()


def test_examples(steps: list[Step]) -> None:
    """Each JSON answer has an example, which has its schema."""
    described = json.loads(openapi_text())
    contents = [
        response["content"]
        for operation in operations(described["paths"]).values()
        for status, response in operation["responses"].items()
        if status.startswith("2") and operation["operationId"] != "describeApi" and "content" in response
    ]
    contents += [described["components"]["responses"]["Conflict"]["content"]]
    examined = 0
    for content in contents:
        for kind in (JSON, PROBLEM_TYPE):
            if kind in content:
                validate(content[kind]["example"], content[kind]["schema"])
                examined += 1
    assert examined > 40


@pytest.mark.skipif(SCHEMATHESIS is None, reason="no schemathesis; `pip install schemathesis` enables this")
@pytest.mark.parametrize("public", [False, True], ids=["admin", "user"])
def test_generated_requests(servers: Servers, balancer: Balancer, tmp_path: Path, public: bool) -> None:
    """Generated requests get no answer that is not described, and no internal error."""
    file = tmp_path / "openapi.json"
    file.write_text(openapi_text())
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    key = balancer.create_user(f"generated {tmp_path.name}", 1_000_000)
    port = balancer.port if public else balancer.admin_port
    token = key if public else TOKEN
    url, field = f"http://127.0.0.1:{port}", f"Authorization: Bearer {token}"
    command = [
        str(SCHEMATHESIS), "run", str(file), "--url", url, "--header", field,
        # It cannot make bodies in JSON Lines.
        "--include-path-regex" if public else "--exclude-path-regex", "^/user/" if public else "^/user/|^/import/",
        "--phases", "examples,coverage,fuzzing",
        "--max-examples", "15", "--seed", "1", "--no-color",
        # Schemas cannot say what is in a name or a label, or that no time is before 1970; a body where there must be
        # none is refused before the method is.
        "--exclude-checks", "positive_data_acceptance,unsupported_method",
        "--generation-with-security-parameters", "false",
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "Traceback" not in balancer.log()
