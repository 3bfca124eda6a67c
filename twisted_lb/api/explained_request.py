"""Parses the query of GET /explain, which describes the request to be explained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Final

from twisted_lb.api.responses import Refusal
from twisted_lb.users import is_key_id
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.head import HeadLimits, RequestHead, read_request_head

NAMES: Final = (b"method", b"host", b"path", b"header", b"client", b"user", b"key_id", b"key_digest")
TAKES: Final = (
    "/explain takes method, host, path, client, user and key_id or key_digest, each once at most, and"
    " header=NAME:VALUE, nothing else."
)
_DIGEST: Final = re.compile(r"(?:[0-9a-f]{64})?")
_WORD: Final = re.compile(rb"[!-~]*")
_LINE: Final = re.compile(rb"[!-~][ -~]*")


def explained_request(args: Mapping[bytes, Sequence[bytes]]) -> tuple[RequestHead, str]:
    """The head of the request, and the address of its client, "" for any.  Raises Refusal."""
    if any(name not in NAMES or (len(values) > 1 and name != b"header") for name, values in args.items()):
        raise Refusal(400, TAKES)
    defaults = ((b"method", b"GET"), (b"host", b"localhost"), (b"path", b"/"))
    method, host, path = (args.get(name, [default])[0] for name, default in defaults)
    fields = args.get(b"header", ())
    if not all(_WORD.fullmatch(word) for word in (method, host, path)) or not all(map(_LINE.fullmatch, fields)):
        raise Refusal(400, "method, host, path and header are texts of visible ASCII.")
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, *fields, b"", b""]
    try:
        head = read_request_head(b"\r\n".join(lines), 0, HeadLimits())
    except RequestError as error:
        raise Refusal(400, f"This is not a valid request: {error.detail}") from None
    if head is None:
        raise Refusal(400, "This is not a valid request.")
    client = args.get(b"client", [b""])[0].decode("latin-1")
    if client:
        try:
            ip_address(client)
        except ValueError:
            raise Refusal(400, "client is not an IP address.") from None
    return head, client


def explained_user(args: Mapping[bytes, Sequence[bytes]]) -> str:
    """The name of the user who sends the request, or "".  Raises Refusal."""
    try:
        return args.get(b"user", [b""])[0].decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "user is not a name in percent-encoded UTF-8.") from None


def explained_key(args: Mapping[bytes, Sequence[bytes]]) -> tuple[str, str]:
    """The key_id and the digest of the request's key, at least one of which is "".  Raises Refusal."""
    key_id, digest = (args.get(name, [b""])[0].decode("latin-1") for name in (b"key_id", b"key_digest"))
    if key_id and not is_key_id(key_id):
        raise Refusal(400, "key_id is not the key_id of a key, such as key_0123456789abcdef.")
    if _DIGEST.fullmatch(digest) is None:
        raise Refusal(400, "key_digest is not the SHA-256 of a key in lower-case hexadecimal.")
    if key_id and digest:
        raise Refusal(400, "key_id and key_digest are two ways to name a key; give one of them.")
    return key_id, digest
