"""Which servers are well, as checks and requests tell, and what may follow from it.  Pure: time is an argument."""
