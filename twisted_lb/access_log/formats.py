"""The formats of lines: JSON (`json_format`), the combined format of Apache and nginx, and templates."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from twisted_lb.access_log.escaping import field_value, quoted, word
from twisted_lb.access_log.format import Format, has_bucket, microseconds
from twisted_lb.access_log.json_format import JsonFormat
from twisted_lb.access_log.stamps import Stamps
from twisted_lb.interfaces import MICROTOKENS
from twisted_lb.network.peer import TlsInfo
from twisted_lb.request_record import RequestRecord

JSON: Final = "json"
COMBINED: Final = "combined"

REFERER: Final = b"\r\nreferer:"
USER_AGENT: Final = b"\r\nuser-agent:"

NO_TLS: Final = TlsInfo()

_PLACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class UnknownFormat(ValueError):
    """The text is not a format; it says what was expected."""


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
    """The first line of the request, escaped as between quotes; "-" if none was read."""
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
    "tokens": lambda record, stamps: str(record.cost) if has_bucket(record) else "-",
    "tokens_left": lambda record, stamps: str(record.level // MICROTOKENS) if has_bucket(record) else "-",
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
