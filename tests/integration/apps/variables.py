"""A WSGI application that answers with the variables it has got, and a server that makes them as CGI may."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The text variables of any request, as JSON."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    text = json.dumps({name: value for name, value in environ.items() if isinstance(value, str)}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]


class _Variables(WSGIRequestHandler):
    """Reads values as Latin-1 and strips them, as wsgiref does; what is no letter is `_`, as in lighttpd."""

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        for name, value in self.headers.items():
            variable = "".join(letter if letter.isalnum() else "_" for letter in name.upper())
            environ[f"HTTP_{variable}"] = value.strip()
        return environ

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing to say."""


class VariablesServer:
    """The application on a port of its own, in a thread."""

    def __init__(self) -> None:
        self._server: WSGIServer = make_server("127.0.0.1", 0, application, handler_class=_Variables)
        self.port = self._server.server_port

    def start(self) -> VariablesServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
