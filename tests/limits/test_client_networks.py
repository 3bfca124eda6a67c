"""Networks of clients, and the keys that are known to come from them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.limits.client_networks import (
    LOCAL_NETWORK,
    MAX_NETWORKS_OF_A_KEY,
    KnownKeys,
    network_of,
    plain_address,
)


class NetworkTests(SynchronousTestCase):
    """`network_of`."""

    def test_networks(self) -> None:
        """An IPv4 address is a network of its own, an IPv6 address is of its /64, and what is no address is local."""
        for address, network in [
            ("192.0.2.7", "192.0.2.7"),
            ("127.0.0.1", "127.0.0.1"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::FFFF:C000:207", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("fe80::2%25", "fe80::/64"),
            ("", LOCAL_NETWORK),
            ("/run/tokenlb.sock", LOCAL_NETWORK),
            ("192.0.2.300", LOCAL_NETWORK),
            ("192.0.2", LOCAL_NETWORK),
            ("nonsense\r\n", LOCAL_NETWORK),
        ]:
            self.assertEqual(network_of(address), network, repr(address))


class PlainAddressTests(SynchronousTestCase):
    """`plain_address`."""

    def test_ipv4_within_ipv6(self) -> None:
        """However IPv6 writes an address of IPv4, it is the same client, in the same network."""
        for address in (
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "::FFFF:192.0.2.7",
            "::ffff:c000:207",
            "::ffff:c000:0207",
            "0:0:0:0:0:ffff:192.0.2.7",
            "0000:0000:0000:0000:0000:ffff:c000:0207",
            "::ffff:192.0.2.7%eth0",
            "::192.0.2.7",
            "::c000:207",
        ):
            self.assertEqual(plain_address(address), "192.0.2.7", address)
            self.assertEqual(network_of(address), "192.0.2.7", address)

    def test_others(self) -> None:
        """All other addresses, and what is none, stay as they are: also what a translator has made of IPv4."""
        for address in (
            "::",
            "::1",
            "::ff:ffff",
            "::1:0:0:0",
            "2001:db8::ffff:192.0.2.7",
            "64:ff9b::192.0.2.7",
            "64:ff9b:1::c000:207",
            "::ffff:0:192.0.2.7",
            "2002:c000:207::1",
            "fe80::1%eth0",
            "::ffff:192.0.2",
            "::ffff:192.0.2.256",
            "::ffff:0x7f.1.1.1",
            "/run/a:b.sock",
            "",
        ):
            self.assertEqual(plain_address(address), address)


class KnownKeysTests(SynchronousTestCase):
    """Which keys were seen from where."""

    def test_a_key_is_known_from_where_it_was_seen(self) -> None:
        """A key that was learned from one network is not known from another, nor is another key from there."""
        keys = KnownKeys(100)
        self.assertFalse(keys.knows("k", "here"))
        keys.learn("k", "here")
        self.assertTrue(keys.knows("k", "here"))
        self.assertFalse(keys.knows("k", "there"))
        self.assertFalse(keys.knows("other", "here"))
        keys.learn("k", "there")
        self.assertTrue(keys.knows("k", "here") and keys.knows("k", "there"))

    def test_a_key_has_a_bounded_number_of_networks(self) -> None:
        """Of more networks than are kept, the last ones are known, and learning one again does not push out others."""
        keys = KnownKeys(100)
        networks = [f"network {number}" for number in range(MAX_NETWORKS_OF_A_KEY + 3)]
        for network in networks:
            keys.learn("k", network)
            keys.learn("k", network)
        self.assertEqual([network for network in networks if keys.knows("k", network)], networks[3:])

    def test_the_number_of_keys_is_bounded(self) -> None:
        """Of 1,000 keys at most 100 are known, and these are the last ones, 50 at least."""
        keys = KnownKeys(100)
        for number in range(1000):
            keys.learn(f"k{number}", "here")
        # The last first, so that asking keeps the younger ones.
        known = [number for number in reversed(range(1000)) if keys.knows(f"k{number}", "here")]
        self.assertEqual(known, list(range(999, 999 - len(known), -1)))
        self.assertTrue(50 <= len(known) <= 100, len(known))
        self.assertLessEqual(len(keys._young), 50)
        self.assertLessEqual(len(keys._old), 50)

    def test_a_key_in_use_is_not_forgotten(self) -> None:
        """A key that is asked for once in each generation stays with its networks, whatever else comes."""
        keys = KnownKeys(100)
        keys.learn("k", "here")
        keys.learn("k", "there")
        for number in range(1000):
            if number % 40 == 0:
                self.assertTrue(keys.knows("k", "here"), f"after {number} others")
            keys.learn(f"k{number}", "here")
        self.assertTrue(keys.knows("k", "there"))

    def test_the_smallest_memory_works(self) -> None:
        """With room for one key the last one is known."""
        for room in (0, 1, 2):
            keys = KnownKeys(room)
            for number in range(10):
                keys.learn(f"k{number}", "here")
                self.assertTrue(keys.knows(f"k{number}", "here"))
