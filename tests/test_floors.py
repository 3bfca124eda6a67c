"""The rule of floors, checked for every import in the package.

ground <- policy <- network <- edges <- doors <- app: a module imports from its own part and from lower
floors; parts of one floor do not import each other, except within policy and app.  The
inner orders are lists, from the bottom up.  Imports for types only count like all others.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
PACKAGE = "twisted_lb"

GROUND, POLICY, NETWORK, EDGES, DOORS, APP = range(6)

# Each part and its floor.  A part is a package or a module; a module in here stands on this floor and not on that of
# its package, so a file may stand on another floor than its folder.
FLOORS = {
    "": GROUND,
    "interfaces": GROUND,
    "backend": GROUND,
    "credentials": GROUND,
    "deadlines": GROUND,
    "build_info": GROUND,
    "bounded_log": GROUND,
    "cors": GROUND,
    "files": GROUND,
    "listed": GROUND,
    "own_fields": GROUND,
    "usage": GROUND,
    "user_names": GROUND,
    "users": GROUND,
    "notices": GROUND,
    "quotas": GROUND,
    "key_format": GROUND,
    "timestamps": GROUND,
    "user_records": GROUND,
    "repeated": GROUND,
    "request_record": NETWORK,
    "steps": GROUND,
    "webhook": GROUND,
    "wire": GROUND,
    "testing": POLICY,
    "balancers": POLICY,
    "limits": POLICY,
    "plugins": POLICY,
    "config": POLICY,
    "config.settings": GROUND,
    "config.cors": GROUND,
    "config.gateway": GROUND,
    "config.limits": GROUND,
    "config.pool": GROUND,
    "config.yaml_lines": GROUND,
    "health": POLICY,
    "hooks": POLICY,
    "pool": POLICY,
    "routing": POLICY,
    "network": NETWORK,
    "access_log": EDGES,
    "network.certificate": POLICY,
    "network.tls_context": POLICY,
    "network.tls_errors": POLICY,
    "stores": EDGES,
    "proxy": EDGES,
    "health.active_checks": EDGES,
    "api": DOORS,
    "app": APP,
    "discovery": APP,
    "discovery.answers": POLICY,
    "discovery.expansion": POLICY,
    "tap": APP,
    "cli": APP,
    "web": APP,
}
# On these floors the parts may not import each other.
APART = {EDGES, DOORS}

# A module imports only what stands before it in its list.
ORDERS = {
    "discovery": ["answers", "expansion", "list_file", "sources", "service", "worker_servers"],
    "network": [
        "posted",
        "transport_io",
        "data_path_reactor",
        "unsent",
        "twisted_private",
        "transport",
        "splice",
        "tls_errors",
        "tls_layer",
        "tls",
        "tls_connector",
        "tls_client",
        "epoll",
        "stock",
        "client_certificate",
        "flow_control",
        "peer",
        "address_ranges",
        "trusted_proxies",
        "unix_socket",
        "listener",
        "certificate",
        "certificate_files",
        "certificate_set",
        "ticket_keys",
        "tls_context",
        "certificates",
        "shortage",
        "system_files",
        "dns_query",
        "lookup",
        "names",
        "hostname_resolver",
        "dialer",
    ],
    "wire": [
        "problem",
        "errors",
        "grammar",
        "upgrade",
        "field_names",
        "fields",
        "query",
        "head",
        "field_value",
        "framing",
        "body",
        "response",
        "forwarding",
        "forwarded",
        "proxy_protocol",
        "hsts",
    ],
    "hooks": ["field_changes", "hooks"],
    "routing": ["path", "match", "candidates", "table", "readings", "specs", "notices"],
    "access_log": ["writer", "destinations", "stamps", "escaping", "format", "json_format", "formats", "log"],
    "proxy": [
        "guard",
        "request_ids",
        "counts",
        "failure_log",
        "reading_progress",
        "lingering",
        "tunnel",
        "streams",
        "server_connection",
        "connection_pool",
        "request_body",
        "request_view",
        "progress",
        "server_pool",
        "header_rules",
        "route_answer",
        "route",
        "context",
        "second_key",
        "token_grant",
        "admission",
        "exchange",
        "pending_hook",
        "mirrored_request",
        "extended_exchange",
        "answered_request",
        "refused_request",
        "local_request",
        "https_redirect",
        "preflight",
        "local_response",
        "open_connections",
        "connection_limits",
        "dispatch",
        "client_connection",
        "announced_connection",
        "handshake_failures",
        "tls_handshake",
        "factory",
    ],
}

# What the parsers must not know: they are bytes in, method calls out.
NO_INPUT_OUTPUT = {"asyncio", "os", "selectors", "select", "socket", "ssl", "subprocess", "threading", "time"}
NO_INPUT_OUTPUT |= {"twisted"}
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "handler", "handlers", "misc"}
MAX_LINES = 400
# Longer ones, each with the reason why it is one idea still.
LONG_FILES = {
    "interfaces.py": "the contracts between the parts, which are read together",
    "network/names.py": "those who wait for a name, follow it or watch it share its look-ups and what is known of it",
    "proxy/admission.py": "the steps from a key to a decision, each of which leads to the next",
    "proxy/exchange.py": "the states of one request; tokens are in admission, and decisions in retry_policy",
    "proxy/client_connection.py": "the states of one connection, each a method that goes over into the others",
    "proxy/server_connection.py": "both directions of one connection, which share its deadline and its end",
    "stores/redis/batches.py": "what waits for the next call leaves with it, and is answered or decided here",
    "api/users.py": "the operations of one API, a few lines each; bodies, answers and records are made elsewhere",
    "stores/sqlite/database.py": "all statements on one file, and what a failure of one means",
    "stores/sqlite/store.py": "one class with the interfaces of a store, most of whose methods are passed on",
    "stores/sqlite/users.py": "each call that changes a user or a key, in memory and on disk",
}


def files() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(file: Path) -> list[tuple[str, bool]]:
    """What a file imports, in full, and whether it does so when it is imported itself."""
    return list(_imported(file))


def _imported(file: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    deferred = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in deferred
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield "." * node.level + f"{node.module or ''}.{alias.name}", node not in deferred


def own_module(name: str) -> str | None:
    """The module of ours that an imported name is, or is in."""
    while name.split(".")[0] == PACKAGE:
        path = ROOT.joinpath(*name.split("."))
        if path.with_suffix(".py").exists() or (path / "__init__.py").exists():
            return name
        name = name.rpartition(".")[0]
    return None


def own_imports() -> Iterator[tuple[str, str]]:
    """Each import of one of our modules by another."""
    for file in files():
        for name, _ in imported(file):
            target = own_module(name)
            if target is not None:
                yield module_name(file), target


def part_of(module: str) -> str:
    """The longest name in FLOORS that the module is, or is in."""
    name = module.removeprefix(PACKAGE).removeprefix(".")
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return name


class FloorTests(SynchronousTestCase):
    def test_imports_are_seen(self) -> None:
        """The walk sees imports: the composition's own are among them."""
        self.assertIn(("twisted_lb.app.build", "twisted_lb.app.services"), set(own_imports()))

    def test_every_part_has_a_floor(self) -> None:
        """Each module stands on a floor, and each part in the table is there."""
        modules = {module_name(file) for file in files()}
        self.assertEqual({module for module in modules if not part_of(module)}, {PACKAGE})
        self.assertEqual({f"{PACKAGE}.{part}".removesuffix(".") for part in FLOORS} - modules, set())

    def test_downwards_only(self) -> None:
        """A module imports from its own part, from lower floors, and from its own floor where that is allowed."""
        for module, target in own_imports():
            part, other = part_of(module), part_of(target)
            if part == other:
                continue
            floor, below = FLOORS[part], FLOORS[other]
            self.assertTrue(below < floor or (below == floor and floor not in APART), f"{module} imports {target}")

    def test_inner_orders(self) -> None:
        """Within a part that has an order, a module imports only what stands before it."""
        for module, target in own_imports():
            order = ORDERS.get(part_of(module))
            if order is None or part_of(target) != part_of(module) or module.count(".") < 2:
                continue
            upper, lower = module.split(".")[2], target.split(".")[2]
            self.assertIn(upper, order)
            self.assertIn(lower, order[: order.index(upper)], f"{module} imports {target}")

    def test_orders_are_complete(self) -> None:
        """Each module of a part that has an order stands in it, and each name in it is a module."""
        for part, order in ORDERS.items():
            modules = {file.stem for file in (ROOT / PACKAGE / part).glob("*.py")} - {"__init__"}
            self.assertEqual(set(order), modules, part)

    def test_no_cycles(self) -> None:
        """No module imports itself over others."""
        graph: dict[str, set[str]] = {}
        for module, target in own_imports():
            graph.setdefault(module, set()).add(target)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            self.fail(" -> ".join(error.args[1]))

    def test_no_relative_imports(self) -> None:
        """Every import is absolute."""
        for file in files():
            for name, _ in imported(file):
                self.assertFalse(name.startswith("."), f"{file}: {name}")

    def test_wire_knows_no_input_output(self) -> None:
        """wire/ imports neither Twisted nor anything that does input, output or time."""
        for file in (ROOT / PACKAGE / "wire").glob("*.py"):
            for name, _ in imported(file):
                self.assertNotIn(name.split(".")[0], NO_INPUT_OUTPUT, f"{file}: {name}")

    def test_reactor_is_an_argument(self) -> None:
        """No module imports the reactor when it is imported, and none below the composition at any time."""
        for file in files():
            below = FLOORS[part_of(module_name(file))] < APP
            for name, at_once in imported(file):
                if at_once or below:
                    self.assertFalse(name.startswith("twisted.internet.reactor"), f"{file}")

    def test_names_say_something(self) -> None:
        """No file has a name that would fit any content."""
        for file in files():
            words = set(file.stem.split("_")) | {file.parent.name}
            self.assertEqual(words & VAGUE_NAMES, set(), f"{file}")

    def test_files_are_short(self) -> None:
        """Each file has at most as many lines as one idea takes, or a reason."""
        for file in files():
            lines = len(file.read_text(encoding="utf-8").splitlines())
            name = str(file.relative_to(ROOT / PACKAGE))
            self.assertTrue(lines <= MAX_LINES or name in LONG_FILES, f"{file} has {lines} lines")


class ReactorChoiceTests(SynchronousTestCase):
    def test_options_install_no_reactor(self) -> None:
        """After the plugin and tap are imported, and the options made, no reactor is installed yet."""
        program = (
            "import sys, twisted.plugins.tokenlb_plugin, twisted_lb.tap\n"
            "str(twisted_lb.tap.Options())\n"
            "print({'twisted.internet.reactor', 'klein', 'treq', 'txredisapi'} & set(sys.modules))"
        )
        path = {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, timeout=60)
        self.assertEqual((done.stdout, done.stderr), ("set()\n", ""))


class StartTests(SynchronousTestCase):
    def test_what_a_start_needs(self) -> None:
        """A start without Redis loads neither its client nor what no request has asked for yet, and the garbage
        collector works when the reactor runs.
        """
        program = (
            "import gc, sys, twisted_lb.tap\n"
            "options = twisted_lb.tap.Options()\n"
            "options.parseOptions(['--listen', 'tcp:0', '--admin-listen', 'tcp:0'])\n"
            "twisted_lb.tap.makeService(options)\n"
            "from twisted.internet import reactor\n"
            "reactor.callWhenRunning(reactor.stop)\n"
            "reactor.run()\n"
            "late = {'prometheus_client', 'treq', 'twisted_lb.api.metrics', 'twisted_lb.api.openapi', 'txredisapi'}\n"
            "print(late & set(sys.modules), gc.isenabled())"
        )
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "servers.yaml").write_text("servers: [{url: 'http://127.0.0.1:1'}]")
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=directory,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((done.stdout, done.stderr), ("set() True\n", ""))


class PatternTests(SynchronousTestCase):
    def test_no_possessive_groups(self) -> None:
        """No pattern repeats a group possessively, which CPython before 3.11.5 matches wrongly (gh-106052)."""
        for file in files():
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
                    text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                    outside = re.sub(r"\[\^?\]?(?:\\.|[^\]\\])*\]", "", text)
                    self.assertIsNone(re.search(r"(?<!\\)\)[*+?]\+", outside), f"{file}: {text}")
