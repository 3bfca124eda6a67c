"""Notices as requests to a webhook, signed as https://www.standardwebhooks.com/ has it.

What is signed is `id.timestamp.body`, with HMAC-SHA256.  The id and the body of a notice are the same however often it
is sent, so that a receiver can tell a repetition; the timestamp is that of the attempt.
"""

from __future__ import annotations

import binascii
import hmac
import json
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from twisted_lb.notices import Notice
from twisted_lb.timestamps import rfc3339

SECRET_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = (24, 64)  # at least and at most, decoded
SECRET: Final = f"{SECRET_PREFIX} and the base64 of {SECRET_BYTES[0]} to {SECRET_BYTES[1]} random bytes"
URL: Final = "an http:// or https:// URL without a user, a password or a fragment"


def read_secret_key(text: str) -> bytes:
    """The key for signatures.  Raises ValueError, which does not contain the text."""
    least, most = SECRET_BYTES
    try:
        key = b64decode(text.removeprefix(SECRET_PREFIX).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if not text.startswith(SECRET_PREFIX) or not least <= len(key) <= most:
        raise ValueError(f"expected {SECRET}")
    return key


def check_url(url: str) -> None:
    """Raise ValueError, which does not contain the URL, unless notices can be sent there."""
    try:
        parts = urlsplit(url)
        valid = (
            url.isascii()
            and url.isprintable()
            and " " not in url
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and parts.username is parts.password is None
            and not parts.fragment
        )
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"expected {URL}")


def host_of(url: str) -> str:
    """The part of the URL that may be logged: a path or a query may be secret."""
    return urlsplit(url).netloc


def digest_of_url(url: str) -> str:
    """Names a webhook where others may read it."""
    return sha256(url.encode()).hexdigest()


def body_of(notice: Notice) -> bytes:
    """The content of the request."""
    quota = notice.quota
    content = {
        "id": notice.id,
        "type": f"quota.{notice.threshold}",
        "timestamp": rfc3339(notice.time_us),
        "data": {
            "user": notice.user,
            "quota": {quota.unit: quota.amount, "per": quota.per, "time_zone": quota.time_zone},
            "used": quota.used,
            "starts_at": rfc3339(quota.starts_us),
            "resets_at": rfc3339(quota.ends_us),
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def fields_of(notice: Notice, body: bytes, key: bytes, seconds: int) -> dict[str, str]:
    """The header fields of an attempt at this time, in seconds since 1970."""
    signature = hmac.digest(key, f"{notice.id}.{seconds}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "webhook-id": notice.id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{b64encode(signature).decode()}",
    }
