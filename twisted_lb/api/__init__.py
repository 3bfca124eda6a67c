"""The HTTP APIs: the user API, the admin listener, and the bridge from the proxy to them.

Klein may install the reactor when it is imported, so code that runs before a reactor is installed must not import from
here.
"""
