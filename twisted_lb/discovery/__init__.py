"""Discovery: the servers of a pool from the addresses of names, from SRV records, and from lists in files."""
