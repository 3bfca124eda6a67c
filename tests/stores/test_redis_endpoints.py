"""Endpoints for each form of REDIS_URL, and what is refused before anything is connected."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.certificates import Authority
from tests.stores.contract import new_path
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.endpoints import check_redis, endpoint_of
from twisted_lb.stores.redis.sentinel import SentinelEndpoint
from twisted_lb.stores.redis.url import RedisSecurity, parse_redis_url
from twisted_lb.stores.redis.watched import IWatched


class TcpTransport(StringTransport):
    """A StringTransport with what TLS asks of the one below it."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass


class EndpointTests(SynchronousTestCase):
    """`endpoint_of`."""

    def test_each_form_has_its_endpoint(self) -> None:
        """Hosts, sockets and sentinels each get their own kind, and only sentinels are watched."""
        reactor = MemoryReactorClock()
        for url, kind in (
            ("redis://redis", HostnameEndpoint),
            ("redis://[::1]:7", HostnameEndpoint),
            ("unix:///run/redis.sock", UNIXClientEndpoint),
            ("redis+sentinel://a,b", SentinelEndpoint),
            ("rediss+sentinel://a,b", SentinelEndpoint),
        ):
            endpoint = endpoint_of(parse_redis_url(url), reactor)
            self.assertIsInstance(endpoint, kind, url)
            self.assertEqual(IWatched.providedBy(endpoint), kind is SentinelEndpoint, url)

    def test_tls_is_not_spoken_in_plain(self) -> None:
        """With rediss:// the first bytes on a connection are a TLS handshake's, to sentinels too; else a command's."""
        for url, first in (
            ("rediss://127.0.0.1", b"\x16\x03"),
            ("rediss://[::1]", b"\x16\x03"),
            ("rediss+sentinel://127.0.0.1", b"\x16\x03"),
            ("redis+sentinel://127.0.0.1", b"*3"),
            ("redis://127.0.0.1", b"*1"),
        ):
            reactor = MemoryReactorClock()
            connection = RedisConnection(endpoint_of(parse_redis_url(url), reactor), "", reactor)
            connection.start(lambda: [b"*1\r\n$4\r\nPING\r\n"])
            protocol = reactor.tcpClients[0][2].buildProtocol(None)
            transport = TcpTransport()
            protocol.makeConnection(transport)
            self.assertEqual(transport.value()[:2], first, url)


class CheckTests(SynchronousTestCase):
    """`check_redis`."""

    def setUp(self) -> None:
        self.directory = Path(new_path(self))
        self.directory.mkdir()
        self.authority = Authority(self.directory)
        self.cert_file, self.key_file = self.authority.sign("ours")

    def write(self, name: str, data: bytes) -> str:
        path = self.directory / name
        path.write_bytes(data)
        return str(path)

    def test_good_ones(self) -> None:
        """Files that hold what they should are accepted; several authorities and a chain among them."""
        other = Authority(self.directory, "other")
        authorities = self.write("both.pem", self.authority.pem + b"\n# the other\n" + other.pem)
        chain = self.write("chain.pem", Path(self.cert_file).read_bytes() + self.authority.pem)
        for url in ("rediss://127.0.0.1", "rediss+sentinel://a,b"):
            check_redis(url)
            check_redis(url, RedisSecurity(ca_file=authorities))
            check_redis(url, RedisSecurity(cert_file=chain, key_file=self.key_file))
        check_redis("redis://redis")
        check_redis("redis+sentinel://a", RedisSecurity(sentinel_password="secret"))

    def test_bad_ones_name_the_setting_and_the_file(self) -> None:
        """A file that cannot be used raises ValueError, which names its setting, the file and what is wrong."""
        ours = self.cert_file, self.key_file
        missing = str(self.directory / "missing.pem")
        nonsense = self.write("nonsense.pem", b"nonsense\n")
        damaged = self.write("damaged.pem", Path(self.cert_file).read_bytes().replace(b"\nM", b"\nX", 1))
        damaged_key = self.write("damaged.key", Path(self.key_file).read_bytes().replace(b"\nM", b"\nX", 1))
        encrypted_cert, encrypted_key = self.authority.sign("encrypted", passphrase=b"secret")
        _, another_key = self.authority.sign("another")
        folder = str(self.directory)
        for security, setting, what in (
            (RedisSecurity(missing), "REDIS_TLS_CA_FILE", f"cannot read {missing!r}: No such file or directory"),
            (RedisSecurity(folder), "REDIS_TLS_CA_FILE", f"cannot read {folder!r}: Is a directory"),
            (RedisSecurity("a\0b"), "REDIS_TLS_CA_FILE", "cannot read 'a\\x00b': embedded null byte"),
            (RedisSecurity(nonsense), "REDIS_TLS_CA_FILE", f"there is no certificate in PEM in {nonsense!r}"),
            (RedisSecurity(damaged), "REDIS_TLS_CA_FILE", f"there is no certificate in PEM in {damaged!r}"),
            (RedisSecurity(self.key_file), "REDIS_TLS_CA_FILE", "there is no certificate in PEM"),
            (RedisSecurity("", missing, ours[1]), "REDIS_TLS_CERT_FILE", f"cannot read {missing!r}"),
            (RedisSecurity("", nonsense, ours[1]), "REDIS_TLS_CERT_FILE", "there is no certificate in PEM"),
            (RedisSecurity("", ours[0], missing), "REDIS_TLS_KEY_FILE", f"cannot read {missing!r}"),
            (RedisSecurity("", ours[0], nonsense), "REDIS_TLS_KEY_FILE", "there is no private key in PEM"),
            (RedisSecurity("", ours[0], ours[0]), "REDIS_TLS_KEY_FILE", "there is no private key in PEM"),
            (RedisSecurity("", ours[0], damaged_key), "REDIS_TLS_KEY_FILE", "there is no private key in PEM"),
            (RedisSecurity("", encrypted_cert, encrypted_key), "REDIS_TLS_KEY_FILE", "is encrypted"),
            (RedisSecurity("", ours[0], another_key), "REDIS_TLS_KEY_FILE", "does not belong to the first certificate"),
            (RedisSecurity("", ours[0]), "REDIS_TLS_KEY_FILE", "it is empty, but REDIS_TLS_CERT_FILE is set"),
            (RedisSecurity("", "", ours[1]), "REDIS_TLS_CERT_FILE", "it is empty, but REDIS_TLS_KEY_FILE is set"),
        ):
            for url in ("rediss://:secret@redis", "rediss+sentinel://:secret@redis"):
                message = str(self.assertRaises(ValueError, check_redis, url, security))
                self.assertTrue(message.startswith(f"{setting}: "), message)
                self.assertIn(what, message)
                self.assertNotIn("secret", message)

    def test_a_setting_that_would_have_no_effect_is_refused(self) -> None:
        """Certificates without TLS, and a sentinels' password without sentinels, are somebody's mistake."""
        for url in ("redis://redis", "unix:///run/redis.sock", "redis+sentinel://a"):
            for setting, security in (
                ("REDIS_TLS_CA_FILE", RedisSecurity(ca_file=self.authority.ca_file)),
                ("REDIS_TLS_CERT_FILE", RedisSecurity(cert_file=self.cert_file)),
                ("REDIS_TLS_KEY_FILE", RedisSecurity(key_file=self.key_file)),
            ):
                message = str(self.assertRaises(ValueError, check_redis, url, security))
                self.assertTrue(message.startswith(f"{setting}: it is set, but"), message)
        password = RedisSecurity(sentinel_password="s3cret")
        message = str(self.assertRaises(ValueError, check_redis, "rediss://redis", password))
        self.assertTrue(message.startswith("REDIS_SENTINEL_PASSWORD: it is set, but"), message)
        self.assertNotIn("s3cret", message)

    def test_a_bad_url_is_refused_first(self) -> None:
        """A REDIS_URL that cannot be read is what is told, whatever else is wrong."""
        message = str(self.assertRaises(ValueError, check_redis, "rediss://", RedisSecurity("missing.pem")))
        self.assertTrue(message.startswith("REDIS_URL: "), message)
