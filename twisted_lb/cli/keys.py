"""`tokenlb keys`: the keys of users.  A key is named by its key_id alone; a first request finds its user."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

import click

from twisted_lb.cli.client import AdminClient, path_to
from twisted_lb.cli.display import show_json, show_notice, show_table, show_values
from twisted_lb.cli.failures import UNAVAILABLE, UNREACHABLE, Failed
from twisted_lb.cli.options import Group, as_json, check_confirmable, confirm, pass_client, yes_option
from twisted_lb.cli.parameters import NEVER, field_text, label_text, moment_ahead, text
from twisted_lb.cli.users import (
    ONCE,
    USAGE,
    capacity_option,
    expires_option,
    given_body,
    label_option,
    rate_option,
    show_keys,
    usage_rows,
)

_SHOWN: Final = ("user", "key_id", "label", "state", "expires_at", "created_at", "last_used")
_BUCKET: Final = ("capacity", "rate_per_sec", "current_capacity")

user_argument = click.argument("user", type=text)
key_id_argument = click.argument("key_id", type=text)
idempotency_option = click.option(
    "--idempotency-key",
    type=field_text,
    metavar="TEXT",
    help="A repeated command with the same value gets the same key [a new value].",
)


def show_key(key: dict[str, Any]) -> None:
    """Print a key, and the API key itself if it is new."""
    if as_json():
        show_json(key)
        return
    show_values({name: key[name] for name in (*_SHOWN, *_BUCKET, "replaces", "api_key") if name in key})
    if "api_key" in key:
        show_notice(ONCE)


def _find(client: AdminClient, key_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(path_to("keys", key_id))
    return found


def _path(client: AdminClient, key_id: str, *more: str) -> str:
    return path_to("users", _find(client, key_id)["user"], "keys", key_id, *more)


def _new_key(client: AdminClient, path: str, body: dict[str, Any], idempotency_key: str | None) -> None:
    """Create a key.  If a failure leaves open whether it was created, the message says how to repeat the command."""
    repeatable = idempotency_key or str(uuid4())
    try:
        key = client.call("POST", path, body, {"Idempotency-Key": repeatable})
    except Failed as failed:
        if failed.exit_status in (UNREACHABLE, UNAVAILABLE):
            failed.message += f" To repeat it without a second key, add --idempotency-key {repeatable}"
            failed.more = {**failed.more, "idempotency_key": repeatable}
        raise
    show_key(key)


@click.group(cls=Group)
def keys() -> None:
    """Keys of users."""


@keys.command("list")
@user_argument
@pass_client
def list_keys(client: AdminClient, user: str) -> None:
    """List the keys of a user."""
    found = client.get(path_to("users", user, "keys"))
    if as_json():
        show_json(found)
    else:
        show_keys(found["keys"])


@keys.command()
@user_argument
@label_option
@expires_option
@capacity_option
@rate_option
@idempotency_option
@pass_client
def create(client: AdminClient, /, user: str, idempotency_key: str | None, **members: Any) -> None:
    """Create another key for a user.

    With --capacity and --rate it has its own bucket, in addition to that of the user.
    """
    _new_key(client, path_to("users", user, "keys"), given_body(**members), idempotency_key)


@keys.command()
@key_id_argument
@pass_client
def show(client: AdminClient, key_id: str) -> None:
    """Show a key and its user."""
    show_key(_find(client, key_id))


@keys.command()
@key_id_argument
@pass_client
def usage(client: AdminClient, key_id: str) -> None:
    """Show the usage of a key in the last hour and day."""
    found = client.get(path_to("keys", key_id, "usage"))
    if as_json():
        show_json(found)
    else:
        show_table(USAGE, usage_rows(found))


@keys.command()
@key_id_argument
@click.argument("content", type=label_text, metavar="LABEL")
@pass_client
def label(client: AdminClient, key_id: str, content: str) -> None:
    """Set the label of a key."""
    show_key(client.call("PATCH", _path(client, key_id), {"label": content}))


@keys.command()
@key_id_argument
@click.option(
    "--grace", required=True, metavar="DURATION", help="How long the old key still works, such as 1h; 0: not at all."
)
@idempotency_option
@yes_option
@pass_client
def rotate(client: AdminClient, key_id: str, grace: str, idempotency_key: str | None, yes: bool) -> None:
    """Replace a key by a new one.

    Both work until the grace period is over. With --grace 0 the old one is revoked at once, after a confirmation.
    """
    try:
        at_once = float(grace.rstrip("smhd")) == 0
    except ValueError:
        at_once = False
    if at_once:
        check_confirmable(yes)
    path = _path(client, key_id, "rotate")
    if at_once:
        confirm(f"Replace {key_id} and revoke it at once?", yes)
    _new_key(client, path, {"grace": grace}, idempotency_key)


@keys.command()
@key_id_argument
@pass_client
def disable(client: AdminClient, key_id: str) -> None:
    """Disable a key until it is enabled."""
    show_key(client.call("POST", _path(client, key_id, "disable")))


@keys.command()
@key_id_argument
@pass_client
def enable(client: AdminClient, key_id: str) -> None:
    """Enable a key."""
    show_key(client.call("POST", _path(client, key_id, "enable")))


@keys.command()
@key_id_argument
@click.option("--at", type=moment_ahead, metavar="TIME", help="A time, a duration such as 30d, or never [now].")
@pass_client
def expire(client: AdminClient, key_id: str, at: str | None) -> None:
    """Make a key expire, now or at a given time."""
    if at is None:
        show_key(client.call("POST", _path(client, key_id, "expire")))
    else:
        show_key(client.call("PATCH", _path(client, key_id), {"expires_at": None if at == NEVER else at}))


@keys.command()
@key_id_argument
@yes_option
@pass_client
def revoke(client: AdminClient, key_id: str, yes: bool) -> None:
    """Revoke a key permanently."""
    check_confirmable(yes)
    found = _find(client, key_id)
    label = f" ({found['label']})" if found["label"] else ""
    confirm(f"Revoke {key_id}{label} of {found['user']}?", yes)
    show_key(client.call("POST", path_to("users", found["user"], "keys", key_id, "revoke")))
