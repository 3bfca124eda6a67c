"""One parameter is removed from a query, and the rest of the target does not change."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.wire.query import take_parameter

# The parameter `key`: a target, what is left of it, the values.
_CASES: list[tuple[bytes, bytes, list[bytes]]] = [
    (b"/", b"/", []),
    (b"*", b"*", []),
    (b"/?", b"/?", []),
    (b"/a?b", b"/a?b", []),
    (b"/a?key=K", b"/a", [b"K"]),
    (b"/a?key=K&x=1", b"/a?x=1", [b"K"]),
    (b"/a?x=1&key=K", b"/a?x=1", [b"K"]),
    (b"/a?x=1&key=K&y=%2f", b"/a?x=1&y=%2f", [b"K"]),
    (b"/a?key=K&key=K", b"/a", [b"K", b"K"]),
    (b"/a?key=K&x&key=L", b"/a?x", [b"K", b"L"]),
    (b"/a?&key=K&", b"/a?&", [b"K"]),
    (b"/a?&&key=K", b"/a?&", [b"K"]),
    # Separators, as others split.
    (b"/a?x=1;key=K;y=2", b"/a?x=1;y=2", [b"K"]),
    (b"/a?x=1;key=K&y=2", b"/a?x=1&y=2", [b"K"]),
    (b"/a?key=K;y=2&z", b"/a?y=2&z", [b"K"]),
    # Without a value.
    (b"/a?key", b"/a", [b""]),
    (b"/a?key=", b"/a", [b""]),
    (b"/a?key=&x=1", b"/a?x=1", [b""]),
    # Percent-encoded, once.
    (b"/a?%6bey=K", b"/a", [b"K"]),
    (b"/a?%6B%65%79=%4B-%31", b"/a", [b"K-1"]),
    (b"/a?%256bey=K", b"/a?%256bey=K", []),
    (b"/a?key=%254b", b"/a", [b"%4b"]),
    (b"/a?key%3DK", b"/a?key%3DK", []),
    (b"/a?x=1%26key=K", b"/a?x=1%26key=K", []),
    # What is no visible ASCII could not stand in a field.
    (b"/a?key=K%0d%0aHost:%20b", b"/a", [b"K%0d%0aHost:%20b"]),
    (b"/a?key=a%20b", b"/a", [b"a%20b"]),
    (b"/a?key=%ff", b"/a", [b"%ff"]),
    (b"/a?key=%", b"/a", [b"%"]),
    (b"/a?key=K%23x", b"/a", [b"K#x"]),
    # Other names.
    (b"/a?KEY=K", b"/a?KEY=K", []),
    (b"/a?keys=K&akey=K&key[]=K", b"/a?keys=K&akey=K&key[]=K", []),
    (b"/a?x=key&y=key=1", b"/a?x=key&y=key=1", []),
    (b"/key=K?x", b"/key=K?x", []),
    (b"/a?b?key=K", b"/a?b?key=K", []),
    (b"/a?b?&key=K=L", b"/a?b?", [b"K=L"]),
]


class ParameterTests(SynchronousTestCase):
    def test_cases(self) -> None:
        """The parameter goes with one separator, and all else is as it was, byte for byte."""
        for target, left, values in _CASES:
            self.assertEqual(take_parameter(target, b"key"), (left, values), target)

    def test_of_anything(self) -> None:
        """Nothing is left to be found, and what is left was there before, in its order (seed 9)."""
        chance = Random(9)
        for _ in range(3000):
            query = b"".join(chance.choices((b"&", b";", b"key", b"=", b"x", b"%6b", b"ey", b"?", b"%"), k=9))
            left, values = take_parameter(b"/p?" + query, b"key")
            self.assertEqual(take_parameter(left, b"key"), (left, []), query)
            pairs = query.replace(b";", b"&").split(b"&")
            rest = left.partition(b"?")[2].replace(b";", b"&").split(b"&") if b"?" in left else []
            names = (b"key", b"%6bey")
            self.assertEqual(rest, [pair for pair in pairs if pair.partition(b"=")[0] not in names], query)
            self.assertEqual(len(values), len(pairs) - len(rest), query)
