"""The Lua scripts, and how they are called.

A script's text is hashed once, when it is read.  It is called by that hash (EVALSHA); when Redis does not
have it (restart, SCRIPT FLUSH), the same call is made once with the text (EVAL), which also loads it.
Repeating it is safe: a script that is missing has not run.

A process runs only its own texts, so replies may change from one version to the next; what scripts store is read by
those of other versions.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis.connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis.protocol import encode_command, encode_parts


def script_text(name: str, library: str = "") -> bytes:
    """The text of a script: bucket.lua, a library if it needs one, and the script itself."""
    folder = files("twisted_lb.stores.redis") / "lua"
    parts = [part for part in ("bucket", library, name) if part]
    return b"\n".join([folder.joinpath(f"{part}.lua").read_bytes() for part in parts])


class RedisScript:
    """One script on one connection."""

    def __init__(self, name: str, connection: RedisConnection, library: str = "") -> None:
        """`name` and `library` are those of .lua files."""
        text = script_text(name, library)
        self._connection = connection
        self._by_hash = encode_parts(b"EVALSHA", sha1(text).hexdigest().encode())
        self._by_text = encode_parts(b"EVAL", text)
        self.load = encode_command(b"SCRIPT", b"LOAD", text)
        self.calls = 0

    def call(self, *keys_and_arguments: bytes, keys: int = 1) -> Deferred[Any]:
        """Run it; the first `keys` of the arguments are keys.  Fails as `RedisConnection.call` does."""
        count = len(keys_and_arguments)
        return self.call_encoded(count + 1, encode_parts(b"%d" % keys, *keys_and_arguments))

    def command(self, *keys_and_arguments: bytes, keys: int = 1) -> bytes:
        """The same call as one encoded command, for a Redis that has the script."""
        count = len(keys_and_arguments)
        return b"*%d\r\n" % (count + 3) + self._by_hash + encode_parts(b"%d" % keys, *keys_and_arguments)

    def call_encoded(self, count: int, encoded: bytes) -> Deferred[Any]:
        """The same with `count` parts that are encoded already: the number of keys, the keys, the arguments."""
        self.calls += 1
        reply = self._connection.call(b"*%d\r\n" % (count + 2) + self._by_hash + encoded)
        return reply.addErrback(self._retry_missing, count, encoded)

    def _retry_missing(self, failure: Failure, count: int, encoded: bytes) -> Any:
        if failure.check(ErrorReply) is None or not str(failure.value).startswith("NOSCRIPT"):
            return failure
        self.calls += 1
        return self._connection.call(b"*%d\r\n" % (count + 2) + self._by_text + encoded)


def unavailable(failure: Failure) -> Failure:
    """For the caller of a store, an error reply of Redis means that the store is unavailable."""
    if failure.check(ErrorReply) is None:
        return failure
    return Failure(StoreUnavailable(failure.getErrorMessage()))
