"""Where a key may be, and when there is none or one too many."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.credentials import (
    PARAMETER,
    AmbiguousKey,
    KeyPlaces,
    bearer_token,
    digest,
    holds_key,
    is_issued,
)

_KEY = b"0f8fad5b-d9cb-469f-a165-70867728950e"
_ANOTHER = b"7c9e6679-7425-40de-944b-e07fc1f90ae7"
_JSON = b'{"sub": "%b", "iat": 1}' % _KEY
_TOKEN = b"eyJhbGciOiJub25lIn0.e30.c2ln"

PLACES = KeyPlaces(parameter=b"key")

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
    ({PARAMETER: [b"k"]}, b"k"),
    ({PARAMETER: [b"", b"k", b"k"]}, b"k"),
    ({PARAMETER: [b""]}, None),
    ({b"authorization": [b"Bearer k"], PARAMETER: [b"k"]}, b"k"),
]

# Beside a key of the form that is issued: Authorization, and whether it is for the server.
_BESIDE: list[tuple[bytes, bool]] = [
    (b"Bearer " + _TOKEN, True),
    (b"bearer  " + _TOKEN, True),
    (_TOKEN, True),
    (b"Basic dXNlcjpwYXNz", True),
    (b"DPoP " + _ANOTHER, True),
    (b"Bearer app-token-1", True),
    (b"Bearer " + _ANOTHER[:-1], True),
    (b"Bearer 7c9e6679-7425-10de-944b-e07fc1f90ae7", True),
    (b"Bearer " + _KEY, False),
    (_KEY, False),
    (b"", False),
    (b"Bearer", False),
    (b"Bearer ", False),
]

_AMBIGUOUS: list[dict[bytes, list[bytes]]] = [
    {b"authorization": [b"k", b"k"]},
    {b"authorization": [b"k", b""]},
    {b"x-api-key": [b"a", b"b"]},
    {b"authorization": [b"a"], b"x-api-key": [b"b"]},
    {b"authorization": [b"Bearer a"], b"apikey": [b"A"]},
    {b"x-api-key": [b"a"], b"apikey": [b"b"]},
    {b"x-api-key": [b"a"], PARAMETER: [b"b"]},
    {b"authorization": [b"a"], PARAMETER: [b"b"]},
    {PARAMETER: [b"a", b"b"]},
    {b"x-api-key": [_KEY], b"apikey": [_ANOTHER]},
    {b"x-api-key": [_KEY], PARAMETER: [_ANOTHER]},
    {b"x-api-key": [_KEY], b"apikey": [b"b"]},
    # Two of the form that is issued.
    {b"x-api-key": [_KEY], b"authorization": [b"Bearer " + _ANOTHER]},
    {b"apikey": [_KEY], b"authorization": [_ANOTHER.upper()]},
    {PARAMETER: [_KEY], b"authorization": [b"Bearer " + _KEY.upper()]},
    # An application's token beside what is no key that was issued.
    {b"x-api-key": [b"b"], b"authorization": [b"Bearer " + _TOKEN]},
]

# Credentials of other schemes, in each of which a server could read the key.
_HOLDING = [
    b"DPoP " + _KEY,
    b"dpop   " + _KEY + b" ",
    b"DPoP\t" + _KEY,
    b"Bearer, " + _KEY,
    b"Token token=" + _KEY,
    b'Token token="' + _KEY + b'", nonce=1',
    b'Digest username="' + _KEY + b'", realm="a"',
    b'Digest username="0f8fad5b\\-d9cb-469f-a165-70867728950e"',
    b"ApiKey " + _KEY.upper(),
    b"ApiKey " + _KEY.replace(b"-", b""),
    b"ApiKey {" + _KEY + b"}",
    b"ApiKey urn:uuid:" + _KEY,
    b"OAuth a=b,oauth_token=" + _KEY.replace(b"-", b"%2D"),
    b"OAuth oauth_token=" + b"".join(b"%%%02x" % byte for byte in _KEY),
    _KEY + b" x",
    b"x " + _KEY + b" y",
    *(b"Basic " + b64encode(pair) for pair in (b"user:" + _KEY, _KEY + b":", b":" + _KEY, _KEY, b"us:" + _KEY + b"x")),
    b"basic  " + b64encode(b"user:" + _KEY).rstrip(b"="),
    b"Basic " + urlsafe_b64encode(b"\xff\xfe:" + _KEY),
    *(b"Custom k" + b"x" * number + b64encode(_KEY) for number in range(4)),
    b"JWT " + b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"none"}', _JSON, b"signature")),
    b'Custom a="' + b64encode(_JSON) + b'", b=1',
]
_NOT_HOLDING = [
    b"DPoP " + _ANOTHER,
    b"DPoP " + _KEY[:-1],
    b"Basic dXNlcjpwYXNz",
    b"Basic " + b64encode(b"user:" + _ANOTHER),
    b"Basic !!!!",
    b"Negotiate " + b"A" * 30_001,
    b"OAuth %",
    b"DPoP ",
]


class CredentialsTests(SynchronousTestCase):
    """Credentials of other schemes, which are for the server."""

    def test_holds_key(self) -> None:
        """The key is found however a server could come to read it, and only then."""
        for credentials in _HOLDING:
            self.assertTrue(holds_key(credentials, _KEY), credentials)
        for credentials in _NOT_HOLDING:
            self.assertFalse(holds_key(credentials, _KEY), credentials)

    def test_issued(self) -> None:
        """What looks like an issued key is found once, in order and up to a number, in plain text and in Basic."""
        self.assertEqual(KeyPlaces().issued_within(b"DPoP " + _ANOTHER, 4), [_ANOTHER])
        self.assertEqual(KeyPlaces().issued_within(b"X %b,%b;%b" % (_KEY, _ANOTHER, _KEY.upper()), 4), [_KEY, _ANOTHER])
        self.assertEqual(KeyPlaces().issued_within(b"X %b,%b" % (_KEY, _ANOTHER), 1), [_KEY])
        for end in (b"", b":", b":x", b":xx"):
            encoded = b64encode(b"user:" + _ANOTHER + end)
            for value in (encoded, encoded.rstrip(b"="), b" %b \t" % encoded, encoded.rstrip(b"=") + b"A", _ANOTHER):
                self.assertEqual(KeyPlaces().issued_within(b"BASIC " + value, 4), [_ANOTHER])
        for value in (b"", b"A", b"=", b"!", b"A!", b"\xff", b"A" * 5, b"AA!A!A", b"AAA!A!!A"):
            self.assertEqual(KeyPlaces().issued_within(b"Basic " + value, 4), [])
        # Tokens of other issuers are full of identifiers.
        self.assertEqual(KeyPlaces().issued_within(b"JWT " + b64encode(_JSON), 4), [])
        self.assertEqual(KeyPlaces().issued_within(b"X 0f8fad5b-d9cb-169f-a165-70867728950e", 4), [])


class ApiKeyTests(SynchronousTestCase):
    def test_found(self) -> None:
        """Each form of a key gives the same bytes, and an empty one is no key."""
        for fields, key in _FOUND:
            self.assertEqual(PLACES.take({name: list(values) for name, values in fields.items()}), key, fields)

    def test_taken_out(self) -> None:
        """What carried the key is not among the fields any more, and all others are, as they were."""
        for field in (b"authorization", b"x-api-key", b"apikey", PARAMETER):
            fields = {field: [_KEY], b"host": [b"a"], b"via": [b"1.0 " + _KEY]}
            self.assertEqual(PLACES.take(fields), _KEY)
            self.assertEqual(fields, {b"host": [b"a"], b"via": [b"1.0 " + _KEY]})

    def test_beside(self) -> None:
        """Beside an issued key in another place, Authorization is the server's unless it has that key or nothing."""
        for place in (b"x-api-key", b"apikey", PARAMETER):
            for value, goes_on in _BESIDE:
                fields = {b"authorization": [value], place: [_KEY]}
                self.assertEqual(PLACES.take(fields), _KEY, value)
                self.assertEqual(fields, {b"authorization": [value]} if goes_on else {}, value)

    def test_places(self) -> None:
        """Only the fields that are named carry keys; Authorization that is none of them is the server's."""
        places = KeyPlaces((b"x-key", b"x-api-key"), b"key")
        fields = {b"authorization": [b"Bearer " + _ANOTHER], b"apikey": [b"a"], b"x-key": [_KEY]}
        self.assertEqual(places.take(fields), _KEY)
        self.assertEqual(fields, {b"authorization": [b"Bearer " + _ANOTHER], b"apikey": [b"a"]})
        self.assertIsNone(places.take(fields))
        self.assertEqual(len(fields), 2)
        self.assertRaises(AmbiguousKey, places.take, {b"x-key": [b"a"], b"x-api-key": [b"b"]})
        self.assertEqual((places.example, places.challenge), ("X-Key: <key>", b'Key realm="twisted_lb"'))
        places = KeyPlaces()
        self.assertEqual((places.example, places.challenge), ("Authorization: <key>", b'Bearer realm="twisted_lb"'))

    def test_is_issued(self) -> None:
        """A UUID of version 4 as it is written, in any case, is what is issued; nothing longer or shorter is."""
        for text in (_KEY, _KEY.upper()):
            self.assertTrue(is_issued(text))
        for text in (b"", _KEY[1:], _KEY + b"0", _KEY.replace(b"-4", b"-1"), _KEY.replace(b"-", b""), b"-" * 36):
            self.assertFalse(is_issued(text), text)

    def test_ambiguous(self) -> None:
        """A repeated field and two keys that differ are refused, without showing either key."""
        for fields in _AMBIGUOUS:
            given = {name: list(values) for name, values in fields.items()}
            error = self.assertRaises(AmbiguousKey, PLACES.take, given)
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


class MaskedTests(SynchronousTestCase):
    def test_parameters(self) -> None:
        """A log has no value of a query parameter with the name of a place for keys, however the name is spelled."""
        places = KeyPlaces((b"authorization", b"my-own-field"), b"secret")
        for name in (b"key", b"Key", b"api_key", b"API-KEY", b"x_api-key", b"access_token", b"my_own_field", b"Secret"):
            masked = places.masked(b"/path?a=b&%b=value&c=d" % name, False)
            self.assertEqual(masked, b"/path?a=b&%b=REDACTED&c=d" % name)
        for name in (b"%6Bey", b"api%5fkey", b"x%2Dapi-%6Bey", b"my%2down_field", b"%73ecret"):
            masked = places.masked(b"/path?a=%%b&%b=value&c=d" % name, False)
            self.assertEqual(masked, b"/path?a=%%b&%b=REDACTED&c=d" % name)
        lines = b"\r\nReferer: http://a/?%6Bey=value\r\nX-Other: ?key="
        expected = b"\r\nReferer: http://a/?%6Bey=REDACTED\r\nX-Other: ?key="
        self.assertEqual(places.masked(lines + b"\r\nA: b", False), expected + b"\r\nA: b")
        others = (b"/?%6donkey=value", b"/?a%3Dkey=value", b"/key=value", b"/?monkey=value", b"/?a=key", b"/?own=value")
        for target in others:
            self.assertEqual(places.masked(target, False), target)
