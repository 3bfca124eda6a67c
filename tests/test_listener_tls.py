"""The certificates of the TLS listeners at the start, in --check, and on their way to workers."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.certificates import Authority
from twisted_lb.app.describe import description
from twisted_lb.app.listener_tls import (
    MAX_AUTHORITIES_BYTES,
    CertificatesOfWorker,
    ListenerTls,
    new_contexts,
    read_listener_tls,
    words_for_worker,
)
from twisted_lb.app.startup import read_startup
from twisted_lb.config.settings import Misconfigured, Settings
from twisted_lb.network.certificate import Certificate, read_certificate

SERVERS = "servers: [{name: a, url: 'http://127.0.0.1:9001'}]"
NOW = time.time()


class StartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.base = Path(self.mktemp()).absolute()
        self.directory = self.base / "tls"
        self.directory.mkdir(parents=True)
        self.authority = Authority(self.base)

    def write(self, name: str, *names: str, **more: Any) -> str:
        """A certificate with its key in one file of the directory."""
        path = self.directory / name
        path.write_text("".join(Path(file).read_text() for file in self.authority.sign("new", *names, **more)))
        return str(path)

    def read(self, **settings: Any) -> ListenerTls | None:
        return read_listener_tls(Settings(**{f"tls_{name}": value for name, value in settings.items()}), NOW)

    def problems(self, **settings: Any) -> tuple[str, ...]:
        return self.assertRaises(Misconfigured, self.read, **settings).problems

    def test_none(self) -> None:
        """Without settings there is nothing to read."""
        self.assertIsNone(self.read())

    def test_needs_certificate(self) -> None:
        """A TLS listener needs a certificate."""
        (problem,) = self.problems(listen=("tcp:443",))
        self.assertEqual(problem, "TLS_LISTEN: it needs a certificate: set TLS_CERT_FILE or TLS_CERT_DIR")

    def test_refused_by_openssl(self) -> None:
        """Ciphers and authorities that OpenSSL does not accept are problems that name the setting."""
        own, key = self.authority.sign("own.test")
        empty = self.base / "empty.pem"
        empty.write_text("nothing\n")
        broken = self.base / "broken.pem"
        broken.write_text(Path(self.authority.ca_file).read_text().replace("A", "B", 30))
        for settings, words in (
            ({"ciphers": "NO-SUCH"}, "TLS_CIPHERS: OpenSSL knows no cipher in 'NO-SUCH'; expected a list"),
            ({"client_ca_file": str(self.base / "none")}, "none: it cannot be read: No such file or directory"),
            ({"client_ca_file": str(empty)}, "empty.pem: there is no certificate in PEM in it, or a damaged one"),
            ({"client_ca_file": str(broken)}, "broken.pem: there is no certificate in PEM in it, or a damaged one"),
        ):
            (problem,) = self.problems(cert_file=own, key_file=key, **settings)
            self.assertIn(words, problem)

    def test_authorities(self) -> None:
        """The authorities of clients are read once, and each context has them."""
        own, key = self.authority.sign("own.test")
        found = self.read(cert_file=own, key_file=key, client_ca_file=self.authority.ca_file, client_auth="optional")
        assert found is not None
        context = found.certificates.context
        self.assertEqual((context.verify_mode, len(context.get_ca_certs())), (ssl.CERT_OPTIONAL, 1))
        self.assertEqual(new_contexts(Settings(), found.client_authorities.text)().verify_mode, ssl.CERT_REQUIRED)

    def test_changed_authorities(self) -> None:
        """The file can be read again: a bad one is told, and those that were good before stay."""
        own, key = self.authority.sign("own.test")
        file = self.base / "ca.pem"
        file.write_bytes(self.authority.pem)
        found = self.read(cert_file=own, key_file=key, client_ca_file=str(file))
        assert found is not None
        authorities = found.client_authorities
        first, before = authorities.look(), authorities.text
        self.assertEqual((authorities.read(), authorities.problem), (False, ""))
        for text, words in (
            ("", "it is empty"),
            ("\n", "there is no certificate in PEM in it"),
            ("\u20ac", "it is not PEM"),
            ("x" * (MAX_AUTHORITIES_BYTES + 1), "it has more than 1048576 bytes"),
        ):
            file.write_text(text)
            self.assertNotEqual(authorities.look(), first)
            self.assertEqual((authorities.read(), authorities.text), (False, before))
            self.assertIn(f"TLS_CLIENT_CA_FILE: {file}: {words}", authorities.problem)
        file.unlink()
        self.assertFalse(authorities.read())
        self.assertIn("cannot be read: No such file", authorities.problem)
        os.mkfifo(file)
        self.assertFalse(authorities.read())
        self.assertIn("not a regular file", authorities.problem)
        file.unlink()
        file.write_bytes(Authority(self.base, "other").pem)
        self.assertEqual((authorities.read(), authorities.problem), (True, ""))
        self.assertEqual(authorities.text, file.read_text())

    def test_empty_authorities(self) -> None:
        """An empty file of authorities does not mean that no certificates are asked for."""
        own, key = self.authority.sign("own.test")
        empty = self.base / "empty.pem"
        empty.touch()
        (problem,) = self.problems(cert_file=own, key_file=key, client_ca_file=str(empty))
        self.assertIn("empty.pem: it is empty", problem)

    def test_read(self) -> None:
        """The certificates are ready to be served, and TLS_CERT_FILE is the default."""
        self.write("a.pem", "a.test")
        own, key = self.authority.sign("own.test")
        found = self.read(cert_file=own, key_file=key, cert_dir=str(self.directory))
        assert found is not None
        chosen = [found.certificates.certificate_for(name).names for name in ("a.test", "other.test")]
        self.assertEqual(chosen, [("a.test",), ("own.test",)])

    def test_problems(self) -> None:
        """All that cannot be used is told, each with its setting and its file."""
        own, key = self.authority.sign("own.test", passphrase=b"secret")
        missing = str(self.base / "missing")
        self.assertEqual(
            self.problems(key_file=key),
            ("TLS_KEY_FILE: it is set, but TLS_CERT_FILE is empty; one does not go without the other",),
        )
        directory = str(self.directory)
        self.assertEqual(
            self.problems(cert_dir=directory), (f"TLS_CERT_DIR: {directory}: there is no certificate in it",)
        )
        file = self.write("a.pem", "a.test")
        os.truncate(file, 100)
        first, second = self.problems(cert_file=own, key_file=key, cert_dir=directory)
        self.assertTrue(first.startswith(f"TLS_KEY_FILE: {key}: the key is encrypted"), first)
        self.assertTrue(second.startswith(f"TLS_CERT_DIR: {file}: there is no certificate in PEM"), second)
        self.assertIn(f"TLS_CERT_DIR: {missing}: cannot be read: No such file", self.problems(cert_dir=missing)[0])
        self.assertIn(f"TLS_CERT_FILE: {missing}: cannot be read: No such", self.problems(cert_file=missing)[0])

    def test_check(self) -> None:
        """--check says which names each certificate serves, when it expires, and which is the default; and no key."""
        (self.base / "servers.yaml").write_text(SERVERS)
        self.write("b.pem", "b.test", "*.b.test", days=60, lifetime=90)
        self.write("c.pem", "c.test", days=-1)
        (self.directory / "ca.crt").write_bytes(self.authority.pem)
        servers = str(self.base / "servers.yaml")
        options = {"servers_file": servers, "data_dir": str(self.base / "data"), "tls_cert_dir": str(self.directory)}
        options.update(tls_listen="tcp:443", self_service_create="off")
        startup = read_startup(options, os.devnull, False, {})
        lines = description(startup).splitlines()
        first, second = [line for line in lines if line.startswith("tls ")]
        self.assertTrue(first.startswith(f"tls        {self.directory}/b.pem: b.test, *.b.test; expires on 20"), first)
        self.assertTrue(first.endswith(" UTC, in 60 days; the default"), first)
        self.assertIn(f"{self.directory}/c.pem: c.test; has expired on ", second)
        notices = [line for line in lines if line.startswith("notice ")]
        self.assertIn(f"{self.directory}/c.pem: the certificate has expired on ", notices[0])
        self.assertIn(f"{self.directory}/ca.crt: it is not used: it has certificates of auth", notices[1])
        self.assertNotIn("PRIVATE", repr(startup))


class WorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.authority = Authority(directory)
        self.clock = Clock()
        self.worker = CertificatesOfWorker(self.clock, new_contexts(Settings(), ""))

    def certificate(self, file: str, name: str) -> Certificate:
        pem = b"".join(Path(part).read_bytes() for part in self.authority.sign("new", name))
        return read_certificate(file, pem, pem)

    def chosen(self, name: str) -> tuple[str, ...]:
        return self.worker.certificates.certificate_for(name).names

    def test_ticket_secrets(self) -> None:
        """A worker has the secrets of its parent, at its start and later."""
        worker = CertificatesOfWorker(self.clock, new_contexts(Settings(), ""), ["01ff"])
        keys = worker.certificates.ticket_keys
        self.assertEqual(keys.secrets, (b"\x01\xff",))
        worker.use_secrets(["02", "01ff"])
        self.assertEqual(keys.secrets, (b"\x02", b"\x01\xff"))

    def test_words(self) -> None:
        """A worker gets all certificates at its start, and later those that it does not have."""
        one, two = self.certificate("1", "one.test"), self.certificate("2", "two.test")
        self.worker.use(words_for_worker([one, two]))
        self.assertEqual((self.chosen("two.test"), self.chosen("x.test")), (("two.test",), ("one.test",)))
        renewed = self.certificate("2", "new.test")
        words = words_for_worker([renewed, one], [one, two])
        self.assertEqual([part["pem"] is None for part in words], [False, True])
        done = self.worker.use_in_turns(words)
        self.assertEqual((self.chosen("one.test"), self.chosen("x.test")), (("one.test",), ("one.test",)))
        self.clock.pump([0] * 5)
        self.successResultOf(done)
        self.assertEqual((self.chosen("one.test"), self.chosen("x.test")), (("one.test",), ("new.test",)))

    def test_other_contexts(self) -> None:
        """Other authorities are for all certificates, and for those that come later."""
        self.worker.use(words_for_worker([self.certificate("1", "one.test")]))
        before = self.worker.certificates.present_context()
        done = self.worker.use_contexts_in_turns(new_contexts(Settings(), self.authority.pem.decode()))
        self.clock.pump([0] * 5)
        self.successResultOf(done)
        context = self.worker.certificates.present_context()
        self.assertEqual((before.verify_mode, context.verify_mode), (ssl.CERT_NONE, ssl.CERT_REQUIRED))
        self.assertEqual(self.chosen("one.test"), ("one.test",))

    def test_in_order(self) -> None:
        """What is told while earlier words are used is used after them."""
        one, two = self.certificate("1", "one.test"), self.certificate("2", "two.test")
        first = self.worker.use_in_turns(words_for_worker([one, two]))
        second = self.worker.use_in_turns(words_for_worker([two], [one, two]))
        self.clock.pump([0] * 9)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.chosen("one.test"), ("two.test",))

    def test_none(self) -> None:
        """Without TLS there are none."""
        self.worker.use(words_for_worker([]))
        self.assertEqual(words_for_worker([]), [])
