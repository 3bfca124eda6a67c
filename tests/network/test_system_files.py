"""/etc/resolv.conf, /etc/hosts and the setting that names name servers."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.network.system_files import (
    ResolverConfig,
    WatchedFile,
    read_hosts,
    read_name_servers,
    read_resolv_conf,
)


class ResolvConfTests(SynchronousTestCase):
    def test_everything(self) -> None:
        """Name servers of both families, the last search list and ndots count; what is not understood does not."""
        text = """# a comment
        nameserver 10.0.0.2
        nameserver fe80::1 ; another comment
        nameserver not-an-address
        nameserver
        domain first.example
        search a.example b.example.
        options rotate ndots:5 ndots:x
        sortlist 1.2.3.4
        """
        expected = ResolverConfig((("10.0.0.2", 53), ("fe80::1", 53)), ("a.example", "b.example"), 5)
        self.assertEqual(read_resolv_conf(text), expected)

    def test_nothing(self) -> None:
        """Without a name server it is the one of this machine; no more than three are used."""
        self.assertEqual(read_resolv_conf(""), ResolverConfig((("127.0.0.1", 53),), (), 1))
        self.assertEqual(len(read_resolv_conf("nameserver 10.0.0.1\n" * 5).servers), 3)

    def test_candidates(self) -> None:
        """With too few dots a name is searched for first, with enough dots last, with a dot at its end never."""
        config = ResolverConfig(search=("a", "b.c"), ndots=2)
        self.assertEqual(config.candidates("x"), ["x.a", "x.b.c", "x"])
        self.assertEqual(config.candidates("x.y"), ["x.y.a", "x.y.b.c", "x.y"])
        self.assertEqual(config.candidates("x.y.z"), ["x.y.z", "x.y.z.a", "x.y.z.b.c"])
        self.assertEqual(config.candidates("x."), ["x"])


class HostsTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Each name of a line, in any case, has its address, and may have several."""
        text = "127.0.0.1 localhost\n::1 localhost LocalHost # x\n10.0.0.7\tDb db.example.\nbad line\n\n10.0.0.8 db\n"
        self.assertEqual(
            read_hosts(text),
            {"localhost": ["127.0.0.1", "::1"], "db": ["10.0.0.7", "10.0.0.8"], "db.example": ["10.0.0.7"]},
        )


class NameServersTests(SynchronousTestCase):
    def test_read(self) -> None:
        """Addresses of both families, with and without a port."""
        words = ["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]", "[::1]:5353"]
        expected = (("127.0.0.1", 53), ("127.0.0.1", 5353), ("::1", 53), ("::1", 53), ("::1", 5353))
        self.assertEqual(read_name_servers(words), expected)

    def test_refused(self) -> None:
        """All else is refused, and named."""
        for word in ["dns.example", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:", "[::1", "[::1]x", "1.2.3"]:
            error = self.assertRaises(ValueError, read_name_servers, ["127.0.0.1", word])
            self.assertEqual(str(error), word)


class WatchedFileTests(SynchronousTestCase):
    def test_life(self) -> None:
        """A file is read anew when it has changed and only then; one that is missing is empty."""
        reads: list[str] = []

        def read(text: str) -> str:
            reads.append(text)
            return text

        path = Path(self.mktemp())
        file = WatchedFile(str(path), read)
        self.assertEqual(file.value, "")
        path.write_text("one")
        self.assertEqual((file.value, file.value), ("one", "one"))
        new = path.with_suffix(".new")
        new.write_text("two")
        os.replace(new, path)
        self.assertEqual(file.value, "two")
        path.unlink()
        self.assertEqual((file.value, file.value), ("", ""))
        self.assertEqual(reads, ["", "one", "two", ""])
