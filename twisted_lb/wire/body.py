"""Message bodies: from bytes on the wire to content, and from content to chunks.

A decoder is fed bytes and returns the content in them.  Afterwards `done` says whether the body has ended, `rest` is
the data after it, and `trailers` has the field lines of the trailer section.

A chunk of one byte takes as much time as one of thousands, so a call decodes at most MAX_CHUNKS.  Then `done` is False,
`rest` is the data not decoded yet, and the caller feeds it again after other connections have been served.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final, Protocol

from twisted_lb.wire.errors import WireError
from twisted_lb.wire.field_names import may_go_on
from twisted_lb.wire.fields import DEFAULT_FIELDS
from twisted_lb.wire.framing import CHUNKED, UNTIL_CLOSE
from twisted_lb.wire.grammar import BROKEN_LINE, CHUNK_LINE, FIELD_LINE, TRAILERS

MAX_CHUNK_LINE_BYTES: Final = 4096  # size and extensions; precedent: nginx, hyper 16 KiB for all extensions
MAX_EXTENSION_BYTES: Final = 16 * 1024  # in all chunks together; precedents: Go and hyper 16 KiB
MAX_TRAILER_BYTES: Final = 16 * 1024
MAX_CHUNKS: Final = 256  # per call: about 50 us.  A read of 64 KiB has more only if they are smaller than 256 bytes.


class Decoder(Protocol):
    """The interface of the three decoders."""

    done: bool
    rest: bytes
    trailers: list[bytes]
    chunks: int  # begun so far; 0 for a body without chunks

    def feed(self, data: bytes) -> bytes:
        """The content in `data`, or in the part before `rest`.  Must not be called once `done` is True."""


class LengthDecoder:
    """A body with a Content-Length."""

    __slots__ = ("done", "rest", "left", "trailers", "chunks")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.rest = b""
        self.trailers: list[bytes] = []
        self.chunks = 0

    def feed(self, data: bytes) -> bytes:
        if len(data) < self.left:
            self.left -= len(data)
            return data
        self.done = True
        if len(data) == self.left:
            return data
        self.rest = data[self.left :]
        return data[: self.left]


class UntilCloseDecoder:
    """A body that ends with the connection."""

    __slots__ = ("done", "rest", "trailers", "chunks")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self.trailers: list[bytes] = []
        self.chunks = 0

    def feed(self, data: bytes) -> bytes:
        return data


class ChunkedDecoder:
    """The chunked transfer coding (RFC 9112 section 7.1); extensions are checked and dropped."""

    __slots__ = (
        "done",
        "rest",
        "trailers",
        "chunks",
        "_buffer",
        "_seen",
        "_left",
        "_extensions",
        "_step",
        "_refuse",
        "_unwanted",
        "_any_name",
        "_forbidden",
    )

    def __init__(
        self,
        refuse: Callable[[str], WireError],
        unwanted: Set[bytes] = frozenset(),
        any_name: bool = False,
        forbidden: Set[bytes] = DEFAULT_FIELDS.forbidden_trailers,
    ) -> None:
        """`refuse` makes the error to raise from a description of the fault.

        Trailers are dropped if their names are `unwanted`, `forbidden`, or could be mistaken for a forbidden one, and,
        unless `any_name` is set, if their names are unusual; see `field_names`.
        """
        self.done = False
        self.rest = b""
        self.trailers: list[bytes] = []
        self.chunks = 0  # begun so far
        self._buffer = b""  # an incomplete line
        self._seen = 0  # bytes at the beginning of the data that an earlier call has scanned
        self._left = 0  # remaining bytes of the chunk, without its CRLF
        self._extensions = 0  # bytes of extensions so far
        self._step = self._size
        self._refuse = refuse
        self._unwanted = unwanted
        self._any_name = any_name
        self._forbidden = forbidden

    def feed(self, data: bytes) -> bytes:
        self._seen = len(self._buffer)
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        content: list[bytes] = []
        at = 0
        last = self.chunks + MAX_CHUNKS
        while at < len(data) and not self.done and self.chunks < last:
            after = self._step(data, at, content)
            if after < 0:
                self._buffer = data[at:]
                at = len(data)
                break
            at = after
        self.rest = data[at:]
        return content[0] if len(content) == 1 else b"".join(content)

    # Each step reads from `at` and returns where it stopped, or -1 when it needs more data.

    def _size(self, data: bytes, at: int, content: list[bytes]) -> int:
        end = data.find(b"\r\n", at)
        if end < 0 or end - at > MAX_CHUNK_LINE_BYTES:
            if len(data) - at > MAX_CHUNK_LINE_BYTES:
                raise self._refuse("A chunk-size line is too long.")
            if BROKEN_LINE.search(data, max(at, self._seen - 1)) or data[at] not in b"0123456789abcdefABCDEF":
                raise self._refuse("A chunk-size line is malformed.")
            return -1
        found = CHUNK_LINE.match(data, at)
        if found is None or found.end() != end + 2:
            raise self._refuse("A chunk-size line is malformed.")
        self.chunks += 1
        size = found.group(1)
        self._extensions += end - at - len(size)
        if self._extensions > MAX_EXTENSION_BYTES:
            raise self._refuse("The chunk extensions are too long.")
        self._left = int(size, 16)
        self._step = self._data if self._left else self._trailer
        return end + 2

    def _data(self, data: bytes, at: int, content: list[bytes]) -> int:
        piece = data[at : at + self._left]
        content.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._step = self._chunk_end
        return at + len(piece)

    def _chunk_end(self, data: bytes, at: int, content: list[bytes]) -> int:
        if data[at : at + 2] == b"\r\n":
            self._step = self._size
            return at + 2
        if data[at:] == b"\r":
            return -1
        raise self._refuse("A chunk does not end with CRLF.")

    def _trailer(self, data: bytes, at: int, content: list[bytes]) -> int:
        if data[at : at + 2] == b"\r\n":
            self.done = True
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if end < 0 or end - at > MAX_TRAILER_BYTES:
            if len(data) - at > MAX_TRAILER_BYTES:
                raise self._refuse("The trailer section is too long.")
            # Lines that were complete before have been validated.
            known = data.rfind(b"\r\n", at, self._seen)
            start = known + 2 if known >= 0 else at
            last = data.rfind(b"\r\n", start)
            lines = data[start:last].split(b"\r\n") if last >= 0 else []
            if BROKEN_LINE.search(data, max(at, self._seen - 1)) or not all(map(FIELD_LINE.fullmatch, lines)):
                raise self._refuse("The trailer section is malformed.")
            return -1
        section = data[at:end]
        if TRAILERS.fullmatch(b"\r\n" + section) is None:
            raise self._refuse("The trailer section is malformed.")
        for line in section.split(b"\r\n"):
            name = line.partition(b":")[0].lower()
            if name in self._forbidden or name in self._unwanted:
                continue
            if may_go_on(name, self._forbidden, self._any_name):
                self.trailers.append(line)
        self.done = True
        return end + 4


def decoder(
    framing: int,
    refuse: Callable[[str], WireError],
    unwanted: Set[bytes] = frozenset(),
    any_name: bool = False,
    forbidden: Set[bytes] = DEFAULT_FIELDS.forbidden_trailers,
) -> Decoder:
    """The decoder for a result of `framing`; for `unwanted`, `any_name` and `forbidden` see ChunkedDecoder."""
    if framing == CHUNKED:
        return ChunkedDecoder(refuse, unwanted, any_name, forbidden)
    if framing == UNTIL_CLOSE:
        return UntilCloseDecoder()
    return LengthDecoder(framing)


def chunk(content: bytes) -> bytes:
    """`content`, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def last_chunk(trailers: list[bytes]) -> bytes:
    """The end of a chunked body."""
    if trailers:
        return b"0\r\n%b\r\n\r\n" % b"\r\n".join(trailers)
    return b"0\r\n\r\n"
