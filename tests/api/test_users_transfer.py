"""Export and import of users over the admin listener."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from twisted.internet.defer import Deferred, fail

from tests.api.operator import Client, head_of
from tests.api.users_case import ADMIN, UsersCase
from tests.stores.contract import digest_of, new_path
from tests.stores.users_contract import FUTURE, new_user
from twisted_lb.api.operators import SERVE_SECONDS
from twisted_lb.api.users_transfer import AT_A_TIME, MAX_IMPORT_BYTES, PAGE
from twisted_lb.interfaces import MICROTOKENS, NameTaken, StoreUnavailable
from twisted_lb.stores.sqlite import user_creations
from twisted_lb.user_records import user_record
from twisted_lb.users import DISABLED, REVOKED, Key, KeyBucket, Shadow, User

ANN = User(
    "ann/é",
    7,
    0.25,
    -3 * MICROTOKENS - 1,
    True,
    {"plan": {"a": [1, None, "é"]}},
    5,
    (
        Key(digest_of("a"), DISABLED, 6, "laptop", 5, 60_000_000, KeyBucket(3, 0.0, 1_500_000)),
        Key(digest_of("b"), REVOKED, None, "", 8),
        Key(digest_of("c"), expires_at=FUTURE, created_at=9),
    ),
)
BOB = User("bob", 1, 1_000_000.0, 0, created_at=1, keys=(Key(digest_of("d"), created_at=1),))


def lines_of(*users: User) -> bytes:
    return b"".join(json.dumps(user_record(user)).encode() + b"\n" for user in users)


def content_of(client: Client) -> tuple[bytes, bytes, bool]:
    """The head, the content of a chunked response so far, and whether it is complete."""
    head, _, rest = client.received.partition(b"\r\n\r\n")
    content = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return head, content, True
        content, rest = content + rest[:length], rest[length + 2 :]
    return head, content, False


class TransferCase(UsersCase):
    def export(self) -> list[dict[str, Any]]:
        client = self.send("GET", "/export/users", b"", ADMIN)
        head, content, complete = content_of(client)
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"), head)
        self.assertIn(b"Content-Type: application/x-ndjson", head)
        self.assertTrue(complete)
        return [json.loads(line) for line in content.splitlines()]

    def imported(self, body: bytes) -> list[dict[str, Any]]:
        client = self.send("POST", "/import/users", body, ADMIN)
        self.clock.pump([0] * 20)
        head, content, complete = content_of(client)
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"), head)
        self.assertTrue(complete)
        return [json.loads(line) for line in content.splitlines()]


class ExportTests(TransferCase):
    def test_nobody(self) -> None:
        """Without users there is no line."""
        self.assertEqual(self.export(), [])

    def test_many(self) -> None:
        """Each user is a line, in the order of names, whatever the number of pages."""
        count = 2 * PAGE + 1
        for number in range(count):
            self.successResultOf(self.store.create_user(new_user(f"user{number:03}", str(number))))
        self.assertEqual([user["name"] for user in self.export()], [f"user{number:03}" for number in range(count)])

    def test_slow_client(self) -> None:
        """Nothing more is read from the store while the client does not read; one that stays so is cut off."""
        for number in range(3 * PAGE):
            self.successResultOf(self.store.create_user(new_user(f"user{number:03}", str(number))))
        calls = []
        page = self.store.user_page
        self.patch(self.store, "user_page", lambda *asked: calls.append(asked) or page(*asked))
        client = Client(self.factory)
        self.fill(client)
        client.send(head_of("GET", "/export/users", ADMIN))
        self.clock.pump([0] * 10)
        self.assertEqual((len(calls), content_of(client)[1].count(b"\n")), (1, PAGE))
        client.wire.producer.resumeProducing()
        self.clock.pump([0] * 10)
        self.assertEqual((len(calls), content_of(client)[1].count(b"\n")), (2, 2 * PAGE))
        for _ in range(2):
            self.clock.advance(SERVE_SECONDS - 1)
            client.wire.producer.resumeProducing()
            self.clock.pump([0] * 10)
        self.assertEqual((len(calls), content_of(client)[1].count(b"\n")), (3, 3 * PAGE))
        self.assertTrue(content_of(client)[2])
        client = Client(self.factory)
        self.fill(client)
        client.send(head_of("GET", "/export/users", ADMIN))
        self.clock.advance(SERVE_SECONDS)
        self.assertTrue(client.wire.reset)

    def fill(self, client: Client) -> None:
        """Whatever is written fills the buffer of the connection."""
        write = client.wire.write

        def written(data: bytes) -> None:
            write(data)
            client.wire.producer.pauseProducing()

        self.patch(client.wire, "write", written)

    def test_client_leaves(self) -> None:
        """A client that leaves ends the export, and that is nothing to log."""
        for number in range(3 * PAGE):
            self.successResultOf(self.store.create_user(new_user(f"user{number:03}", str(number))))
        calls = []
        page = self.store.user_page
        self.patch(self.store, "user_page", lambda *asked: calls.append(asked) or page(*asked))
        client = Client(self.factory)
        client.send(head_of("GET", "/export/users", ADMIN))
        client.leave()
        self.clock.pump([0] * 10)
        self.assertEqual(len(calls), 1)

    def test_client_leaves_while_the_store_reads(self) -> None:
        """So does one that leaves while the store is asked."""
        for number in range(3 * PAGE):
            self.successResultOf(self.store.create_user(new_user(f"user{number:03}", str(number))))
        page, pages = self.store.user_page, [1]
        slow: Deferred[Any] = Deferred()

        def user_page(*asked: Any) -> Any:
            return page(*asked) if pages and pages.pop() else slow

        self.patch(self.store, "user_page", user_page)
        client = Client(self.factory)
        client.send(head_of("GET", "/export/users", ADMIN))
        self.clock.pump([0] * 3)
        self.assertEqual(pages, [])
        client.leave()
        self.clock.pump([0] * 3)
        slow.callback(None)

    def test_interrupted(self) -> None:
        """An export that cannot go on is cut, so that nobody takes it for a whole one; before its begin it is 503."""
        for number in range(3 * PAGE):
            self.successResultOf(self.store.create_user(new_user(f"user{number:03}", str(number))))
        page, pages = self.store.user_page, [1]

        def user_page(*asked: Any) -> Any:
            if not pages:
                raise StoreUnavailable("at secret")
            pages.pop()
            return page(*asked)

        self.patch(self.store, "user_page", user_page)
        client = self.send("GET", "/export/users", b"", ADMIN)
        self.assertFalse(content_of(client)[2])
        self.assertTrue(client.ended)
        self.assertEqual(len(self.flushLoggedErrors(StoreUnavailable)), 1)
        self.refused(503, "GET", "/export/users")


class ImportTests(TransferCase):
    def test_there_and_back(self) -> None:
        """What was exported is, imported into another store, the same: levels, states, ends, buckets and metadata."""
        for user in (ANN, BOB):
            self.successResultOf(self.store.create_user(user))
        exported = self.export()
        self.assertEqual([user["keys"][0]["digest"] for user in exported], [digest_of("a"), digest_of("d")])
        body = b"".join(json.dumps(user).encode() + b"\n" for user in exported)
        self.store = self.started(new_path(self))
        self.listen()
        stored = [{"line": 1, "name": "ann/é", "result": "stored"}, {"line": 2, "name": "bob", "result": "stored"}]
        self.assertEqual(self.imported(body), stored)
        self.assertEqual(self.export(), exported)
        self.assertEqual(self.successResultOf(self.store.user("ann/é")), ANN)
        # Again: none of it is done twice.
        self.assertEqual({one["result"] for one in self.imported(body)}, {"unchanged"})
        self.assertEqual(self.export(), exported)

    def test_record(self) -> None:
        """The audit log has a line for each user that was stored, and one with the counts."""
        body = lines_of(ANN, BOB) + b"{}\n"
        self.imported(body)
        first, second, counts = self.audit.entries
        self.assertEqual((first["action"], first["user"], first["who"]), ("import_user", "ann/é", "admin"))
        self.assertEqual((first["after"]["capacity"], first["result"]), (7, "applied"))
        self.assertEqual(counts["action"], "import_users")
        self.assertEqual(counts["after"], {"stored": 2, "unchanged": 0, "error": 1})
        self.assertEqual(first["request_id"], counts["request_id"])
        self.assertNotIn(digest_of("a"), str(self.audit.entries))
        self.imported(body)
        self.assertEqual((len(self.audit.entries), self.audit.entries[-1]["result"]), (4, "unchanged"))

    def test_lines(self) -> None:
        """Each line has its own result; a wrong one stops nothing, and says what is wrong."""
        other = BOB._replace(capacity=2)
        thief = new_user("thief", "d")
        record = user_record(ANN)
        lines = [
            lines_of(BOB).strip(),
            b"",
            b"nonsense",
            b"[1]",
            b"\xff",
            b" \r",
            b'{"name": "x"}',
            lines_of(other).strip(),
            lines_of(thief).strip(),
            *[
                json.dumps({**record, **wrong}).encode()
                for wrong in (
                    {"name": ""},
                    {"name": 129 * "a"},
                    {"name": "a\n"},
                    {"name": "\ud800"},
                    {"capacity": 1.5},
                    {"capacity": 0},
                    {"level": "full"},
                    {"keys": []},
                    {"keys": [{"digest": "A" * 64}]},
                    {"keys": [{"digest": "a" * 64, "state": "on"}]},
                    {"keys": [{"digest": "a" * 64, "label": "\ud800"}]},
                    {"keys": [{"digest": "a" * 64, "bucket": {"capacity": 1}}]},
                    {"metadata": {"a": "x" * 5000}},
                    {"rate_per_sec": float("nan")},
                    {"password": 1},
                )
            ],
            lines_of(ANN).strip(),
        ]
        answers = self.imported(b"\n".join(lines))
        self.assertEqual([one["line"] for one in answers], [1, 3, 4, 5, *range(7, 26)])
        self.assertEqual((answers[0]["result"], answers[-1]["result"]), ("stored", "stored"))
        self.assertEqual({one["result"] for one in answers[1:-1]}, {"error"})
        details = {one["line"]: one["detail"] for one in answers if "detail" in one}
        self.assertIn("not JSON", details[3])
        self.assertEqual(details[7], "the user: capacity is missing")
        self.assertEqual(details[8], "there is a user of this name, with another capacity")
        self.assertEqual(details[9], "another user has one of these keys")
        self.assertIn("the user: unknown member 'password'; expected capacity, created_at,", details[24])
        self.assertEqual(self.successResultOf(self.store.user("bob")), BOB)
        self.assertIsNone(self.successResultOf(self.store.user("thief")))

    def test_shadow_policies(self) -> None:
        """A shadow policy is exported and imported; without one, or with another level of it, it is the same or not."""
        with_shadow = BOB._replace(shadow=Shadow(3, 0.5, MICROTOKENS))
        self.assertEqual([one["result"] for one in self.imported(lines_of(with_shadow))], ["stored"])
        self.assertEqual(self.export(), [user_record(with_shadow)])
        for shadow, result in ((Shadow(3, 0.5, 0), "unchanged"), (Shadow(4, 0.5), "error"), (None, "error")):
            [line] = self.imported(lines_of(BOB._replace(shadow=shadow)))
            self.assertEqual(line["result"], result)
        self.assertEqual(line["detail"], "there is a user of this name, with another shadow")

    def test_what_time_changes(self) -> None:
        """A user whose level has changed since is not another one."""
        self.imported(lines_of(BOB))
        self.now_us += 1_000_000
        self.take("d")
        self.assertEqual([one["result"] for one in self.imported(lines_of(BOB))], ["unchanged"])

    def test_store_away(self) -> None:
        """While the store is away lines are errors, and may be sent again."""
        self.patch(self.store, "create_user", lambda user: (_ for _ in ()).throw(StoreUnavailable("at secret")))
        [answer] = self.imported(lines_of(BOB))
        self.assertEqual(answer["detail"], "the store is unavailable; send it again")

    def test_the_same_at_once(self) -> None:
        """Two imports of the same users at once: each user is stored by one of them, and is unchanged for the other."""
        self.disk.held = True
        body = lines_of(*(new_user(f"user{at}", str(at)) for at in range(4)), new_user("user1", "1"))
        clients = [self.send("POST", "/import/users", body, ADMIN) for _ in range(2)]
        while self.disk.waiting:
            self.disk.one()
            self.clock.pump([0] * 5)
        self.disk.held = False
        results = [content_of(client)[1] for client in clients]
        self.assertEqual([text.count(b"\n") for text in results], [5, 5])
        self.assertEqual(sum(text.count(b'"stored"') for text in results), 4)
        self.assertEqual(sum(text.count(b'"unchanged"') for text in results), 6)

    def test_a_name_that_is_being_taken(self) -> None:
        """A user of the same name who is being created is an error of the line, and not the end of the import."""
        self.patch(self.store, "create_user", lambda user: fail(NameTaken(user.name)))
        [answer] = self.imported(lines_of(BOB))
        self.assertEqual(answer["detail"], "a user of this name is being created or removed; send it again")

    def test_stored_at_once(self) -> None:
        """So many users are stored at the same time: what is done for them at once takes milliseconds."""
        waiting: list[Deferred[None]] = []
        self.patch(self.store, "create_user", lambda user: waiting.append(Deferred()) or waiting[-1])
        body = lines_of(*(new_user(f"u{at}", str(at)) for at in range(200)))
        client = self.send("POST", "/import/users", body, ADMIN)
        for stored in range(200):
            self.assertEqual(len(waiting), min(200, AT_A_TIME + stored))
            waiting[stored].callback(None)
            self.clock.pump([0] * 3)
        self.assertEqual(content_of(client)[1].count(b'"stored"'), 200)
        self.assertLessEqual(AT_A_TIME, 64)

    def test_slow_store(self) -> None:
        """A line is answered as soon as it is stored: a store that is slow, and goes on, does not end the import."""
        self.disk.held = True
        self.patch(user_creations, "MAX_TOGETHER", 1)
        body = lines_of(*(new_user(f"user{number}", str(number)) for number in range(5)))
        client = self.send("POST", "/import/users", body, ADMIN)
        for number in range(1, 6):
            self.clock.advance(SERVE_SECONDS - 1)
            while number > content_of(client)[1].count(b"\n"):
                self.disk.one()
                self.clock.pump([0] * 5)
            self.assertEqual(content_of(client)[1].count(b"\n"), number)
        self.assertTrue(content_of(client)[2])
        self.disk.held = False
        while self.disk.waiting:
            self.disk.one()

    def test_size(self) -> None:
        """A body of the largest size is accepted from an operator, in memory; without a token none is even read."""
        self.patch(tempfile, "TemporaryFile", lambda *_, **__: self.fail("spooled"))
        self.assertEqual(len(self.imported(b" " * (MAX_IMPORT_BYTES - 3) + b"\n{}")), 1)
        for size, status in ((MAX_IMPORT_BYTES, None), (MAX_IMPORT_BYTES + 1, 413)):
            client = Client(self.factory)
            client.send(head_of("POST", "/import/users", ADMIN, b"Content-Length: %d" % size))
            self.assertEqual(client.statuses, [status] if status else [])
        client = Client(self.factory)
        client.send(head_of("POST", "/import/users", b"Content-Length: 100000"))
        self.assertEqual(client.statuses, [401])
        self.assertIn(b"WWW-Authenticate: Bearer", client.received)
        self.tokens.use(())
        client = Client(self.factory)
        client.send(head_of("POST", "/import/users", b"Content-Length: 100000"))
        self.assertEqual(client.statuses, [403])

    def test_client_leaves(self) -> None:
        """What was stored before the client has left stays, and is recorded; the rest is not stored."""
        users = [new_user(f"user{number:03}", str(number)) for number in range(300)]
        body = lines_of(*users)
        client = Client(self.factory)
        client.send(head_of("POST", "/import/users", ADMIN, b"Content-Length: %d" % len(body)) + body)
        client.leave()
        self.clock.pump([0] * 10)
        stored = len(self.export())
        self.assertTrue(0 < stored < 300)
        self.assertEqual(self.audit.entries[-1]["after"]["stored"], stored)
