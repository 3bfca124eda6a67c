"""Changes of operators: what is applied, where it is kept, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.stores.certificates import Authority
from twisted_lb.api.changes import ADD, REMOVE, SET, Change, Changed, ChangeRefused, Promotion
from twisted_lb.app.edit_effects import only
from twisted_lb.app.gateway import Gateway
from twisted_lb.app.operator_changes import SHARED, OperatorChanges
from twisted_lb.app.reload import LOOK_SECONDS, ServersFile
from twisted_lb.app.servers_reader import NotRead
from twisted_lb.app.servers_writer import write_text
from twisted_lb.backend import Backend
from twisted_lb.config.edits import Edit, edited
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.servers_schema import ServerModel
from twisted_lb.config.settings import Misconfigured
from twisted_lb.interfaces import IBalancer
from twisted_lb.steps import STEP, finish

TEXT = """\
# What we serve.
pools:
  models:
    servers:
    - {name: a, url: "http://127.0.0.1:1", weight: 3}   # big
    - {name: b, url: "http://127.0.0.1:2"}
  site: {servers: [{name: a, url: "http://127.0.0.1:3"}]}
routes:
- {path: /v1/, pool: models}
- {pool: site}
"""


@implementer(IBalancer)
class AtMostTwo:
    def backends_changed(self, backends: list[Backend]) -> None:
        if len(backends) > 2:
            raise ValueError("too many")

    def choices(self, request: object) -> Any:
        return iter(())


class OperatorCase(SynchronousTestCase):
    text = TEXT
    writing = False

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text(self.text)
        self.clock = Clock()
        self.log: list[str] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)
        self.start()

    def start(self) -> None:
        spec = read_gateway(self.path.read_text(), str(self.path))
        self.gateway = gateway = Gateway(self.clock, spec)
        self.file = ServersFile(
            self.clock,
            str(self.path),
            self.path.read_text(),
            lambda spec, text: gateway.change_in_turns(spec),
            spec=spec,
        )
        self.file.startService()
        self.addCleanup(self.file.stopService)

        def write(before: str, after: str) -> Deferred[None]:
            return maybeDeferred(write_text, str(self.path), before, after)

        self.changes = OperatorChanges(self.clock, self.file, write if self.writing else None)
        self.looks()

    def note(self, event: Any) -> None:
        self.log.append(event["log_format"].format(**event) if event.get("log_format") else "")

    def looks(self, count: int = 5) -> None:
        for _ in range(count):
            self.clock.advance(LOOK_SECONDS)

    def change(self, action: str, pool: str, server: str = "", **keys: Any) -> Changed:
        return self.successResultOf(self.changes.change(Change(action, pool, server, keys)))

    def refusal(self, action: str, pool: str, server: str = "", **keys: Any) -> tuple[int, str]:
        before = self.gateway.spec
        failure = self.failureResultOf(self.changes.change(Change(action, pool, server, keys)), ChangeRefused)
        self.assertIs(self.gateway.spec, before)
        error: Any = failure.value
        return error.status, error.detail

    def servers(self, pool: str = "models") -> list[tuple[str, int, str]]:
        backends = self.gateway.pools[pool].pool.backends
        return [(one.name, one.weight, one.admin_state) for one in backends]


LIMITS = """\
global_limits:
- name: everything   # all of it
  per: all
  shadow: true   # for now
  capacity: 9
  rate_per_sec: 1
limits: [{name: all, per: pool, capacity: 5, rate_per_sec: 1, shadow: true}]
pools:
  models:
    servers: [{url: "http://127.0.0.1:1"}]
    limits:
    - {name: one, per: pool, capacity: 2, rate_per_sec: 0}
    - {shadow: true, name: two, per: key, capacity: 2, rate_per_sec: 0}
  site: {servers: [{url: "http://127.0.0.1:3"}]}
  other: {servers: [{url: "http://127.0.0.1:4"}]}
routes:
- {path: /v1/, pool: models, limits: [{name: burst, per: key, capacity: 3, rate_per_sec: 1, shadow: true}]}
- {pool: site}
"""


class PromotionTests(OperatorCase):
    """Shadow limits that are enforced from now on."""

    text = LIMITS
    writing = True

    def promote(self, kind: str, owner: str, limit: str) -> Changed:
        return self.successResultOf(self.changes.promote(Promotion(kind, owner, limit)))

    def refused(self, kind: str, owner: str, limit: str) -> tuple[int, str]:
        error: Any = self.failureResultOf(self.changes.promote(Promotion(kind, owner, limit)), ChangeRefused).value
        return error.status, error.detail

    def test_it_is_written(self) -> None:
        """The key `shadow` of the limit is removed, and nothing else is changed, comments included."""
        text = LIMITS
        for promotion, old, new in (
            (("all", "", "everything"), "  shadow: true   # for now\n", ""),
            (("pool", "models", "two"), "{shadow: true, name: two", "{name: two"),
            (("route", "/v1/", "burst"), "rate_per_sec: 1, shadow: true}]}", "rate_per_sec: 1}]}"),
        ):
            changed = self.promote(*promotion)
            self.assertEqual((changed.before, changed.after), ({"shadow": True}, {"shadow": False}))
            text = text.replace(old, new)
            self.assertEqual(self.path.read_text(), text)
        spec = self.gateway.spec
        limits = [*spec.limits, *spec.pools[0].limits, *spec.routes[0].limits]
        self.assertEqual([limit.shadow for limit in limits], [False] * 4)

    def test_refusals(self) -> None:
        """What is not there is 404, what is no shadow or is that of other pools as well is 409; the file stays."""
        for promotion, status, detail in (
            (("all", "", "x"), 404, "The list global_limits has no limit 'x'."),
            (("route", "/v2/", "burst"), 404, "There is no route '/v2/'."),
            (("route", "/v1/", "one"), 404, "The route /v1/ has no limit 'one'."),
            (("pool", "x", "one"), 404, "There is no pool 'x'."),
            (("pool", "models", "one"), 409, "The limit one is no shadow: it is enforced already."),
            (("pool", "site", "all"), 409, SHARED),
        ):
            self.assertEqual(self.refused(*promotion), (status, detail))
        self.assertEqual(self.path.read_text(), LIMITS)

    def test_all_are_listed(self) -> None:
        """The limits of routes, of pools with those of the top, and of all routes are listed in their order."""
        found = [(one["of"], one["name"], one["shadow"], one["bucket"]) for one in self.changes.limits()]
        self.assertEqual(
            found,
            [
                ("route /v1/", "burst", True, None),
                ("pool models", "one", False, "limit:pool|models|one"),
                ("pool models", "two", True, None),
                ("pool site", "all", True, "limit:pool|site|all"),
                ("pool other", "all", True, "limit:pool|other|all"),
                ("all", "everything", True, "limit:all||everything"),
            ],
        )
        subjects = ["limit:route|/v1/|burst|key:3:1.0", "limit:route|/v1/|burst|network:3:1.0"]
        self.assertEqual(self.changes.limits()[0]["subjects"], subjects)


class LivePromotionTests(OperatorCase):
    text = LIMITS

    def test_it_is_live(self) -> None:
        """Without ADMIN_WRITES=file the file stays, and the change is among those that the file does not have."""
        self.successResultOf(self.changes.promote(Promotion("route", "/v1/", "burst")))
        self.assertEqual(self.path.read_text(), LIMITS)
        self.assertFalse(self.gateway.spec.routes[0].limits[0].shadow)
        shown = {"limit": "burst", "of": "route /v1/", "before": {"shadow": True}, "after": {"shadow": False}}
        self.assertEqual(self.changes.live_changes(), [{"pool": None, "server": None, **shown}])
        self.path.write_text(LIMITS.replace("127.0.0.1:1", "127.0.0.1:8"))
        self.looks()
        self.assertTrue(self.log[-1].endswith("over the admin API: route /v1/ burst"), self.log[-1])


class LiveTests(OperatorCase):
    def test_servers(self) -> None:
        """Servers are added, changed and removed; those that stay are the same objects."""
        a, b = self.gateway.pools["models"].pool.backends
        self.assertEqual(
            self.change(SET, "models", "a", weight=1), Changed("a", {"weight": 3}, {"weight": 1})
        )
        self.change(SET, "models", "b", admin_state="drain")
        added = self.change(ADD, "models", url="http://127.0.0.1:4", maxconn=5)
        self.assertEqual((added.server, added.before, added.after["maxconn"]), ("127.0.0.1:4", {}, 5))
        self.assertEqual(self.servers(), [("a", 1, "ready"), ("b", 1, "drain"), ("127.0.0.1:4", 1, "ready")])
        removed = self.change(REMOVE, "models", "a")
        self.assertEqual((removed.before["url"], removed.after), ("http://127.0.0.1:1", {}))
        self.assertEqual([one[0] for one in self.servers()], ["b", "127.0.0.1:4"])
        self.assertIs(self.gateway.pools["models"].pool.backends[0], b)
        self.assertEqual((a.weight, a.reason), (0, "removed"))
        self.assertEqual(self.path.read_text(), TEXT)

    def test_defaults(self) -> None:
        """None stands for the default, also of what was not set."""
        self.change(SET, "models", "a", weight=None, maxconn=None)
        self.assertEqual(self.servers()[0], ("a", 1, "ready"))

    def test_nothing(self) -> None:
        """What is so already is no change."""
        spec = self.gateway.spec
        for keys in ({"weight": 3}, {"admin_state": "ready"}, {"maxconn": None}):
            self.assertEqual(self.change(SET, "models", "a", **keys), Changed("a", {}, {}))
        self.assertIs(self.gateway.spec, spec)
        self.assertEqual(self.changes.live_changes(), [])

    def test_maintenance(self) -> None:
        """A pool is put into maintenance and taken out again."""
        self.assertEqual(self.change(SET, "site", maintenance=30).after, {"maintenance": 30})
        self.assertEqual([one["maintenance"] for one in self.changes.pools()], [0, 30])
        self.assertEqual(self.change(SET, "site", maintenance=None).after, {"maintenance": 0})
        self.assertEqual(self.changes.live_changes(), [])

    def test_list_of_changes(self) -> None:
        """Changes of one server are one, from what the file says to what is now."""
        self.change(SET, "models", "a", weight=1)
        self.change(SET, "models", "a", weight=2, admin_state="disabled")
        self.change(ADD, "site", name="n", url="http://127.0.0.1:9")
        self.change(SET, "site", "n", weight=7)
        self.change(REMOVE, "models", "b")
        a, n, b = self.changes.live_changes()
        before, after = {"weight": 3, "admin_state": "ready"}, {"weight": 2, "admin_state": "disabled"}
        self.assertEqual(a, {"pool": "models", "server": "a", "before": before, "after": after})
        self.assertEqual((n["before"], n["after"]["weight"]), (None, 7))
        self.assertEqual((b["before"]["url"], b["after"]), ("http://127.0.0.1:2", None))
        self.change(SET, "models", "a", weight=3, admin_state="ready")
        self.change(REMOVE, "site", "n")
        self.change(ADD, "models", name="b", url="http://127.0.0.1:2")
        self.assertEqual(self.changes.live_changes(), [])
        self.change(REMOVE, "models", "a")
        self.change(ADD, "models", name="a", url="http://127.0.0.1:1", weight=8)
        [a] = self.changes.live_changes()
        self.assertEqual((a["before"], a["after"]), ({"weight": 3}, {"weight": 8}))

    def test_every_key(self) -> None:
        """A change of any key is shown, together with those before it, and ends when each key is as in the file."""
        self.change(ADD, "models", name="c", url="https://c.example", tls={"verify": False})
        others: dict[str, Any] = {
            "weight": 9,
            "maxconn": 9,
            "backup": True,
            "slowstart": 9,
            "send_proxy": "v1",
            "health_check": {"path": "/other"},
            "admin_state": "drain",
            "expand": False,
        }
        self.assertEqual({"name", "url", "tls", *others}, set(ServerModel.model_fields))
        for number, (key, value) in enumerate(others.items(), 1):
            changed = self.change(SET, "models", "a", **{key: value})
            self.assertEqual((set(changed.before), set(changed.after)), ({key}, {key}))
            [_, a] = self.changes.live_changes()
            self.assertEqual((set(a["before"]), set(a["after"])), (set(others) & {*list(others)[:number]},) * 2)
        for key, value in {**dict.fromkeys(others), "weight": 3}.items():
            self.change(SET, "models", "a", **{key: value})
        self.assertEqual([one["server"] for one in self.changes.live_changes()], ["c"])
        Authority(self.path.parent, "ca")
        changed = self.change(SET, "models", "c", tls={"verify": False, "ca_file": "ca.pem"})
        self.assertEqual(changed.after["tls"]["ca_file"], str(self.path.absolute().with_name("ca.pem")))

    def test_reload(self) -> None:
        """Another file drops the changes, and the log says which; a file that was only touched does not."""
        self.change(SET, "models", "a", weight=1)
        self.change(SET, "site", maintenance=60)
        os.utime(self.path, (1, 1))
        self.looks()
        self.file.read(True)
        self.assertEqual(self.servers()[0][1], 1)
        self.path.write_text(TEXT.replace("127.0.0.1:2", "127.0.0.1:8"))
        self.looks()
        self.assertEqual(self.servers()[0][1], 3)
        self.assertEqual(self.changes.live_changes(), [])
        self.assertIn("dropped what operators had changed over the admin API: models/a, site", self.log[-1])

    def test_bad_file(self) -> None:
        """A file that is rejected drops nothing."""
        self.change(SET, "models", "a", weight=1)
        self.path.write_text("servers: 3")
        self.looks()
        self.assertEqual((self.servers()[0][1], len(self.changes.live_changes())), (1, 1))

    def test_secret_that_changes(self) -> None:
        """The changes hold when only a file that the servers file names has changed."""
        secret = self.path.with_suffix(".secret")
        secret.write_text("one")
        rules = f"request_headers: {{set: {{X: '${{file:{secret.name}}}'}}}}, "
        self.path.write_text(TEXT.replace("site: {", f"site: {{{rules}"))
        self.looks()
        self.change(SET, "models", "a", weight=1)
        secret.write_text("another")
        self.looks()
        self.assertIn("was reloaded", self.log[-1])
        self.assertEqual((self.servers()[0][1], len(self.changes.live_changes())), (1, 1))

    def test_refused(self) -> None:
        """What is not there, is there already, or is not valid changes nothing."""
        for arguments, keys, status, detail in (
            ((SET, "nope", "a"), {"weight": 1}, 404, "There is no pool 'nope'."),
            ((SET, "models", "nope"), {"weight": 1}, 404, "The pool models has no server 'nope'."),
            ((REMOVE, "models", "a@10.0.0.1:1"), {}, 409, "a@10.0.0.1:1 is one of the servers that a stands for"),
            ((REMOVE, "models", "nope"), {}, 404, "The pool models has no server 'nope'."),
            ((SET, "nope"), {"maintenance": 1}, 404, "There is no pool 'nope'."),
            ((ADD, "models"), {"name": "a", "url": "http://x"}, 409, "The pool models has a server 'a' already."),
            ((REMOVE, "site", "a"), {}, 409, "It is the only server of the pool site, which needs one: disable it"),
            ((ADD, "models"), {"name": "x"}, 400, "url: is missing; expected a text of the form http://host"),
            ((ADD, "models"), {"url": "nonsense"}, 400, "url: expected http://host[:port]"),
            ((ADD, "models"), {"url": "http://a", "x": 1}, 400, "x: unknown key; expected one of name, url"),
            ((SET, "models", "a"), {"weight": -1}, 400, "weight: expected a whole number from 0 (drain) to 1000, not"),
            ((SET, "models", "a"), {"weight": "1"}, 400, "weight: expected a whole number"),
            ((SET, "models", "a"), {"wieght": None}, 400, "wieght: unknown key; did you mean 'weight'?"),
            ((SET, "models", "a"), {"": 1}, 400, "unknown key; expected one of name, url"),
            ((SET, "models", "a"), {"url": "http://b"}, 400, "url: expected none: add another server"),
            ((SET, "site"), {"maintenance": "x"}, 400, "pools.site.maintenance: expected a time from 1s to 24h"),
            ((ADD, "models"), {"url": "https://t", "tls": {"ca_file": "/none"}}, 400, "pools.models.servers[2].tls.ca"),
        ):
            found = self.refusal(*arguments, **keys)
            self.assertEqual((found[0], found[1][: len(detail)]), (status, detail))
            self.assertRegex(found[1], r"[^.?][.?]$")

    def test_values_of_references(self) -> None:
        """What references stand for is neither among the live changes nor in what a change has changed."""
        secret = self.path.with_suffix(".secret")
        secret.write_text("s3cret")
        check = f"health_check: {{path: '/${{file:{secret.name}}}'}}"
        self.path.write_text(TEXT.replace("weight: 3", check))
        self.looks()
        changed = self.change(SET, "models", "a", health_check={"path": "/x"})
        self.assertEqual(changed.before["health_check"]["path"], "(made of a reference)")
        self.assertEqual(changed.after["health_check"]["path"], "/x")
        self.change(SET, "models", "a", health_check=None)
        self.path.write_text(self.path.read_text() + "\n")
        self.looks()
        self.assertNotIn("s3cret", repr([self.change(REMOVE, "models", "a"), self.changes.live_changes()]))

    def test_not_read(self) -> None:
        """A process that cannot read the file is not the fault of the change."""
        self.patch(self.file, "edited", lambda edit: fail(NotRead(["servers.yaml: the process was killed"])))
        refused = self.refusal(SET, "models", "a", weight=1)
        self.assertEqual(refused, (503, "Nothing was changed: servers.yaml: the process was killed."))

    def test_references_in_bodies(self) -> None:
        """A text of a change stands for itself: it cannot show the environment."""
        for url in ("http://${PATH}", "http://$${PATH}"):
            self.assertEqual(self.refusal(ADD, "models", url=url)[0], 400)
        self.assertEqual(self.refusal(ADD, "models", name="${HOME}", url="http://a")[0], 400)


class OnlyTests(SynchronousTestCase):
    def test_steps(self) -> None:
        """Many servers, pools or routes are compared in steps, between which clients are served."""
        edit = Edit("p", "a", {"weight": 2})
        head = "pools:\n  p: {servers: [{name: a, url: 'http://a'}%s]}\n%sroutes:\n- {pool: p}\n%s"
        many = range(2 * STEP)
        for servers, pools, routes in (
            ("".join(f", {{url: 'http://s{number}'}}" for number in many), "", ""),
            ("", "".join(f"  p{number}: {{servers: [{{url: 'http://a'}}]}}\n" for number in many), ""),
            ("", "", "".join(f"- {{path: /{number}/, pool: p}}\n" for number in many)),
        ):
            text = head % (servers, pools, routes)
            before, after = (read_gateway(one, "x.yaml") for one in (text, edited(text, edit)))
            self.assertGreaterEqual(len(list(only(edit, before, after))), 2)
            self.assertTrue(finish(only(edit, before, after)))
            self.assertFalse(finish(only(edit._replace(server="b"), before, after)))
            self.assertFalse(finish(only(edit, before, replace(after, routes=after.routes[::-1]))) and routes)
            self.assertFalse(finish(only(edit, before, replace(after, pools=after.pools[::-1]))) and pools)


class AliasTests(OperatorCase):
    text = """\
pools:
  one: {servers: &both [{name: a, url: "http://127.0.0.1:1"}, {name: b, url: "http://127.0.0.1:2"}]}
  two: {servers: *both}
routes: [{path: /v1/, pool: one}, {pool: two}]
"""

    def test_shared(self) -> None:
        """What YAML shares between pools is not changed in both by a change of one."""
        for pool in ("one", "two"):
            for change in ((SET, pool, "a"), (REMOVE, pool, "a")):
                self.assertEqual(self.refusal(*change, weight=2)[0], 409)


class ListTests(OperatorCase):
    text = "pools:\n  models:\n    # no servers\n    discover: {file: none.json}\n"
    writing = True

    def test_only_server(self) -> None:
        """A pool with a list needs no servers in the file, so what was added is removed again."""
        for _ in range(2):
            self.change(ADD, "models", name="n", url="http://127.0.0.1:9")
            self.change(REMOVE, "models", "n")
            self.assertEqual((self.servers(), self.path.read_text()), ([], self.text))

    def test_in_the_list(self) -> None:
        """The server may be in the list, which is not changed."""
        status, detail = self.refusal(REMOVE, "models", "x")
        self.assertEqual(status, 404)
        self.assertIn("no server 'x' in the servers file; those of its list are changed in /", detail)


class AnchorTests(OperatorCase):
    text = "servers:\n- {name: a, url: http://a, weight: &w 2}\n- {name: b, url: http://b, weight: *w}\n"

    def test_needed_elsewhere(self) -> None:
        """What the file would be no YAML without is not the fault of the change."""
        for action, keys in ((SET, {"weight": 7}), (REMOVE, {})):
            status, detail = self.refusal(action, "default", "a", **keys)
            self.assertEqual((status, detail[:44]), (409, "This cannot be changed in the servers file: "))


class OnePoolTests(OperatorCase):
    text = "maintenance: 30s\nservers: [{name: a, url: 'http://127.0.0.1:1'}]\n"

    def test_maintenance(self) -> None:
        """The pool of the short form is named as in metrics; maintenance that the file has is ended."""
        self.change(SET, "default", maintenance=None)
        self.assertEqual(self.changes.pools()[0], {"name": "default", "balancer": "round_robin", "maintenance": 0})


class GeneralMaintenanceTests(OperatorCase):
    text = "maintenance: true\n" + TEXT

    def test_general(self) -> None:
        """A pool leaves the maintenance of all pools alone."""
        self.change(SET, "site", maintenance=None)
        self.assertEqual([one["maintenance"] for one in self.changes.pools()], [60, 0])


class BalancerTests(OperatorCase):
    text = TEXT.replace("  models:\n", f"  models:\n    balancer: {__name__}:AtMostTwo\n")
    writing = True

    def test_rejected(self) -> None:
        """What the balancer does not accept is undone, in the file as well."""
        status, detail = self.refusal(ADD, "models", url="http://127.0.0.1:4")
        self.assertEqual((status, detail), (409, "it rejected the servers: ValueError('too many')."))
        self.assertEqual(self.path.read_text(), self.text)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.change(SET, "models", "a", weight=1)


class FormerTextTests(OperatorCase):
    writing = True

    def swap(self, error: Exception, meanwhile: Any) -> None:
        def rejected(read: Any) -> Any:
            self.written = self.path.read_text()
            meanwhile()
            return fail(error)

        self.patch(self.file, "swap_in", rejected)

    def test_it_cannot_be_written_back(self) -> None:
        """A rejected change that stays in the file is reported with it, and not as one that has changed nothing."""
        other = TEXT + "# another hand"
        self.swap(Misconfigured(["pools.models: too many"]), lambda: self.path.write_text(other))
        status, detail = self.refusal(SET, "models", "a", weight=1)
        self.assertEqual(status, 409)
        self.assertIn("too many. It is not in use, but the servers file has the change, and keeps it: ", detail)
        self.assertNotIn("Nothing was changed", detail)
        self.assertEqual(self.path.read_text(), other)

    def test_any_failure(self) -> None:
        """Whatever fails while a change is applied, the file has its former text afterwards."""
        self.swap(ZeroDivisionError(), lambda: None)
        self.failureResultOf(self.changes.change(Change(SET, "models", "a", {"weight": 1})), ZeroDivisionError)
        self.assertIn("weight: 1", self.written)
        self.assertEqual(self.path.read_text(), TEXT)


class FileTests(OperatorCase):
    writing = True

    def test_written(self) -> None:
        """A change is in the file, whose other parts are as before, and the watch of the file does nothing more."""
        self.path.chmod(0o640)
        self.change(SET, "models", "a", weight=1)
        self.change(SET, "models", "b", admin_state="drain")
        expected = TEXT.replace("weight: 3", "weight: 1").replace(':2"}', ':2", admin_state: drain}')
        self.assertEqual(self.path.read_text(), expected)
        self.assertEqual(os.stat(self.path).st_mode & 0o7777, 0o640)
        spec = self.gateway.spec
        before = len(self.log)
        self.looks()
        self.assertIs(self.gateway.spec, spec)
        self.assertEqual(self.log[before:], [])
        self.assertEqual(self.changes.live_changes(), [])
        self.start()
        self.assertEqual(self.servers(), [("a", 1, "ready"), ("b", 1, "drain")])
        self.assertEqual([one.name for one in self.path.parent.glob(".*") if self.path.name in one.name], [])

    def test_line_ends(self) -> None:
        """Every line that does not change keeps its line end; others have that of the first line."""
        for ends in (("\r\n",), ("\r",), ("\n", "\r\n", "\n"), ("\r\n", "\n", "\r")):
            lines = TEXT.splitlines()
            content = "".join(line + ends[number % len(ends)] for number, line in enumerate(lines)).encode()
            self.path.write_bytes(content)
            self.looks()
            self.change(SET, "models", "a", weight=9)
            place = lines.index(next(line for line in lines if "weight: 3" in line))
            end = ends[place % len(ends)].encode()
            old, new = lines[place].encode() + end, lines[place].replace("3}", "9}").encode() + ends[0].encode()
            self.assertEqual(self.path.read_bytes(), content.replace(old, new))

    def test_changed_by_hand(self) -> None:
        """A file that somebody has changed is not overwritten."""
        other = TEXT.replace("# What", "# Whatever")
        self.path.write_text(other)
        status, detail = self.refusal(SET, "models", "a", weight=1)
        self.assertEqual(status, 409)
        self.assertIn("was changed, and has not been reloaded yet", detail)
        self.assertEqual(self.path.read_text(), other)
        self.looks()
        self.change(SET, "models", "a", weight=1)
        self.assertEqual(self.path.read_text(), other.replace("weight: 3", "weight: 1"))

    def test_read_meanwhile(self) -> None:
        """A reload that has waited for a change does not bring back what was in the file before."""
        secret = self.path.with_suffix(".secret")
        secret.write_text("one")
        rules = f"request_headers: {{set: {{X: '${{file:{secret.name}}}'}}}}, "
        self.path.write_text(TEXT.replace("site: {", f"site: {{{rules}"))
        self.looks()
        written: Deferred[None] = Deferred()
        write = self.changes._write
        assert write is not None
        self.changes._write = lambda before, after: written.addCallback(lambda _: write(before, after))
        done = self.changes.change(Change(SET, "models", "a", {"weight": 1}))
        secret.write_text("another")
        self.file.read(True)
        written.callback(None)
        self.successResultOf(done)
        self.looks()
        self.assertEqual(self.servers()[0][1], 1)
        self.assertEqual(sum("was reloaded" in line for line in self.log), 2)

    def test_read_only(self) -> None:
        """A file that must not be written is left alone, and so is the program."""
        self.patch(os, "access", lambda path, mode: False)
        status, detail = self.refusal(SET, "models", "a", weight=1)
        self.assertEqual((status, detail.endswith("cannot be written: it is read-only.")), (503, True))

    def test_no_room(self) -> None:
        """When the text cannot be written whole, the file is as before, and nothing is left beside it."""

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        before = sorted(self.path.parent.iterdir())
        self.assertIn("No space left on device", self.refusal(SET, "models", "a", weight=1)[1])
        self.assertEqual((self.path.read_text(), sorted(self.path.parent.iterdir())), (TEXT, before))

    def test_directory_that_cannot_be_synced(self) -> None:
        """Some file systems cannot sync a directory: the text is in the file, so it is used."""
        sync = os.fsync

        def files_only(descriptor: int) -> None:
            if S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(22, "Invalid argument")
            sync(descriptor)

        self.patch(os, "fsync", files_only)
        self.change(SET, "models", "a", weight=1)
        self.assertEqual(self.path.read_text(), TEXT.replace("weight: 3", "weight: 1"))
        self.assertEqual(self.servers()[0][1], 1)

    def test_link(self) -> None:
        """A symbolic link stays one, and line ends stay what they are."""
        target = self.path.with_suffix(".target")
        target.write_bytes(TEXT.replace("\n", "\r\n").encode())
        self.path.unlink()
        self.path.symlink_to(target.absolute())
        self.start()
        self.change(SET, "models", "a", weight=1)
        self.assertTrue(self.path.is_symlink())
        self.assertEqual(target.read_bytes(), TEXT.replace("weight: 3", "weight: 1").replace("\n", "\r\n").encode())

    def test_references(self) -> None:
        """References stay as they are written."""
        self.patch(os, "environ", {**os.environ, "MODEL_HOST": "127.0.0.9"})
        text = TEXT.replace('name: b, url: "http://127.0.0.1:2"', 'url: "http://${MODEL_HOST}:2"')
        self.path.write_text(text)
        self.start()
        self.change(SET, "models", "127.0.0.9:2", weight=4)
        self.assertEqual(self.path.read_text(), text.replace('}:2"}', '}:2", weight: 4}'))
