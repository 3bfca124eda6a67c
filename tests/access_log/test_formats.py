"""Lines: what is in them, and that nobody can put anything else there."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.access_log.records import ADMITTED, WALL_CLOCK, record
from twisted_lb.access_log.formats import FIELDS, UnknownFormat, make_format
from twisted_lb.access_log.stamps import Stamps
from twisted_lb.interfaces import IN_FLIGHT, MICROTOKENS, Taken
from twisted_lb.network.peer import PeerInfo, TlsInfo
from twisted_lb.request_record import NEVER

# What clients may get into names, hosts, fields and details, and what must come of it.
HOSTILE = [
    b'"',
    b"\\",
    b'","admin":"1',
    b"\n{}",
    b"\r",
    b"\x00\x1b[31m\x7f\x9b",
    "ü\u2028\U0001f600".encode(),
    b"\xff\xfe",
    b"x" * 9000,
]


def stamps() -> Stamps:
    return Stamps(lambda: 0.0, lambda: WALL_CLOCK)


def line(format: str, **attributes: Any) -> str:
    return make_format(format, stamps()).line(record(**attributes))


class StampTests(SynchronousTestCase):
    def test_stamps(self) -> None:
        """Times of the reactor's clock, in UTC, before and after midnight of a leap day as well."""
        clock = Stamps(lambda: 100.0, lambda: 1709251199.5)
        for at, expected, common in (
            (100.0, "2024-02-29T23:59:59.500Z", "29/Feb/2024:23:59:59 +0000"),
            (100.625, "2024-03-01T00:00:00.125Z", "01/Mar/2024:00:00:00 +0000"),
            (99.0, "2024-02-29T23:59:58.500Z", "29/Feb/2024:23:59:58 +0000"),
            (100.0, "2024-02-29T23:59:59.500Z", "29/Feb/2024:23:59:59 +0000"),
        ):
            self.assertEqual((clock.rfc3339(at), clock.common(at)), (expected, common))

    def test_set_clock(self) -> None:
        """A wall clock that was set counts from the next batch on."""
        now = [WALL_CLOCK]
        clock = Stamps(lambda: 0.0, lambda: now[0])
        now[0] += 3600
        self.assertEqual(clock.rfc3339(0)[:13], "2026-11-27T14")
        clock.set_clock()
        self.assertEqual(clock.rfc3339(0)[:13], "2026-11-27T15")


class JsonTests(SynchronousTestCase):
    def test_served(self) -> None:
        """All of a request that a server has served."""
        expected = (
            '{"time":"2026-11-27T14:16:51.042Z","client":"192.0.2.7","protocol":"HTTP/1.1","method":"GET",'
            '"host":"api.example","path":"/a?b=c","status":200,"reason":"complete","bytes_in":100,"bytes_out":250,'
            '"user":"user1","key_id":"0a1b2c3d","tokens":1,"tokens_left":4,"pool":"default","server":"s1",'
            '"attempts":1,"connect_us":1000,"first_byte_us":10346,"server_us":23500,"total_us":25500}\n'
        )
        self.assertEqual(line("json"), expected)

    def test_left_out(self) -> None:
        """What does not apply is not there."""
        bare = {"user": b"", "taken": None, "pool": "", "method": b"", "host": b"", "target": b"", "status": 400}
        said = json.loads(line("json", **bare, reason="bad_request", detail="No."))
        names = ["time", "client", "protocol", "method", "host", "path", "status", "reason", "detail", "bytes_in"]
        self.assertEqual(list(said), [*names, "bytes_out", "total_us"])
        waited = json.loads(line("json", connect_seconds=NEVER, first_byte_at=NEVER, wait=1.5))
        self.assertEqual(waited["wait_us"], 1500000)
        self.assertFalse({"connect_us", "first_byte_us"} & set(waited))
        unreached = json.loads(line("json", attempts=0, server="", sent_at=NEVER))
        self.assertEqual(unreached["pool"], "default")
        self.assertFalse({"server", "server_us"} & set(unreached))

    def test_ids(self) -> None:
        """The ids of the request and of its trace."""
        said = json.loads(line("json", request_id=b"mine", trace_id=b"0" * 32))
        self.assertEqual((said["request_id"], said["trace_id"]), ("mine", "0" * 32))

    def test_limit(self) -> None:
        """The limit that refused; a bucket's level as whole tokens, rounded down, negative for a debt."""
        said = json.loads(line("json", limit="global", cost=0, level=-1, reason="limited"))
        self.assertEqual((said["limit"], said["tokens"], said["tokens_left"]), ("global", 0, -1))
        in_flight = Taken(False, b"user1", 5, 0.0, 0, IN_FLIGHT)
        self.assertNotIn("tokens_left", json.loads(line("json", taken=in_flight, limit=IN_FLIGHT)))
        self.assertEqual(json.loads(line("json", level=MICROTOKENS - 1))["tokens_left"], 0)

    def test_hostile(self) -> None:
        """Whatever a value holds, there is one line, in ASCII, and it says what it would say without it."""
        plain = json.loads(line("json"))
        for value in HOSTILE:
            text = value.decode("utf-8", "replace")
            for name, member in (("user", "user"), ("target", "path"), ("host", "host"), ("method", "method")):
                made = line("json", **{name: value})
                self.assertTrue(made.isascii() and made.index("\n") == len(made) - 1 and made[:-1].isprintable(), made)
                self.assertEqual(json.loads(made), {**plain, member: text})
            for name in ("server", "detail"):
                self.assertEqual(json.loads(line("json", **{name: text}))[name], text)

    def test_several(self) -> None:
        """Lines that are made together are those that are made one by one, whatever one of the values holds."""
        for value in [b"/", b"/ space", *HOSTILE]:
            many = [record(request_id=b"one"), record(target=value), record(target=b"/c", status=404, pool="")]
            made = make_format("json", stamps())
            self.assertEqual(made.lines(many), "".join([made.line(one) for one in many]).encode())
        self.assertEqual(make_format("json", stamps()).lines([]), b"")

    def test_usual(self) -> None:
        """A line that is put together of remembered members is the one that would be made without them.

        Each two of these differences from a usual request, in any order, in one batch.
        """
        tls = PeerInfo("192.0.2.7", scheme=b"https", tls=TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384"))
        usual: dict[str, Any] = {"connect_seconds": NEVER, "request_id": b"mine"}
        differences: list[dict[str, Any]] = [
            {},
            {"request_id": b""},
            {"trace_id": b"0" * 32},
            {"peer": tls},
            {"peer": PeerInfo("2001:db8::1")},
            {"minor": 0},
            {"method": b"POST"},
            {"host": b"b.example"},
            {"host": b"x" * 300},
            {"target": b"/c"},
            {"status": 404},
            {"reason": "client_left"},
            {"detail": "No."},
            {"bytes_in": 123456789, "bytes_out": 0},
            {"user": b"user2"},  # renamed
            {"user": b"user2", "key_id": "f" * 16},
            {"user": b""},
            {"taken": None},
            {"taken": ADMITTED._replace(capacity=0)},
            {"limit": "global"},
            {"cost": 0, "level": -1},
            {"wait": 0.5},
            {"route": "a"},
            {"pool": "other"},
            {"pool": "", "server": "", "attempts": 0, "sent_at": NEVER, "first_byte_at": NEVER},
            {"server": "s2"},
            {"attempts": 2},
            {"connect_seconds": 0.001},
            {"first_byte_at": NEVER},
            {"sent_at": NEVER},
            {"ended_at": 0.001},  # a clock that was set
        ]
        many = [record(**{**usual, **one, **other}) for one in differences for other in differences]
        expected = [make_format("json", stamps()).line(one) for one in many]
        made = make_format("json", stamps())
        for _ in range(2):
            self.assertEqual(made.lines(many).decode().splitlines(True), expected)

    def test_many_texts(self) -> None:
        """Texts that are remembered are right also when there were more than are remembered."""
        made = make_format("json", stamps())
        for number in range(10_000):
            which = number % 5000
            one = record(
                host=b"h%d" % which,
                user=b"u%d" % which,
                key_id=f"k{which}",
                server=f"s{which}",
                peer=PeerInfo(f"a{which}"),
                connect_seconds=NEVER,
            )
            line = json.loads(made.lines([one]))
            values = [line[name] for name in ("host", "user", "key_id", "server", "client")]
            self.assertEqual(values, [f"{letter}{which}" for letter in ("h", "u", "k", "s", "a")])


class CombinedTests(SynchronousTestCase):
    def test_line(self) -> None:
        """As nginx and Apache write it, with the bytes of the content."""
        fields = b"\r\nAccept: */*\r\nUser-Agent: curl/8.1\r\nReferer:  http://a.example/ \r\nB: 1"
        expected = (
            '192.0.2.7 - user1 [27/Nov/2026:14:16:51 +0000] "GET /a?b=c HTTP/1.1" 200 50 '
            '"http://a.example/" "curl/8.1"\n'
        )
        self.assertEqual(line("combined", fields=fields), expected)

    def test_nothing(self) -> None:
        """A hyphen stands for what there is not."""
        made = line("combined", user=b"", method=b"", target=b"", status=0, content_out=0)
        self.assertEqual(made, '192.0.2.7 - - [27/Nov/2026:14:16:51 +0000] "-" 000 0 "-" "-"\n')

    def test_escaping(self) -> None:
        """Quotes, backslashes, control bytes and all above 0x7e are \\xXX as in nginx; spaces as well in a name."""
        made = line("combined", user=b'a "b\\\xc3', fields=b'\r\nuser-agent: "\\\t\x80 x', target=b"/\x7f")
        self.assertEqual(
            made,
            '192.0.2.7 - a\\x20\\x22b\\x5C\\xC3 [27/Nov/2026:14:16:51 +0000] "GET /\\x7F HTTP/1.1" 200 50 "-" '
            '"\\x22\\x5C\\x09\\x80 x"\n',
        )

    def test_hostile(self) -> None:
        """Whatever the values hold, a line has nine columns and is one line."""
        columns = re.compile(r'[^ "]+ - [^ "]+ \[[^]"]+\] "[^"]*" \d{3} \d+ "[^"]*" "[^"]*"\n')
        for value in HOSTILE:
            fields = b"\r\nReferer: " + value.replace(b"\r", b"").replace(b"\n", b"") + b"\r\nUser-Agent: x"
            made = line("combined", user=value, target=value, method=value, fields=fields)
            self.assertTrue(columns.fullmatch(made), made)


class TemplateTests(SynchronousTestCase):
    def test_template(self) -> None:
        """Fields in braces, and all else as it stands; two braces are one."""
        made = line("{{{client}}} {status} [{path}] {limit} 100% {total_us}")
        self.assertEqual(made, "{192.0.2.7} 200 [/a?b=c] - 100% 25500\n")

    def test_all_fields(self) -> None:
        """Each field has a value for every record, without a line end or a quote that a client has sent."""
        template = " ".join(f"{{{name}}}" for name in FIELDS)
        made = make_format(template, stamps())
        for value in HOSTILE:
            text = value.decode("latin-1")
            hostile = made.line(record(user=value, target=value, host=value, method=value, detail=text))
            self.assertTrue(hostile[:-1].isprintable() and '"' not in hostile)
        no_server = {"pool": "", "attempts": 0, "sent_at": NEVER, "first_byte_at": NEVER, "connect_seconds": NEVER}
        bare = record(taken=None, user=b"", **no_server)
        self.assertEqual(len(made.line(bare).split(" ")), len(made.line(record()).split(" ")))

    def test_same_names(self) -> None:
        """A member of the JSON is the template's field of that name, with the same value."""
        more = {"request_id": b"mine", "trace_id": b"0" * 32, "limit": "global", "detail": "No", "wait": 1.0}
        for name, value in json.loads(line("json", **more)).items():
            self.assertEqual(line(f"{{{name}}}", **more), f"{value}\n")

    def test_wants_fields(self) -> None:
        """Only a format that reads field lines wants them."""
        for text, wants in (("json", False), ("combined", True), ("{status}", False), ("{user_agent}", True)):
            self.assertEqual(make_format(text, stamps()).wants_fields, wants)

    def test_errors(self) -> None:
        """What is not a format is said, with the fields that there are."""
        for text, said in (
            ("jason", "expected json, combined, or a template"),
            ("", "expected json"),
            ("{status} {nam}", "there is no field {nam}; there are time, time_common, request_id"),
            ("{status} {", "a brace that stands alone is written twice"),
            ("{status}}", "a brace that stands alone"),
            ("{status}\n", "only printable ASCII"),
            ("{status} ü", "only printable ASCII"),
        ):
            self.assertIn(said, str(self.assertRaises(UnknownFormat, make_format, text, stamps())))


class TlsTests(SynchronousTestCase):
    def test_without(self) -> None:
        """A connection without TLS has no members about it, and an address of IPv6 stands as it is."""
        made = line("json", peer=PeerInfo("2001:db8::1"))
        self.assertIn('"client":"2001:db8::1","protocol"', made)
