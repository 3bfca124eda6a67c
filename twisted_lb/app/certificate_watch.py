"""Watches the files of certificates, uses new ones, and warns of those that expire.

1. Once a second the versions of the files are compared, like those of the servers file (see `reload`): a change is
   read when two successive checks are equal, which is after both writes of most renewals.  SIGHUP reads at once.
2. Each certificate that is new is parsed and tried in a step of its own, between which clients are served.
3. A problem is logged once, with file and reason, and once more when it is gone.  What `certificate_set` could not use
   is tried again every RETRY_SECONDS, even if no file changes.
4. The authorities that certificates of clients are verified with are watched in the same way.
5. A certificate that expires within WARN_SECONDS is logged once a day.  When one expires or begins to be valid, the
   choice between several for one name is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.api.status import CERTIFICATE_EXPIRY
from twisted_lb.listed import listed
from twisted_lb.network.certificate import Certificate
from twisted_lb.network.certificate_set import CertificateSet, Changes
from twisted_lb.repeated import Repeated
from twisted_lb.steps import Steps, run_in_turns

LOOK_SECONDS = 1.0
RETRY_SECONDS = 60.0
DAY = 24 * 3600.0
WARN_SECONDS = 14 * DAY
SHOWN_NAMES = 6
# In the counts of a report, before the file.

_log = Logger()


class WatchedAuthorities(Protocol):
    """The file of authorities for certificates of clients."""

    file: str
    text: str  # the one in use
    problem: str  # why the file could not be used when it was last read

    def look(self) -> object:
        """A value that changes whenever the file does."""

    def read(self) -> bool:
        """Read the file; return whether other authorities are in use now."""


class CertificateWatch(Service):
    """Keeps the certificates in use up to date with their files."""

    def __init__(
        self,
        reactor: Any,
        certificates: CertificateSet,
        use: Callable[[Sequence[Certificate]], object],
        wall_clock: Callable[[], float] = time.time,
        authorities: WatchedAuthorities | None = None,
        use_authorities: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`certificates` and `authorities` were read before.

        `use` serves other certificates from now on, the first as the default, and `use_authorities` verifies those of
        clients with other authorities, given as text; both may return a Deferred.  `wall_clock` returns the seconds
        since 1970.
        """
        self._reactor = reactor
        self._certificates = certificates
        self._use = use
        self._wall_clock = wall_clock
        self._authorities = authorities
        self._use_authorities = use_authorities
        self._last: object = None
        self._settled = False
        self._read_at = 0.0  # on the reactor's clock
        self._under_way = False
        self._again = False
        self._asked = False
        self._warned: dict[str, float] = {}  # by file
        self._valid: list[str] = []  # files of those that were valid when last used
        self._looks = Repeated(reactor, self.look, "the watch of the certificates")

    def startService(self) -> None:
        """Start watching."""
        super().startService()
        self._read_at = self._reactor.seconds()
        self._valid = self._valid_now()
        self._looks.start(LOOK_SECONDS)
        self._warn_of_expiry()

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        self._looks.stop()

    def look(self) -> Deferred[None]:
        """Read the files if one has changed, but none since the last check."""
        return run_in_turns(self._reactor, self._look_in_steps()).addCallback(self._looked)

    def _look_in_steps(self) -> Steps[object]:
        looks = yield from self._certificates.look_in_steps()
        return looks, self._authorities.look() if self._authorities is not None else None

    def _looked(self, now: object) -> None:
        if not self.running:
            return
        if now != self._last:
            self._last = now
            self._settled = False
        elif not self._settled or self._retry_due():
            self._settled = True
            self.read()
        elif not self._under_way and self._valid_now() != self._valid:
            # Where several have one name, another one may be valid now.
            self._under_way = True
            Deferred.fromCoroutine(self._use_all()).addBoth(self._was_read)
        self._warn_of_expiry()

    def _valid_now(self) -> list[str]:
        now = self._wall_clock()
        return [one.file for one in self._certificates.in_use.values() if one.valid_at(now)]

    def _retry_due(self) -> bool:
        return bool(self._problems) and self._reactor.seconds() - self._read_at >= RETRY_SECONDS

    def read(self, asked: bool = False) -> None:
        """Read what has changed, and use it.  `asked`: log the result even without changes."""
        self._asked = self._asked or asked
        if self._under_way:
            self._again = True
            return
        self._under_way = True
        self._read_at = self._reactor.seconds()
        Deferred.fromCoroutine(self._read()).addBoth(self._was_read)

    async def _read(self) -> None:
        changes = await run_in_turns(self._reactor, self._certificates.read_in_steps(self._wall_clock()))
        if changes.certificates:
            await self._use_all()
        others = await self._read_authorities()
        asked, self._asked = self._asked, False
        self._say(changes)
        if asked and changes == Changes() and not others:
            if self._problems:
                _log.error("Certificates cannot be used: {problems}", problems="; ".join(self._problems))
            else:
                _log.info("The certificates have not changed")

    async def _read_authorities(self) -> bool:
        """Read the authorities for clients; return whether a change or a new problem was logged."""
        authorities = self._authorities
        if authorities is None:
            return False
        before = authorities.problem
        changed = authorities.read()
        problem = authorities.problem
        if changed:
            await maybeDeferred(self._use_authorities, authorities.text)
            _log.info("{file}: certificates of clients are verified with other authorities", file=authorities.file)
        elif problem and problem != before:
            text = "Authorities were rejected, those in use stay: {problem}"
            _log.error(text, problem=problem, file=authorities.file)
        elif before and not problem:
            _log.info("{file}: the problem is gone, nothing has changed", file=authorities.file)
        return changed or problem != before

    async def _use_all(self) -> None:
        self._valid = self._valid_now()
        await maybeDeferred(self._use, self._certificates.certificates)

    def _was_read(self, result: Failure | None) -> None:
        self._under_way = False
        if result is not None:
            _log.failure("The certificates could not be used", result)
        again, self._again = self._again, False
        if again and self.running:
            self.read()

    def _say(self, changes: Changes) -> None:
        for what, some in (("new", changes.new), ("renewed", changes.renewed)):
            for one in some:
                _log.info(
                    "{file}: the certificate is {what}: it serves {names}, and expires on {expires}",
                    file=one.file,
                    what=what,
                    names=shown_names(one),
                    expires=shown_time(one.not_after),
                )
        for one in changes.removed:
            _log.info("{file}: the certificate for {names} was removed", file=one.file, names=shown_names(one))
        for file, problem in changes.problems:
            _log.error("A certificate was rejected, those in use stay: {problem}", problem=problem, file=file)
        used = {one.file for one in (*changes.new, *changes.renewed)}
        for file in changes.mended:
            if file not in used:
                _log.info("{file}: the problem is gone, nothing has changed", file=file)

    @property
    def _problems(self) -> list[str]:
        problems = list(self._certificates.problems.values())
        if self._authorities is not None and self._authorities.problem:
            problems.append(self._authorities.problem)
        return problems

    def _warn_of_expiry(self) -> None:
        now = self._wall_clock()
        in_use = self._certificates.in_use
        self._warned = {file: at for file, at in self._warned.items() if file in in_use}
        for one in in_use.values():
            if one.not_after - now < WARN_SECONDS and now - self._warned.get(one.file, 0.0) >= DAY:
                self._warned[one.file] = now
                _log.warn(
                    "{file}: the certificate for {names} {expiry}",
                    file=one.file,
                    names=shown_names(one),
                    expiry=shown_expiry(one, now),
                )

    def counts(self) -> dict[str, float]:
        """For the metrics: whether all files could be used, and when each certificate in use expires."""
        expiry = {f"{CERTIFICATE_EXPIRY} {one.file}": one.not_after for one in self._certificates.in_use.values()}
        return {"certificates_ok": float(not self._problems), **expiry}


def shown_names(certificate: Certificate) -> str:
    """The names for a message."""
    if not certificate.names:
        return "no name, since it has no subjectAltName"
    return listed(certificate.names, SHOWN_NAMES)


def shown_time(seconds: float) -> str:
    """A time, in seconds since 1970, for a message."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def shown_expiry(certificate: Certificate, now: float) -> str:
    """When it expires or has expired, or begins to be valid."""
    if now < certificate.not_before:
        return f"is not valid before {shown_time(certificate.not_before)}"
    days = (certificate.not_after - now) / DAY
    if days < 0:
        return f"has expired on {shown_time(certificate.not_after)}"
    return f"expires on {shown_time(certificate.not_after)}, in {days:.0f} days"
