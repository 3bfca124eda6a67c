"""The servers that a configuration stands for, from the answers of name servers and from lists; no I/O.

1. The servers of a list (`discover: {file: ...}`) come after those of the configuration itself.
2. A server with an srv+ URL stands for one server for each SRV record (RFC 2782), named `name@target:port`.  Those of
   the best priority have the record's weight, the others are backups as well.  While no record is known there is none.
3. A server whose name has several addresses stands for one server for each, named `name@address:port`.  One with a
   single address, or whose addresses are not known, stays as it is.
4. Everything else is as for the configured server, including the Host that is sent to them, and the name that their
   certificates have to be for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from twisted_lb.backend import place_of
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.pool import LISTED_HOST, HealthCheck, PoolSpec, ServerSpec, ServerTls
from twisted_lb.config.server_url import domain_of, is_https, is_srv, location
from twisted_lb.discovery.answers import LIST, SERVICE, Answers, read_record
from twisted_lb.steps import STEP, Steps, finish

MAX_WEIGHT: Final = 1000  # as in servers.yaml; the weight of an SRV record can be 65535

# The keys of an entry that do not become attributes of a server unchanged.
_DERIVED_KEYS: Final = frozenset(("name", "url", "health_check"))


class Expansion(NamedTuple):
    """The pools with the servers that were found, and what has to be looked up for them."""

    spec: GatewaySpec
    sources: dict[str, float]  # with the seconds after which each is looked up again, whatever its TTL
    listed: Mapping[str, frozenset[str]] = {}  # the names in lists, by the name of the pool


def expanded(spec: GatewaySpec, answers: Answers) -> Expansion:
    """The configuration that `spec` stands for."""
    return finish(expanded_in_steps(spec, answers))


def expanded_in_steps(spec: GatewaySpec, answers: Answers) -> Steps[Expansion]:
    """The same in steps."""
    sources: dict[str, float] = {}
    listed: dict[str, frozenset[str]] = {}
    pools = []
    for pool in spec.pools:
        expanding = _PoolExpansion(pool, answers, sources)
        pools.append((yield from expanding.steps()))
        if expanding.listed:
            listed[pool.name] = frozenset(expanding.listed)
    if any(one is not other for one, other in zip(pools, spec.pools)):
        spec = replace(spec, pools=tuple(pools))
    return Expansion(spec, sources, listed)


class _PoolExpansion:
    """The servers of one pool; `sources` gets what they come from."""

    def __init__(self, pool: PoolSpec, answers: Answers, sources: dict[str, float]) -> None:
        self.listed: set[str] = set()  # the names in its list
        self._pool = pool
        self._answers = answers
        self._sources = sources

    def steps(self) -> Steps[PoolSpec]:
        before = self._pool.servers
        servers: list[ServerSpec] = []
        for count, configured in enumerate(self._configured()):
            if count % STEP == STEP - 1:
                yield
            found: Iterable[ServerSpec] = (configured,)
            if is_srv(configured.url):
                found = _of_records(configured, self._answer(SERVICE + configured.host.lower()))
            for one in found:
                servers += self._of_addresses(one, configured.name)
        yield
        if len(servers) == len(before) and all(one is other for one, other in zip(servers, before)):
            return self._pool
        names: dict[str, ServerSpec] = {}
        for server in servers:
            # Two records may lead to one address.
            names.setdefault(server.name, server)
        return replace(self._pool, servers=tuple(names.values()))

    def _answer(self, source: str) -> tuple[str, ...]:
        """The answer of a source, which is to be watched."""
        longest = self._pool.discover.max_ttl
        self._sources[source] = min(longest, self._sources.get(source, longest))
        return self._answers.get(source, ())

    def _configured(self) -> Iterator[ServerSpec]:
        yield from self._pool.servers
        template = self._pool.discover.template
        if template is not None:
            for text in self._answer(LIST + self._pool.discover.file):
                entry = json.loads(text)
                self.listed.add(entry["name"])
                yield listed_server(entry, template)

    def _of_addresses(self, server: ServerSpec, name: str) -> Iterable[ServerSpec]:
        """`name` is that of the configured server."""
        if not server.expand or is_address(server.host):
            return (server,)
        addresses = self._answer(server.host.lower())
        if len(addresses) < 2:
            return (server,)
        authority = server.authority or place_of(server.host, server.port)
        return [
            replace(
                server,
                name=f"{name}@{place_of(address, server.port)}",
                url=_url(server, address, server.port),
                host=address,
                authority=authority,
            )
            for address in addresses
        ]


def listed_server(entry: Mapping[str, Any], template: ServerSpec) -> ServerSpec:
    """A server of a list; what its entry does not set is as in `template`."""
    url = entry["url"]
    host, port = location(url)
    check: HealthCheck | None = template.health_check
    if "health_check" in entry:
        keys = entry["health_check"]
        check = None if keys is None else replace(check or HealthCheck(), **_checked(keys))
    tls: ServerTls | None = None
    if is_https(url) and template.tls is not None:
        tls = template.tls
        if tls.server_name == LISTED_HOST:
            tls = replace(tls, server_name=domain_of(host).rstrip("."))
    given = {key: value for key, value in entry.items() if key not in _DERIVED_KEYS}
    return replace(
        template, name=entry["name"], url=url, host=host, port=port, health_check=check, tls=tls, **given
    )


def _checked(keys: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no tuples.
    ranges = {"status": tuple((low, high) for low, high in keys["status"])} if "status" in keys else {}
    return {**keys, **ranges}


def _of_records(server: ServerSpec, texts: Iterable[str]) -> Iterator[ServerSpec]:
    records = sorted(map(read_record, texts), key=lambda one: (one.priority, one.target, one.port))
    if not records:
        return
    best = records[0].priority
    # A weight of 0 means a very small one (RFC 2782).
    highest = max(max(record.weight, 1) for record in records) * max(server.weight, 1)
    for record in records:
        weight = max(record.weight, 1) * server.weight
        if highest > MAX_WEIGHT and weight:
            weight = max(weight * MAX_WEIGHT // highest, 1)
        yield replace(
            server,
            name=f"{server.name}@{record.place}",
            url=_url(server, record.target, record.port),
            host=record.target,
            port=record.port,
            weight=weight,
            backup=server.backup or record.priority > best,
            authority=place_of(domain_of(server.host).rstrip("."), record.port),
        )


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    # `location` has validated IPv4 addresses; names have letters.
    return ":" in host or host.replace(".", "").isdigit()


def _url(server: ServerSpec, host: str, port: int) -> str:
    return f"{'https' if is_https(server.url) else 'http'}://{place_of(host, port)}"
