"""What the commands ask for, and what they print."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from tests.cli.command import SET, UNSET, URL, Server, problem, ran, response
from twisted_lb.cli import display, options
from twisted_lb.cli.main import run
from twisted_lb.cli.program import check
from twisted_lb.tap import Options

KEY = {
    "key_id": "key_1",
    "label": "laptop",
    "state": "active",
    "created_at": "2026-11-28T00:10:02Z",
    "expires_at": None,
    "last_used": "2026-11-28T09:31:00Z",
}
USER = {
    "name": "ann",
    "capacity": 5,
    "rate_per_sec": 0.5,
    "current_capacity": 4,
    "disabled": False,
    "metadata": {},
    "created_at": "2026-11-28T00:10:02Z",
    "keys": [KEY],
}
FOUND = response({**KEY, "user": "a/b"})
SERVERS = [{"name": "s1", "pool": "p", "url": "http://x"}, {"name": "s2", "pool": "p"}, {"name": "s2", "pool": "q"}]


class UserTests(SynchronousTestCase):
    def test_pages(self) -> None:
        """All pages are read, also after one without users; each asks for no more than what is still wanted."""
        pages = [([USER] * 200, "m"), ([], "n"), ([USER] * 2, None)]
        server = Server(*(response({"users": found, "next": after}) for found, after in pages))
        found = ran(["users", "list", "--json", "--limit", "300", "--name", "a&b", "--disabled"], server)
        self.assertEqual((len(found.document["users"]), found.document["next"]), (202, None))
        filters = "/users?name=a%26b&disabled=true&"
        self.assertEqual(
            [asked.target for asked in server.asked],
            [f"{filters}limit=200", f"{filters}after=m&limit=100", f"{filters}after=n&limit=100"],
        )

    def test_limit(self) -> None:
        """The list ends at the limit, and says how to go on."""
        server = Server(response({"users": [USER], "next": "ann"}))
        found = ran(["users", "list", "--limit", "1"], server)
        self.assertIn("--after ann", found.err)
        lines = [line.split() for line in found.out.splitlines()]
        self.assertEqual(lines[1], ["ann", "no", "5", "0.5", "4", "1", "2026-11-28T09:31:00Z"])
        self.assertEqual(len(lines), 2)

    def test_terminal_control(self) -> None:
        """What a server sends does not control the terminal, nor does an error."""
        evil = "a\x1b]0;x\x07\u202eb\x9b\nc"
        user: dict[str, Any] = {**USER, "name": evil, "metadata": {evil: evil}, "keys": [{**KEY, "label": evil}]}
        for arguments in (["users", "show", "x"], ["users", "show", "x", "--json"]):
            found = ran(arguments, Server(response(user)))
            self.assertEqual(set(found.out) & {"\x1b", "\x07", "\u202e", "\x9b"}, set(), found.out)
        self.assertIn(r"a\x1b]0;x\x07\u202eb\x9b\x0ac", ran(["users", "show", "x"], Server(response(user))).out)
        self.assertNotIn("\x1b", ran(["users", "show", "x"], Server(problem(404, evil))).err)

    def test_create(self) -> None:
        """Only what is given is sent; the key is printed once, and that it is so is no part of the result."""
        server = Server(response({**USER, "api_key": "k-1"}, 201))
        found = ran(["users", "create", "ann", "--rate", "0.5", "--expires", "never"], server)
        self.assertEqual(server.asked[0].body, {"name": "ann", "rate_per_sec": 0.5, "expires_at": None})
        self.assertIn("api_key           k-1\n", found.out)
        self.assertIn("shown only now", found.err)

    def test_set(self) -> None:
        """A change of the user and one of the level are two requests; nothing to change is an error."""
        server = Server(response(USER), response(USER))
        arguments = ["users", "set", "ann", "--capacity", "9", "--metadata", '{"plan": "gold"}', "--level", "3"]
        self.assertEqual(ran(arguments, server).status, 0)
        patch, put = server.asked
        self.assertEqual((patch.method, patch.body), ("PATCH", {"capacity": 9, "metadata": {"plan": "gold"}}))
        self.assertEqual((put.target, put.body), ("/users/ann/level", {"current_capacity": 3}))
        server = Server(response(USER))
        ran(["users", "set", "ann", "--level", "full"], server)
        self.assertEqual(server.asked[0].body, b"")
        self.assertEqual(ran(["users", "set", "ann"], Server()).status, 2)
        self.assertEqual(ran(["users", "set", "ann", "--level", "x"], Server()).status, 2)

    def test_quota(self) -> None:
        """A quota is set, removed, and told what was used; half of one is an error of usage."""
        server = Server(response(USER), response(USER))
        arguments = ["users", "set", "ann", "--quota-requests", "9", "--quota-per", "day"]
        self.assertEqual(ran([*arguments, "--time-zone", "Asia/Kolkata", "--quota-used", "3"], server).status, 0)
        patch, put = server.asked
        self.assertEqual(patch.body, {"quota": {"requests": 9, "per": "day", "time_zone": "Asia/Kolkata"}})
        self.assertEqual((put.method, put.target, put.body), ("PUT", "/users/ann/quota", {"used": 3}))
        server = Server(response(USER))
        ran(["users", "set", "ann", "--no-quota"], server)
        self.assertEqual(server.asked[0].body, {"quota": None})
        server = Server(response({**USER, "api_key": "k-1"}, 201))
        ran(["users", "create", "ann", "--quota-tokens", "5", "--quota-per", "month"], server)
        self.assertEqual(server.asked[0].body, {"name": "ann", "quota": {"tokens": 5, "per": "month"}})
        for wrong in (
            ["--quota-requests", "9"],
            ["--quota-per", "day"],
            ["--quota-requests", "9", "--quota-tokens", "9", "--quota-per", "day"],
            ["--no-quota", "--quota-used", "0"],
            ["--quota-requests", "9", "--quota-per", "week"],
        ):
            server = Server()
            self.assertEqual((ran(["users", "set", "ann", *wrong], server).status, server.asked), (2, []), wrong)

    def test_shadow_policies(self) -> None:
        """A shadow policy is set as a whole, removed, shown with what it would have refused, and promoted."""
        server = Server(response(USER), response(USER))
        ran(["users", "set", "ann", "--shadow-capacity", "9", "--shadow-rate", "0.5"], server)
        ran(["users", "set", "ann", "--no-shadow"], server)
        shadow = {"capacity": 9, "rate_per_sec": 0.5}
        self.assertEqual([one.body for one in server.asked], [{"shadow": shadow}, {"shadow": None}])
        for arguments in (["--shadow-rate", "1"], ["--shadow-capacity", "1"], ["--no-shadow", "--shadow-rate", "1"]):
            self.assertEqual(ran(["users", "set", "ann", *arguments], Server()).status, 2)
            if "--no-shadow" not in arguments:
                self.assertEqual(ran(["users", "create", "ann", *arguments], Server()).status, 2)
        server = Server(response({**USER, "api_key": "k-1"}, 201))
        ran(["users", "create", "ann", "--shadow-capacity", "9", "--shadow-rate", "0.5"], server)
        self.assertEqual(server.asked[0].body, {"name": "ann", "shadow": shadow})
        counts = {"hour": {"requests": 90211, "would_refuse": 312}, "day": {"requests": 90211, "would_refuse": 0}}
        server = Server(response({"name": "ann", **shadow, "current_capacity": 3, **counts}), response(USER))
        found = ran(["users", "shadow", "ann"], server)
        self.assertIn("last hour  would have refused 312 of 90,211\n", found.out)
        self.assertEqual(ran(["users", "promote", "ann"], server).status, 0)
        targets = ["/users/ann/shadow", "/users/ann/shadow/promote"]
        self.assertEqual([one.target for one in server.asked], targets)
        self.assertEqual(server.asked[1].method, "POST")

    def test_limits(self) -> None:
        """Limits are listed with what shadows would have refused; one of a route, a pool or all is promoted."""
        counts = {"hour": {"requests": 4, "would_refuse": 1}, "day": None}
        limit = {"name": "burst", "of": "route /v1/", "per": "key", "capacity": 3, "rate_per_sec": 1, "level": None}
        shown = [{**limit, "shadow": True, **counts}, {**limit, "shadow": False}]
        found = ran(["limits", "list"], Server(response({"limits": shown})))
        self.assertEqual(found.out.count("would have refused 1 of 4"), 1)
        found = ran(["limits", "list", "--json"], Server(response({"limits": shown})))
        self.assertEqual(found.document["limits"], shown)
        for arguments, target in (
            (["--route", "/v1/"], "/routes/%2Fv1%2F/limits/burst/promote"),
            (["--pool", "p"], "/pools/p/limits/burst/promote"),
            ([], "/limits/burst/promote"),
        ):
            server = Server(response(shown[1]))
            self.assertEqual(ran(["limits", "promote", "burst", *arguments], server).status, 0)
            self.assertEqual((server.asked[0].method, server.asked[0].target), ("POST", target))
        self.assertEqual(ran(["limits", "promote", "x", "--route", "a", "--pool", "b"], Server()).status, 2)

    def test_wrong_values(self) -> None:
        """Values that cannot be sent are errors of usage, before anything is asked."""
        for arguments in (
            ["users", "show", ""],
            ["users", "show", "\udcff"],
            ["users", "create", "ann", "--metadata", "[]"],
            ["users", "create", "ann", "--expires", "30"],
            ["users", "list", "--unused-since", "never"],
            ["users", "list", "--limit", "0"],
            ["users", "list", "--name", "\udcff"],
            ["keys", "rotate", "key_1", "--grace", "1h", "--idempotency-key", "a\nb: c"],
            ["explain", "host"],
        ):
            server = Server()
            found = ran([*arguments, "--json"], server)
            self.assertEqual((found.status, found.out, server.asked), (2, "", []))
            self.assertEqual(found.error["exit_status"], 2)


class TerminalTests(SynchronousTestCase):
    def _shown(self, label: str, **environment: str) -> str:
        keys = [{**KEY, "label": label}, {**KEY, "state": "revoked", "created_at": "2026-11-28T00:10:02.123456Z"}]
        with CliRunner().isolation(b"", {**SET, "TERM": "xterm", "COLUMNS": "200", **environment}) as (out, _, _):
            self.patch(display.sys.stdout, "isatty", lambda: True)
            self.assertEqual(run(["keys", "list", "ann"], Server(response({"name": "ann", "keys": keys}))), 0)
            return out.getvalue().decode()

    def test_colours(self) -> None:
        """On a terminal states have colours, unless NO_COLOR is set."""
        self.assertIn("\x1b[32mactive", self._shown("x"))
        self.assertIn("\x1b[31mrevoked", self._shown("x"))
        self.assertNotIn(".123456Z", self._shown("x"))
        self.assertNotRegex(self._shown("x", NO_COLOR="1"), r"\x1b\[[0-9;]*3[0-9]m")

    def test_labels_are_shown_as_they_are(self) -> None:
        """A label is neither markup nor control of the terminal."""
        self.assertIn(r"[red]a\x1b[2Jb[/red]", self._shown("[red]a\x1b[2Jb[/red]"))


class ConfirmationTests(SynchronousTestCase):
    COMMANDS = (
        (["users", "delete", "ann"], [response(None, 204)]),
        (["keys", "revoke", "key_1"], [FOUND, response({**KEY, "user": "a/b"})]),
        (["keys", "rotate", "key_1", "--grace", "0"], [FOUND, response({**KEY, "user": "a/b", "api_key": "k"}, 201)]),
        (["servers", "remove", "s1"], [response(SERVERS), response(None, 204)]),
    )

    def _changes(self, server: Server) -> int:
        return sum(asked.method != "GET" for asked in server.asked)

    def test_without_a_terminal(self) -> None:
        """What cannot be undone needs --yes where nobody can be asked."""
        for arguments, answers in self.COMMANDS:
            server = Server(*answers)
            found = ran(arguments, server, b"y\n")
            self.assertEqual((found.status, server.asked), (2, []))
            self.assertIn("--yes", found.err)
            server = Server(*answers)
            self.assertEqual(ran([*arguments, "--yes"], server).status, 0)
            self.assertEqual(self._changes(server), 1)

    def test_at_a_terminal(self) -> None:
        """A person is asked; only a yes makes the change."""
        for arguments, answers in self.COMMANDS:
            for text, status in ((b"y\n", 0), (b"n\n", 1), (b"\n", 1), (b"", 130)):
                server = Server(*answers)
                with CliRunner().isolation(text, SET) as (_, _, terminal):
                    self.patch(options.sys.stdin, "isatty", lambda: True)
                    self.assertEqual(run(arguments, server), status)
                    # The runner's stand-in for a terminal shows a question when it is answered.
                    self.assertEqual(b"This cannot be undone. [y/N]" in terminal.getvalue(), bool(text))
                self.assertEqual(self._changes(server), int(status == 0))


class KeyTests(SynchronousTestCase):
    def test_user_is_found(self) -> None:
        """A key is changed below its user, whose name is encoded."""
        for arguments, method, body in (
            (["disable", "key_1"], "POST /disable", b""),
            (["enable", "key_1"], "POST /enable", b""),
            (["expire", "key_1"], "POST /expire", b""),
            (["expire", "key_1", "--at", "never"], "PATCH ", {"expires_at": None}),
            (["label", "key_1", ""], "PATCH ", {"label": ""}),
        ):
            server = Server(FOUND, FOUND)
            self.assertEqual(ran(["keys", *arguments], server).status, 0)
            word, rest = method.split(" ")
            self.assertEqual(server.asked[0].target, "/keys/key_1")
            self.assertEqual(server.asked[1][:2], (word, f"/users/a%2Fb/keys/key_1{rest}"))
            self.assertEqual(server.asked[1].body, body)

    def test_lost_answer(self) -> None:
        """When the answer with a new key is lost, the message has what gives the same key again."""
        for answer in (b"", problem(503, "Whether this was stored is not known.")):
            server = Server(FOUND, answer)
            found = ran(["keys", "rotate", "key_1", "--grace", "1h", "--json"], server)
            sent = server.asked[1].fields["Idempotency-Key"]
            self.assertEqual(found.error["idempotency_key"], sent)
            self.assertIn(f"--idempotency-key {sent}", found.error["message"])
            server = Server(FOUND, response({**KEY, "api_key": "k", "user": "a/b", "replaces": "key_1"}, 201))
            again = ran(["keys", "rotate", "key_1", "--grace", "1h", "--idempotency-key", sent, "--json"], server)
            self.assertEqual(again.document["api_key"], "k")
            self.assertEqual(server.asked[1].fields["Idempotency-Key"], sent)

    def test_own_bucket(self) -> None:
        """Keys that have a bucket of their own bring its columns."""
        own = {**KEY, "key_id": "key_2", "capacity": 7, "rate_per_sec": 1, "current_capacity": -2}
        found = ran(["keys", "list", "ann"], Server(response({"name": "ann", "keys": [KEY, own]})))
        head, first, second = (line.split() for line in found.out.splitlines())
        self.assertEqual((head[-1], first[-1], second[-3:]), ("CURRENT_CAPACITY", "-", ["7", "1", "-2"]))


class UsageTests(SynchronousTestCase):
    NOW = {"requests": 2, "tokens": 5, "refused": {}}
    DAY = {"requests": 9, "tokens": 20, "refused": {"default": 3, "in-flight": 1}}

    def test_key(self) -> None:
        """A line for the hour and one for the day, with the refusals of each limit."""
        usage = {"key_id": "key_1", "hour": self.NOW, "day": self.DAY, "user": "a/b"}
        server = Server(response(usage))
        found = ran(["keys", "usage", "key_1"], server)
        self.assertEqual(server.asked[0].target, "/keys/key_1/usage")
        lines = [line.split() for line in found.out.splitlines()]
        expected = [["LAST", "REQUESTS", "TOKENS", "REFUSED"], ["hour", "2", "5", "-"]]
        self.assertEqual(lines, [*expected, ["day", "9", "20", "default=3,in-flight=1"]])
        self.assertEqual(ran(["keys", "usage", "key_1", "--json"], Server(response(usage))).document, usage)

    def test_user(self) -> None:
        """The sum comes first, and then each key."""
        key = {"key_id": "key_1", "label": "", "hour": self.NOW, "day": self.NOW}
        usage = {"name": "a/b", "hour": self.NOW, "day": self.DAY, "keys": [key]}
        server = Server(response(usage))
        found = ran(["users", "usage", "a/b"], server)
        self.assertEqual(server.asked[0].target, "/users/a%2Fb/usage")
        lines = [line.split() for line in found.out.splitlines()[1:]]
        self.assertEqual([line[:4] for line in lines[:2]], [["all", "-", "hour", "2"], ["all", "-", "day", "9"]])
        self.assertEqual([line[:4] for line in lines[2:]], [["key_1", "-", span, "2"] for span in ("hour", "day")])
        self.assertEqual(ran(["users", "usage", "a/b", "--json"], Server(response(usage))).document, usage)


class ServerTests(SynchronousTestCase):
    def test_pool_is_found(self) -> None:
        """The pool of a server need not be given where only one has it."""
        server = Server(response(SERVERS), response(SERVERS[0]))
        self.assertEqual(ran(["servers", "weight", "s1", "4"], server).status, 0)
        self.assertEqual(server.asked[1][:2], ("PATCH", "/pools/p/servers/s1"))
        self.assertEqual(server.asked[1].body, {"weight": 4})
        found = ran(["servers", "drain", "s2"], Server(response(SERVERS)))
        self.assertEqual(found.status, 2)
        self.assertIn("s2 is in the pools p, q: give --pool.", found.err)
        self.assertEqual(ran(["servers", "drain", "s3"], Server(response(SERVERS))).status, 4)
        server = Server(response(SERVERS[2]))
        self.assertEqual(ran(["servers", "drain", "s2", "--pool", "q"], server).status, 0)
        self.assertEqual(server.asked[0].target, "/pools/q/servers/s2/drain")


    def test_add(self) -> None:
        """A server is added to the only pool; its URL is not taken for that of the listener."""
        server = Server(response({"pools": [{"name": "p"}]}), response(SERVERS[0], 201))
        self.assertEqual(ran(["servers", "add", "http://10.0.0.1:8000", "--backup"], server).status, 0)
        self.assertEqual({place.shown for place, _, _ in server.connections}, {URL})
        self.assertEqual(server.asked[1].target, "/pools/p/servers")
        self.assertEqual(server.asked[1].body, {"url": "http://10.0.0.1:8000", "backup": True})


class ExplainTests(SynchronousTestCase):
    FOUND = {"compared_as": "/a", "route": None, "pool": None, "status": 404, "reason": "no route"}
    FOUND |= {"servers": [], "limits": []}

    def test_question(self) -> None:
        """What is asked about is sent as given, each field by itself."""
        server = Server(response({**self.FOUND, "others": []}))
        arguments = ["explain", "h.test", "/a?b=c", "-H", "A: 1", "-H", "B:2", "--client", "::1", "--user", "é"]
        arguments += ["--key-id", "key_0123456789abcdef"]
        self.assertEqual(ran(arguments, server).status, 0)
        query = "host=h.test&path=%2Fa%3Fb%3Dc&client=%3A%3A1&header=A%3A+1&header=B%3A2&user=%C3%A9"
        query += "&key_id=key_0123456789abcdef"
        self.assertEqual(server.asked[0].target, f"/explain?{query}")

    def test_order(self) -> None:
        """The servers are shown in the order in which they would be tried."""
        names = [("s1", None), ("s2", 2), ("s3", 1)]
        same = {"pool": "p", "state": "up", "why_not": None}
        servers = [{**same, "name": name, "choice": choice} for name, choice in names]
        limit = {"name": "burst", "per": "key", "of": "route /", "capacity": 3, "rate_per_sec": 1.0, "level": 2.5}
        others = [{"name": "r2", "why_not": "its host is x"}]
        answer = {**self.FOUND, "servers": servers, "limits": [limit], "others": others}
        out = ran(["explain", "h", "/"], Server(response(answer))).out
        order = ["s3", "s2", "s1", "burst", "2.5", "its host is x"]
        self.assertEqual(sorted(order, key=out.index), order)


class CheckTests(SynchronousTestCase):
    def test_options(self) -> None:
        """It has the options of twistd tokenlb, but for those that every command has."""
        everywhere = {"--url", "--token", "--token-file", "--cacert", "--env-file", "--timeout", "--json"}
        own = {name for parameter in check.params for name in parameter.opts} - everywhere
        theirs = {f"--{name.rstrip('=')}" for name in Options().longOpt}
        self.assertEqual(own, theirs - {"--check", "--env-file", "--help", "--version"})

    def test_errors(self) -> None:
        """Nothing is printed to standard output for what is not valid, and with --json it is a document."""
        found = ran(["check", "--servers", "no-such-file", "--json"], Server(), environment=UNSET)
        self.assertEqual((found.status, found.out), (1, ""))
        self.assertIn("no-such-file", found.error["message"])
        self.assertIn("no-such-file", ran(["check", "--servers", "no-such-file"], Server(), environment=UNSET).err)


class StatusTests(SynchronousTestCase):
    def test_not_ready(self) -> None:
        """A program that is not ready is shown, and the exit status tells it."""
        report = {"ready": False, "degraded": True, "reason": "no server is up", "build": "pure Python"}
        answers = response(report, 503, Content_Type="application/json"), response({"pools": [], "live_changes": []})
        found = ran(["status"], Server(*answers))
        self.assertEqual(found.status, 1)
        self.assertIn("state   not ready\nreason  no server is up\n", found.out)
        self.assertFalse(ran(["status", "--json"], Server(*answers)).document["ready"])


def imported(*results: dict[str, Any]) -> bytes:
    """The answer of an import."""
    lines = "".join(json.dumps({"name": None, **one}) + "\n" for one in results)
    return response(lines.encode(), Content_Type="application/x-ndjson")


class TransferTests(SynchronousTestCase):
    def test_export(self) -> None:
        """Lines are written as they are; an export that is cut fails."""
        chunks = b"4\r\n{}\n{\r\n2\r\n}\n\r\n"
        fields = {"Content_Type": "application/x-ndjson", "Transfer_Encoding": "chunked"}
        found = ran(["users", "export"], Server(response(chunks + b"0\r\n\r\n", **fields)))
        self.assertEqual((found.status, found.out), (0, "{}\n{}\n"))
        for rest in (b"", b"4\r\nab"):
            found = ran(["users", "export"], Server(response(chunks + rest, **fields)))
            self.assertEqual(found.status, 1)
            self.assertIn("was cut", found.err)

    def test_import(self) -> None:
        """Lines are counted over all pieces; a line that fails is told by its number in the file, and by the status."""
        long = b'{"x":"' + b"x" * 140_000 + b'"}\n'
        failed = {"line": 2, "name": "bob", "result": "error", "detail": "another user has one of these keys"}
        answers = [imported({"line": 1, "result": "stored"}), imported({"line": 1, "result": "unchanged"}, failed)]
        server = Server(*answers)
        found = ran(["users", "import"], server, b"\n" + long + long + b"{}")
        self.assertEqual([asked.body for asked in server.asked], [b"\n" + long, long + b"{}"])
        self.assertEqual(found.status, 1)
        self.assertEqual(found.out.split(), ["stored", "1", "unchanged", "1", "errors", "1"])
        self.assertEqual(found.err, "line 4 (bob): another user has one of these keys\n")
        as_json = ran(["users", "import", "--json"], Server(*answers), b"\n" + long + long + b"{}")
        self.assertEqual([one["line"] for one in as_json.document["errors"]], [4])

    def test_nothing(self) -> None:
        """Nothing to import is nothing to do."""
        self.assertEqual(ran(["users", "import"], Server(), b"\n\n").status, 0)

    def test_lines_without_an_answer(self) -> None:
        """When not all lines are answered, the import has failed, and the message says where."""
        found = ran(["users", "import"], Server(imported({"line": 1, "result": "stored"})), b"{}\n{}\n")
        self.assertEqual(found.status, 3)
        self.assertIn("2 lines were sent, and 1 were answered (lines 1 to 2; the import may be repeated", found.err)

    def test_line_too_long(self) -> None:
        """A line that no export has is not sent."""
        server = Server()
        self.assertEqual(ran(["users", "import"], server, b"x" * (4 * 1024 * 1024)).status, 1)
        self.assertEqual(server.asked, [])
