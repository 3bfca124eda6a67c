"""The instructions of the parent to its workers: lines of JSON on their standard input.  See `child`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from twisted_lb.app.listener_tls import words_for_worker
from twisted_lb.app.startup import Startup
from twisted_lb.app.workers.pipe import as_text
from twisted_lb.config.server_tls import files_of
from twisted_lb.discovery.answers import Answers
from twisted_lb.network.certificate import Certificate

REPORTS = 3  # the file descriptor after standard error, on which a worker responds
FIRST_INHERITED = REPORTS + 1  # the ports; after them, the standard output for the access log


def words_of(secrets: Sequence[bytes]) -> list[str]:
    """Secrets in the form in which a worker gets them."""
    return [one.hex() for one in secrets]


class Instructions:
    """The current configuration of all workers: in full for one that is started, and the changes for the others."""

    def __init__(self, startup: Startup) -> None:
        self._startup = startup
        self._servers_text = startup.servers_text
        self._files = as_text(files_of(startup.gateway))
        self._answers = startup.answers
        self._certificates: Sequence[Certificate] = startup.tls.files.certificates if startup.tls else ()

    def first(self, ports: Sequence[Any]) -> dict[str, Any]:
        """Everything that a worker needs at its start; the ports are in the order of `listen` and `tls_listen`."""
        clear = len(self._startup.settings.listen)
        tls = self._startup.tls
        return {
            "settings": asdict(self._startup.settings),
            "listeners": [
                {"descriptor": FIRST_INHERITED + index, "family": int(port.addressFamily), "tls": index >= clear}
                for index, port in enumerate(ports)
            ],
            "servers": self._servers_text,
            "files": self._files,
            "answers": dict(self._answers),
            "certificates": words_for_worker(self._certificates),
            "client_authorities": tls.client_authorities.text if tls is not None else "",
            "ticket_secrets": words_of(tls.certificates.ticket_keys.secrets) if tls is not None else [],
            "reports": REPORTS,
            "standard_output": FIRST_INHERITED + len(ports),
        }

    def other_servers(self, text: str | None, files: Mapping[str, bytes], answers: Answers) -> dict[str, Any]:
        """Another servers file with the contents of the files that it names, or None, and the answers that changed."""
        before, self._answers = self._answers, answers
        words: dict[str, Any] = {
            "answers": {source: found for source, found in answers.items() if before.get(source) != found}
        }
        if text is not None:
            self._servers_text = text
            self._files = as_text(files)
            words.update(servers=text, files=self._files)
        return words

    def other_certificates(self, certificates: Sequence[Certificate]) -> dict[str, Any]:
        """The certificates to serve, the first as the default; only those that changed are written in full."""
        words = words_for_worker(certificates, self._certificates)
        self._certificates = certificates
        return {"certificates": words}
