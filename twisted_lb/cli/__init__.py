"""`tokenlb`, the command for operators: users, keys, limits and servers over the admin API of a running program.

    failures <- display
    failures <- client <- target <- options <- users, keys, transfer, servers, program <- main

It is synchronous, and imports nothing of Twisted except for `tokenlb check`.  Modules that take long to import are
imported where they are used, so that `tokenlb --help` and completion in shells are fast.
"""
