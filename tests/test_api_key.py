"""Where a key may be, and when there is none or one too many."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api_key import AmbiguousKey, bearer_token, digest, key_from_fields

_FOUND: list[tuple[dict[bytes, list[bytes]], bytes | None]] = [
    ({}, None),
    ({b"host": [b"k"]}, None),
    ({b"authorization": [b"k"]}, b"k"),
    ({b"authorization": [b"sixkey"]}, b"sixkey"),
    ({b"authorization": [b"Bearer k"]}, b"k"),
    ({b"authorization": [b"bEARER   k "]}, b"k"),
    ({b"x-api-key": [b"k"]}, b"k"),
    ({b"apikey": [b"\tk "]}, b"k"),
    ({b"authorization": [b""]}, None),
    ({b"authorization": [b" \t"]}, None),
    ({b"authorization": [b"Bearer"]}, None),
    ({b"authorization": [b"Bearer  "]}, None),
    ({b"x-api-key": [b""]}, None),
    ({b"authorization": [b""], b"x-api-key": [b"k"]}, b"k"),
    ({b"authorization": [b"Bearer k"], b"x-api-key": [b"k"], b"apikey": [b"k"]}, b"k"),
    # Credentials of another scheme are for somebody else.
    ({b"authorization": [b"Basic dXNlcjpwYXNz"]}, None),
    ({b"authorization": [b"Basic dXNlcjpwYXNz"], b"x-api-key": [b"k"]}, b"k"),
    ({b"x-api-key": [b"Bearer k"]}, b"Bearer k"),
]

_AMBIGUOUS: list[dict[bytes, list[bytes]]] = [
    {b"authorization": [b"k", b"k"]},
    {b"authorization": [b"k", b""]},
    {b"x-api-key": [b"a", b"b"]},
    {b"authorization": [b"a"], b"x-api-key": [b"b"]},
    {b"authorization": [b"Bearer a"], b"apikey": [b"A"]},
    {b"x-api-key": [b"a"], b"apikey": [b"b"]},
]


class ApiKeyTests(SynchronousTestCase):
    def test_found(self) -> None:
        """Each form of a key gives the same bytes, and an empty one is no key."""
        for fields, key in _FOUND:
            self.assertEqual(key_from_fields(fields), key, fields)

    def test_ambiguous(self) -> None:
        """A repeated field and two keys that differ are refused, without showing either key."""
        for fields in _AMBIGUOUS:
            error = self.assertRaises(AmbiguousKey, key_from_fields, fields)
            for value in (value for values in fields.values() for value in values if value):
                self.assertNotIn(f" {value.decode()} ", f" {error} ")

    def test_digest(self) -> None:
        """The digest is the SHA-256 test vector of FIPS 180-4 for the bytes abc."""
        self.assertEqual(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")

    def test_bearer_token(self) -> None:
        """Only the Bearer scheme has a bearer token."""
        self.assertEqual(bearer_token(b"bearer t"), b"t")
        self.assertEqual(bearer_token(b"Bearer"), b"")
        self.assertIsNone(bearer_token(b"t"))
        self.assertIsNone(bearer_token(b"Bearers t"))
