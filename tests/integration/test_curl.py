"""HTTP with curl: versions, methods, bodies in both directions, expectations."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.integration import curl as curl_module
from tests.integration.curl import curl
from tests.integration.origin import Servers, blocks, content_hash
from tests.integration.processes import Balancer

pytestmark = pytest.mark.skipif(bool(curl_module.MISSING), reason=curl_module.MISSING)

MIB = 1024 * 1024
HTTP_1_0 = "--http1.0"
HTTP_1_1 = "--http1.1"
# How curl sends its standard input.
WITH_LENGTH = ("--data-binary", "@-")
IN_CHUNKS = ("--upload-file", "-")


@pytest.fixture(scope="module")
def store_options() -> Iterator[tuple[str, ...]]:
    """What is shown here has nothing to do with the store."""
    yield ()


@pytest.fixture(scope="module")
def as_user(balancer: Balancer) -> tuple[str, str]:
    """curl's options for a user who is never refused."""
    return "-H", f"Authorization: {balancer.create_user(f'user-{uuid4()}', 1_000_000, 1000)}"


@pytest.mark.parametrize("version", [HTTP_1_0, HTTP_1_1])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_each_method_passes(
    balancer: Balancer, servers: Servers, as_user: tuple[str, str], version: str, method: str
) -> None:
    """The server gets the method and the target as they were sent, and the client its answer."""
    target = "/a%2Fb/../c?q=%20&r=[1]"
    answer = curl(version, "--globoff", "--path-as-is", "-X", method, balancer.url + target, *as_user)
    assert (answer.status, answer.version) == (200, "HTTP/1.1")
    assert answer.body.startswith(b"Server server")
    assert [(one.method, one.path) for origin in servers.all for one in origin.seen] == [(method, target)]


@pytest.mark.parametrize("version", [HTTP_1_0, HTTP_1_1])
def test_head_has_the_fields_and_no_body(balancer: Balancer, as_user: tuple[str, str], version: str) -> None:
    """HEAD tells the length of what GET would bring, and brings nothing."""
    answer = curl(version, "--head", f"{balancer.url}/size/12345", *as_user)
    assert (answer.status, answer.exit_status) == (200, 0)
    assert answer.fields["Content-Length"] == "12345"


@pytest.mark.parametrize("version", [HTTP_1_0, HTTP_1_1])
@pytest.mark.parametrize("kind", ["size", "chunks"])
@pytest.mark.parametrize("size", [0, 1, 100_000, 8 * MIB + 1])
def test_a_download_arrives_whole(
    balancer: Balancer, as_user: tuple[str, str], version: str, kind: str, size: int
) -> None:
    """A body of any size and framing is the server's, byte for byte; HTTP/1.0 never sees chunks."""
    answer = curl(version, f"{balancer.url}/{kind}/{size}", *as_user)
    assert (answer.status, answer.exit_status, len(answer.body)) == (200, 0, size)
    assert hashlib.sha256(answer.body).hexdigest() == content_hash(size)
    chunked = kind == "chunks" and version == HTTP_1_1
    assert answer.fields.get_all("Transfer-Encoding") == (["chunked"] if chunked else None)


@pytest.mark.parametrize("sending", [WITH_LENGTH, IN_CHUNKS])
@pytest.mark.parametrize("expecting", [(), ("-H", "Expect:"), ("-H", "Expect: 100-continue")])
@pytest.mark.parametrize("size", [0, 1, 8 * MIB + 1])
def test_an_upload_arrives_whole(
    balancer: Balancer,
    as_user: tuple[str, str],
    sending: tuple[str, ...],
    expecting: tuple[str, ...],
    size: int,
) -> None:
    """The server gets the body byte for byte, with a length or in chunks, after a 100 or without."""
    body = b"".join(blocks(size))
    answer = curl(f"{balancer.url}/upload", *as_user, "-X", "POST", *sending, *expecting, sent=body)
    assert answer.status == 200, answer
    received = answer.json()
    assert (received["bytes"], received["sha256"]) == (size, content_hash(size))


def test_an_upload_of_http_1_0_arrives_whole(balancer: Balancer, as_user: tuple[str, str]) -> None:
    """HTTP/1.0 sends a length and gets its answer."""
    answer = curl(HTTP_1_0, balancer.url, *as_user, "--data-binary", "@-", sent=b"".join(blocks(MIB)))
    assert answer.json()["sha256"] == content_hash(MIB)


def test_the_server_is_who_says_continue(balancer: Balancer, servers: Servers, as_user: tuple[str, str]) -> None:
    """A client that expects 100-continue gets the server's 100 before the answer, and the server its Expect."""
    answer = curl(balancer.url, *as_user, "-H", "Expect: 100-continue", "--data-binary", "content")
    assert answer.statuses == [100, 200]
    seen = [one for origin in servers.all for one in origin.seen]
    assert [one.field("Expect") for one in seen] == ["100-continue"]


def test_a_refused_expectation_saves_the_upload(balancer: Balancer, servers: Servers) -> None:
    """A client without a key that waits for 100-continue is told 401 at once, and sends nothing."""
    body = b"".join(blocks(8 * MIB))
    answer = curl(balancer.url, "-H", "Expect: 100-continue", "--data-binary", "@-", sent=body)
    assert answer.statuses == [401]
    assert not any(origin.seen for origin in servers.all)


def test_one_connection_carries_many_requests(balancer: Balancer, as_user: tuple[str, str]) -> None:
    """curl needs one connection for three URLs."""
    urls = [f"{balancer.url}/{number}" for number in range(3)]
    answer = curl(*as_user, *urls, "-o", "/dev/null", "-o", "/dev/null")
    assert (answer.statuses, answer.connections) == ([200, 200, 200], [1, 0, 0])


@pytest.mark.parametrize("keep_alive", [(), ("-k",)])
def test_ab_sees_no_failed_request(
    balancer: Balancer, servers: Servers, as_user: tuple[str, str], keep_alive: tuple[str, ...]
) -> None:
    """ApacheBench, HTTP/1.0 with and without keep-alive, completes 600 requests at concurrency 8 and none fails."""
    # Answers of different lengths would count as failed.
    command = ["ab", "-q", "-n", "600", "-c", "8", "-s", "20", *keep_alive, *as_user, f"{balancer.url}/same"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no ab; `apt-get install apache2-utils` enables this")
    report = _numbers(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (report["Complete requests"], report["Failed requests"]) == (600, 0), done.stdout
    assert "Non-2xx responses" not in report, done.stdout
    assert report.get("Keep-Alive requests", 0) == (600 if keep_alive else 0)
    assert [len(origin.seen) for origin in servers.all] == [200, 200, 200]


def _numbers(report: str) -> dict[str, int]:
    lines: list[Any] = [line.partition(":") for line in report.splitlines()]
    return {name: int(value) for name, _, value in lines if value.strip().isdigit()}
