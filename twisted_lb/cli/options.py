"""Options that every command takes, before or after its name; clients of the admin API; and confirmations."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from twisted_lb.cli.client import AdminClient
from twisted_lb.cli.display import escaped
from twisted_lb.cli.failures import Failed
from twisted_lb.cli.target import DEFAULT_SECONDS, Given, target

_KEPT: Final = "tokenlb_"
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    # Contexts of commands are made after those of their groups, and share `meta`: the last of several values is used.
    if value is not None and value is not False:
        context.meta[str(parameter.name)] = value


def _common_options() -> list[click.Parameter]:
    def option(name: str, help_text: str, **more: Any) -> click.Option:
        # With a prefix, since a command may have an argument `url`.
        own = _KEPT + name.removeprefix("--").replace("-", "_")
        return click.Option([name, own], help=help_text, expose_value=False, callback=_keep, **more)

    return [
        option("--url", "The admin listener [TOKENLB_URL; else ADMIN_LISTEN, also in .env].", metavar="URL"),
        option("--token", "The admin token [TOKENLB_TOKEN; else ADMIN_TOKEN, also in .env].", metavar="TOKEN"),
        option("--token-file", "File with the token, which lists of processes do not show.", metavar="FILE"),
        option("--cacert", "Certificates to trust for https, in PEM [those of the system].", metavar="FILE"),
        option("--env-file", "File of settings [.env, if it exists].", metavar="FILE"),
        option(
            "--timeout",
            f"Seconds to wait for a connection, and for each part of a response [{DEFAULT_SECONDS:g}].",
            type=click.FloatRange(0, 86_400, min_open=True),
            metavar="SECONDS",
        ),
        option("--json", "Print one JSON document.", is_flag=True),
    ]


class Command(click.Command):
    """A command with these options."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.params.extend(_common_options())


class Group(click.Group):
    """A group with these options, and commands that have them."""

    command_class = Command

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.params.extend(_common_options())


Group.group_class = Group


def given(name: str) -> Any:
    """The value of one of these options; None if it is absent."""
    return click.get_current_context().meta.get(f"{_KEPT}{name}")


def as_json() -> bool:
    """Whether the result is printed as JSON."""
    return bool(given("json"))


def pass_client(command: Callable[Concatenate[AdminClient, _P], _T]) -> Callable[_P, _T]:
    """Call the command with a client of the admin API, which is closed afterwards."""

    @wraps(command)
    def called(*args: _P.args, **more: _P.kwargs) -> _T:
        client = _client()
        try:
            return command(client, *args, **more)
        except (LookupError, TypeError, AttributeError) as error:
            # Documents are not validated beforehand: another version may have members that this one does not know.
            raise client.unexpected(error) from error
        finally:
            client.close()

    return called


def _client() -> AdminClient:
    options = Given(given("url"), given("token"), given("token_file"), given("env_file"))
    place, token = target(options, os.environ)
    seconds = given("timeout") or DEFAULT_SECONDS
    return AdminClient(place, token, seconds, given("cacert"), click.get_current_context().obj)


def yes_option(command: Callable[_P, _T]) -> Callable[_P, _T]:
    """The option of commands that cannot be undone; see `confirm`."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")(command)


def check_confirmable(yes: bool) -> None:
    """Raise UsageError if a confirmation is needed, and there is no terminal."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("This cannot be undone, and there is no terminal for a confirmation: give --yes.")


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation, unless `yes`.  Raises Failed if it is not given."""
    check_confirmable(yes)
    if not yes and not click.confirm(f"{escaped(question)} This cannot be undone.", err=True):
        raise Failed("Nothing was changed.")
