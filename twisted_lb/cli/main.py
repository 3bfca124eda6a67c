"""The command as a whole: its groups, and the exit status of each error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any, Final

import click

from twisted_lb import __version__
from twisted_lb.cli import transfer
from twisted_lb.cli.display import show_failure
from twisted_lb.cli.failures import INTERRUPTED, PIPE_CLOSED, REFUSED, Failed
from twisted_lb.cli.keys import keys
from twisted_lb.cli.limits import limits
from twisted_lb.cli.options import Group
from twisted_lb.cli.program import check, explain, status
from twisted_lb.cli.servers import servers

NAME: Final = "tokenlb"


class _Command(Group):
    def invoke(self, ctx: click.Context) -> Any:
        """See click.Group, which exits with the status 1 if standard output is a closed pipe."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            raise Failed("", PIPE_CLOSED) from None


@click.group(NAME, cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
def command() -> None:
    """Users, keys and servers of a running twisted_lb, over its admin listener.

    Options may be given before or after the name of a command. The URL and the token are those of the options, or
    TOKENLB_URL and TOKENLB_TOKEN, or those of ADMIN_LISTEN and ADMIN_TOKEN in the environment or .env.

    \b
    Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 not reachable,
    4 not found, 5 no valid token, 6 conflict, 7 unavailable for now.
    """


for _one in (transfer.users, keys, limits, servers, check, explain, status):
    command.add_command(_one)


def run(arguments: Sequence[str] | None = None, connect: Any = None) -> int:
    """Run the command; return the exit status.  `connect` is for tests: see `client.Open`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_output()
    as_json = "--json" in given
    try:
        ended = command.main(given, NAME, standalone_mode=False, obj=connect)
        return ended if isinstance(ended, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Failed as failed:
        if failed.exit_status == PIPE_CLOSED:
            _write_nowhere()
        else:
            show_failure(failed.message, failed.exit_status, failed.more, as_json)
        return failed.exit_status
    except click.UsageError as error:
        if as_json or error.ctx is None:
            show_failure(error.format_message(), error.exit_code, {}, as_json)
        else:
            error.show()
        return error.exit_code
    except click.ClickException as error:
        show_failure(error.format_message(), error.exit_code, {}, as_json)
        return error.exit_code
    except OSError as error:
        # Not an error of a connection: `client` raises those as Failed.
        show_failure(f"{error.filename or 'input or output'}: {error.strerror}", REFUSED, {}, as_json)
        _write_nowhere()
        return REFUSED


def _prepare_output() -> None:
    # For a stream that is closed (`>&-`), Python has None.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        # Not all terminals can show all characters of names.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _write_nowhere() -> None:
    # At exit Python writes what is left in the buffer, and would report the closed pipe.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
