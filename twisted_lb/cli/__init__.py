"""`tokenlb`, the command for operators: users, keys and servers over the admin API of a program that runs.

    failures <- display
    failures <- client <- target <- options <- users, keys, transfer, servers, program <- main

A short, synchronous program: nothing of Twisted is imported, but for `tokenlb check`.  What takes long to import is
imported where it is used, so that `tokenlb --help` and completion in shells are fast.
"""
