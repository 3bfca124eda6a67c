"""REDIS_URL, read and refused."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.stores.redis.url import RedisAddress, parse_redis_url

GOOD = [
    ("redis://redis", RedisAddress("redis", 6379, "", "", "", 0), "redis:6379"),
    ("redis://127.0.0.1:6380/3", RedisAddress("127.0.0.1", 6380, "", "", "", 3), "127.0.0.1:6380"),
    ("redis://redis/", RedisAddress("redis", 6379, "", "", "", 0), "redis:6379"),
    ("redis://:p%40ss%2F@redis/1", RedisAddress("redis", 6379, "", "", "p@ss/", 1), "redis:6379"),
    ("redis://ann:secret@redis:7000", RedisAddress("redis", 7000, "", "ann", "secret", 0), "redis:7000"),
    ("redis://[::1]:6379/0", RedisAddress("::1", 6379, "", "", "", 0), "[::1]:6379"),
    ("REDIS://Redis", RedisAddress("redis", 6379, "", "", "", 0), "redis:6379"),
    ("redis://:p@ss@redis", RedisAddress("redis", 6379, "", "", "p@ss", 0), "redis:6379"),
    ("rediss://ann:secret@redis/2", RedisAddress("redis", 6379, "", "ann", "secret", 2, True), "redis:6379"),
    ("unix:///run/redis.sock", RedisAddress("", 0, "/run/redis.sock", "", "", 0), "/run/redis.sock"),
    ("unix://:secret@/run/redis.sock", RedisAddress("", 0, "/run/redis.sock", "", "secret", 0), "/run/redis.sock"),
    (
        "redis+sentinel://a",
        RedisAddress("", 0, "", "", "", 0, False, (("a", 26379),), "mymaster"),
        "mymaster (sentinels a:26379)",
    ),
    (
        "redis+sentinel://ann:p%2Cw@a,b.example:1,[::1],[::2]:3/the_master-1.x/7",
        RedisAddress(
            *("", 0, "", "ann", "p,w", 7, False),
            (("a", 26379), ("b.example", 1), ("::1", 26379), ("::2", 3)),
            "the_master-1.x",
        ),
        "the_master-1.x (sentinels a:26379, b.example:1, [::1]:26379, [::2]:3)",
    ),
    (
        "rediss+sentinel://:secret@127.0.0.1:5,127.0.0.1:6//3",
        RedisAddress("", 0, "", "", "secret", 3, True, (("127.0.0.1", 5), ("127.0.0.1", 6)), "mymaster"),
        "mymaster (sentinels 127.0.0.1:5, 127.0.0.1:6)",
    ),
]

# Each with the word s3cret where a person may put a password.
BAD = [
    ("s3cret", "it does not begin with redis://, rediss://, unix://"),
    ("redis:6379", "it does not begin with"),
    ("http://:s3cret@redis", "it does not begin with"),
    ("redis+cluster://:s3cret@redis", "it does not begin with"),
    ("rediss://:s3cret@", "there is no host"),
    ("redis://:s3cret@my_redis", "the host is neither a host name"),
    ("redis://:s3cret@-redis", "the host is neither a host name"),
    ("redis://:s3cret@redis..local", "the host is neither a host name"),
    ("redis://:s3cret@a,b", "several hosts are for redis+sentinel://"),
    ("redis+sentinel://", "there is no host"),
    ("redis+sentinel://:s3cret@a,,b", "there is no host"),
    ("redis+sentinel://:s3cret@a,b:0", "the port is 0"),
    ("redis+sentinel://:s3cret@a,b:x", "the host or the port cannot be read"),
    ("redis+sentinel://a/s3cret ret@", "it holds a space"),
    ("redis+sentinel://a/s3c%20ret", "is not the name of a master"),
    ("redis+sentinel://:x/s3cret@a,b/0", "cannot be read"),
    ("redis+sentinel://:s3cret@a/mymaster/1/2", "is not a database number"),
    ("redis+sentinel://:s3cret@a/mymaster/x", "is not a database number"),
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
    ("redis://:s3cret#x@redis", "there is a '?' or '#' in it"),
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
