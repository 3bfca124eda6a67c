"""`tokenlb status`, `explain` and `check`: the state of the program, its routing, and its configuration."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Final

import click

from twisted_lb.cli.client import AdminClient
from twisted_lb.cli.display import show_json, show_table, show_values
from twisted_lb.cli.failures import REFUSED, Failed
from twisted_lb.cli.options import Command, as_json, given, pass_client
from twisted_lb.cli.parameters import text

_POOL: Final = ("name", "state", "in_flight", "requests", "failures", "latency_ms", "reason")


@click.command(cls=Command)
@pass_client
def status(client: AdminClient) -> None:
    """Show whether the program is ready, and the state of its pools.

    The exit status is 1 while it is not ready.
    """
    report = client.get("/readyz", also=503)
    pools = client.get("/pools")
    if as_json():
        show_json({**report, "pools": pools["pools"], "live_changes": pools["live_changes"]})
    else:
        state = ("degraded" if report["degraded"] else "ready") if report["ready"] else "not ready"
        show_values({"state": state, "reason": report["reason"], "build": report["build"]})
        click.echo()
        show_table(_POOL, ([pool.get(column) for column in _POOL] for pool in pools["pools"]))
    if not report["ready"]:
        click.get_current_context().exit(REFUSED)


@click.command(cls=Command)
@click.argument("host", type=text)
@click.argument("path", type=text)
@click.option("--method", type=text, metavar="METHOD", help="The method [GET].")
@click.option("-H", "--header", "headers", type=text, multiple=True, metavar="NAME:VALUE", help="May be repeated.")
@click.option("--client", "address", type=text, metavar="ADDRESS", help="The client's address [any].")
@click.option("--user", type=text, metavar="NAME", help="The user who sends the request [none].")
@click.option("--key-id", type=text, metavar="KEY_ID", help="The key of the request [none].")
@pass_client
def explain(
    client: AdminClient, /, host: str, path: str, headers: tuple[str, ...], address: str | None, **more: Any
) -> None:
    """Explain how a request would be handled, without sending it."""
    query = {"host": host, "path": path, "client": address, "header": list(headers) or None, **more}
    found = client.get("/explain", query)
    if as_json():
        show_json(found)
        return
    route = found["route"] or {}
    outcome = {"route": route.get("name"), "status": found["status"], "result": found["reason"]}
    show_values({"compared as": found["compared_as"], **outcome})
    if found["servers"]:
        click.echo()
        columns = ("choice", "pool", "name", "state", "why_not")
        by_choice = sorted(found["servers"], key=lambda one: one["choice"] or len(found["servers"]) + 1)
        show_table(columns, ([one.get(column) for column in columns] for one in by_choice))
    if found["limits"]:
        click.echo()
        of_limit = ("per", "of", "capacity", "rate_per_sec", "shadow", "level")
        show_table(("limit", *of_limit), ([one["name"], *map(one.get, of_limit)] for one in found["limits"]))
    if found["others"]:
        click.echo()
        show_table(("other route", "why not"), ([one["name"], one["why_not"]] for one in found["others"]))


@click.command(cls=Command)
@click.option("--servers", metavar="FILE", help="File with the balancer and the servers [servers.yaml].")
@click.option("--listen", multiple=True, metavar="ENDPOINT", help="As for twistd; may be repeated.")
@click.option("--tls-listen", multiple=True, metavar="ENDPOINT", help="As for twistd; may be repeated.")
@click.option("--admin-listen", metavar="ENDPOINT", help="As for twistd.")
@click.option("--redis-url", metavar="URL", help="As for twistd.")
@click.option("--data-dir", metavar="DIRECTORY", help="As for twistd.")
@click.option("--workers", metavar="COUNT", help="As for twistd.")
@click.option("--demo", is_flag=True, help="As for twistd.")
def check(demo: bool, **options: Any) -> None:
    """Check the settings and the servers file, and print a summary, as `twistd tokenlb --check` does.

    Nothing is started, and no running program is contacted.
    """
    from twisted_lb.tap import Options
    from twisted_lb.tap import check as check_configuration

    wanted = Options()
    for name, value in options.items():
        wanted[name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
    wanted["env-file"], wanted["demo"] = given("env_file"), demo
    if not as_json():
        click.get_current_context().exit(check_configuration(wanted))
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        exit_status = check_configuration(wanted)
    if exit_status:
        raise Failed(errors.getvalue().strip(), exit_status)
    show_json({"valid": True, "lines": out.getvalue().splitlines()})
