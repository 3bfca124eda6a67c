"""The balancers: one file per family, and the registry of their names.  Time and randomness are arguments."""
