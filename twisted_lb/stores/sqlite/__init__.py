"""The embedded store: users and buckets in memory, and in an SQLite database on disk."""
