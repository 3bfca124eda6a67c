"""nginx as the proxy: the yardstick of the comparison.  One worker, connections to the servers kept alive."""

from __future__ import annotations

from pathlib import Path

from bench.ground import Ground, nginx_argv, nginx_user
from bench.load import Tls
from bench.machine import free_port
from bench.peers.interface import StartedPeer, make_certificate, unknown_keys
from bench.stage import Stage

# Host is kept, the forwarding fields are added and the key is dropped, as twisted_lb does.  keepalive_requests is the
# same as twisted_lb's default.  The rest is nginx as it comes.
CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
worker_rlimit_nofile 20000;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 10000;
    keepalive_timeout 75s;
    {http}
    upstream servers {{
        {servers}
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 60s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096{listen};
        location / {{
            {location}
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header Authorization "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header Forwarded "for=$remote_addr;host=\\"$http_host\\";proto=$scheme";
            proxy_set_header Via "1.1 nginx";
            proxy_set_header X-Consumer-Username {consumer};
        }}
    }}
}}
"""


def nginx_configuration(
    ground: Ground, port: int, http: str = "", location: str = "", consumer: str = "user1", listen: str = ""
) -> str:
    """The configuration of a proxy on that port; `http` and `location` are more lines for those blocks.

    `listen` are more options of the port.
    """
    servers = " ".join(f"server 127.0.0.1:{server};" for server in ground.server_ports)
    return CONFIGURATION.format(
        user=nginx_user(),
        servers=servers,
        port=port,
        http=http,
        location=location,
        consumer=consumer,
        listen=listen,
    )


class NginxPeer:
    """Plain nginx: no keys, no limits, no Redis."""

    uses_redis = False

    def __init__(self, tls: Tls = Tls.NONE) -> None:
        """`tls` is how clients connect."""
        self._tls = tls

    def missing(self) -> str:
        """See Peer."""
        return ""

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """See Peer."""
        if profile is not None:
            raise ValueError("nginx is not a Python program: use perf or strace")
        directory, port = stage.directory("nginx"), free_port()
        http = listen = ""
        if self._tls is not Tls.NONE:
            certificate, key = make_certificate(directory)
            http, listen = f"ssl_certificate {certificate}; ssl_certificate_key {key};", " ssl"
        configuration = nginx_configuration(ground, port, http, listen=listen)
        running = stage.start("nginx", nginx_argv(directory, configuration), cores, directory, port)
        return StartedPeer(running, port, unknown_keys(), self._tls)
