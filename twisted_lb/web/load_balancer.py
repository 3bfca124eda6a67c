"""The load balancer without listeners: a service for an application that has its own."""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.http import Request

from twisted_lb.app.process import Serving
from twisted_lb.app.reload import ServersFile
from twisted_lb.app.services import OrderedServices
from twisted_lb.app.startup import read_startup
from twisted_lb.config.server_tls import files_of, tls_notices
from twisted_lb.discovery.service import in_one_process
from twisted_lb.request_record import SHUTDOWN
from twisted_lb.web.request_stream import RequestStream
from twisted_lb.web.user_api import UserApiResource

# Settings of listeners and processes, which the application has itself.
NOT_TAKEN = ("listen", "admin_listen", "health_listen", "workers", "demo", "proxy_protocol_from")

_log = Logger()


class LoadBalancer(OrderedServices):
    """A store, pools of servers with their balancers and health checks, and connections to the servers.

    It is an IService; `user_api` is the resource of the user API, at any place of a site, and `ProxyResource` sends
    requests to the servers.  servers.yaml is watched.
    """

    def __init__(
        self,
        reactor: Any,
        servers_file: str = "servers.yaml",
        env_file: str | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        """`settings` are those of .env.example in lower case, such as `redis_url="redis://localhost"`.

        They take precedence over `environment` (by default that of the process), then `env_file` (by default .env, if
        it exists).  Raises Misconfigured with all problems, and TypeError for a setting that applies to the program
        only.
        """
        super().__init__()
        for name in settings:
            if name in NOT_TAKEN or name.startswith("tls_"):
                raise TypeError(f"{name}: an application has its own listeners and processes")
        options = {name: str(value) for name, value in settings.items()}
        given = os.environ if environment is None else environment
        startup = read_startup({"servers_file": servers_file, **options}, env_file, False, given)
        for notice in tls_notices(startup.gateway, startup.settings.servers_file, time.time()):
            _log.warn("{notice}", notice=notice)
        self._reactor = reactor
        self._serving = serving = Serving(reactor, startup.settings, startup.listed, {}, of_program=False)
        discovery = in_one_process(reactor, startup.gateway, startup.answers, serving)
        self._requests = _Requests(reactor, startup.settings.drain_seconds)
        self.user_api = UserApiResource(serving.user_api, serving.factory.limits.trusted_proxies)
        for part in (
            serving.store,
            *serving.parts[1:-1],
            _Connections(serving),
            discovery,
            ServersFile(
                reactor,
                startup.settings.servers_file,
                startup.servers_text,
                discovery.use,
                files=files_of(startup.gateway),
            ),
            self._requests,
        ):
            self.addService(part)

    def serve(self, request: Request, target: bytes) -> None:
        """Send a request to a server, with this target; the response is streamed to the client."""
        stream = RequestStream(request, self._serving.factory.limits, self._reactor, self._requests.ended)
        if not self.running:
            stream.reject(503, "The load balancer does not run. Try again later.", b"\r\nRetry-After: 1")
            return
        self._requests.begun(stream)
        stream.start(target)


class _Connections(Service):
    """The connections to servers, and their deadlines."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def startService(self) -> None:
        super().startService()
        self._serving.factory.doStart()

    def stopService(self) -> None:
        super().stopService()
        self._serving.factory.doStop()
        self._serving.factory.close()


class _Requests(Service):
    """The requests in flight: when the service stops they have some time to finish."""

    def __init__(self, reactor: Any, drain_seconds: float) -> None:
        self._reactor = reactor
        self._drain_seconds = drain_seconds
        self._streams: set[RequestStream] = set()
        self._none_left: Deferred[None] | None = None

    def begun(self, stream: RequestStream) -> None:
        """A request has begun."""
        self._streams.add(stream)

    def ended(self, stream: RequestStream) -> None:
        """A request has ended."""
        self._streams.discard(stream)
        none_left = self._none_left
        if not self._streams and none_left is not None:
            self._none_left = None
            none_left.callback(None)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        if not self._streams:
            return None
        none_left: Deferred[None] = Deferred()
        self._none_left = none_left
        late = self._reactor.callLater(self._drain_seconds, self._abort)

        def cancel(_: None) -> None:
            if late.active():
                late.cancel()

        return none_left.addCallback(cancel)

    def _abort(self) -> None:
        for stream in list(self._streams):
            if stream.record is not None:
                stream.record.reason = SHUTDOWN
            stream.abort()
