"""Counts TLS handshakes that fail, by reason, and logs them: one line for each reason and network of clients.

On the internet, failed handshakes are common: port scanners, old clients, health checks.  The first one of a reason and
a network is logged at once; further ones within SUMMARY_SECONDS are summed up in one line at the end of this time.  All
failures beyond MAX_KINDS share one such line.  Clients that just disconnect are only counted.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from twisted.logger import Logger

from twisted_lb.deadlines import NEVER, Sweeper
from twisted_lb.network.tls_errors import CertificateNotVerified, HandshakeFailed

SUMMARY_SECONDS: Final = 60.0
MAX_KINDS: Final = 100  # logged within this time

# The reasons, as the metrics name them, besides plain_http, timeout and no_room.
NO_SHARED_VERSION: Final = "no_shared_version"
NO_SHARED_CIPHER: Final = "no_shared_cipher"  # or no other parameter that both sides support
CLIENT_CERTIFICATE_MISSING: Final = "client_certificate_missing"
CLIENT_CERTIFICATE_REFUSED: Final = "client_certificate_refused"
CERTIFICATE_REFUSED: Final = "certificate_refused"  # ours, by the client
CLIENT_ALERT: Final = "client_alert"  # any other alert
NOT_TLS: Final = "not_tls"
OTHER: Final = "other"
CLIENT_LEFT: Final = "client_left"
SHUTDOWN: Final = "shutdown"

# OpenSSL's texts, in lower case; the first one that is found gives the reason.
_REASONS: Final = (
    (CERTIFICATE_REFUSED, re.compile("alert (?:unknown ca|bad certificate|(?:unsupported |no )?certificate)")),
    (NO_SHARED_VERSION, re.compile("unsupported protocol|protocol version|version too low|inappropriate fallback")),
    (CLIENT_ALERT, re.compile(" alert ")),
    (NO_SHARED_CIPHER, re.compile("no shared|no suitable|no ciphers")),
    (CLIENT_CERTIFICATE_MISSING, re.compile("peer did not return a certificate")),
    (NOT_TLS, re.compile("wrong version number|http request|https proxy request|unexpected message|record|packet")),
)

_log = Logger(__name__)


def reason_of(error: HandshakeFailed) -> str:
    """The reason of a failure that OpenSSL has reported."""
    if isinstance(error, CertificateNotVerified):
        return CLIENT_CERTIFICATE_REFUSED
    text = str(error)
    for reason, words in _REASONS:
        if words.search(text):
            return reason
    return OTHER


class HandshakeFailures:
    """The failures of one process.  Watched by the sweeper while there is something to sum up."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.deadline = NEVER
        self.counts: Counter[str] = Counter()  # by reason
        self._sweeper = sweeper
        self._kinds: dict[tuple[str, str], int] = {}  # how many were not logged, by network and reason
        self._others = 0  # beyond MAX_KINDS
        sweeper.watched.add(self)

    def count(self, reason: str) -> None:
        """A handshake has failed in a way that is not logged."""
        self.counts[reason] += 1

    def note(self, network: str, address: str, reason: str, text: str) -> None:
        """A handshake with this client has failed; `text` says why."""
        self.counts[reason] += 1
        kinds = self._kinds
        kind = network, reason
        if kind in kinds:
            kinds[kind] += 1
        elif len(kinds) >= MAX_KINDS:
            self._others += 1
        else:
            kinds[kind] = 0
            words = "A TLS handshake with {address} failed: {text}"
            _log.info(words, address=address, network=network, text=text, reason=reason)
        if self.deadline == NEVER:
            self.deadline = self._sweeper.now + SUMMARY_SECONDS

    def deadline_passed(self) -> None:
        """Sum up."""
        self.deadline = NEVER
        kinds, self._kinds = self._kinds, {}
        others, self._others = self._others, 0
        for (network, reason), count in kinds.items():
            if count:
                _log.info(
                    "{count} more TLS handshakes with {network} failed in {seconds:g} s: {reason}",
                    count=count,
                    network=network,
                    seconds=SUMMARY_SECONDS,
                    reason=reason,
                )
        if others:
            _log.info(
                "{count} TLS handshakes with further clients failed in {seconds:g} s",
                count=others,
                seconds=SUMMARY_SECONDS,
            )

    def give_up(self) -> None:
        """See Watched.  There is nothing to end."""

    def numbers(self) -> dict[str, float]:
        """All numbers by name, for a report."""
        return {f"handshake_failures {reason}": count for reason, count in self.counts.items()}
