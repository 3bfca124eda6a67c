"""nginx with Lua: every request takes a token from its key's bucket in Redis, over cosockets.

It is what many people build for the purpose.  The bucket is twisted_lb's own (bucket.lua), and the script around it
takes one token from one account: one call a request, as the cosockets of different requests cannot be batched.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from bench.ground import Ground, nginx_argv
from bench.machine import free_port
from bench.peers.interface import BUCKET, KEY_COUNT, StartedPeer
from bench.peers.nginx import nginx_configuration
from bench.stage import Stage

HERE = Path(__file__).parent
BUCKET_SCRIPT = HERE.parent.parent / "twisted_lb" / "stores" / "redis" / "lua" / "bucket.lua"
MODULES = Path("/usr/lib/nginx/modules")
LIBRARIES = tuple(Path("/usr/share/lua/5.1") / name / "redis.lua" for name in ("nginx", "resty"))

LOAD = f"""
load_module {MODULES}/ndk_http_module.so;
load_module {MODULES}/ngx_http_lua_module.so;
"""
HTTP = f"""
    lua_package_path "{HERE}/?.lua;;";
"""
# $consumer is the name of the account, which the Lua sets.
LOCATION = """
            set $consumer "";
            access_by_lua_block {{ require("limit").take({port}, "{script}") }}
"""


class NginxLuaPeer:
    """A real key, a real bucket in Redis, the same fields in the response as twisted_lb."""

    uses_redis = True

    def missing(self) -> str:
        """See Peer."""
        if (MODULES / "ngx_http_lua_module.so").exists() and any(library.exists() for library in LIBRARIES):
            return ""
        return "apt-get install libnginx-mod-http-lua lua-nginx-redis"

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """See Peer."""
        if profile is not None:
            raise ValueError("nginx is not a Python program: use perf or strace")
        ground.redis.flush()
        script = ground.redis.ask("SCRIPT", "LOAD", BUCKET_SCRIPT.read_text() + (HERE / "take_one.lua").read_text())
        keys = [str(uuid.uuid4()) for _ in range(KEY_COUNT)]
        capacity, rate = str(BUCKET["capacity"]), str(BUCKET["rate_per_sec"])
        ground.redis.ask_all(
            [
                ("HSET", f"tokenlb:{{{hashlib.md5(key.encode()).hexdigest()}}}", "name", f"user{number}")
                + ("capacity", capacity, "rate", rate, "level", f"{capacity}000000", "stamp", "0")
                for number, key in enumerate(keys)
            ]
        )
        directory, port = stage.directory("nginx_lua"), free_port()
        location = LOCATION.format(port=ground.redis.port, script=script.decode())
        configuration = LOAD + nginx_configuration(ground, port, HTTP, location, "$consumer")
        running = stage.start("nginx_lua", nginx_argv(directory, configuration), cores, directory, port)
        return StartedPeer(running, port, keys)
