"""The doors for people: the user API, the admin listener, and the way from the proxy into them.

Klein may install the reactor when it is imported, so nothing that runs before the reactor is
chosen may import from here.
"""
