"""What the command makes of answers, and of servers that have none."""

from __future__ import annotations

import ssl

from twisted.trial.unittest import SynchronousTestCase

from tests.cli.command import TOKEN, URL, Ran, Server, problem, ran, response
from twisted_lb.cli.client import path_to

LIST = ["users", "list"]
EMPTY = response({"users": [], "next": None})


class FailureTests(SynchronousTestCase):
    def _failed(self, status: int, *answers: bytes | OSError, arguments: list[str] = LIST) -> str:
        server = Server(*answers)
        found: Ran = ran(arguments, server)
        self.assertEqual((found.status, found.out), (status, ""))
        self.assertNotIn(TOKEN, found.err)
        self.assertTrue(found.err.startswith("tokenlb: "), found.err)
        server = Server(*answers)
        as_json = ran([*arguments, "--json"], server)
        self.assertEqual((as_json.status, as_json.out), (status, ""))
        self.assertEqual(as_json.error["exit_status"], status)
        self.assertNotIn(TOKEN, as_json.err)
        return found.err

    def test_unreachable(self) -> None:
        """Without a connection the message has the URL and the reason."""
        said = self._failed(3, ConnectionRefusedError(111, "Connection refused"))
        self.assertIn(f"{URL} cannot be reached: Connection refused. Is the program running", said)
        self.assertIn("timed out", self._failed(3, TimeoutError("timed out")))

    def test_wrong_certificate(self) -> None:
        """A certificate that is not trusted is named as the reason, with what to do."""
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        said = self._failed(3, error)
        self.assertIn("is not trusted: self-signed certificate. --cacert FILE", said)

    def test_no_answer(self) -> None:
        """A connection that ends without an answer is no answer; of a change it is not known whether it was made."""
        self.assertIn("the connection was closed.\n", self._failed(3, b""))
        said = self._failed(3, b"", arguments=["users", "disable", "ann"])
        self.assertIn("Whether it was done is not known.", said)

    def test_not_http(self) -> None:
        """Something else than HTTP is not shown."""
        self.assertIn("not a valid HTTP response", self._failed(3, b"SSH-2.0-OpenSSH_9.2\r\n"))

    def test_not_json(self) -> None:
        """An answer that is not JSON, which may repeat the request, is not shown."""
        for status in (200, 404, 500):
            page = response(f"<p>{TOKEN}".encode(), status, Content_Type="text/html")
            self.assertIn(f"status {status}, text/html that is not the JSON expected", self._failed(3, page))
        self.assertIn("not the JSON expected", self._failed(3, response(b"{")))

    def test_another_api(self) -> None:
        """JSON of something else is no answer either."""
        self.assertIn("of this version: it has no 'users'", self._failed(3, response({"status": "ok"})))
        self.assertIn("of this version: it has another form", self._failed(3, response([])))

    def test_cut(self) -> None:
        """An answer that is shorter than it says is not used."""
        self.assertIn("was cut: it is not complete", self._failed(3, response(b'{"users', Content_Length="100")))

    def test_redirect(self) -> None:
        """A redirect is not followed."""
        said = self._failed(3, response(None, 302, Location="https://login.test/"))
        self.assertIn("a redirect to https://login.test/, which is not followed", said)

    def test_not_permitted(self) -> None:
        """401 and 403 have a status of their own; 403 its detail."""
        self.assertIn("The token is not one of this program.", self._failed(5, problem(401, "Not so.")))
        self.assertIn("tokenlb: It needs the scope keys.\n", self._failed(5, problem(403, "It needs the scope keys.")))

    def test_token_repeated(self) -> None:
        """A server that repeats the token in its detail does not make the command show it."""
        self.assertIn("tokenlb: no ...", self._failed(5, problem(403, f"no {TOKEN}")))

    def test_by_status(self) -> None:
        """Not found, conflicts and outages have statuses of their own."""
        self.assertEqual(self._failed(4, problem(404, "Not there.")), "tokenlb: Not there.\n")
        self.assertEqual(self._failed(6, problem(409, "Taken.")), "tokenlb: Taken.\n")
        self.assertEqual(self._failed(1, problem(400, "Bad.")), "tokenlb: Bad.\n")
        said = self._failed(7, problem(503, "The store is away.", Retry_After="2"))
        self.assertIn("The store is away. Try again in 2 s. `tokenlb status` shows", said)

    def test_request_id(self) -> None:
        """The request_id of a refusal is in the document, to find it in the audit log."""
        server = Server(response({"status": 409, "detail": "Taken.", "request_id": "5f0c"}, 409))
        found = ran(["users", "create", "ann", "--json"], server)
        expected = {"exit_status": 6, "message": "Taken.", "status": 409, "detail": "Taken.", "request_id": "5f0c"}
        self.assertEqual(found.error, expected)


class ConnectionTests(SynchronousTestCase):
    def test_one_connection(self) -> None:
        """Pages are asked for on one connection, and again on another one if a server closes it between two."""
        page = response({"users": [], "next": "b"})
        server = Server(page, page, b"", EMPTY)
        self.assertEqual(ran(LIST, server).status, 0)
        self.assertEqual((len(server.connections), len(server.asked)), (2, 4))
        self.assertEqual(server.asked[2].target, server.asked[3].target)

    def test_changes_are_sent_once(self) -> None:
        """A change has a connection of its own, and is never sent twice."""
        server = Server(response({"user": "ann"}), b"", response({}))
        self.assertEqual(ran(["keys", "enable", "key_1"], server).status, 3)
        self.assertEqual((len(server.connections), len(server.asked)), (2, 2))

    def test_token(self) -> None:
        """The token is sent as a bearer token."""
        server = Server(EMPTY)
        ran(LIST, server)
        self.assertEqual(server.asked[0].fields["Authorization"], f"Bearer {TOKEN}")


class PathTests(SynchronousTestCase):
    def test_segments(self) -> None:
        """Each name is one segment, whatever is in it."""
        for name, segment in (
            ("a/b", "a%2Fb"),
            ("é?#%", "%C3%A9%3F%23%25"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("a.b", "a.b"),
            ("a b", "a%20b"),
        ):
            self.assertEqual(path_to("users", name, "disable"), f"/users/{segment}/disable")
