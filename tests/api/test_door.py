"""The door between a connection and twisted.web: bytes in, bytes out, one ending."""

from __future__ import annotations

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface.verify import verifyObject

from tests.api.caller import PEER, RecordedReply, call, head_of, read_answer, start
from tests.api.memory_accounts import MemoryAccounts
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.interfaces import IDoor, IReply, IServing, StoreUnavailable

_NEW_USER = b'{"name":"user1"}'


class OddResource(Resource):
    """Each path misbehaves, or streams, in its own way; `request` is the last one."""

    isLeaf = True

    def render(self, request: Request) -> int:
        self.request = request
        if request.path == b"/raise":
            raise ZeroDivisionError
        if request.path == b"/raise-half-way":
            request.write(b"half")
            raise ZeroDivisionError
        return NOT_DONE_YET


class ApiDoorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.accounts = MemoryAccounts()
        self.door = ApiDoor(UserApi(self.accounts, 5, 1.0, lambda: "the-key").resource())

    def serve(self, head: bytes, body: bytes = b"") -> RecordedReply:
        reply = RecordedReply()
        self.door.serve(head, body, PEER, reply)
        return reply

    def test_interfaces(self) -> None:
        """The door, what it serves, and the reply of these tests keep their interfaces."""
        verifyObject(IDoor, self.door)
        serving, reply = start(self.door, "GET", "/user/create")
        verifyObject(IServing, serving)
        verifyObject(IReply, reply)
        self.assertEqual(self.door.max_body_bytes, 65_536)

    def test_owns(self) -> None:
        """The door owns three paths, whole and in this spelling, and no other."""
        for path in (b"/user/create", b"/user/tokens/profile", b"/user/tokens/change"):
            self.assertTrue(self.door.owns(path))
        for path in (b"/", b"*", b"", b"/user", b"/user/create/", b"/User/create", b"//user/create", b"/user/creat%65"):
            self.assertFalse(self.door.owns(path), path)

    def test_bytes(self) -> None:
        """A short answer is one write: the head with its length, and the body."""
        _, reply = start(self.door, "POST", "/user/create", _NEW_USER)
        [response] = reply.writes
        head, _, body = response.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.assertEqual(lines[0], b"HTTP/1.1 200 OK")
        self.assertEqual(
            sorted(line for line in lines[1:] if not line.startswith(b"Date: ")),
            [
                b"Cache-Control: no-store",
                b"Content-Length: 67",
                b"Content-Type: application/json",
                b"Server: twisted_lb",
            ],
        )
        self.assertEqual(body, b'{"name":"user1","capacity":5,"rate_per_sec":1,"api_key":"the-key"}\n')
        self.assertEqual(reply.endings, [False])

    def test_request_id(self) -> None:
        """A problem document has the id of the request; what is not a problem has not."""
        for method, body, there in (("GET", b"", True), ("POST", _NEW_USER, False)):
            reply = RecordedReply()
            reply.request_id = b"mine"
            self.door.serve(head_of(method, "/user/create", body), body, PEER, reply)
            self.assertEqual(b'"request_id":"mine"' in reply.received, there)

    def test_pipeline(self) -> None:
        """Calls one after the other on a connection are answered apart, errors among them."""
        key = b"Authorization: the-key"
        statuses = [
            call(self.door, method, target, body, key).status
            for method, target, body in (
                ("GET", "/user/tokens/profile", b""),
                ("POST", "/user/create", _NEW_USER),
                ("POST", "/user/create", b"{"),
                ("GET", "/user/tokens/profile", b""),
                ("POST", "/user/tokens/change", b'{"capacity":2}'),
                ("HEAD", "/user/tokens/profile", b""),
                ("PUT", "/user/create", b"x" * 65_536),
                ("GET", "/user/tokens/profile", b""),
            )
        ]
        self.assertEqual(statuses, [401, 200, 400, 200, 200, 200, 405, 200])

    def test_close(self) -> None:
        """A client that wants to close is told that it will be, wherever in the list it says so."""
        for field in (
            b"Connection: close",
            b"Connection: x, CLOSE",
            b"Connection: close,x",
            b"Connection: x\r\nConnection: close",
        ):
            reply = self.serve(head_of("GET", "/user/tokens/profile", b"", field))
            self.assertEqual(reply.endings, [True], field)
            self.assertEqual(read_answer(reply.received).field("connection"), "close")

    def test_keep_alive(self) -> None:
        """Other words in Connection do not close."""
        for field in (b"Connection: keep-alive", b"Connection: closed", b"Connection: x-close"):
            reply = self.serve(head_of("GET", "/user/tokens/profile", b"", field))
            self.assertEqual(reply.endings, [False], field)

    def test_http_1_0(self) -> None:
        """An HTTP/1.0 request is answered with a length, without chunks, and closed."""
        head = head_of("POST", "/user/create", _NEW_USER, version="1.0")
        reply = self.serve(head, _NEW_USER)
        self.assertEqual(read_answer(reply.received).status, 200)
        self.assertEqual(reply.endings, [True])

    def test_http_1_0_without_host(self) -> None:
        """HTTP/1.0 does without a Host."""
        reply = self.serve(b"GET /user/tokens/profile HTTP/1.0\r\n\r\n")
        self.assertEqual((read_answer(reply.received).status, reply.endings), (401, [True]))

    def test_any_host(self) -> None:
        """No host that the proxy lets through confuses the routing."""
        for host in (b"a..b", b"x" * 300, b"[::1]:8080", b"%ff", b"", b"-.-:1"):
            reply = self.serve(b"GET /user/tokens/profile HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            self.assertEqual(read_answer(reply.received).status, 401, host)

    def test_large_head(self) -> None:
        """The door has no limit of its own for a head that the proxy let through."""
        fields = [b"X-%d: " % number + b"v" * 20_000 for number in range(600)]
        reply = self.serve(head_of("GET", "/user/tokens/profile?" + "q" * 60_000, b"", *fields))
        self.assertEqual((read_answer(reply.received).status, reply.endings), (401, [False]))

    def test_expect(self) -> None:
        """The body is here, so that there is no 100 Continue in front of the answer."""
        head = head_of("POST", "/user/create", _NEW_USER, b"Expect: 100-continue")
        self.assertEqual(read_answer(self.serve(head, _NEW_USER).received).status, 200)

    def test_form_is_not_parsed(self) -> None:
        """A body that claims to be a form is refused by its type and not read as one."""
        for content_type in (
            b"multipart/form-data; boundary=b",
            b"multipart/form-data",
            b"application/x-www-form-urlencoded",
        ):
            answer = call(self.door, "POST", "/user/create", b"--b\r\nbroken", b"Content-Type: " + content_type)
            self.assertEqual(answer.status, 415)

    def test_no_timers(self) -> None:
        """Nothing is left with the reactor, whether a call is answered, waits, or is abandoned."""
        from twisted.internet import reactor

        before = reactor.getDelayedCalls()
        call(self.door, "POST", "/user/create", _NEW_USER)
        self.accounts.waiting = []
        first, _ = start(self.door, "GET", "/user/tokens/profile", b"", b"Authorization: the-key")
        start(self.door, "GET", "/user/tokens/profile", b"", b"Authorization: the-key")
        first.abandon()
        self.assertEqual(reactor.getDelayedCalls(), before)

    def test_answered_later(self) -> None:
        """While the store takes its time nothing is written; then the answer comes whole."""
        self.accounts.waiting = []
        _, reply = start(self.door, "POST", "/user/create", _NEW_USER)
        self.assertEqual((reply.writes, reply.endings), ([], []))
        self.accounts.go_on()
        self.assertEqual(read_answer(reply.received).status, 200)
        self.assertEqual(reply.endings, [False])

    def test_abandoned(self) -> None:
        """When the client leaves, the store finishes its work, and nobody hears of it: no reply, no log."""
        for error in (None, StoreUnavailable("down"), ZeroDivisionError()):
            self.accounts.waiting = []
            serving, reply = start(self.door, "POST", "/user/create", _NEW_USER)
            serving.abandon()
            self.accounts.error = error
            self.accounts.go_on()
            self.assertEqual((reply.writes, reply.endings), ([], []))
            self.assertEqual(len(self.accounts.profiles), 1)
            self.assertEqual(self.flushLoggedErrors(), [])

    def test_abandoned_twice_or_late(self) -> None:
        """Abandoning again, or after the end, is nothing."""
        self.accounts.waiting = []
        serving, reply = start(self.door, "POST", "/user/create", _NEW_USER)
        serving.abandon()
        serving.abandon()
        self.assertEqual(reply.endings, [])
        self.accounts.go_on()
        serving, reply = start(self.door, "GET", "/user/tokens/profile")
        serving.abandon()
        self.assertEqual(reply.endings, [False])

    def test_abandoned_in_a_write(self) -> None:
        """A client that leaves during the write of its answer hears no more, and nothing is logged."""
        self.accounts.waiting = []

        class Leaving(RecordedReply):
            def write(self, data: bytes) -> None:
                super().write(data)
                serving.abandon()

        reply = Leaving()
        serving = self.door.serve(head_of("POST", "/user/create", _NEW_USER), _NEW_USER, PEER, reply)
        self.accounts.go_on()
        self.assertEqual((len(reply.writes), reply.endings), (1, []))
        self.assertEqual(self.flushLoggedErrors(), [])


class OddResourceTests(SynchronousTestCase):
    """The door keeps its contract for resources that are not as tidy as the user API."""

    def setUp(self) -> None:
        self.resource = OddResource()
        self.door = ApiDoor(self.resource, lambda path: path == b"/stream")

    def test_paths(self) -> None:
        """A door owns the paths that it is given."""
        self.assertTrue(self.door.owns(b"/stream"))
        self.assertFalse(self.door.owns(b"/user/create"))

    def test_streaming(self) -> None:
        """What is written is passed on as it comes, the head with the first piece."""
        _, reply = start(self.door, "GET", "/stream")
        self.assertEqual(reply.writes, [])
        self.resource.request.write(b"one")
        self.assertEqual(len(reply.writes), 1)
        self.assertTrue(reply.writes[0].endswith(b"\r\n\r\n3\r\none\r\n"), reply.writes)
        self.resource.request.write(b"three")
        self.assertEqual(reply.writes[1:], [b"5\r\nthree\r\n"])
        self.resource.request.finish()
        self.assertEqual(reply.writes[2:], [b"0\r\n\r\n"])
        self.assertEqual(reply.endings, [False])

    def test_without_length_in_http_1_0(self) -> None:
        """A stream to an HTTP/1.0 client has no chunks, and ends with the connection."""
        reply = RecordedReply()
        self.door.serve(head_of("GET", "/stream", b"", version="1.0"), b"", PEER, reply)
        self.resource.request.write(b"one")
        self.resource.request.finish()
        self.assertNotIn(b"Transfer-Encoding", reply.received)
        self.assertTrue(reply.received.endswith(b"\r\n\r\none"), reply.received)
        self.assertEqual(reply.endings, [True])

    def test_notified_of_leaving(self) -> None:
        """A resource hears that its client has left, and may go on writing to nobody."""
        serving, reply = start(self.door, "GET", "/stream")
        gone: Deferred[None] = self.resource.request.notifyFinish()
        serving.abandon()
        self.failureResultOf(gone)
        self.resource.request.write(b"late")
        self.assertEqual((reply.writes, reply.endings), ([], []))

    def test_peer(self) -> None:
        """The resource sees the address of the client."""
        start(self.door, "GET", "/stream")
        self.assertEqual(self.resource.request.getClientAddress(), PEER)

    def test_raising(self) -> None:
        """An error outside the API is 500 as a problem, is logged once, and the connection goes on."""
        answer = call(self.door, "GET", "/raise")
        self.assertEqual((answer.status, answer.field("content-type")), (500, "application/problem+json"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_raising_half_way(self) -> None:
        """A response that breaks off is cut, so that the client can tell."""
        _, reply = start(self.door, "GET", "/raise-half-way")
        self.assertTrue(reply.received.endswith(b"4\r\nhalf\r\n"), reply.received)
        self.assertEqual(reply.endings, [True])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_giving_up(self) -> None:
        """A resource that drops its connection ends the reply with a close, once."""
        _, reply = start(self.door, "GET", "/stream")
        self.resource.request.loseConnection()
        self.resource.request.loseConnection()
        self.assertEqual((reply.writes, reply.endings), ([], [True]))


class KleinErrorTests(SynchronousTestCase):
    def test_broken_error_answer(self) -> None:
        """An error in the answering of an error is still a problem of 500, and the connection goes on."""
        app = Klein()

        @app.route("/")
        def broken(request: object) -> bytes:
            raise KeyError

        @app.handle_errors(Exception)
        def more_broken(request: object, failure: object) -> bytes:
            raise ZeroDivisionError

        answer = call(ApiDoor(app.resource()), "GET", "/")
        self.assertEqual((answer.status, answer.field("content-type")), (500, "application/problem+json"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
