"""The access log: a line for each request, made from its record and written by a thread of its own."""
