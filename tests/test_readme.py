"""The README is correct: its example runs, and its tables name what exists."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import fields
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.balancers.registry import make_balancer
from twisted_lb.config.environment import read_settings
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.servers_schema import (
    DiscoverModel,
    EjectionModel,
    FileModel,
    HealthCheckModel,
    QueueModel,
    RetriesModel,
    RouteModel,
    ServerModel,
)
from twisted_lb.config.settings import Settings
from twisted_lb.interfaces import IBalancer
from twisted_lb.routing.notices import route_notices
from twisted_lb.steps import finish

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


class ExampleTests(SynchronousTestCase):
    def test_own_balancer(self) -> None:
        """The balancer of the README can be loaded by the name that it has there."""
        [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        self.addCleanup(lambda: [path.unlink() for path in directory.rglob("*.py")])
        (directory / "least_busy.py").write_text(code)
        self.patch(sys, "path", [str(directory), *sys.path])
        self.addCleanup(sys.modules.pop, "least_busy", None)
        self.assertTrue(verifyObject(IBalancer, make_balancer("least_busy:LeastBusy", {})))

    def test_own_balancer_is_short(self) -> None:
        """The example has ten lines of code at most."""
        [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        self.assertLessEqual(len([line for line in code.splitlines() if line.strip()]), 10)


class ServersFileTests(SynchronousTestCase):
    """docs/servers.md and docs/health.md, and the models that read the file."""

    def test_keys(self) -> None:
        """The tables have each key of each section, and nothing else."""
        names = ("servers", "health", "routing", "discovery")
        servers, health, routing, discovery = [(ROOT / "docs" / f"{name}.md").read_text() for name in names]
        for text, head, section in (
            (servers, "key at the top", FileModel),
            (servers, "key", ServerModel),
            (routing, "key of a route", RouteModel),
            (discovery, "key of `discover`", DiscoverModel),
            (servers, "key of `retries`", RetriesModel),
            (servers, "key of `queue`", QueueModel),
            (health, "key of `health_check`", HealthCheckModel),
            (health, "key of `ejection`", EjectionModel),
        ):
            self.assertEqual(set(rows(text, head)), set(section.model_fields), head)

    def test_defaults(self) -> None:
        """The defaults in the tables of a server, of retries and of the queue are those of the program."""
        text = (ROOT / "docs" / "servers.md").read_text()
        for head, section in (("key of `retries`", RetriesModel), ("key of `queue`", QueueModel), ("key", ServerModel)):
            given = {key: yaml.safe_load(value) for key, value in rows(text, head).items() if value}
            needed = {"name": "a", "url": "http://a"} if section is ServerModel else {}
            self.assertEqual(section.model_validate({**given, **needed}), section.model_validate(needed), head)

    def test_example(self) -> None:
        """The examples are files that can be read."""
        texts = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "servers.md").read_text(), re.DOTALL)
        self.patch(os, "environ", {**os.environ, "MODEL_HOST": "localhost"})
        specs = [read_gateway(text, "servers.yaml", lambda path: b"secret") for text in texts]
        self.assertEqual([(len(spec.pools), len(spec.servers)) for spec in specs], [(1, 3), (1, 1), (2, 3)])

    def test_routes(self) -> None:
        """So are those of the routes, but for what is left out."""
        texts = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "routing.md").read_text(), re.DOTALL)
        self.assertEqual([len(read_gateway(text, "servers.yaml").routes) for text in texts], [3, 2, 1])

    def test_coming_from(self) -> None:
        """All configurations of two pages are valid, and none has a route in vain."""
        texts = []
        for name, count in (("coming-from", 11), ("discovery", 2)):
            found = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.DOTALL)
            self.assertEqual(len(found), count, name)
            texts += found
        for text in texts:
            spec = read_gateway(text, "servers.yaml", lambda path: b"secret")
            self.assertEqual(finish(route_notices(spec, "servers.yaml")), [], text)


def rows(text: str, head: str) -> dict[str, str]:
    """The table whose first column has this head: its keys and defaults."""
    table = text.partition(f"\n| {head} | default |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `([a-z_]+)` \| `?([^`|]*)`? ?\|", table, re.MULTILINE))


class SettingsTests(SynchronousTestCase):
    def test_settings(self) -> None:
        """The table of settings names each setting with its default, and nothing else."""
        rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? ?\|", README, re.MULTILINE))
        self.assertEqual(set(rows), {field.name.upper() for field in fields(Settings)})
        settings, problems = read_settings({}, rows)
        self.assertEqual((settings, problems), (Settings(), []))
