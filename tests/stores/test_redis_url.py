"""REDIS_URL, read and refused."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.stores.redis_store import RedisStore
from twisted_lb.stores.redis_url import RedisAddress, parse_redis_url

GOOD = [
    ("redis://redis", RedisAddress("redis", 6379, "", "", "", 0), "redis:6379"),
    ("redis://127.0.0.1:6380/3", RedisAddress("127.0.0.1", 6380, "", "", "", 3), "127.0.0.1:6380"),
    ("redis://redis/", RedisAddress("redis", 6379, "", "", "", 0), "redis:6379"),
    ("redis://:p%40ss%2F@redis/1", RedisAddress("redis", 6379, "", "", "p@ss/", 1), "redis:6379"),
    ("redis://ann:secret@redis:7000", RedisAddress("redis", 7000, "", "ann", "secret", 0), "redis:7000"),
    ("redis://[::1]:6379/0", RedisAddress("::1", 6379, "", "", "", 0), "[::1]:6379"),
    ("unix:///run/redis.sock", RedisAddress("", 0, "/run/redis.sock", "", "", 0), "/run/redis.sock"),
    ("unix://:secret@/run/redis.sock", RedisAddress("", 0, "/run/redis.sock", "", "secret", 0), "/run/redis.sock"),
]

# Each with the word s3cret where a person may put a password.
BAD = [
    ("s3cret", "it does not begin with redis:// or unix://"),
    ("redis:6379", "there is no host"),
    ("http://:s3cret@redis", "it does not begin with"),
    ("rediss://:s3cret@redis", "rediss:// (TLS) is not supported yet"),
    ("redis://", "there is no host"),
    ("redis://:s3cret@", "there is no host"),
    ("redis://:s3cret", "the host or the port cannot be read"),
    ("redis://:s3cret@redis:port", "the host or the port cannot be read"),
    ("redis://:s3cret@redis:70000", "the host or the port cannot be read"),
    ("redis://:s3cret@redis:0", "the port is 0"),
    ("redis://:s3cret@[::1", "the host or the port cannot be read"),
    ("redis://:s3cret@redis/zero", "is not a database number"),
    ("redis://:s3cret@redis/-1", "is not a database number"),
    ("redis://:s3cret@redis/1/2", "is not a database number"),
    ("redis://:x/s3cret@redis", "cannot be read"),
    ("redis://:s3cret#x@redis", "cannot be read"),
    ("redis://:x@redis/0?password=s3cret", "there is a '?' or '#' in it"),
    ("redis://s3cret@redis", "there is a user without a password"),
    ("redis://:s3c ret@redis", "it holds a space"),
    ("redis://:s3crét@redis", "it holds a space"),
    ("redis://redis\n", "it holds a space"),
    ("unix://", "unix:// takes the absolute path"),
    ("unix://run/redis.sock", "unix:// takes the absolute path"),
]


class UrlTests(SynchronousTestCase):
    """`parse_redis_url`."""

    def test_good_ones(self) -> None:
        """Host, port, socket, user, password and database are read, and the place shows no secret."""
        for url, address, place in GOOD:
            self.assertEqual(parse_redis_url(url), address, url)
            self.assertEqual(address.place, place, url)

    def test_bad_ones_are_explained_without_the_password(self) -> None:
        """A URL that cannot be used raises ValueError, which names REDIS_URL and what was expected, and no secret."""
        for url, what in BAD:
            message = str(self.assertRaises(ValueError, parse_redis_url, url))
            self.assertTrue(message.startswith("REDIS_URL: "), message)
            self.assertIn(what, message, url)
            self.assertIn("expected redis://[user:password@]host[:port][/db]", message)
            for secret in ("s3c", "ret@"):
                self.assertNotIn(secret, message)

    def test_the_store_refuses_them_when_it_is_made(self) -> None:
        """A store with a bad URL is not made."""
        self.assertRaises(ValueError, RedisStore, "redis://:s3cret", None)
