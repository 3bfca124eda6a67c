"""nginx as the proxy: the yardstick of the comparison.  One worker, connections to the servers kept alive."""

from __future__ import annotations

from pathlib import Path

from bench.ground import Ground, nginx_argv, nginx_user
from bench.machine import free_port
from bench.peers.interface import StartedPeer, unknown_keys
from bench.stage import Stage

# Host is kept, the forwarding fields are added and the key is dropped, as twisted_lb does.  keepalive_requests is the
# same as twisted_lb's default.  The rest is nginx as it comes.
CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 10000;
    keepalive_timeout 75s;
    upstream servers {{
        {servers}
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 60s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
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
            proxy_set_header X-Consumer-Username user1;
        }}
    }}
}}
"""


class NginxPeer:
    """Plain nginx: no keys, no limits, no Redis."""

    uses_redis = False

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """See Peer."""
        if profile is not None:
            raise ValueError("nginx is not a Python program: use perf or strace")
        directory, port = stage.directory("nginx"), free_port()
        servers = " ".join(f"server 127.0.0.1:{server};" for server in ground.server_ports)
        configuration = CONFIGURATION.format(user=nginx_user(), servers=servers, port=port)
        running = stage.start("nginx", nginx_argv(directory, configuration), cores, directory, port)
        return StartedPeer(running, port, unknown_keys())
