"""The balancers: one file a family, and the registry of their names.  Pure: time and chance are arguments."""
