"""`tokenlb users`: users, and their policies, quotas and shadow policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, ParamSpec, TypeVar

import click

from twisted_lb.cli.client import AdminClient, path_to
from twisted_lb.cli.display import show_json, show_notice, show_table, show_values
from twisted_lb.cli.options import Group, as_json, check_confirmable, confirm, pass_client, yes_option
from twisted_lb.cli.parameters import NEVER, json_object, label_text, moment_ago, moment_ahead, text

_P = ParamSpec("_P")
_T = TypeVar("_T")

PAGE: Final = 200
# The members that are shown, in this order; --json has all of them.
_SHOWN: Final = (
    "name",
    "disabled",
    "capacity",
    "rate_per_sec",
    "current_capacity",
    "quota",
    "created_at",
    "metadata",
    "shadow",
)
_OF_KEY: Final = ("key_id", "label", "state", "expires_at", "created_at", "last_used")
_BUCKET: Final = ("capacity", "rate_per_sec", "current_capacity")
USAGE: Final = ("last", "requests", "tokens", "refused")
WINDOWS: Final = ("hour", "day")
ONCE: Final = "The API key is shown only now: it is not stored."

name_argument = click.argument("name", type=text)
capacity_option = click.option("--capacity", type=int, metavar="TOKENS", help="Capacity of the bucket.")
rate_option = click.option(
    "--rate", "--rate-per-sec", "rate_per_sec", type=float, metavar="TOKENS", help="Tokens per second that refill it."
)
quota_options = (
    click.option("--quota-requests", type=int, metavar="COUNT", help="Requests per day or month."),
    click.option("--quota-tokens", type=int, metavar="COUNT", help="Tokens per day or month."),
    click.option("--quota-per", type=click.Choice(["day", "month"]), help="The period of the quota."),
    click.option("--time-zone", type=text, metavar="NAME", help="Time zone of periods, such as Europe/Berlin [UTC]."),
)
label_option = click.option("--label", type=label_text, metavar="TEXT", help="What the key is for.")
expires_option = click.option(
    "--expires",
    type=moment_ahead,
    metavar="TIME",
    help="When the key expires: a time, a duration from now such as 30d, or never.",
)


def given_body(expires: str | None = None, **members: object) -> dict[str, Any]:
    """The members that are not None; `expires` becomes `expires_at`, and NEVER null."""
    body = {name: value for name, value in members.items() if value is not None}
    if expires is not None:
        body["expires_at"] = None if expires == NEVER else expires
    return body

shadow_capacity_option = click.option(
    "--shadow-capacity", type=int, metavar="TOKENS", help="Capacity of the shadow policy."
)
shadow_rate_option = click.option(
    "--shadow-rate", type=float, metavar="TOKENS", help="Tokens per second of the shadow policy."
)


def with_quota_options(command: Callable[_P, _T]) -> Callable[_P, _T]:
    """Add the options that `quota_body` reads."""
    for option in reversed(quota_options):
        command = option(command)
    return command


def quota_body(members: dict[str, Any]) -> dict[str, Any] | None:
    """Remove the options of a quota from `members`, and return the quota, or None.  Raises UsageError."""
    requests, tokens = members.pop("quota_requests"), members.pop("quota_tokens")
    per, time_zone = members.pop("quota_per"), members.pop("time_zone")
    if requests is None and tokens is None and per is None and time_zone is None:
        return None
    if (requests is None) == (tokens is None) or per is None:
        raise click.UsageError("For a quota, give either --quota-requests or --quota-tokens, and --quota-per.")
    body = given_body(requests=requests, tokens=tokens, per=per, time_zone=time_zone)
    return body


def show_user(user: dict[str, Any]) -> None:
    """Print a user with all keys, and the API key itself if it is new."""
    if as_json():
        show_json(user)
        return
    show_values({name: user[name] for name in (*_SHOWN, "api_key") if name in user})
    if "api_key" in user:
        show_notice(ONCE)
    click.echo()
    show_keys(user["keys"])


def show_keys(keys: list[dict[str, Any]]) -> None:
    """Print a table of keys, with columns for a bucket if one of them has its own."""
    bucket = [column for column in _BUCKET if any(column in one for one in keys)]
    columns = (*_OF_KEY, *bucket)
    show_table(columns, ([one.get(column) for column in columns] for one in keys))


def usage_rows(usage: dict[str, Any], *first: object) -> list[list[object]]:
    """The rows for one key, or for all, in a table whose columns after `first` are those of USAGE."""
    rows: list[list[object]] = []
    for window in ("hour", "day"):
        counts = usage[window]
        refused = ",".join(f"{limit}={number}" for limit, number in counts["refused"].items())
        rows.append([*first, window, counts["requests"], counts["tokens"], refused])
    return rows


@click.group(cls=Group)
def users() -> None:
    """Users, each with a bucket and one or more keys."""


@users.command("list")
@click.option("--name", type=text, metavar="TEXT", help="Users whose name contains this.")
@click.option("--key-id", type=text, metavar="TEXT", help="Users with a key whose key_id begins with this.")
@click.option("--label", type=text, metavar="TEXT", help="Users with a key whose label contains this.")
@click.option("--state", type=click.Choice(["active", "disabled", "revoked"]), help="Users with a key in this state.")
@click.option("--disabled/--enabled", default=None, help="Only disabled users, or only others.")
@click.option("--used-since", type=moment_ago, metavar="TIME", help="Users with a key that was used since then.")
@click.option("--unused-since", type=moment_ago, metavar="TIME", help="Users with a key that was not used since then.")
@click.option("--limit", type=click.IntRange(1), metavar="COUNT", help="Show at most this many [all].")
@click.option("--after", type=text, metavar="NAME", help="Begin after this name.")
@pass_client
def list_users(
    client: AdminClient, /, limit: int | None, after: str | None, disabled: bool | None, **wanted: str | None
) -> None:
    """List users, sorted by name.

    A TIME is a time such as 2026-12-31T00:00:00Z, or a duration before now such as 30d.
    """
    query = {**wanted, "disabled": None if disabled is None else str(disabled).lower()}
    found: list[dict[str, Any]] = []
    more: str | None = after
    for page, more in _pages(client, query, after, limit):
        found += page
    if as_json():
        show_json({"users": found, "next": more})
        return
    columns = ("name", "disabled", "capacity", "rate_per_sec", "current_capacity", "keys", "last_used")
    show_table(columns, (_row(user, columns) for user in found))
    if more is not None:
        show_notice(f"There may be more: --after {more}")


def _row(user: dict[str, Any], columns: tuple[str, ...]) -> list[object]:
    # Times in UTC with the precision of a minute can be compared as text.
    last_used = max((key["last_used"] for key in user["keys"] if key["last_used"]), default=None)
    return [{**user, "keys": len(user["keys"]), "last_used": last_used}[column] for column in columns]


def _pages(
    client: AdminClient, query: dict[str, Any], after: str | None, limit: int | None
) -> Iterator[tuple[list[dict[str, Any]], str | None]]:
    """The pages, each with the name after which the next begins; a page without users may be followed by others."""
    left = limit
    while True:
        count = PAGE if left is None else min(PAGE, left)
        answer = client.get("/users", {**query, "after": after, "limit": count})
        yield answer["users"], answer["next"]
        after = answer["next"]
        left = None if left is None else left - len(answer["users"])
        if after is None or left == 0:
            return


@users.command()
@name_argument
@pass_client
def show(client: AdminClient, name: str) -> None:
    """Show a user, with all keys."""
    show_user(client.get(path_to("users", name)))


@users.command()
@name_argument
@pass_client
def usage(client: AdminClient, name: str) -> None:
    """Show the usage of a user in the last hour and day."""
    found = client.get(path_to("users", name, "usage"))
    if as_json():
        show_json(found)
        return
    rows = usage_rows(found, "all", None)
    for key in found["keys"]:
        rows += usage_rows(key, key["key_id"], key["label"])
    show_table(("key_id", "label", *USAGE), rows)


@users.command()
@name_argument
@capacity_option
@rate_option
@click.option("--metadata", type=json_object, metavar="JSON", help='Your own data, such as {"plan": "gold"}.')
@with_quota_options
@shadow_capacity_option
@shadow_rate_option
@label_option
@expires_option
@pass_client
def create(
    client: AdminClient, /, shadow_capacity: int | None, shadow_rate: float | None, **members: Any
) -> None:
    """Create a user with a first key."""
    quota = quota_body(members)
    body = given_body(**members, quota=quota) | _shadow(shadow_capacity, shadow_rate, False)
    show_user(client.call("POST", "/users", body))


@users.command("set")
@name_argument
@capacity_option
@rate_option
@click.option("--metadata", type=json_object, metavar="JSON", help="Replaces all present metadata.")
@click.option("--level", metavar="TOKENS|full", help="Tokens in the bucket now; full: as many as its capacity.")
@with_quota_options
@click.option("--no-quota", is_flag=True, help="Remove the quota.")
@click.option("--quota-used", type=int, metavar="COUNT", help="How much of the quota was used in this period.")
@shadow_capacity_option
@shadow_rate_option
@click.option("--no-shadow", is_flag=True, help="Remove the shadow policy.")
@pass_client
def set_user(
    client: AdminClient,
    /,
    name: str,
    level: str | None,
    no_quota: bool,
    quota_used: int | None,
    shadow_capacity: int | None,
    shadow_rate: float | None,
    no_shadow: bool,
    **members: Any,
) -> None:
    """Change a user.

    Options that are not given change nothing.  What was used of a quota is kept if the new one has the same unit
    (requests or tokens) and the same period (day or month).  A shadow policy refuses nothing: `users shadow` shows what
    it would have refused.
    """
    quota = quota_body(members)
    if no_quota and (quota is not None or quota_used is not None):
        raise click.UsageError("--no-quota cannot be combined with other options of a quota.")
    body = given_body(**members, quota=quota) | ({"quota": None} if no_quota else {})
    body |= _shadow(shadow_capacity, shadow_rate, no_shadow)
    level_body = _level(level)
    if not body and level is None and quota_used is None:
        raise click.UsageError(
            "There is nothing to change: give --capacity, --rate, --metadata, --level, or options of a quota or shadow."
        )
    answer = client.call("PATCH", path_to("users", name), body) if body else None
    if level is not None:
        answer = client.call("PUT", path_to("users", name, "level"), level_body)
    if quota_used is not None:
        answer = client.call("PUT", path_to("users", name, "quota"), {"used": quota_used})
    show_user(answer or {})


def _shadow(capacity: int | None, rate: float | None, removed: bool) -> dict[str, Any]:
    if removed:
        if capacity is not None or rate is not None:
            raise click.UsageError("--no-shadow removes the policy that --shadow-capacity and --shadow-rate set.")
        return {"shadow": None}
    if capacity is None and rate is None:
        return {}
    if capacity is None or rate is None:
        raise click.UsageError("A shadow policy has --shadow-capacity and --shadow-rate.")
    return {"shadow": {"capacity": capacity, "rate_per_sec": rate}}


@users.command()
@name_argument
@pass_client
def shadow(client: AdminClient, name: str) -> None:
    """Show the shadow policy of a user, and what it would have refused."""
    found = client.get(path_to("users", name, "shadow"))
    if as_json():
        show_json(found)
        return
    show_values({column: value for column, value in found.items() if column not in WINDOWS})
    for window in WINDOWS:
        show_values({f"last {window}": shown_counts(found[window])})


@users.command()
@name_argument
@pass_client
def promote(client: AdminClient, name: str) -> None:
    """Replace the policy of a user by the shadow policy."""
    show_user(client.call("POST", path_to("users", name, "shadow", "promote")))


def shown_counts(counts: dict[str, int] | None) -> str | None:
    """What a shadow would have refused, as text."""
    return None if counts is None else f"would have refused {counts['would_refuse']:,} of {counts['requests']:,}"


def _level(given: str | None) -> dict[str, Any] | None:
    if given is None or given == "full":
        return None
    try:
        return {"current_capacity": float(given) if "." in given else int(given)}
    except ValueError:
        raise click.BadParameter("neither a number of tokens nor full", param_hint="--level") from None


@users.command()
@name_argument
@pass_client
def disable(client: AdminClient, name: str) -> None:
    """Disable a user: all keys are refused until the user is enabled."""
    show_user(client.call("POST", path_to("users", name, "disable")))


@users.command()
@name_argument
@pass_client
def enable(client: AdminClient, name: str) -> None:
    """Enable a user."""
    show_user(client.call("POST", path_to("users", name, "enable")))


@users.command()
@name_argument
@yes_option
@pass_client
def delete(client: AdminClient, name: str, yes: bool) -> None:
    """Delete a user with all keys."""
    check_confirmable(yes)
    confirm(f"Delete the user {name} with all keys?", yes)
    client.call("DELETE", path_to("users", name))
    if as_json():
        show_json({"deleted": name})
