"""The benchmark: twisted_lb beside its peers, in the same run, on the same core.  README.md tells how to read it."""
