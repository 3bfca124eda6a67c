"""The JSON format.

A line is made for every request, so it is put together by hand, as bytes; members that do not apply are left out.
Texts that recur (addresses, hosts, users, servers) are escaped once.
"""

from __future__ import annotations

from typing import Final

from twisted_lb.access_log.escaping import are_plain, json_content, json_text
from twisted_lb.access_log.format import Format, has_bucket, microseconds
from twisted_lb.access_log.stamps import Stamps
from twisted_lb.interfaces import MICROTOKENS
from twisted_lb.network.peer import TlsInfo
from twisted_lb.request_record import COMPLETE, RequestRecord

# Texts that are cached; when there are more, the cache is cleared.
MAX_TEXTS: Final = 4096
# Clients choose methods and hosts: longer ones are not cached.
MAX_TEXT_BYTES: Final = 256


class _UserMembers:
    """The members for a user and a key, up to the value of `tokens`."""

    __slots__ = ("user", "text")

    def __init__(self, user: bytes, text: bytes) -> None:
        self.user = user
        self.text = text


class _ServerMembers:
    """The members for a server, a pool and a route, of a request with one attempt."""

    __slots__ = ("route", "pool", "text")

    def __init__(self, route: str, pool: str, text: bytes) -> None:
        self.route = route
        self.pool = pool
        self.text = text


class JsonFormat(Format):
    """One JSON object per line.

    Most of the text of a line has occurred in earlier ones.  So the line of a typical request (a server has answered
    the first attempt, on a connection that was open, without a wait) is put together from cached members.
    """

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        # Cached members, by their values.
        self._clients: dict[tuple[str, TlsInfo | None], bytes] = {}
        self._requested: dict[tuple[int, bytes, bytes], bytes] = {}
        self._users: dict[str, _UserMembers] = {}  # by the key's id
        self._servers: dict[str, _ServerMembers] = {}  # by the server
        self._ends: dict[int, bytes] = {}  # from the end of the target to the value of `bytes_in`, by the status
        self._addresses: dict[str, bytes] = {}  # of clients without TLS

    def line(self, record: RequestRecord) -> str:
        return self._line(record).decode("ascii")

    def lines(self, records: list[RequestRecord]) -> bytes:
        """See Format.  Targets and ids are different each time, and seldom have anything to escape."""
        texts = [record.target for record in records]
        texts += [record.request_id for record in records]
        if not are_plain(texts):
            return b"".join([self._line(record) for record in records])
        stamps = self._stamps
        addresses = self._addresses
        users = self._users
        servers = self._servers
        ends = self._ends
        lines: list[bytes] = []
        # Those of the previous record.
        minor = -1
        method = host = requested = b""
        for record in records:
            started = record.started_at
            sent = record.sent_at
            first_byte = record.first_byte_at
            ended = record.ended_at
            if (
                not record.user
                or not 0 <= started <= sent <= first_byte <= ended
                or record.attempts != 1
                or record.connect_seconds >= 0
                or record.wait
                or record.limit
                or record.detail
                or record.reason != COMPLETE
                or not has_bucket(record)
            ):
                lines.append(self._line(record))
                continue
            peer = record.peer
            # Address and TLS by position, which is much faster than by name.
            client = addresses.get(peer[0]) if peer[3] is None else None
            if client is None:
                client = self._client_members(peer.address, peer.tls)
            if record.host != host or record.method != method or record.minor != minor:
                minor = record.minor
                method = record.method
                host = record.host
                requested = self._request_members(minor, method, host)
            end = ends.get(record.status)
            if end is None:
                end = self._end_members(record.status)
            user = users.get(record.key_id)
            if user is None or user.user != record.user:
                user = self._known_user(record.user, record.key_id)
            server = servers.get(record.server)
            if server is None or server.pool != record.pool or server.route != record.route:
                server = self._known_server(record.route, record.pool, record.server)
            ids = b""
            if record.request_id:
                ids = b',"request_id":"%b"' % record.request_id
                if record.trace_id:
                    ids += b',"trace_id":"%b"' % record.trace_id
            # From one literal with all its values, the compiler makes one operation.
            lines.append(
                b'{"time":"%b"%b%b%b%b%b%d,"bytes_out":%d%b%d,"tokens_left":%d%b%d,"server_us":%d,"total_us":%d}\n'
                % (
                    stamps.rfc3339_bytes(started),
                    ids,
                    client,
                    requested,
                    record.target,
                    end,
                    record.bytes_in,
                    record.bytes_out,
                    user.text,
                    record.cost,
                    record.level // MICROTOKENS,
                    server.text,
                    int((first_byte - sent) * 1_000_000 + 0.5),
                    int((ended - sent) * 1_000_000 + 0.5),
                    int((ended - started) * 1_000_000 + 0.5),
                )
            )
        return b"".join(lines)

    def _line(self, record: RequestRecord) -> bytes:
        """The line of any record."""
        started = record.started_at
        ended = record.ended_at
        ids = b""
        if record.request_id:
            ids = b',"request_id":"%b"' % json_content(record.request_id)
            if record.trace_id:
                ids += b',"trace_id":"%b"' % record.trace_id
        peer = record.peer
        client = self._client_members(peer.address, peer.tls)
        requested = self._request_members(record.minor, record.method, record.host)
        limits = b""
        taken = record.taken
        if taken is not None:
            if record.user:
                limits = _user_members(record.user, record.key_id)
            if record.limit:
                limits += b',"limit":%b' % json_text(record.limit)
            if has_bucket(record):
                limits += b',"tokens":%d,"tokens_left":%d' % (record.cost, record.level // MICROTOKENS)
        if record.wait:
            limits += b',"wait_us":%d' % microseconds(record.wait)
        server = b""
        if record.pool or record.route:
            server = _server_members(record.route, record.pool, record.server, record.attempts)
            sent = record.sent_at
            if sent >= 0 and record.attempts:
                if record.connect_seconds >= 0:
                    server += b',"connect_us":%d' % microseconds(record.connect_seconds)
                if record.first_byte_at >= sent:
                    server += b',"first_byte_us":%d' % microseconds(record.first_byte_at - sent)
                server += b',"server_us":%d' % microseconds(ended - sent)
        end = b'%d,"reason":"%b"' % (record.status, record.reason.encode("ascii"))
        if record.detail:
            end += b',"detail":%b' % json_text(record.detail)
        return b'{"time":"%b"%b%b%b%b","status":%b,"bytes_in":%d,"bytes_out":%d%b%b,"total_us":%d}\n' % (
            self._stamps.rfc3339_bytes(started),
            ids,
            client,
            requested,
            json_content(record.target),
            end,
            record.bytes_in,
            record.bytes_out,
            limits,
            server,
            microseconds(ended - started),
        )

    def _client_members(self, address: str, tls: TlsInfo | None) -> bytes:
        made = self._clients.get((address, tls))
        if made is None:
            if len(self._clients) >= MAX_TEXTS:
                self._clients.clear()
                self._addresses.clear()
            made = b',"client":%b%b' % (json_text(address), b"" if tls is None else _tls_members(tls))
            self._clients[address, tls] = made
            if tls is None:
                self._addresses[address] = made
        return made

    def _request_members(self, minor: int, method: bytes, host: bytes) -> bytes:
        """The members before the target, and the quote that opens it."""
        made = self._requested.get((minor, method, host))
        if made is None:
            named = (minor, json_content(method), json_content(host))
            made = b',"protocol":"HTTP/1.%d","method":"%b","host":"%b","path":"' % named
            if len(method) + len(host) <= MAX_TEXT_BYTES:
                if len(self._requested) >= MAX_TEXTS:
                    self._requested.clear()
                self._requested[minor, method, host] = made
        return made

    def _known_user(self, user: bytes, key_id: str) -> _UserMembers:
        if len(self._users) >= MAX_TEXTS:
            self._users.clear()
        self._users[key_id] = made = _UserMembers(user, _user_members(user, key_id) + b',"tokens":')
        return made

    def _known_server(self, route: str, pool: str, server: str) -> _ServerMembers:
        if len(self._servers) >= MAX_TEXTS:
            self._servers.clear()
        text = _server_members(route, pool, server, 1) + b',"first_byte_us":'
        self._servers[server] = made = _ServerMembers(route, pool, text)
        return made

    def _end_members(self, status: int) -> bytes:
        """These are cached without a limit, as there are few statuses."""
        self._ends[status] = made = b'","status":%d,"reason":"%b","bytes_in":' % (status, COMPLETE.encode("ascii"))
        return made


def _user_members(user: bytes, key_id: str) -> bytes:
    return b',"user":"%b","key_id":"%b"' % (json_content(user), key_id.encode("ascii"))


def _server_members(route: str, pool: str, server: str, attempts: int) -> bytes:
    made = b',"route":%b' % json_text(route) if route else b""
    if pool:
        made += b',"pool":%b' % json_text(pool)
        if attempts:
            made += b',"server":%b,"attempts":%d' % (json_text(server), attempts)
    return made


def _tls_members(tls: TlsInfo) -> bytes:
    known = ((b"tls_version", tls.version), (b"tls_cipher", tls.cipher))
    return b"".join([b',"%b":%b' % (name, json_text(text)) for name, text in known if text])
