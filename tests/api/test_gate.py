"""The bucket of a client's network, in front of the user API."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import PEER, Answer, call, read_answer, start
from tests.api.memory_accounts import MemoryAccounts
from twisted_lb.api.address_limit import AddressGate
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.credentials import digest
from twisted_lb.interfaces import ADDRESS, MICROTOKENS, Account, Profile, StoreUnavailable, Taken
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.limits.response_headers import rate_limit_fields

KEY = b"11111111-2222-4333-8444-555555555555"
AUTH, WRONG = b"Authorization: " + KEY, b"Authorization: wrong"
PROFILE, CHANGE, CREATE = ("GET", "/user/tokens/profile"), ("POST", "/user/tokens/change"), ("POST", "/user/create")
NETWORK = PEER.host


class AddressBuckets:
    """Buckets of 3 tokens for each network; while `waiting` is a list, questions wait in it."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.away = False
        self.waiting: list[Any] | None = None

    def take_address(self, network: str, receiver: Any) -> None:
        if self.waiting is not None:
            self.waiting.append((network, receiver))
        elif self.away:
            receiver.bucket_unavailable("Redis at secret.example is away")
        else:
            left = self.tokens.get(network, 3)
            admitted = left > 0
            self.tokens[network] = left - admitted
            receiver.bucket_answered(Taken(admitted, b"", 3, 0.5, (left - admitted) * MICROTOKENS, ADDRESS))

    def release_address(self, network: str, tokens: int) -> None:
        self.tokens[network] += 1

    def go_on(self) -> None:
        waiting, self.waiting = self.waiting or [], None
        for network, receiver in waiting:
            self.take_address(network, receiver)


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.accounts = MemoryAccounts()
        self.accounts.profiles[digest(KEY)] = Profile(Account("user1", 5, 1.0), 5_000_000)
        self.buckets: Any = AddressBuckets()
        self.known_keys = KnownKeys(100)
        self.set_up_door()

    def set_up_door(self, *families: str) -> None:
        gate = AddressGate(
            self.buckets, self.accounts, self.known_keys, rate_limit_fields(families or ("x-ratelimit", "ratelimit"))
        )
        self.door = ApiDoor(UserApi(self.accounts, 5, 1.0, gate=gate).resource())

    @property
    def tokens(self) -> int:
        return int(self.buckets.tokens.get(NETWORK, 3))

    def drain(self) -> None:
        self.buckets.tokens[NETWORK] = 0

    def create(self, number: int) -> Answer:
        return call(self.door, *CREATE, b'{"name":"new%d"}' % number)

    def test_creation(self) -> None:
        """Each new user costs one token of the client's network, and with none left there is no new user."""
        statuses = [self.create(number).status for number in range(5)]
        self.assertEqual(statuses, [200, 200, 200, 429, 429])
        self.assertEqual(len(self.accounts.profiles), 4)

    def test_creation_that_fails(self) -> None:
        """A name that is taken and a bad body cost a token too: names cannot be tried out either."""
        for body, status in ((b'{"name":"user1"}', 409), (b"{", 400)):
            before = self.tokens
            self.assertEqual(call(self.door, *CREATE, body).status, status)
            self.assertEqual(self.tokens, before - 1)

    def test_refusal(self) -> None:
        """A refusal names the limit in its problem and its header, and says when to come back."""
        self.drain()
        for answer in (self.create(1), call(self.door, *PROFILE), call(self.door, *PROFILE, b"", WRONG)):
            self.assertEqual((answer.status, answer.field("content-type")), (429, "application/problem+json"))
            self.assertEqual(
                answer.json,
                {
                    "title": "Too Many Requests",
                    "status": 429,
                    "detail": "Too many requests without a valid API key have come from your network."
                    " Try again in 2 s.",
                    "violated-policies": ["address"],
                },
            )
            names = ("retry-after", "ratelimit-policy", "ratelimit", "x-ratelimit-limit", "x-ratelimit-remaining")
            fields = [answer.field(name) for name in names]
            self.assertEqual(fields, ["2", '"address";q=3;w=6', '"address";r=0;t=2', "3", "0"])

    def test_fields_that_are_switched_off(self) -> None:
        """A family of header fields that is not wanted is not sent here either; Retry-After is."""
        self.set_up_door("ratelimit")
        self.drain()
        answer = self.create(1)
        self.assertNotIn("x-ratelimit-limit", answer.fields)
        self.assertEqual(answer.field("retry-after"), "2")

    def test_keys_that_nobody_has(self) -> None:
        """A missing key and an unknown key cost one token each, whatever is asked with them."""
        for fields, (method, target), body in (
            ((), PROFILE, b""),
            ((WRONG,), PROFILE, b""),
            ((), CHANGE, b'{"capacity":9}'),
            ((WRONG,), CHANGE, b'{"capacity":9}'),
        ):
            self.buckets.tokens.clear()
            statuses = [call(self.door, method, target, body, *fields).status for _ in range(5)]
            self.assertEqual(statuses, [401, 401, 401, 429, 429], (fields, target))

    def test_a_right_guess(self) -> None:
        """While the bucket is empty, a key that was not used for long is refused like one that nobody has."""
        self.accounts.unused.add(digest(KEY))
        self.drain()
        for target, body in ((PROFILE, b""), (CHANGE, b'{"capacity":9}')):
            right, wrong = (call(self.door, *target, body, field) for field in (AUTH, WRONG))
            self.assertEqual((right.status, right.body), (429, wrong.body))

    def test_valid_key(self) -> None:
        """A valid key costs nothing, and from then on not even a question, as long as it comes from this network."""
        for target, body in ((PROFILE, b""), (CHANGE, b'{"capacity":9}')):
            self.assertEqual(call(self.door, *target, body, AUTH).status, 200)
            self.assertEqual(self.tokens, 3)
        self.drain()
        self.assertEqual(call(self.door, *PROFILE, b"", AUTH).status, 200)
        elsewhere = IPv4Address("TCP", "192.0.2.2", 1)
        self.buckets.tokens["192.0.2.2"] = 0
        self.assertEqual(call(self.door, *PROFILE, b"", AUTH, peer=elsewhere).status, 200)
        self.assertEqual(call(self.door, *PROFILE, b"", WRONG, peer=elsewhere).status, 429)

    def test_key_that_the_proxy_has_seen(self) -> None:
        """A key that is familiar from elsewhere in the program passes an empty bucket."""
        self.known_keys.learn(digest(KEY), NETWORK)
        self.drain()
        self.assertEqual(call(self.door, *PROFILE, b"", AUTH).status, 200)
        self.assertEqual(self.tokens, 0)

    def test_networks(self) -> None:
        """Each address has its bucket, and of IPv6 each /64."""
        for host, before in (("2001:db8::1", 3), ("2001:db8::2", 2), ("2001:db8:0:1::1", 3), ("192.0.2.9", 3)):
            kind = IPv6Address if ":" in host else IPv4Address
            answer = call(self.door, *PROFILE, peer=kind("TCP", host, 1))
            self.assertEqual(answer.status, 401)
            self.assertIn(before - 1, self.buckets.tokens.values(), host)
        self.assertEqual(sorted(self.buckets.tokens.values()), [1, 2, 2])

    def test_store_away(self) -> None:
        """Without the store a missing key is 401 as ever, all else is 503, and its words are not told."""
        self.buckets.away = True
        self.accounts.error = StoreUnavailable("Redis at secret.example is away")
        self.assertEqual(call(self.door, *PROFILE).status, 401)
        for answer in (self.create(1), call(self.door, *PROFILE, b"", AUTH), call(self.door, *PROFILE, b"", WRONG)):
            self.assertEqual((answer.status, answer.field("retry-after")), (503, "1"))
            self.assertNotIn(b"secret", answer.body)

    def test_store_that_goes_away_between(self) -> None:
        """A token taken for a question that the store did not answer is given back."""
        self.accounts.error = StoreUnavailable("away")
        self.assertEqual(call(self.door, *PROFILE, b"", AUTH).status, 503)
        self.assertEqual(self.tokens, 3)

    def test_other_refusals(self) -> None:
        """What tells nothing of a key costs nothing: two keys at once, a bad change, a wrong method."""
        for method, target, body, fields in (
            (*PROFILE, b"", (AUTH, b"X-API-Key: other")),
            (*CHANGE, b"{}", (WRONG,)),
            ("PUT", "/user/create", b'{"name":"a"}', ()),
        ):
            self.assertIn(call(self.door, method, target, body, *fields).status, (400, 405))
        self.assertEqual(self.buckets.tokens, {})

    def test_client_that_leaves(self) -> None:
        """A valid key's token goes back although its client has left before the store knew."""
        self.accounts.waiting = []
        serving, _ = start(self.door, *PROFILE, b"", AUTH)
        self.assertEqual(self.tokens, 2)
        serving.abandon()
        self.accounts.go_on()
        self.assertEqual(self.tokens, 3)

    def test_client_that_leaves_at_the_gate(self) -> None:
        """A client that leaves before its network's bucket has answered makes no user, and no error."""
        self.buckets.waiting = []
        serving, reply = start(self.door, *CREATE, b'{"name":"new"}')
        serving.abandon()
        self.buckets.go_on()
        self.assertEqual((self.accounts.calls, reply.writes), (0, []))

    def test_later(self) -> None:
        """A bucket that answers later holds the request up until then."""
        self.buckets.waiting = []
        _, reply = start(self.door, *CREATE, b'{"name":"new"}')
        self.assertEqual(reply.writes, [])
        self.buckets.go_on()
        self.assertEqual(read_answer(reply.received).status, 200)
