"""`tls` in servers.yaml: its meaning for each server, which files it may name, and the errors."""

from __future__ import annotations

import re
import ssl
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.stores.certificates import Authority
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.pool import ServerTls, TlsFiles
from twisted_lb.config.server_tls import client_context, files_changed, files_of, read_file, tls_notices
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured


class FilesCase(SynchronousTestCase):
    """A directory with a servers.yaml to be, an authority `ca.pem`, and a certificate of ours."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.file_name = str(self.directory / "servers.yaml")
        self.authority = Authority(self.directory, "ca")
        self.authority.sign("ours")

    def path(self, name: str) -> str:
        return f"{self.directory.absolute()}/{name}"

    def read(self, text: str) -> GatewaySpec:
        return read_gateway(text, self.file_name)

    def tls(self, *lines: str, general: str = "") -> list[ServerTls | None]:
        """The settings of servers that are described by these lines."""
        servers = "".join(f"- {{name: s{number}, {line}}}\n" for number, line in enumerate(lines))
        return [server.tls for server in self.read(f"servers:\n{servers}{general}").servers]

    def files(self, **settings: object) -> TlsFiles:
        """With these settings, and nothing of what was read."""
        return TlsFiles(**settings)  # type: ignore[arg-type]


def plain(files: TlsFiles) -> tuple[str, str, str, bool]:
    """The settings without what was read."""
    return files.ca_file, files.cert_file, files.key_file, files.verify


class MeaningTests(FilesCase):
    def test_https(self) -> None:
        """An https:// server has port 443, and is verified by the system's authorities as the host of its url."""
        text = "servers: [{name: a, url: https://a.test}, {name: b, url: 'https://[::1]:8443'}, {name: c, url: http://c}]"
        one, two, three = self.read(text).servers
        self.assertEqual([(server.host, server.port) for server in (one, two, three)],
                         [("a.test", 443), ("::1", 8443), ("c", 80)])
        assert one.tls is not None and two.tls is not None
        self.assertEqual((one.tls.server_name, two.tls.server_name, three.tls), ("a.test", "::1", None))
        self.assertEqual(plain(one.tls.files), ("", "", "", True))

    def test_key_by_key(self) -> None:
        """A server's keys take precedence over those at the top, one by one."""
        general = "tls: {ca_file: ca.pem, server_name: all.test}"
        cases = [
            ("", ("all.test", self.path("ca.pem"), "", "", True)),
            ("tls: {}", ("all.test", self.path("ca.pem"), "", "", True)),
            ("tls: {server_name: b.test}", ("b.test", self.path("ca.pem"), "", "", True)),
            ("tls: {server_name: '::0:1'}", ("::1", self.path("ca.pem"), "", "", True)),
            ("tls: {ca_file: ''}", ("all.test", "", "", "", True)),
            ("tls: {verify: false}", ("all.test", self.path("ca.pem"), "", "", False)),
            (
                "tls: {cert_file: ours.pem, key_file: ours.key}",
                ("all.test", self.path("ca.pem"), self.path("ours.pem"), self.path("ours.key"), True),
            ),
        ]
        for line, expected in cases:
            (found,) = self.tls(f"url: https://a.test{', ' if line else ''}{line}", general=general)
            assert found is not None
            self.assertEqual((found.server_name, *plain(found.files)), expected, line)

    def test_one_without_our_certificate(self) -> None:
        """A server can be one that gets no certificate of ours, though all others do."""
        ours = "tls: {cert_file: ours.pem, key_file: ours.key}"
        one, two = self.tls("url: https://a", "url: https://a, tls: {cert_file: ''}", general=ours)
        assert one is not None and two is not None
        self.assertEqual((plain(one.files)[1:3], plain(two.files)[1:3]),
                         ((self.path("ours.pem"), self.path("ours.key")), ("", "")))

    def test_certificate_and_key_in_one_file(self) -> None:
        """Without a key_file the key is in the cert_file."""
        both = (self.directory / "ours.key").read_bytes() + (self.directory / "ours.pem").read_bytes()
        (self.directory / "both.pem").write_bytes(both)
        (found,) = self.tls("url: https://a, tls: {cert_file: both.pem}")
        assert found is not None
        client_context(found.files)

    def test_a_final_dot(self) -> None:
        """A host name with a final dot is one without it to a certificate (RFC 6066 section 3)."""
        (found,) = self.tls("url: https://a.test.")
        assert found is not None
        self.assertEqual(found.server_name, "a.test")

    def test_equal_settings_are_shared(self) -> None:
        """Thousands of servers with the same settings have one object for them, with one copy of the contents."""
        lines = [f"url: 'https://s{number}.test', tls: {{ca_file: ca.pem}}" for number in range(50)]
        found = self.tls(*lines, general="tls: {verify: true}")
        self.assertEqual(len({id(one.files) for one in found if one is not None}), 1)


class ContentTests(FilesCase):
    TEXT = "servers: [{name: a, url: https://a}]\ntls: {ca_file: ca.pem, cert_file: ours.pem, key_file: ours.key}"

    def test_contents_belong_to_the_configuration(self) -> None:
        """What the files held is used, without them, wherever the configuration is."""
        spec = self.read(self.TEXT)
        held = files_of(spec)
        self.assertEqual(sorted(held), [self.path(name) for name in ("ca.pem", "ours.key", "ours.pem")])
        for path in held:
            Path(path).unlink()
        self.assertRaises(Misconfigured, self.read, self.TEXT)
        again = read_gateway(self.TEXT, self.file_name, held.__getitem__)
        self.assertEqual(again, spec)
        tls = again.servers[0].tls
        assert tls is not None
        self.assertEqual(client_context(tls.files).cert_store_stats()["x509_ca"], 1)

    def test_a_renewed_file_is_another_configuration(self) -> None:
        """With other contents the settings of a server differ, though not a letter of the file does."""
        before = self.read(self.TEXT)
        self.assertFalse(files_changed(files_of(before)))
        self.authority.sign("ours")
        self.assertTrue(files_changed(files_of(before)))
        after = self.read(self.TEXT)
        self.assertNotEqual(before, after)
        self.assertFalse(files_changed(files_of(after)))
        (self.directory / "ours.key").unlink()
        self.assertTrue(files_changed(files_of(after)))

    def test_keys_are_not_shown(self) -> None:
        """A private key is in no text that describes a configuration."""
        self.assertNotIn("PRIVATE", repr(self.read(self.TEXT)))

    def test_read_file(self) -> None:
        """A directory, a device and a file of any size are not read."""
        self.assertRaises(ValueError, read_file, str(self.directory))
        self.assertRaises(ValueError, read_file, "/dev/zero")
        with open(self.path("large"), "wb") as large:
            large.truncate(1 << 30)
        self.assertRaises(ValueError, read_file, self.path("large"))


class ContextTests(FilesCase):
    def test_context(self) -> None:
        """TLS 1.2 and later, with verification of certificate and name unless that is switched off."""
        context = client_context(TlsFiles())
        self.assertEqual((context.verify_mode, context.check_hostname), (ssl.CERT_REQUIRED, True))
        self.assertEqual(context.minimum_version, ssl.TLSVersion.TLSv1_2)
        context = client_context(TlsFiles(verify=False))
        self.assertEqual((context.verify_mode, context.check_hostname), (ssl.CERT_NONE, False))

    def test_only_the_named_authorities(self) -> None:
        """With a ca_file the system's authorities are not trusted."""
        (found,) = self.tls("url: https://a, tls: {ca_file: ca.pem}")
        assert found is not None
        self.assertEqual(len(client_context(found.files).get_ca_certs()), 1)

    def test_comments_between_certificates(self) -> None:
        """A bundle may have text of any kind between its certificates."""
        other = Authority(self.directory, "other")
        bundle = "Autorité\n".encode() + self.authority.pem + b"\xff\n" + other.pem
        (self.directory / "bundle.pem").write_bytes(bundle)
        (found,) = self.tls("url: https://a, tls: {ca_file: bundle.pem}")
        assert found is not None
        self.assertEqual(len(client_context(found.files).get_ca_certs()), 2)


class RefusalTests(FilesCase):
    def problems(self, text: str) -> list[str]:
        found = self.assertRaises(Misconfigured, self.read, text).problems
        return [problem.removeprefix(f"{self.file_name}:") for problem in found]

    def test_keys(self) -> None:
        """A key that cannot be used is told with its line, and what was expected."""
        name = "expected a host name such as api.example.com, or an IP address, not "
        cases = [
            ("tls: true", "tls: expected a mapping with any of the keys ca_file, cert_file, key_file, server_name, "),
            ("tls: {cafile: x}", "tls.cafile: unknown key; did you mean 'ca_file'?"),
            ("tls: {ca_file: 7}", "tls.ca_file: expected the path of a file of authorities in PEM, or '' for the"),
            ("tls: {verify: 0}", "tls.verify: expected true or false, not 0"),
            ("tls: {server_name: 'a b'}", f"tls.server_name: {name}'a b'"),
            ("tls: {server_name: '*.a.test'}", f"tls.server_name: {name}'*.a.test'"),
            ("tls: {server_name: 1.2.3}", f"tls.server_name: {name}'1.2.3'"),
            ("tls: {server_name: ''}", f"tls.server_name: {name}''"),
            ("tls: {key_file: ours.key}", "tls.key_file: expected cert_file beside it"),
        ]
        for line, expected in cases:
            (problem,) = self.problems(f"servers: [{{name: a, url: https://a}}]\n{line}\n")
            self.assertTrue(problem.startswith(f"2: {expected}"), (line, problem))
            (problem,) = self.problems(f"servers:\n- {{name: a, url: https://a, {line}}}\n")
            self.assertTrue(problem.startswith(f"2: servers[0].{expected}"), (line, problem))

    def test_without_https(self) -> None:
        """`tls` where nothing speaks TLS is a mistake: of the scheme, or of the place."""
        (problem,) = self.problems("servers:\n- {name: a, url: http://a, tls: {}}\n- {name: b, url: https://b}")
        self.assertEqual(problem, "2: servers[0].tls: expected only with an https:// url")
        (problem,) = self.problems("servers: [{name: a, url: http://a}]\ntls: {verify: false}\n")
        self.assertEqual(problem, "2: tls: expected at least one server with an https:// url")

    def test_files(self) -> None:
        """A file that cannot be used is told with the key that names it, and its path."""
        self.authority.sign("other")
        self.authority.sign("secret", passphrase=b"word")
        (self.directory / "empty.pem").write_bytes(b"")
        damaged = (self.directory / "ca.pem").read_bytes().replace(b"\nMII", b"\nMIJ", 1)
        (self.directory / "damaged.pem").write_bytes(damaged)
        cases = [
            ("ca_file: none.pem", "ca_file: cannot read {none.pem}: No such file or directory"),
            ("ca_file: .", "ca_file: cannot read {.}: it is not a regular file"),
            ("ca_file: ours.key", "ca_file: expected certificates in PEM in {ours.key}; there is none"),
            ("ca_file: empty.pem", "ca_file: expected certificates in PEM in {empty.pem}; there is none"),
            ("ca_file: damaged.pem", "ca_file: expected certificates in PEM in {damaged.pem}; one is damaged: "),
            ("cert_file: none.pem", "cert_file: cannot read {none.pem}: No such file or directory"),
            ("cert_file: ours.pem, key_file: none.key", "key_file: cannot read {none.key}: No such file or directory"),
            ("cert_file: ours.key", "cert_file: <ours.key>: there is no certificate in PEM in it, or one that is"),
            ("cert_file: ours.pem", "cert_file: <ours.pem>: there is no private key in PEM in it; expected it there, "
             "or key_file"),
            ("cert_file: ours.pem, key_file: ca.pem", "key_file: <ca.pem>: there is no private key in PEM in it"),
            ("cert_file: ours.pem, key_file: other.key", "cert_file: <ours.pem>: the key in <other.key> does not "
             "belong to the certificate"),
            ("cert_file: secret.pem, key_file: secret.key", "key_file: <secret.key>: the key is encrypted; "
             "a key without a passphrase is needed"),
        ]
        for keys, expected in cases:
            (problem,) = self.problems(f"servers:\n- {{name: a, url: https://a}}\ntls:\n  {{{keys}}}\n")
            words = re.sub("{(.*?)}", lambda match: repr(self.path(match[1])), expected)
            words = re.sub("<(.*?)>", lambda match: self.path(match[1]), words)
            self.assertTrue(problem.startswith(f"4: tls.{words}"), (problem, words))

    def test_a_file_is_named_once(self) -> None:
        """A file of all servers is one problem, and that of a server its own."""
        servers = "- {name: a, url: https://a}\n- {name: b, url: https://b}\n"
        servers += "- {name: c, url: https://c, tls: {ca_file: y}}"
        problems = self.problems(f"servers:\n{servers}\ntls: {{ca_file: x}}")
        self.assertEqual([problem.split(":")[:2] for problem in problems],
                         [["4", " servers[2].tls.ca_file"], ["5", " tls.ca_file"]])


class NoticeTests(FilesCase):
    def test_servers_that_are_not_verified(self) -> None:
        """They are named, as far as they are few; with verification there is nothing to say."""
        lines = "".join(f"- {{name: s{number}, url: https://a}}\n" for number in range(5))
        spec = self.read(f"servers:\n{lines}tls: {{verify: false}}")
        (notice,) = tls_notices(spec, "servers.yaml", time.time())
        self.assertTrue(notice.startswith("servers.yaml: tls: verify: false for s0, s1, s2 and 2 more: "), notice)
        self.assertEqual(tls_notices(self.read(f"servers:\n{lines}"), "servers.yaml", time.time()), [])
        spec = self.read("discover: {file: /x/list.json}\ntls: {verify: false}")
        (notice,) = tls_notices(spec, "servers.yaml", time.time())
        self.assertIn("verify: false for those in /x/list.json: ", notice)

    def test_our_certificate_has_expired(self) -> None:
        """It is used, and told once, however many servers get it."""
        self.authority.sign("old", days=-1)
        lines = "".join(f"- {{name: s{number}, url: https://a}}\n" for number in range(5))
        spec = self.read(f"servers:\n{lines}tls: {{cert_file: old.pem, key_file: old.key}}")
        (notice,) = tls_notices(spec, "servers.yaml", time.time())
        self.assertIn("old.pem: the certificate has expired", notice)
        self.assertEqual(tls_notices(spec, "servers.yaml", time.time() - 2 * 86_400), [])
