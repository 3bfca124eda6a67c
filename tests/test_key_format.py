"""The form of the keys that are issued."""

from __future__ import annotations

from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.key_format import ALPHABET, PREFIX, KeyFormat, checksum

PREFIXED = KeyFormat("acme_live_")


class KeyFormatTests(SynchronousTestCase):
    def test_without_a_prefix_keys_are_uuids(self) -> None:
        """Without a prefix a key is a UUID of version 4, and no text is called mistyped."""
        key = KeyFormat().new_key()
        self.assertEqual((str(UUID(key)), UUID(key).version), (key, 4))
        for text in (b"", b"acme_live_", key.encode(), b"x" * 48):
            self.assertFalse(KeyFormat().is_mistyped(text))

    def test_a_key_is_prefix_random_and_checksum(self) -> None:
        """A key has 38 characters of base62 behind its prefix, another one each time, and is not mistyped."""
        keys = {PREFIXED.new_key() for _ in range(50)}
        self.assertEqual(len(keys), 50)
        for key in keys:
            self.assertTrue(key.startswith("acme_live_"))
            self.assertEqual(len(key), len("acme_live_") + 38)
            self.assertLessEqual(set(key[10:]), set(ALPHABET))
            self.assertFalse(PREFIXED.is_mistyped(key.encode()))

    def test_the_form_is_that_of_its_description(self) -> None:
        """The checksum is the CRC-32 of all before it, most significant digit first, padded with zeros."""
        self.assertEqual(
            KeyFormat("t_", lambda characters: "a").new_key(), "t_" + "a" * 32 + checksum(b"t_" + b"a" * 32)
        )
        self.assertEqual(checksum(b""), "000000")
        self.assertEqual(checksum(b"123456789"), "3jZRME")  # 0xCBF43926, the check value of CRC-32

    def test_typing_errors_are_found(self) -> None:
        """A character that is changed, lost, added or swapped with its neighbour makes a key mistyped."""
        key = PREFIXED.new_key().encode()
        for at in range(10, len(key)):
            other = b"a" if key[at : at + 1] != b"a" else b"b"
            for wrong in (key[:at] + other + key[at + 1 :], key[:at] + key[at + 1 :], key[:at] + other + key[at:]):
                self.assertTrue(PREFIXED.is_mistyped(wrong), wrong)
            swapped = key[:at] + key[at + 1 : at + 2] + key[at : at + 1] + key[at + 2 :]
            self.assertTrue(swapped == key or PREFIXED.is_mistyped(swapped))
        for wrong in (b"acme_live_", key + b"\n", key[:-1] + b"\xff", b"acme_live_" + b"-" * 38):
            self.assertTrue(PREFIXED.is_mistyped(wrong), wrong)

    def test_other_keys_are_looked_up(self) -> None:
        """UUIDs, keys of another prefix and any other text may be keys."""
        for text in (KeyFormat().new_key(), KeyFormat("acme_test_").new_key(), "acme_live", "secret", ""):
            self.assertFalse(PREFIXED.is_mistyped(text.encode()))

    def test_prefixes(self) -> None:
        """A prefix is letters, digits and underlines, begins with a letter and ends with an underline."""
        for good in ("a_", "acme_live_", "x" * 31 + "_"):
            self.assertIsNotNone(PREFIX.fullmatch(good), good)
        for bad in ("", "_", "acme", "1_", "acme-live-", "ac me_", "x" * 32 + "_", "\u00e9_", "a_\n"):
            self.assertIsNone(PREFIX.fullmatch(bad), bad)
