"""What the parent tells a worker at its start: the first line of JSON on its standard input.  See `child`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from twisted_lb.app.listener_tls import words_for_worker
from twisted_lb.app.startup import Startup
from twisted_lb.network.certificate import Certificate

REPORTS = 3  # the file descriptor after standard error, on which a worker responds
FIRST_INHERITED = REPORTS + 1  # the ports; after them, the standard output for the access log


def words_of(secrets: Sequence[bytes]) -> list[str]:
    """Secrets as a worker gets them."""
    return [one.hex() for one in secrets]


def instructions(
    startup: Startup,
    ports: Sequence[Any],
    servers_text: str,
    files: Mapping[str, str],
    certificates: Sequence[Certificate],
) -> dict[str, Any]:
    """The settings, the ports in the order of `listen` and `tls_listen`, and the present servers file and certificates.

    `files` are the contents of the files that the servers file names; see `pipe.as_text`.
    """
    clear = len(startup.settings.listen)
    return {
        "settings": asdict(startup.settings),
        "listeners": [
            {"descriptor": FIRST_INHERITED + index, "family": int(port.addressFamily), "tls": index >= clear}
            for index, port in enumerate(ports)
        ],
        "servers": servers_text,
        "files": files,
        "certificates": words_for_worker(certificates),
        "client_authorities": startup.tls.client_authorities.text if startup.tls is not None else "",
        "ticket_secrets": words_of(startup.tls.certificates.ticket_keys.secrets) if startup.tls is not None else [],
        "reports": REPORTS,
        "standard_output": FIRST_INHERITED + len(ports),
    }
