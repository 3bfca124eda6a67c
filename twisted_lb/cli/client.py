"""A client of the admin API: one request after another, over one connection if the server keeps it open.

1. A redirect is not followed, since the token would be sent to its target.
2. A request is sent again only if it is a GET, and if its connection was used before and was closed without a response:
   that is how a server closes an idle connection.
3. All errors are raised as Failed.  Its text says which URL failed and what to do, and never contains the token.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from twisted_lb.cli.failures import REFUSED, USAGE, Failed, refused, unreachable

# Far more than a page of users has.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
PIECE_BYTES: Final = 64 * 1024
LINES: Final = "application/x-ndjson"


class Place(NamedTuple):
    """The address of an admin listener."""

    shown: str  # the URL for messages
    host: str
    port: int
    path: str = ""  # before the paths of the API
    tls: bool = False
    unix_path: str = ""  # of a Unix socket, in place of host and port


# Makes a connection to a place, with a timeout in seconds and a file of CA certificates; it need not be open yet.
Open = Callable[[Place, float, str | None], http.client.HTTPConnection]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


def path_to(*segments: str) -> str:
    """A path of percent-encoded segments.

    The segments `.` and `..` are encoded too, since a proxy would resolve them.
    """
    return "".join(f"/{_segment(one)}" for one in segments)


def _segment(text: str) -> str:
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def new_connection(place: Place, seconds: float, ca_file: str | None) -> http.client.HTTPConnection:
    """A connection that is not open yet.  Raises Failed."""
    if place.unix_path:
        return _UnixConnection(place.unix_path, seconds)
    if not place.tls:
        return http.client.HTTPConnection(place.host, place.port, timeout=seconds)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Failed(f"{ca_file} cannot be used as a file of certificates: {_reason(error)}", USAGE) from None
    return http.client.HTTPSConnection(place.host, place.port, timeout=seconds, context=context)


class AdminClient:
    """See the module."""

    def __init__(
        self, place: Place, token: str, seconds: float, ca_file: str | None = None, open_to: Open | None = None
    ) -> None:
        self._place = place
        self._token = token
        self._seconds = seconds
        self._ca_file = ca_file
        self._open = open_to or new_connection
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, query: Mapping[str, object] | None = None, also: int | None = None) -> Any:
        """The document at the path, also if the status is `also`.  Raises Failed."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self.call("GET", path + (f"?{urlencode(given, doseq=True)}" if given else ""), also=also)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        fields: Mapping[str, str] | None = None,
        also: int | None = None,
    ) -> Any:
        """The document in the response; None if it has no content.  Raises Failed."""
        content = None if body is None else json.dumps(body).encode()
        response = self._answered(method, path, content, {"Content-Type": "application/json", **(fields or {})}, also)
        if response.status == 204:
            self._read_whole(response)
            return None
        return self._document(response, self._read_whole(response))

    def stream(self, method: str, path: str, body: bytes | None = None) -> Iterator[bytes]:
        """The pieces of a response of JSON Lines, as they arrive.  Raises Failed, also if the response is truncated."""
        response = self._answered(method, path, body, {"Content-Type": LINES}, None)
        kind = response.headers.get_content_type()
        if kind != LINES:
            raise unreachable(f"{self._place.shown} has not answered with JSON Lines, but {kind}")
        try:
            while piece := response.read1(PIECE_BYTES):
                yield piece
            _check_whole(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Failed(f"the answer of {self._place.shown} was cut: {_reason(error)}", REFUSED) from None

    def _answered(
        self, method: str, path: str, body: bytes | None, fields: Mapping[str, str], also: int | None
    ) -> http.client.HTTPResponse:
        """The head of a successful response.  Raises Failed for any other."""
        response = self._sent(method, self._place.path + path, body, fields)
        if 300 <= response.status < 400:
            where = response.headers.get("Location")
            self.close()
            to = f" to {where}" if where else ""
            raise unreachable(
                f"{self._place.shown} has answered with a redirect{to}, which is not followed. "
                "Give the URL of the admin listener itself."
            )
        if response.status in (200, 201, 204, also):
            return response
        problem = self._document(response, self._read_whole(response))
        if not isinstance(problem, dict):
            raise self._not_ours(response)
        raise refused(response.status, problem, response.headers.get("Retry-After"), self._token)

    def _sent(self, method: str, path: str, body: bytes | None, fields: Mapping[str, str]) -> http.client.HTTPResponse:
        sent = dict(fields) if body is not None else {k: v for k, v in fields.items() if k != "Content-Type"}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        used = self._connection is not None
        if used and method != "GET":
            self.close()
            used = False
        connection = self._connection = self._connection or self._connected()
        try:
            connection.request(method, path, body, sent)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if used and isinstance(error, (ConnectionError, http.client.RemoteDisconnected)):
                return self._sent(method, path, body, fields)
            lost = "" if method == "GET" else " Whether it was done is not known."
            raise unreachable(
                f"{self._place.shown} does not answer: {_reason(error)}.{lost}", outcome_known=method == "GET"
            ) from None

    def _connected(self) -> http.client.HTTPConnection:
        place = self._place
        connection = self._open(place, self._seconds, self._ca_file)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise unreachable(
                    f"the certificate of {place.shown} is not trusted: {error.verify_message}. "
                    "--cacert FILE names the certificates to trust."
                ) from None
            raise unreachable(
                f"{place.shown} cannot be reached: {_reason(error)}. "
                "Is the program running, and is this its ADMIN_LISTEN?"
            ) from None
        return connection

    def _read_whole(self, response: http.client.HTTPResponse) -> bytes:
        try:
            content = response.read(MAX_ANSWER_BYTES)
            if len(content) == MAX_ANSWER_BYTES:
                raise self._not_ours(response)
            _check_whole(response)
            return content
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise unreachable(f"the answer of {self._place.shown} was cut: {_reason(error)}") from None

    def _document(self, response: http.client.HTTPResponse, content: bytes) -> Any:
        kind = response.headers.get_content_type()
        if kind == "application/json" or kind.endswith("+json"):
            try:
                return json.loads(content)
            except (ValueError, RecursionError):
                pass
        raise self._not_ours(response)

    def unexpected(self, error: Exception) -> Failed:
        """The failure for a document that does not have the form that it has in this API."""
        lacks = f"it has no {error}" if isinstance(error, KeyError) else "it has another form"
        return unreachable(f"{self._place.shown} does not answer as an admin listener of this version: {lacks}")

    def _not_ours(self, response: http.client.HTTPResponse) -> Failed:
        """The failure for other content, which is not shown: it may be long, or repeat the request with its token."""
        self.close()
        return unreachable(
            f"{self._place.shown} does not answer as an admin listener: status {response.status}, "
            f"{response.headers.get_content_type()} that is not the JSON expected. Is this its ADMIN_LISTEN?"
        )


def _check_whole(response: http.client.HTTPResponse) -> None:
    """Raise IncompleteRead if the response ended before its Content-Length: `read` with a size does not check this."""
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed"
    if isinstance(error, http.client.IncompleteRead):
        return "it is not complete"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"not a valid HTTP response ({type(error).__name__})"
