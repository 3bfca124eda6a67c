"""Random messages: most nearly valid, with every kind of error that a peer could make."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

TOKENS = [b"a", b"B-c", b"x_y", b"close", b"keep-alive", b"te", b"!#$%&'*+-.^`|~9"]
NAMES = [
    b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Content-Type", b"Authorization", b"X-API-Key",
    b"Expect", b"TE", b"Via", b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Consumer-Username",
    b"Max-Forwards", b"Date", b"Cookie", b"Set-Cookie", b"Trailer", b"X_Forwarded_For", b"Upgrade", b"Keep-Alive",
    b"RateLimit", b"Accept", b"X-Real-IP",
]  # fmt: skip
VALUES = [
    b"", b"0", b"3", b"5", b"+3", b"3, 3", b"a.test", b"a.test:80", b"[::1]", b"a b", b"chunked", b"Chunked", b"gzip",
    b"gzip, chunked", b"close", b"keep-alive", b"close, Accept", b"TE, Via, Host", b"trailers", b"100-continue",
    b"Upgrade", b"websocket", b"h2c, a/1",
    b"for=a", b'for="a', b'"\\"', b"Bearer k", b"Basic eA==", b"1.1 x", b"\xff\tx", b"x\x00",
    b"x\rGET / HTTP/1.1", b"x\ny: z",
]  # fmt: skip
ENDS = [b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\r\n"]
COLONS = [b":", b": ", b":\t ", b": ", b": ", b": ", b" :", b"", b"::"]
METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"BREW", b"CONNECT", b"G\x00T", b""]
TARGETS = [
    b"/", b"/a?b=%20", b"//x", b"*", b"http://b.test", b"http://b.test:1/c", b"http://", b"b.test:1", b"/#", b"/\xff",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b""]
STATUSES = [b"200", b"404", b"204", b"304", b"103", b"100", b"101", b"599", b"20", b"abc"]
CHUNK_PIECES = [
    b"0\r\n\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b'00a;q="x"\r\n0123456789\r\n',
    b"3 \r\nabc\r\n", b"3\nabc\n", b"3\r\nabcd\r\n", b"g\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\nHost: b\r\nx_y: z\r\n\r\n",
    b"0\r\nA : b\r\n\r\n", b"fffffffffffffffff\r\n", b"\r\n", b"0", b"3\r\nab",
]  # fmt: skip
CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"


def _lines(names: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    line = st.tuples(names, st.sampled_from(COLONS), st.sampled_from(VALUES), st.sampled_from(ENDS)).map(b"".join)
    return st.lists(line, max_size=5).map(b"".join)


_names = st.sampled_from(NAMES) | st.sampled_from(TOKENS)
# Without these, a request is accepted more often.
_calm = st.sampled_from([name for name in NAMES if name not in (b"Host", b"Content-Length", b"Transfer-Encoding")])
_calm_line = st.tuples(_calm | st.sampled_from(TOKENS), st.just(b": "), st.sampled_from(VALUES[:-3]), st.just(b"\r\n"))
_calm_lines = st.lists(_calm_line.map(b"".join), max_size=6).map(b"".join)

chunk_bodies = st.lists(st.sampled_from(CHUNK_PIECES), max_size=5).map(b"".join) | st.binary(max_size=20)
good_chunks = st.tuples(
    st.lists(st.sampled_from(CHUNK_PIECES[2:6]), max_size=4).map(b"".join),
    st.sampled_from([b"0\r\n\r\n", b"00;x\r\nA: b\r\nx_y: z\r\nHost: c\r\n\r\n"]),
).map(b"".join)

_first_lines = st.tuples(st.sampled_from(METHODS), st.sampled_from(TARGETS), st.sampled_from(VERSIONS)).map(b" ".join)
wild_requests = st.tuples(
    _first_lines,
    st.sampled_from(ENDS),
    st.sampled_from([b"Host: a.test\r\n"] * 5 + [b""]),
    _lines(_names),
    st.just(b"\r\n"),
    chunk_bodies,
).map(b"".join)
_calm_first_lines = st.tuples(
    st.sampled_from(METHODS[:6]), st.sampled_from(TARGETS[:6]), st.sampled_from(VERSIONS[:10])
)
calm_requests = st.tuples(
    _calm_first_lines.map(b" ".join),
    st.just(b"\r\nHost: a.test\r\n"),
    _calm_lines,
    st.one_of(
        st.just(b"\r\n"),
        st.binary(max_size=9).map(lambda body: b"Content-Length: %d\r\n\r\n%b" % (len(body), body)),
        good_chunks.map(lambda body: CHUNKED_LINE + b"\r\n" + body),
    ),
).map(b"".join)
requests = st.one_of(calm_requests, wild_requests, st.binary(max_size=60))

_status_lines = st.tuples(st.sampled_from(VERSIONS), st.sampled_from(STATUSES), st.sampled_from([b"OK", b"", b"\x00"]))
wild_responses = st.tuples(
    _status_lines.map(b" ".join), st.sampled_from(ENDS), _lines(_names), st.just(b"\r\n"), chunk_bodies
).map(b"".join)
calm_responses = st.tuples(
    st.sampled_from(STATUSES[:8]).map(lambda status: b"HTTP/1.1 %b Fine\r\n" % status),
    _calm_lines,
    st.one_of(
        st.binary(max_size=9).map(lambda body: b"\r\n" + body),
        st.binary(max_size=9).map(lambda body: b"Content-Length: %d\r\n\r\n%b" % (len(body), body)),
        good_chunks.map(lambda body: CHUNKED_LINE + b"\r\n" + body),
    ),
).map(b"".join)
responses = st.one_of(calm_responses, wild_responses, st.binary(max_size=60))


def splits(data: bytes) -> SearchStrategy[list[bytes]]:
    """`data` cut in any places."""
    cuts = st.lists(st.integers(0, len(data)), max_size=8).map(sorted)
    return cuts.map(lambda at: [data[i:j] for i, j in zip([0, *at], [*at, len(data)], strict=True)])
