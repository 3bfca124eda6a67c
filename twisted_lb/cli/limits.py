"""`tokenlb limits`: the limits of routes and pools in servers.yaml, and of all routes."""

from __future__ import annotations

from typing import Any, Final

import click

from twisted_lb.cli.client import AdminClient, path_to
from twisted_lb.cli.display import show_json, show_table, show_values
from twisted_lb.cli.options import Group, as_json, pass_client
from twisted_lb.cli.parameters import text
from twisted_lb.cli.users import WINDOWS, shown_counts

COLUMNS: Final = ("name", "of", "per", "capacity", "rate_per_sec", "shadow", "level", *WINDOWS)


@click.group(cls=Group)
def limits() -> None:
    """Limits of the servers file."""


@limits.command("list")
@pass_client
def list_limits(client: AdminClient) -> None:
    """List the limits, and what shadow limits would have refused in the last hour and day."""
    found = client.get("/limits")
    if as_json():
        show_json(found)
    else:
        show_table(COLUMNS, (_row(limit) for limit in found["limits"]))


@limits.command()
@click.argument("limit", type=text)
@click.option("--route", type=text, help="The route that has the limit [all routes].")
@click.option("--pool", type=text, help="The pool that has the limit.")
@pass_client
def promote(client: AdminClient, limit: str, route: str | None, pool: str | None) -> None:
    """Enforce a shadow limit."""
    if route is not None and pool is not None:
        raise click.UsageError("A limit is that of a route or of a pool: give --route or --pool.")
    owner = ("routes", route) if route is not None else ("pools", pool) if pool is not None else ()
    found = client.call("POST", path_to(*owner, "limits", limit, "promote"))
    if as_json():
        show_json(found)
    else:
        show_values(dict(zip(COLUMNS, _row(found))))


def _row(limit: dict[str, Any]) -> list[object]:
    return [shown_counts(limit.get(column)) if column in WINDOWS else limit[column] for column in COLUMNS]
