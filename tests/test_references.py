"""Environment variables and secret files in servers.yaml, and secrets among the settings."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.describe import description
from twisted_lb.app.startup import Startup
from twisted_lb.config.environment import SECRETS, read_settings
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.secret_files import MAX_BYTES
from twisted_lb.config.server_tls import files_changed, files_of
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured, Settings

SECRET = "s3cr3t-of-the-models"


class SecretCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file_name = str(self.directory / "servers.yaml")
        self.patch(os, "environ", {**os.environ, "MODEL_KEY": SECRET, "EMPTY": "", "PORT_OF_A": "9001", "TIMES": "7s"})

    def secret(self, content: bytes, name: str = "key") -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def read(self, text: str) -> GatewaySpec:
        return read_gateway(text, self.file_name)

    def problems(self, text: str) -> list[str]:
        found = self.assertRaises(Misconfigured, self.read, text).problems
        for problem in found:
            self.assertTrue(problem.startswith(self.file_name + ":"), problem)
            self.assertNotIn(SECRET, problem)
        return [problem.removeprefix(self.file_name + ":") for problem in found]

    def values(self, spec: GatewaySpec) -> list[str]:
        """The values of the fields that the pool sets."""
        rules = spec.pools[0].request_headers
        assert rules is not None
        return ["".join(text for text, _ in value) for _, value in rules.added]


class ReferenceTests(SecretCase):
    def rules(self, *values: str) -> str:
        fields = ", ".join(f"X-{number}: '{value}'" for number, value in enumerate(values))
        return f"servers: [{{url: 'http://a'}}]\nrequest_headers: {{set: {{{fields}}}}}\n"

    def test_texts(self) -> None:
        """Variables and files are filled in, anywhere in a text; a doubled dollar sign is itself."""
        path = self.secret(SECRET.encode() + b"\n")
        in_file = f"${{file:{path}}}"
        values = ("Bearer ${MODEL_KEY}", in_file, "${file:key}", "${MODEL_KEY}.${EMPTY}.", "$${{MODEL_KEY}}", "$x")
        spec = self.read(self.rules(*values))
        expected = [f"Bearer {SECRET}", SECRET, SECRET, f"{SECRET}..", "${MODEL_KEY}", "$x"]
        self.assertEqual(self.values(spec), expected)

    def test_other_places(self) -> None:
        """A name, a url and a duration are texts too."""
        text = "servers: [{name: 'a-${PORT_OF_A}', url: 'http://a:${PORT_OF_A}'}]\nqueue: {timeout: '${TIMES}'}\n"
        spec = self.read(text)
        server = spec.servers[0]
        self.assertEqual((server.name, server.port, spec.pools[0].queue.timeout), ("a-9001", 9001, 7.0))

    def test_structure(self) -> None:
        """What a secret contains is never YAML."""
        path = self.secret(b"a, b: {c: d}]\n#'\"\r\n")
        text = "pools: {p: {servers: [{url: 'http://a'}]}}\nroutes: [{respond: {body: '${file:%s}'}}]\n"
        spec = self.read(text % path)
        respond = spec.routes[0].respond
        assert respond is not None
        self.assertEqual(respond.content, b"a, b: {c: d}]\n#'\"")

    def test_files_of_the_configuration(self) -> None:
        """The files belong to the configuration: workers need no right to read them, and a change is noticed."""
        path = self.secret(SECRET.encode())
        text = self.rules("${file:key}")
        spec = self.read(text)
        self.assertEqual(files_of(spec), {path: SECRET.encode()})
        self.assertFalse(files_changed(files_of(spec)))
        self.secret(b"other")
        self.assertTrue(files_changed(files_of(spec)))
        again = read_gateway(text, self.file_name, files_of(spec).__getitem__)
        self.assertEqual(again, spec)
        self.assertNotEqual(self.read(text), spec)

    def test_refused(self) -> None:
        """What cannot be filled in is an error that names the line, the key and the reference."""
        self.secret(b"", "empty")
        self.secret(b"\xff", "bytes")
        self.secret(b"x" * (MAX_BYTES + 1), "long")
        for value, expected in (
            ("${MISSING_ONE}", "the environment has no variable MISSING_ONE"),
            ("${file:none}", "none: it cannot be read: No such file or directory"),
            ("${file:.}", ".: it is not a regular file"),
            ("${file:empty}", "empty: it is empty"),
            ("${file:bytes}", "bytes: it is not UTF-8 text"),
            ("${file:long}", f"long: it has more than {MAX_BYTES} bytes"),
            ("${}", "expected ${NAME} or ${file:/path}; $${ stands for ${ itself"),
            ("${a b}", "expected ${NAME} or ${file:/path}; $${ stands for ${ itself"),
            ("${MODEL_KEY", "expected ${NAME} or ${file:/path}; $${ stands for ${ itself"),
        ):
            (problem, *_) = self.problems(f"servers: [{{url: 'http://a'}}]\npricing: '{value}'\n")
            self.assertTrue(problem.startswith(f"2: pricing: {expected}"), (value, problem))
            self.assertNotIn(str(self.directory), problem)

    def test_no_secret_in_messages(self) -> None:
        """A message about a value that was filled in shows the reference, wherever the value is."""
        server = "servers: [{url: 'http://a'}]\n"
        for text in (
            "servers: [{url: '${MODEL_KEY}'}]\n",
            "servers: [{name: ' ${MODEL_KEY}', url: 'http://a'}]\n",
            "servers: ['${MODEL_KEY}']\n",
            "servers: {a: '${MODEL_KEY}'}\n",
            server + "queue: {timeout: '${MODEL_KEY}'}\n",
            server + "queue: '${MODEL_KEY}'\n",
            server + "balancer: ['${MODEL_KEY}']\n",
            server + "cors: {allowed_origins: '${MODEL_KEY}'}\n",
            server + "request_headers: {set: {A: \"${MODEL_KEY}\\n\"}}\n",
            server + "request_headers: {set: {'a b': '${MODEL_KEY}'}}\n",
            server + "tls: {ca_file: '${MODEL_KEY}'}\n",
            "pools: {p: {servers: [{url: 'http://a'}]}}\nroutes: [{pool: '${MODEL_KEY}'}]\n",
            "pools: {p: {servers: [{url: 'http://a'}]}}\nroutes: [{pool: p, allow: '${MODEL_KEY}'}]\n",
            "servers: [{name: '${MODEL_KEY}', url: 'http://a'}, {name: '${MODEL_KEY}', url: 'http://a'}]\n",
        ):
            problems = self.problems(text)
            self.assertTrue(problems)
            self.assertNotIn(SECRET[:8], str(problems), text)

    def test_not_shown(self) -> None:
        """--check shows the names of the fields only."""
        text = self.rules("Bearer ${MODEL_KEY}", "${file:key}")
        self.secret(SECRET.encode())
        spec = self.read(text)
        self.assertNotIn(SECRET, description(Startup(Settings(), spec, text, False)))

    def test_alias(self) -> None:
        """An alias of YAML is filled in once."""
        spec = self.read("servers: [{url: 'http://a', name: &n 'x-${PORT_OF_A}'}]\nrequest_headers: {set: {A: *n}}\n")
        self.assertEqual((spec.servers[0].name, self.values(spec)), ("x-9001", ["x-9001"]))


class SettingTests(SecretCase):
    def test_files(self) -> None:
        """A secret of the settings may be in a file, which the environment or .env names."""
        for name in SECRETS:
            content = f"whsec_{'A' * 32}" if name == "webhook_secret" else "redis://h:1"
            path = self.secret(f"{content}\r\n".encode())
            for environment, env_file in (({f"{name.upper()}_FILE": path}, ""), ({}, f"{name.upper()}_FILE={path}\n")):
                settings, problems = read_settings({}, environment, env_file)
                self.assertEqual((getattr(settings, name), problems), (content, []))

    def test_refused(self) -> None:
        """Both at once, and a file that cannot be used, are errors that name the setting and the file."""
        path = self.secret(b"\n")
        for environment, expected in (
            ({"ADMIN_TOKEN": "a", "ADMIN_TOKEN_FILE": path}, "ADMIN_TOKEN_FILE (environment): ADMIN_TOKEN (envir"),
            ({"ADMIN_TOKEN_FILE": path}, f"ADMIN_TOKEN_FILE (environment): {path!r}: it is empty"),
            ({"ADMIN_TOKEN_FILE": "/none"}, "ADMIN_TOKEN_FILE (environment): '/none': it cannot be read: No such file"),
            ({"ADMIN_TOKEN_FILE": "/"}, "ADMIN_TOKEN_FILE (environment): '/': it is not a regular file"),
        ):
            _, (problem,) = read_settings({}, environment)
            self.assertTrue(problem.startswith(expected), problem)

    def test_other_settings(self) -> None:
        """Other settings have no such name: in .env it is reported as unknown."""
        _, problems = read_settings({}, {}, "REDIS_URLS_FILE=/x\n")
        self.assertIn("did you mean REDIS_URL_FILE?", str(problems))
        settings, problems = read_settings({}, {"ADMIN_TOKEN_FILE": " "})
        self.assertEqual((settings.admin_token, problems), ("", []))
