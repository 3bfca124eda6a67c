"""The formats of lines: JSON, the combined format of Apache and nginx, and templates.

A line is made for every request, so the JSON is put together by hand, in one piece; what does not apply is left out.
Texts that come again and again (addresses, hosts, users, servers) are escaped once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from twisted_lb.access_log.escaping import (
    field_value,
    json_bytes,
    json_content,
    json_text,
    plain_texts,
    quoted,
    word,
)
from twisted_lb.access_log.stamps import Stamps
from twisted_lb.interfaces import IN_FLIGHT, MICROTOKENS
from twisted_lb.network.peer import TlsInfo
from twisted_lb.request_record import RequestRecord

JSON: Final = "json"
COMBINED: Final = "combined"

REFERER: Final = b"\r\nreferer:"
USER_AGENT: Final = b"\r\nuser-agent:"

# Texts that are remembered; when there are more, all are forgotten.
MAX_TEXTS: Final = 4096
# Clients choose methods and hosts: longer ones are not remembered.
MAX_TEXT_BYTES: Final = 256

NO_TLS: Final = TlsInfo()

_PLACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class UnknownFormat(ValueError):
    """The text is not a format; it says what was expected."""


def microseconds(seconds: float) -> int:
    """A time as the log has it."""
    return int(seconds * 1_000_000 + 0.5)


class Format:
    """Makes lines of records, each with its line feed."""

    wants_fields: bool = False  # whether it reads `RequestRecord.fields`

    def line(self, record: RequestRecord) -> str:
        """The line, in ASCII."""
        raise NotImplementedError

    def lines(self, records: list[RequestRecord]) -> list[str]:
        """The lines of several records, in order."""
        return [self.line(record) for record in records]


class JsonFormat(Format):
    """One JSON object a line."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        # Members that come again and again, by the values that they have.
        self._requested: dict[tuple[int, bytes, bytes], str] = {}
        self._clients: dict[tuple[str, TlsInfo | None], str] = {}
        self._users: dict[tuple[bytes, str], str] = {}
        self._servers: dict[tuple[str, str, str, int], str] = {}

    def line(self, record: RequestRecord) -> str:
        return self._line(record, json_content(record.target), json_content(record.request_id))

    def lines(self, records: list[RequestRecord]) -> list[str]:
        """See Format.  Targets and ids are different each time, and seldom have anything to escape."""
        targets = plain_texts([record.target for record in records])
        ids = plain_texts([record.request_id for record in records])
        if targets is None or ids is None:
            return [self.line(record) for record in records]
        line = self._line
        return [line(record, target, its_id) for record, target, its_id in zip(records, targets, ids)]

    def _line(self, record: RequestRecord, target: str, request_id: str) -> str:
        """`target` and `request_id` are escaped."""
        started = record.started_at
        ended = record.ended_at
        ids = ""
        if request_id:
            ids = f',"request_id":"{request_id}"'
            if record.trace_id:
                ids += f',"trace_id":"{record.trace_id.decode("ascii")}"'
        peer = record.peer
        client = self._clients.get((peer.address, peer.tls))
        if client is None:
            client = self._client_members(peer.address, peer.tls)
        requested = self._requested.get((record.minor, record.method, record.host))
        if requested is None:
            requested = self._request_members(record.minor, record.method, record.host)
        limits = ""
        taken = record.taken
        if taken is not None:
            if record.user:
                user = self._users.get((record.user, record.key_id))
                limits = self._user_members(record.user, record.key_id) if user is None else user
            if record.limit:
                limits += f',"limit":{json_text(record.limit)}'
            if taken.capacity and taken.limit != IN_FLIGHT:
                limits += f',"tokens":{record.cost},"tokens_left":{record.level // MICROTOKENS}'
        if record.wait:
            limits += f',"wait_us":{microseconds(record.wait)}'
        server = ""
        if record.pool or record.route:
            found = self._servers.get((record.route, record.pool, record.server, record.attempts))
            if found is None:
                found = self._server_members(record.route, record.pool, record.server, record.attempts)
            server = found
            sent = record.sent_at
            if sent >= 0 and record.attempts:
                if record.connect_seconds >= 0:
                    server += f',"connect_us":{microseconds(record.connect_seconds)}'
                if record.first_byte_at >= sent:
                    server += f',"first_byte_us":{int((record.first_byte_at - sent) * 1_000_000 + 0.5)}'
                server += f',"server_us":{int((ended - sent) * 1_000_000 + 0.5)}'
        detail = f',"detail":{json_text(record.detail)}' if record.detail else ""
        return (
            f'{{"time":"{self._stamps.rfc3339(started)}"{ids}{client}{requested}"{target}","status":{record.status}'
            f',"reason":"{record.reason}"{detail},"bytes_in":{record.bytes_in},"bytes_out":{record.bytes_out}'
            f'{limits}{server},"total_us":{int((ended - started) * 1_000_000 + 0.5)}}}\n'
        )

    def _client_members(self, address: str, tls: TlsInfo | None) -> str:
        if len(self._clients) >= MAX_TEXTS:
            self._clients.clear()
        made = f',"client":{json_text(address)}{"" if tls is None else _tls_members(tls)}'
        self._clients[address, tls] = made
        return made

    def _request_members(self, minor: int, method: bytes, host: bytes) -> str:
        """Up to the target."""
        made = f',"protocol":"HTTP/1.{minor}","method":{json_bytes(method)},"host":{json_bytes(host)},"path":'
        if len(method) + len(host) <= MAX_TEXT_BYTES:
            if len(self._requested) >= MAX_TEXTS:
                self._requested.clear()
            self._requested[minor, method, host] = made
        return made

    def _user_members(self, user: bytes, key_id: str) -> str:
        if len(self._users) >= MAX_TEXTS:
            self._users.clear()
        made = f',"user":{json_bytes(user)},"key_id":"{key_id}"'
        self._users[user, key_id] = made
        return made

    def _server_members(self, route: str, pool: str, server: str, attempts: int) -> str:
        if len(self._servers) >= MAX_TEXTS:
            self._servers.clear()
        made = f',"route":{json_text(route)}' if route else ""
        if pool:
            made += f',"pool":{json_text(pool)}'
            if attempts:
                made += f',"server":{json_text(server)},"attempts":{attempts}'
        self._servers[route, pool, server, attempts] = made
        return made


def _tls_members(tls: TlsInfo) -> str:
    known = (("tls_version", tls.version), ("tls_cipher", tls.cipher))
    return "".join(f',"{name}":{json_text(text)}' for name, text in known if text)


class CombinedFormat(Format):
    """The combined log format, escaped as nginx does by default."""

    wants_fields: bool = True

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps

    def line(self, record: RequestRecord) -> str:
        fields = record.fields
        return (
            f"{word(record.peer.address.encode())} - {word(record.user)} [{self._stamps.common(record.started_at)}] "
            f'"{request_line(record)}" {record.status:03d} {record.content_out} '
            f'"{quoted(field_value(fields, REFERER))}" "{quoted(field_value(fields, USER_AGENT))}"\n'
        )


def request_line(record: RequestRecord) -> str:
    """The first line of the request, as between quotes."""
    if not record.method:
        return "-"
    return f"{quoted(record.method)} {quoted(record.target)} HTTP/1.{record.minor}"


def _time(seconds: float) -> str:
    return str(microseconds(seconds)) if seconds >= 0 else "-"


def _server_us(record: RequestRecord) -> str:
    return _time(record.ended_at - record.sent_at) if record.sent_at >= 0 else "-"


def _first_byte_us(record: RequestRecord) -> str:
    sent = record.sent_at
    return _time(record.first_byte_at - sent) if 0 <= sent <= record.first_byte_at else "-"


def _bucket(record: RequestRecord) -> bool:
    taken = record.taken
    return taken is not None and taken.capacity > 0 and taken.limit != IN_FLIGHT


# The fields of templates, and their values; "-" stands for what does not apply.
FIELDS: Final[dict[str, Callable[[RequestRecord, Stamps], str]]] = {
    "time": lambda record, stamps: stamps.rfc3339(record.started_at),
    "time_common": lambda record, stamps: stamps.common(record.started_at),
    "request_id": lambda record, stamps: word(record.request_id),
    "trace_id": lambda record, stamps: word(record.trace_id),
    "client": lambda record, stamps: word(record.peer.address.encode()),
    "scheme": lambda record, stamps: word(record.peer.scheme),
    "tls_version": lambda record, stamps: word((record.peer.tls or NO_TLS).version.encode()),
    "tls_cipher": lambda record, stamps: word((record.peer.tls or NO_TLS).cipher.encode()),
    "protocol": lambda record, stamps: f"HTTP/1.{record.minor}",
    "method": lambda record, stamps: word(record.method),
    "host": lambda record, stamps: word(record.host),
    "path": lambda record, stamps: word(record.target),
    "request": lambda record, stamps: request_line(record),
    "referer": lambda record, stamps: quoted(field_value(record.fields, REFERER)),
    "user_agent": lambda record, stamps: quoted(field_value(record.fields, USER_AGENT)),
    "status": lambda record, stamps: f"{record.status:03d}",
    "reason": lambda record, stamps: record.reason,
    "detail": lambda record, stamps: quoted(record.detail.encode()),
    "bytes_in": lambda record, stamps: str(record.bytes_in),
    "bytes_out": lambda record, stamps: str(record.bytes_out),
    "body_bytes_out": lambda record, stamps: str(record.content_out),
    "user": lambda record, stamps: word(record.user),
    "key_id": lambda record, stamps: record.key_id or "-",
    "limit": lambda record, stamps: record.limit or "-",
    "tokens": lambda record, stamps: str(record.cost) if _bucket(record) else "-",
    "tokens_left": lambda record, stamps: str(record.level // MICROTOKENS) if _bucket(record) else "-",
    "wait_us": lambda record, stamps: _time(record.wait),
    "route": lambda record, stamps: word(record.route.encode()),
    "pool": lambda record, stamps: word(record.pool.encode()),
    "server": lambda record, stamps: word(record.server.encode()),
    "attempts": lambda record, stamps: str(record.attempts),
    "connect_us": lambda record, stamps: _time(record.connect_seconds),
    "first_byte_us": lambda record, stamps: _first_byte_us(record),
    "server_us": lambda record, stamps: _server_us(record),
    "total_us": lambda record, stamps: _time(record.ended_at - record.started_at),
}
_OF_FIELD_LINES: Final = {"referer", "user_agent"}


class TemplateFormat(Format):
    """A text in which `{field}` stands for a value, and `{{` and `}}` for braces."""

    def __init__(self, template: str, stamps: Stamps) -> None:
        """Raises UnknownFormat."""
        names = template_fields(template)
        self.wants_fields = bool(_OF_FIELD_LINES & set(names))
        self._stamps = stamps
        self._parts: list[str | Callable[[RequestRecord, Stamps], str]] = []
        end = 0
        for place in _PLACES.finditer(template):
            self._parts.append(template[end : place.start()])
            self._parts.append(FIELDS[place[1]] if place[1] is not None else place[0][0])
            end = place.end()
        self._parts.append(template[end:] + "\n")

    def line(self, record: RequestRecord) -> str:
        stamps = self._stamps
        return "".join([part if isinstance(part, str) else part(record, stamps) for part in self._parts])


def template_fields(template: str) -> list[str]:
    """The names in a template.  Raises UnknownFormat."""
    names = [place[1] for place in _PLACES.finditer(template) if place[1] is not None]
    if not names:
        raise UnknownFormat(f"expected {JSON}, {COMBINED}, or a template with {{field}}s, such as {{time}} {{status}}")
    if not template.isascii() or _CONTROL.search(template):
        raise UnknownFormat("a template has only printable ASCII characters")
    if not {"{", "}"}.isdisjoint(_PLACES.sub("", template)):
        raise UnknownFormat("a brace that stands alone is written twice: {{ or }}")
    for name in names:
        if name not in FIELDS:
            raise UnknownFormat(f"there is no field {{{name}}}; there are {', '.join(FIELDS)}")
    return names


def check_format(text: str) -> None:
    """Raise UnknownFormat if this is not a format."""
    if text not in (JSON, COMBINED):
        template_fields(text)


def make_format(text: str, stamps: Stamps) -> Format:
    """The format that a setting names.  Raises UnknownFormat."""
    if text == JSON:
        return JsonFormat(stamps)
    return CombinedFormat(stamps) if text == COMBINED else TemplateFormat(text, stamps)
