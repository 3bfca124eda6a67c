"""Where accounts and buckets live: the only place that knows Redis or SQLite.

`embedded_store.EmbeddedStore` keeps them in this process and in SQLite, `redis_store.RedisStore` in
Redis, shared by any number of instances.  Import them from their modules, and the Redis one late:
txredisapi installs the reactor when it is imported.
"""
