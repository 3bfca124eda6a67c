"""The stores of accounts and buckets: the only package that knows Redis or SQLite.

`sqlite.store.EmbeddedStore` keeps them in this process and in SQLite, `redis.store.RedisStore` in
Redis, shared by any number of instances.  Import them from their modules, and the Redis one only when it is used:
txredisapi installs the reactor when it is imported.
"""
