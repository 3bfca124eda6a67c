"""Certificates: what can be used, which one a client gets, and what becomes of them when their files change."""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.stores.certificates import Authority
from twisted_lb.network.certificate import AuthorityOnly, Certificate, CertificateError, load, read_certificate
from twisted_lb.network.certificate_files import CertificatePaths
from twisted_lb.network.certificate_set import CertificateSet, Changes
from twisted_lb.network.certificates import Certificates, NoCertificate
from twisted_lb.network.tls_context import server_context
from twisted_lb.steps import finish

NOW = time.time()
DAY = 24 * 3600.0


def new_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Made(SynchronousTestCase):
    """Has a directory with an authority outside of it."""

    def setUp(self) -> None:
        base = Path(self.mktemp())
        self.directory = base / "tls"
        self.directory.mkdir(parents=True)
        self.elsewhere = base / "elsewhere"
        self.elsewhere.mkdir()
        self.authority = Authority(self.elsewhere)

    def pair(self, *names: str, **more: Any) -> tuple[bytes, bytes]:
        """The chain and the key of a new certificate, in PEM."""
        chain, key = self.authority.sign("new", *names, **more)
        return Path(chain).read_bytes() + self.authority.pem, Path(key).read_bytes()

    def write(self, name: str, *names: str, **more: Any) -> Path:
        """A new certificate with its key in one file."""
        path = self.directory / name
        path.write_bytes(b"".join(self.pair(*names, **more)))
        return path

    def certificate(self, *names: str, **more: Any) -> Certificate:
        return read_certificate("x.pem", *self.pair(*names, **more))


class CertificateTests(Made):
    def test_names_and_times(self) -> None:
        """A certificate has the names of its subjectAltName and nothing else, and the times of its validity."""
        one = self.certificate("a.test", "*.B.test", "192.0.2.1", "::1", days=10, lifetime=90)
        self.assertEqual(one.names, ("a.test", "*.b.test", "192.0.2.1", "::1"))
        self.assertApproximates(one.not_after, NOW + 10 * DAY, DAY / 2)
        self.assertApproximates(one.not_before, NOW - 80 * DAY, DAY / 2)
        self.assertEqual([one.valid_at(NOW + days * DAY) for days in (-81, 0, 11)], [False, True, False])
        self.assertEqual(one.pem.count(b"BEGIN CERTIFICATE"), 2)
        load(new_context(), one)

    def test_key_is_not_shown(self) -> None:
        """The representation has no key in it."""
        self.assertNotIn("KEY", repr(self.certificate("a.test")))

    def test_without_proc(self) -> None:
        """Where memory has no path, OpenSSL gets a temporary file, which is gone afterwards."""
        self.patch(os.path, "isdir", lambda path: False)
        self.patch(tempfile, "tempdir", str(self.directory))
        load(new_context(), self.certificate("a.test"))
        self.assertEqual(os.listdir(self.directory), [])

    def test_order_in_a_file(self) -> None:
        """The key may come before the chain."""
        chain, key = self.pair("a.test")
        self.assertEqual(read_certificate("x", key + chain, key + chain).names, ("a.test",))

    def test_not_usable(self) -> None:
        """What cannot be used is told with the file that is to blame, and what was expected."""
        chain, key = self.pair("a.test")
        other_chain, other = self.pair("b.test")
        encrypted = self.pair("a.test", passphrase=b"secret")[1]
        bad_key = "k: the private key in it is damaged, or of a kind that is not known"
        damaged = "c: a certificate in it is damaged"
        for one, its_key, said in (
            (b"", key, "c: there is no certificate in PEM in it, or one that is damaged"),
            (chain[:100], key, "c: there is no certificate in PEM in it, or one that is damaged"),
            (chain[:-100], key, damaged),
            (chain, b"", "k: there is no private key in PEM in it"),
            (chain, key[: len(key) // 2], bad_key),
            (chain, key.replace(b"M", b"!"), bad_key),
            (chain, encrypted, "k: the key is encrypted; a key without a passphrase is needed"),
            (chain, other, "c: the key in k does not belong to the certificate"),
            (other_chain + chain, key, "c: the certificate of the key must be the first one in it"),
        ):
            error = self.assertRaises(CertificateError, read_certificate, "c", one, its_key, "k")
            self.assertTrue(str(error).startswith(said), str(error))
        self.assertRaises(AuthorityOnly, read_certificate, "c", self.authority.pem, self.authority.pem)


class ChoiceTests(Made):
    def chosen(self, certificates: list[Certificate], *names: str | None) -> list[int]:
        """Which certificate each name gets."""
        table = Certificates(new_context)
        table.use(certificates, NOW)
        return [certificates.index(table.certificate_for(name)) for name in names]

    def test_exact_wildcard_default(self) -> None:
        """An exact name wins over a wildcard, which stands for one label, and what is in none gets the first."""
        certificates = [self.certificate(*names) for names in (["d.test"], ["*.a.test", "a.test"], ["x.a.test"])]
        cases = {"x.a.test": 2, "X.A.TEST": 2, "y.a.test": 1, "a.test": 1, "x.y.a.test": 0, ".a.test": 0, None: 0}
        cases |= {"": 0, "b.test": 0, "test": 0, "*.a.test": 1, "xa.test": 0}
        self.assertEqual(self.chosen(certificates, *cases), list(cases.values()))

    def test_several_for_one_name(self) -> None:
        """Of several for a name it is a valid one, of these the one that expires last, of these the first."""
        expired, soon, late = (self.certificate("a.test", days=days, lifetime=90) for days in (-1, 5, 50))
        to_come = self.certificate("a.test", days=90, lifetime=30)
        self.assertEqual(self.chosen([expired, soon, late, to_come], "a.test"), [2])
        self.assertEqual(self.chosen([expired, soon], "a.test"), [1])
        self.assertEqual(self.chosen([expired, to_come], "a.test"), [1])

    def test_none(self) -> None:
        """Without any certificate there is none to choose."""
        self.assertRaises(NoCertificate, Certificates(new_context).certificate_for, "a.test")
        self.assertRaises(ssl.SSLError, self.shake, Certificates(new_context), "a.test")

    def shake(
        self, server: Certificates, name: str | None, earlier: Any = None, own: tuple[str, str] | None = None
    ) -> ssl.SSLObject:
        """A handshake in memory; the client's end of it.  `earlier`: that of a connection whose session is resumed.

        `own` are the files of a certificate of the client.
        """
        context = earlier.context if earlier else ssl.create_default_context(cafile=self.authority.ca_file)
        if name is None:
            context.check_hostname = False
        if own is not None:
            context.load_cert_chain(*own)
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = earlier.session if earlier else None
        client = context.wrap_bio(to_client, to_server, server_hostname=name, session=session)
        ours = server.context.wrap_bio(to_server, to_client, server_side=True)
        for end in (client, ours) * 3:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        self.assertRaises(ssl.SSLWantReadError, client.read)  # the tickets of TLS 1.3
        return client

    def test_handshakes(self) -> None:
        """A client gets the certificate for its name, and after a change the new one, with its session resumed."""
        server = Certificates(new_context)
        default = self.certificate("d.test")
        server.use([default, self.certificate("a.test", days=1)], NOW)
        client = self.shake(server, "a.test")
        self.assertEqual(client.getpeercert()["subjectAltName"], (("DNS", "a.test"),))
        self.assertIn(("DNS", "d.test"), self.shake(server, None).getpeercert()["subjectAltName"])
        renewed = self.certificate("a.test", days=2)
        server.try_out(renewed)
        server.use([default, renewed], NOW)
        self.assertTrue(self.shake(server, "a.test", client).session_reused)
        until = ssl.cert_time_to_seconds(self.shake(server, "a.test").getpeercert()["notAfter"])
        self.assertApproximates(until, renewed.not_after, 1)

    def test_other_authorities(self) -> None:
        """Other contexts verify clients of all names with their authorities, also those that resume a session."""
        people = [Authority(self.elsewhere, name) for name in ("first", "second")]
        own = [one.sign(f"person{number}") for number, one in enumerate(people)]

        def contexts(authority: Authority) -> Any:
            return partial(server_context, "1.2", "", authority.pem.decode(), "required")

        server = Certificates(contexts(people[0]))
        server.use([self.certificate("d.test"), self.certificate("a.test")], NOW)
        clients = {name: self.shake(server, name, own=own[0]) for name in ("d.test", "a.test")}
        for name, client in clients.items():
            self.assertTrue(self.shake(server, name, client).session_reused)
            self.assertRaises(ssl.SSLError, self.shake, server, name, own=own[1])
        finish(server.use_contexts_in_steps(contexts(people[1])))
        for name, client in clients.items():
            self.assertRaises(ssl.SSLError, self.shake, server, name, client)
            self.assertRaises(ssl.SSLError, self.shake, server, name, own=own[0])
            self.assertFalse(self.shake(server, name, own=own[1]).session_reused)
        renewed = self.certificate("d.test", "new.test")
        server.try_out(renewed)
        server.use([renewed], NOW)
        self.shake(server, "new.test", own=own[1])
        self.assertRaises(ssl.SSLError, self.shake, server, "new.test", own=own[0])

    def test_unusable_changes_nothing(self) -> None:
        """A certificate that OpenSSL does not take leaves the others in use."""
        server = Certificates(new_context)
        good = self.certificate("a.test")
        server.use([good], NOW)
        bad = Certificate("bad.pem", ("b.test",), 0.0, 1e10, good.pem[:50])
        self.assertIn("bad.pem: OpenSSL does not take", str(self.assertRaises(CertificateError, server.try_out, bad)))
        self.assertRaises(CertificateError, server.use, [bad], NOW)
        self.assertEqual(server.certificate_for("b.test"), good)


class SetTests(Made):
    """Files of a directory, as they come, change and go."""

    def setUp(self) -> None:
        super().setUp()
        self.set = CertificateSet(CertificatePaths(directory=str(self.directory)), lambda certificate: None)

    def read(self, now: float = NOW) -> Changes:
        return finish(self.set.read_in_steps(now))

    @property
    def in_use(self) -> dict[str, tuple[str, ...]]:
        """The names by file, the default first."""
        return {os.path.basename(one.file): one.names for one in self.set.certificates}

    def test_directory(self) -> None:
        """Each .pem and .crt is read, with the key in it or in .key; default.pem is the default, and then the first."""
        chain, key = self.pair("c.test")
        (self.directory / "c.crt").write_bytes(chain)
        (self.directory / "c.key").write_bytes(key)
        self.write("b.pem", "b.test")
        self.write(".hidden.pem", "h.test")
        (self.directory / "sub.pem").mkdir()
        (self.directory / "ca.crt").write_bytes(self.authority.pem)
        (self.directory / "README").write_text("text")
        self.assertEqual((self.read().problems, list(self.in_use)), ((), ["b.pem", "c.crt"]))
        self.assertEqual([os.path.basename(file) for file in self.set.passed_over], ["ca.crt"])
        self.write("default.crt", "d.test")
        self.read()
        self.assertEqual(self.in_use, {"default.crt": ("d.test",), "b.pem": ("b.test",), "c.crt": ("c.test",)})

    def test_many(self) -> None:
        """Looking at the files of many certificates takes several steps, and so does passing over unchanged ones."""
        content = self.write("0.pem", "a.test").read_bytes()
        for number in range(1, 60):
            (self.directory / f"{number}.pem").write_bytes(content)
        self.assertEqual(len(self.read().new), 60)
        steps = self.set.look_in_steps(), self.set.read_in_steps(NOW)
        self.assertEqual([len(list(one)) for one in steps], [2, 2])

    def test_file_and_directory(self) -> None:
        """TLS_CERT_FILE is the default, and is not read twice where it is in the directory."""
        own = self.write("z.pem", "z.test")
        self.write("default.pem", "d.test")
        self.set = CertificateSet(CertificatePaths(str(own), "", str(self.directory)), lambda certificate: None)
        self.read()
        self.assertEqual(list(self.in_use), ["z.pem", "default.pem"])

    def test_changes(self) -> None:
        """New, renewed and removed certificates are told; what has not changed is not read."""
        one = self.write("a.pem", "a.test")
        self.assertEqual([c.names for c in self.read().new], [("a.test",)])
        self.assertEqual(self.read(), Changes())
        looks = [finish(self.set.look_in_steps())]
        self.write("a.pem", "a.test")
        self.write("b.pem", "b.test")
        looks.append(finish(self.set.look_in_steps()))
        changes = self.read()
        self.assertEqual((len(changes.new), len(changes.renewed), changes.certificates), (1, 1, True))
        one.unlink()
        looks.append(finish(self.set.look_in_steps()))
        self.assertEqual([c.names for c in self.read().removed], [("a.test",)])
        self.assertNotIn(looks[1], (looks[0], looks[2]))

    def test_broken_keeps_the_old(self) -> None:
        """A file that cannot be used is told once, and the certificate that it had is used, until it is good again."""
        path = self.write("a.pem", "a.test")
        self.read()
        before = self.set.certificates
        good = path.read_bytes()
        path.write_bytes(good[:-20])
        ((file, text),) = self.read().problems
        self.assertEqual((file, self.set.certificates), (str(path), before))
        self.assertTrue(text.startswith(f"TLS_CERT_DIR: {path}: the private key in it is damaged"), text)
        self.assertEqual(self.read(), Changes())
        path.write_bytes(good)
        self.assertEqual(self.read(), Changes(mended=(str(path),)))

    def test_new_and_broken(self) -> None:
        """A new file that cannot be used is told, and the others are used."""
        self.write("b.pem", "b.test")
        (self.directory / "a.pem").write_text("nonsense")
        self.assertEqual((len(self.read().problems), list(self.in_use)), (1, ["b.pem"]))

    def test_key_after_the_certificate(self) -> None:
        """Between the two writes of a renewal the old pair is used, and after them the new one."""
        (chain, key), (new_chain, new_key) = self.pair("a.test"), self.pair("a.test", "b.test")
        paths = [self.directory / "a.crt", self.directory / "a.key"]
        for path, content in zip(paths, (chain, key)):
            path.write_bytes(content)
        self.read()
        paths[0].write_bytes(new_chain)
        ((_, text),) = self.read().problems
        self.assertIn(f"the key in {paths[1]} does not belong to the certificate", text)
        self.assertEqual(self.in_use, {"a.crt": ("a.test",)})
        paths[1].write_bytes(new_key)
        self.assertEqual(len(self.read().renewed), 1)
        self.assertEqual(self.in_use, {"a.crt": ("a.test", "b.test")})

    def test_authority_without_its_key(self) -> None:
        """A certificate of an authority, such as a self-signed one, is missed if its key is not there any more."""
        own = read_certificate("x", self.authority.pem, self.authority.key_pem)
        paths = [self.directory / "a.pem", self.directory / "b.crt", self.directory / "b.key"]
        for path, content in zip(paths, (own.pem, self.authority.pem, self.authority.key_pem)):
            path.write_bytes(content)
        self.assertEqual(len(self.read().new), 2)
        paths[0].write_bytes(self.authority.pem)
        paths[2].write_bytes(b"")
        self.read()
        paths[1].write_bytes(self.authority.pem + b"#")
        self.read()
        self.assertEqual((len(self.set.problems), len(self.in_use), self.set.passed_over), (2, 2, ()))
        self.set = CertificateSet(CertificatePaths(str(paths[1]), str(paths[2])), lambda certificate: None)
        self.assertTrue(self.read().problems[0][1].startswith(f"TLS_KEY_FILE: {paths[2]}: there is no private key"))

    def test_symbolic_links(self) -> None:
        """A secret of Kubernetes is changed by one link that is renamed: both files change with it."""
        for version, name in (("..1", "a.test"), ("..2", "b.test")):
            (self.directory / version).mkdir()
            for file, content in zip(("tls.crt", "tls.key"), self.pair(name)):
                (self.directory / version / file).write_bytes(content)
        (self.directory / "..data").symlink_to("..1")
        for file in ("tls.crt", "tls.key"):
            (self.directory / file).symlink_to(f"..data/{file}")
        self.read()
        before = finish(self.set.look_in_steps())
        (self.directory / "..new").symlink_to("..2")
        os.replace(self.directory / "..new", self.directory / "..data")
        self.assertNotEqual(finish(self.set.look_in_steps()), before)
        self.assertEqual((self.read().problems, self.in_use), ((), {"tls.crt": ("b.test",)}))

    def test_validity(self) -> None:
        """An expired or future certificate does not replace a valid one until it is valid, and is better than none."""
        path = self.write("a.pem", "old.test", days=2)
        self.read()
        for days, said in ((-1, "has expired"), (8, "is not valid yet")):
            self.write("a.pem", "new.test", days=days)
            self.assertIn(f"the certificate {said}, and the one in use is valid", self.read().problems[0][1])
            self.assertEqual(self.in_use, {"a.pem": ("old.test",)})
        self.assertEqual(self.read(NOW + 4 * DAY).mended, (str(path),))
        self.assertEqual(self.in_use, {"a.pem": ("new.test",)})
        self.write("b.pem", "b.test", days=-1)
        self.assertEqual((self.read().problems, len(self.in_use)), ((), 2))

    def test_the_last_one_stays(self) -> None:
        """Neither an empty directory nor a missing one takes the last certificate away."""
        path = self.write("a.pem", "a.test")
        self.read()
        content = path.read_bytes()
        path.unlink()
        self.assertIn("there is no certificate in it any more", self.read().problems[0][1])
        self.directory.rmdir()
        self.assertIn("cannot be read: No such file", self.read().problems[0][1])
        self.assertEqual(self.in_use, {"a.pem": ("a.test",)})
        self.directory.mkdir()
        path.write_bytes(content)
        self.assertEqual(self.read().mended, (str(self.directory),))

    def test_not_a_file(self) -> None:
        """What is no regular file, or very long, or cannot be reached, is a problem and is not waited for."""
        os.mkfifo(self.directory / "a.pem")
        (self.directory / "b.pem").write_bytes(b"x" * (1024**2 + 1))
        (self.directory / "c.pem").symlink_to("nowhere")
        texts = [text for _, text in self.read().problems]
        said = ("it is not a regular file", "it has more than 1048576 bytes", "cannot be read: No such file")
        for text, part in zip(texts, said, strict=True):
            self.assertIn(part, text)

    def test_refused_when_tried(self) -> None:
        """What OpenSSL does not take is a problem like others."""

        def refuse(certificate: Certificate) -> None:
            raise CertificateError(f"{certificate.file}: too short")

        self.write("a.pem", "a.test")
        self.set = CertificateSet(CertificatePaths(directory=str(self.directory)), refuse)
        self.assertIn(": too short", self.read().problems[0][1])
        self.assertEqual(self.in_use, {})

    def test_settings_are_named(self) -> None:
        """A problem names the setting whose file is to blame."""
        chain, key = (Path(file) for file in self.authority.sign("a.test"))
        for file, key_file, setting in (
            (chain, chain.with_name("no.key"), "TLS_KEY_FILE: "),
            (chain, self.authority.ca_file, "TLS_KEY_FILE: "),
            (chain, "", "TLS_CERT_FILE: "),
            (chain.with_name("no.pem"), key, "TLS_CERT_FILE: "),
        ):
            self.set = CertificateSet(CertificatePaths(str(file), str(key_file)), lambda certificate: None)
            ((_, text),) = self.read().problems
            self.assertTrue(text.startswith(setting), text)
