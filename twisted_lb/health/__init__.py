"""Which servers are healthy, by active checks and by requests.  Pure, but for `active_checks`: time is an argument."""
