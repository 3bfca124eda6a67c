"""Which build of the data path this is: compiled by mypyc, or pure Python.

Extension modules of the sources in COMPILED may be present beside them; Python then imports these instead.  They are
all built together (tools/compile_data_path.py), and share one library whose name contains the digest of its inputs: the
compiled sources, and those in READ, whose constants and types the compiler uses.  So outdated compiled code is detected
before any of it is imported.

This file is also run by the tools that build the package, so it imports nothing of it.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

PACKAGE = Path(__file__).parent

# Modules that run for each request or event.
COMPILED = (
    "access_log/escaping.py",
    "access_log/format.py",
    "access_log/formats.py",
    "access_log/json_format.py",
    "access_log/log.py",
    "access_log/stamps.py",
    "backend.py",
    "bounded_log.py",
    "cors.py",
    "credentials.py",
    "deadlines.py",
    "key_format.py",
    "repeated.py",
    "api/user_paths.py",
    "health/tracker.py",
    "hooks/field_changes.py",
    "hooks/hooks.py",
    "limits/authentication.py",
    "request_record.py",
    "limits/bucket.py",
    "limits/client_networks.py",
    "limits/collected_counts.py",
    "limits/fallback.py",
    "limits/own_networks.py",
    "limits/prefer.py",
    "limits/pricing.py",
    "limits/quota_count.py",
    "limits/quota_share.py",
    "limits/recent_keys.py",
    "limits/recent_quotas.py",
    "limits/rejection.py",
    "limits/request_limits.py",
    "limits/response_headers.py",
    "limits/share.py",
    "limits/shadow_counts.py",
    "limits/shared_buckets.py",
    "limits/shared_shares.py",
    "limits/wait_queue.py",
    "network/address_ranges.py",
    "network/epoll.py",
    "network/flow_control.py",
    "network/posted.py",
    "network/tls_layer.py",
    "network/peer.py",
    "network/splice.py",
    "network/transport_io.py",
    "network/trusted_proxies.py",
    "network/unsent.py",
    "own_fields.py",
    "pool/fair_queue.py",
    "pool/pool.py",
    "pool/retry_budget.py",
    "pool/retry_policy.py",
    "proxy/admission.py",
    "proxy/announced_connection.py",
    "proxy/answered_request.py",
    "proxy/client_connection.py",
    "proxy/connection_limits.py",
    "proxy/connection_pool.py",
    "proxy/context.py",
    "proxy/counts.py",
    "proxy/dispatch.py",
    "proxy/exchange.py",
    "proxy/extended_exchange.py",
    "proxy/failure_log.py",
    "proxy/guard.py",
    "proxy/handshake_failures.py",
    "proxy/header_rules.py",
    "proxy/https_redirect.py",
    "proxy/local_request.py",
    "proxy/local_response.py",
    "proxy/mirrored_request.py",
    "proxy/open_connections.py",
    "proxy/pending_hook.py",
    "proxy/preflight.py",
    "proxy/progress.py",
    "proxy/reading_progress.py",
    "proxy/refused_request.py",
    "proxy/request_body.py",
    "proxy/request_ids.py",
    "proxy/request_view.py",
    "proxy/route.py",
    "proxy/route_answer.py",
    "proxy/second_key.py",
    "proxy/server_connection.py",
    "proxy/server_pool.py",
    "proxy/tls_handshake.py",
    "proxy/token_grant.py",
    "proxy/tunnel.py",
    "routing/candidates.py",
    "routing/match.py",
    "routing/path.py",
    "routing/readings.py",
    "routing/table.py",
    "stores/redis/batch_answers.py",
    "stores/redis/batch_encoding.py",
    "stores/redis/batches.py",
    "stores/redis/shared_part.py",
    "stores/sqlite/held.py",
    "stores/sqlite/other_limits.py",
    "stores/sqlite/store.py",
    "wire/body.py",
    "wire/errors.py",
    "wire/field_names.py",
    "wire/field_value.py",
    "wire/fields.py",
    "wire/forwarded.py",
    "wire/forwarding.py",
    "wire/framing.py",
    "wire/grammar.py",
    "wire/head.py",
    "wire/hsts.py",
    "wire/problem.py",
    "wire/proxy_protocol.py",
    "wire/query.py",
    "wire/response.py",
    "wire/upgrade.py",
)

# Classes in these that interpreted classes may inherit from, which makes calls slower; others may not be inherited
# from.
INHERITED = ("Fallback", "Health", "RecentKeys", "RecentQuotas")

# Modules of the package that these import, and that are not compiled.
READ = (
    "access_log/writer.py",
    "config/cors.py",
    "config/pool.py",
    "config/settings.py",
    "health/news.py",
    "health/server.py",
    "interfaces.py",
    "network/client_certificate.py",
    "network/data_path_reactor.py",
    "network/dialer.py",
    "network/names.py",
    "network/tls_client.py",
    "network/tls_errors.py",
    "network/transport.py",
    "network/twisted_private.py",
    "notices.py",
    "plugins.py",
    "proxy/lingering.py",
    "proxy/streams.py",
    "quotas.py",
    "steps.py",
    "stores/redis/accounts.py",
    "stores/redis/connection.py",
    "stores/redis/instances.py",
    "stores/redis/keys.py",
    "stores/redis/local_decisions.py",
    "stores/redis/lost_call.py",
    "stores/redis/outcomes.py",
    "stores/redis/protocol.py",
    "stores/redis/quota_periods.py",
    "stores/redis/scripts.py",
    "stores/redis/wrong_keys.py",
    "stores/sqlite/accounts.py",
    "stores/sqlite/database.py",
    "stores/sqlite/loading.py",
    "stores/sqlite/notices.py",
    "stores/sqlite/schema.py",
    "stores/sqlite/usage.py",
    "stores/sqlite/users.py",
    "stores/sqlite/writer.py",
    "usage.py",
    "user_names.py",
    "users.py",
)

COMPILED_BUILD = "compiled"
PURE_BUILD = "pure Python"

# The first is the one of this version and platform.
SUFFIX = EXTENSION_SUFFIXES[0]


def digest(package: Path = PACKAGE) -> str:
    """A digest of the sources, which changes with any of them."""
    found = sha256()
    for name in (*COMPILED, *READ):
        source = (package / name).read_bytes()
        found.update(b"%b %d\n" % (name.encode(), len(source)))
        found.update(source)
    return found.hexdigest()[:16]


def library(package: Path = PACKAGE) -> str:
    """The name of the library built from the sources, which is beside the package."""
    return f"{package.name}_{digest(package)}__mypyc{SUFFIX}"


def extension(name: str) -> str:
    """The name of the extension module built from a source."""
    return name.removesuffix(".py") + SUFFIX


def build(package: Path = PACKAGE) -> str:
    """COMPILED_BUILD or PURE_BUILD.  Raises ImportError if the compiled code is outdated."""
    there = [name for name in COMPILED if (package / extension(name)).exists()]
    if not there:
        return PURE_BUILD
    if len(there) < len(COMPILED):
        raise ImportError(f"{package} is compiled in part only: {WHAT_TO_DO}")
    if not (package.parent / library(package)).exists():
        raise ImportError(f"{package} was compiled from other sources than it has now: {WHAT_TO_DO}")
    return COMPILED_BUILD


WHAT_TO_DO = (
    "in a checkout run `make compiled` to compile it again, or `make pure` to remove what is compiled; "
    "else install twisted_lb again."
)
