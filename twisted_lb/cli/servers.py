"""`tokenlb servers`: the servers of pools.  Without --pool, the pool is the only one that has a server of this name."""

from __future__ import annotations

from typing import Any, Final

import click

from twisted_lb.cli.client import AdminClient, path_to
from twisted_lb.cli.display import show_json, show_table, show_values
from twisted_lb.cli.failures import NOT_FOUND, Failed
from twisted_lb.cli.options import Group, as_json, check_confirmable, confirm, pass_client, yes_option
from twisted_lb.cli.parameters import text

COLUMNS: Final = ("pool", "name", "url", "state", "weight", "in_flight", "requests", "failures", "latency_ms", "reason")

server_argument = click.argument("server", type=text)
pool_option = click.option("--pool", type=text, help="The pool [the only possible one].")


def show_server(server: dict[str, Any]) -> None:
    """Print one server."""
    if as_json():
        show_json(server)
    else:
        show_values({column: server.get(column) for column in COLUMNS})


def _path(client: AdminClient, pool: str | None, server: str, *more: str) -> str:
    if pool is None:
        pools = {one["pool"] for one in client.get("/servers") if one["name"] == server}
        if not pools:
            raise Failed(f"There is no server {server}; `tokenlb servers list` shows all.", NOT_FOUND)
        pool = _only(pools, f"{server} is in the pools")
    return path_to("pools", pool, "servers", server, *more)


def _only(pools: set[str], which: str) -> str:
    if len(pools) > 1:
        raise click.UsageError(f"{which} {', '.join(sorted(pools))}: give --pool.")
    [pool] = pools
    return pool


@click.group(cls=Group)
def servers() -> None:
    """Servers of the pools."""


@servers.command("list")
@click.option("--pool", type=text, help="Only the servers of this pool [all].")
@pass_client
def list_servers(client: AdminClient, pool: str | None) -> None:
    """List the servers with their states and counts."""
    found = client.get("/servers" if pool is None else path_to("pools", pool, "servers"))
    if as_json():
        show_json({"servers": found})
    else:
        show_table(COLUMNS, ([one.get(column) for column in COLUMNS] for one in found))


@servers.command()
@click.argument("url", type=text, metavar="URL_OF_SERVER")
@pool_option
@click.option("--name", type=text, help="The name of the server [host:port of the URL].")
@click.option("--weight", type=click.IntRange(0), help="The share of requests, relative to other servers [1].")
@click.option("--maxconn", type=click.IntRange(0), help="The maximum number of requests at a time [unlimited].")
@click.option("--backup", is_flag=True, help="Use the server only while no other one is up.")
@pass_client
def add(client: AdminClient, /, url: str, pool: str | None, backup: bool, **keys: Any) -> None:
    """Add a server to a pool."""
    if pool is None:
        pool = _only({one["name"] for one in client.get("/pools")["pools"]}, "There are the pools")
    body = {"url": url, **{name: value for name, value in keys.items() if value is not None}}
    show_server(client.call("POST", path_to("pools", pool, "servers"), {**body, "backup": True} if backup else body))


@servers.command()
@server_argument
@pool_option
@pass_client
def drain(client: AdminClient, server: str, pool: str | None) -> None:
    """Send no new requests to a server; requests in progress continue."""
    show_server(client.call("POST", _path(client, pool, server, "drain")))


@servers.command()
@server_argument
@pool_option
@pass_client
def undrain(client: AdminClient, server: str, pool: str | None) -> None:
    """End the draining of a server."""
    show_server(client.call("POST", _path(client, pool, server, "undrain")))


@servers.command()
@server_argument
@pool_option
@pass_client
def disable(client: AdminClient, server: str, pool: str | None) -> None:
    """Send no new requests and no health checks to a server."""
    show_server(client.call("POST", _path(client, pool, server, "disable")))


@servers.command()
@server_argument
@pool_option
@pass_client
def enable(client: AdminClient, server: str, pool: str | None) -> None:
    """Put a server into service again."""
    show_server(client.call("POST", _path(client, pool, server, "enable")))


@servers.command()
@server_argument
@click.argument("weight", type=click.IntRange(0))
@pool_option
@pass_client
def weight(client: AdminClient, server: str, weight: int, pool: str | None) -> None:
    """Set the weight of a server."""
    show_server(client.call("PATCH", _path(client, pool, server), {"weight": weight}))


@servers.command()
@server_argument
@pool_option
@yes_option
@pass_client
def remove(client: AdminClient, server: str, pool: str | None, yes: bool) -> None:
    """Remove a server from its pool; requests in progress continue."""
    check_confirmable(yes)
    path = _path(client, pool, server)
    confirm(f"Remove the server {server}?", yes)
    client.call("DELETE", path)
    if as_json():
        show_json({"removed": server})
