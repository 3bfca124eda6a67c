"""Entries of X-Forwarded-For, and elements of Forwarded, as they are read from the right."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.wire.forwarded import MAX_ELEMENT_BYTES, Elements, Node, entries, read_node


def elements(*values: bytes) -> list[dict[bytes, bytes]]:
    """All elements, from the last to the first."""
    read = Elements(list(values))
    found = []
    while (pairs := read.previous()) is not None:
        found.append(pairs)
    return found


class NodeTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        """An address may have a port, an IPv6 address has brackets then."""
        for text, address, port in (
            (b"192.0.2.7", "192.0.2.7", 0),
            (b"192.0.2.7:50000", "192.0.2.7", 50000),
            (b"2001:db8::7", "2001:db8::7", 0),
            (b"2001:DB8:0::7", "2001:db8::7", 0),
            (b"[2001:db8::7]", "2001:db8::7", 0),
            (b"[2001:db8::7]:443", "2001:db8::7", 443),
            (b"::1", "::1", 0),
        ):
            self.assertEqual(read_node(text), Node(address, port))

    def test_no_addresses(self) -> None:
        """Anything else is not one."""
        for text in (
            b"", b"unknown", b"_hidden", b"_1.2.3.4", b"a.test", b"localhost", b"192.0.2", b"192.0.2.256",
            b"192.0.2.07", b"192.0.2.7:",
            b"192.0.2.7:x", b"192.0.2.7:65536", b"192.0.2.7:_p", b"192.0.2.7 ", b'"192.0.2.7"',
            b"192.0.2.7/32", b"[192.0.2.7]", b"2001:db8::7:8:9:a:b:c:d:e", b"[2001:db8::7", b"2001:db8::7]", b"[::1]x",
            b"fe80::1%eth0", b"[fe80::1%25eth0]", b"::ffff:192.0.2.999", b"3232235777", b"0xC0000207", b":", b"::1::",
            b"\xd9\xa1.0.0.1", b"[]", b"[]:80", b":80", b"1" * 1000, b"192.0.2.7\n",
        ):  # fmt: skip
            self.assertEqual(read_node(text), Node("", 0), text)

    def test_entries(self) -> None:
        """Several field lines are one list; white space around an entry, and empty entries, do not count."""
        self.assertEqual(entries([b"a, b\t,,c ", b"", b",d e"]), [b"a", b"b", b"c", b"d e"])
        self.assertEqual(entries([b" ", b","]), [])


class ElementTests(SynchronousTestCase):
    def test_valid(self) -> None:
        """Names in any case, tokens and quoted strings, white space around ";" and ","; several lines are one list."""
        self.assertEqual(
            elements(b'For=192.0.2.7;proto=https ; host="a.test:80", ;for="[2001:db8::7]:1"', b'for=_x;by="a\\"b"'),
            [
                {b"for": b"_x", b"by": b'a"b'},
                {b"for": b"[2001:db8::7]:1"},
                {b"for": b"192.0.2.7", b"proto": b"https", b"host": b"a.test:80"},
            ],
        )
        self.assertEqual(elements(b"", b" , ,"), [])
        self.assertEqual(elements(b'for="a, for=b"'), [{b"for": b"a, for=b"}])

    def test_invalid(self) -> None:
        """An element that is not exactly one ends the list, and what was on its right was read."""
        for wrong in (
            b"for=192.0.2.1:80", b"for=[::1]", b"for = a", b"for", b"for=", b"=a", b'for="a', b'for=a"', b'for="a"b',
            b"for=a b", b'"', b'for="a\\"', b"for=a;for=b", b"for=a;FOR=a", b"a=b;for=a;a=c", b"for=a; by =b",
            b"f\xf6r=a",
        ):  # fmt: skip
            self.assertEqual(elements(b"for=x, " + wrong + b", for=y")[0], {b"for": b"y"}, wrong)
            self.assertEqual(elements(b"for=x, " + wrong)[0], {}, wrong)

    def test_too_long(self) -> None:
        """An element of more than MAX_ELEMENT_BYTES is not valid."""
        self.assertEqual(elements(b"a" * MAX_ELEMENT_BYTES + b"=b"), [{}])
        self.assertEqual(elements(b"a" * MAX_ELEMENT_BYTES + b"=b, for=x"), [{b"for": b"x"}, {}])
