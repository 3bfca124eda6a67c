"""All addresses of a name: from /etc/hosts, or IPv6 and IPv4 addresses from the name servers.

A name is looked up as by getaddrinfo(3): first in the hosts file, then with the search list of resolv.conf.
`localhost` always means this machine (RFC 6761 section 6.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.names import dns
from twisted.python.failure import Failure

from twisted_lb.network.dns_query import Answer, Question
from twisted_lb.network.system_files import NameServer, ResolverConfig, WatchedFile, read_hosts, read_resolv_conf

HOSTS_TTL = 5  # seconds; the file is small, and is read again only when it has changed
# How long the addresses of one family wait for those of the other (RFC 8305 section 3).
RESOLUTION_DELAY_SECONDS = 0.05
PARTIAL_TTL = 10  # seconds, if the look-up of one family has failed
MAX_PARTIAL = 10_000


class Resolver:
    """Looks names up, without a cache."""

    def __init__(
        self,
        reactor: Any,
        servers: tuple[NameServer, ...] = (),
        resolv_conf: str = "/etc/resolv.conf",
        hosts: str = "/etc/hosts",
    ) -> None:
        """`servers`, if there are any, replace the name servers of resolv.conf."""
        self._reactor = reactor
        self._servers = servers
        self._config = WatchedFile(resolv_conf, read_resolv_conf)
        self._hosts = WatchedFile(hosts, read_hosts)
        self._last_good: NameServer | None = None
        # Names for which one family is missing.  No caller waits for their next look-up, so it can wait for both.
        self._partial: set[str] = set()

    def look_up(self, name: str) -> Deferred[Answer]:
        """Find the addresses of a name.  Fails with LookupFailed."""
        return Deferred.fromCoroutine(self._look_up(name))

    async def _look_up(self, name: str) -> Answer:
        plain = name.lower().rstrip(".")
        addresses = self._hosts.value.get(plain)
        if addresses is None and (plain == "localhost" or plain.endswith(".localhost")):
            addresses = ["127.0.0.1", "::1"]
        if addresses is not None:
            return Answer(tuple(addresses), HOSTS_TTL, local=True)
        config: ResolverConfig = self._config.value
        if self._servers:
            config = config._replace(servers=self._servers)
        answer = Answer((), 0)
        for candidate in config.candidates(name):
            delay = None if name in self._partial else RESOLUTION_DELAY_SECONDS
            servers = self._preferred(config.servers)
            answer = await _Both(self._reactor, servers, candidate, self._answered, delay).answer
            if answer.addresses:
                break
        if answer.whole:
            self._partial.discard(name)
        elif len(self._partial) < MAX_PARTIAL:
            self._partial.add(name)
        return answer

    def look_up_service(self, name: str) -> Deferred[Answer]:
        """Find the SRV records of a service.  Fails with LookupFailed."""
        return Deferred.fromCoroutine(self._look_up_service(name))

    async def _look_up_service(self, name: str) -> Answer:
        answer = Answer((), 0)
        config = self._config.value
        for candidate in config.candidates(name):
            question = Question(self._reactor, self._preferred(self._servers or config.servers), candidate, dns.SRV)
            answer = await question.answer
            self._answered(question.answered_by)
            if answer.addresses:
                break
        return answer

    def _preferred(self, servers: tuple[NameServer, ...]) -> tuple[NameServer, ...]:
        """The server that answered last comes first, so that one that does not answer delays only one look-up."""
        good = self._last_good
        return (good, *(one for one in servers if one != good)) if good in servers and good else servers

    def _answered(self, server: NameServer | None) -> None:
        if server is not None:
            self._last_good = server


class _Both:
    """Queries the IPv6 and IPv4 addresses of one full name."""

    def __init__(
        self,
        reactor: Any,
        servers: tuple[NameServer, ...],
        name: str,
        answered: Callable[[NameServer | None], None],
        delay: float | None,
    ) -> None:
        """`delay` is how long one family waits for the other, in seconds; None: without a limit."""
        self.answer: Deferred[Answer] = Deferred(lambda _: self._end())
        self._reactor = reactor
        self._answers: list[Answer] = []
        self._failures: list[Failure] = []
        self._timer: IDelayedCall | None = None
        self._over = False
        self._answered = answered
        self._delay = delay
        self._questions = [Question(reactor, servers, name, kind) for kind in (dns.AAAA, dns.A)]
        for question in self._questions:
            question.answer.addCallbacks(self._heard, self._failed, callbackArgs=(question,))

    def _heard(self, answer: Answer, question: Question) -> None:
        self._answered(question.answered_by)
        self._answers.append(answer)
        self._look(bool(answer.addresses))

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._failures.append(failure)
            self._look(False)

    def _look(self, found: bool) -> None:
        if self._over:
            return
        if len(self._answers) + len(self._failures) == 2:
            self._finish()
        elif found and self._delay is not None:
            self._timer = self._reactor.callLater(self._delay, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._finish()

    def _finish(self) -> None:
        self._end()
        addresses = tuple(address for answer in self._answers for address in answer.addresses)
        if not addresses and self._failures:
            self.answer.errback(self._failures[0])
        else:
            ttls = [answer.ttl for answer in self._answers if answer.addresses or not addresses]
            late = len(self._answers) + len(self._failures) < 2
            ttl = 0 if late else min(*ttls, PARTIAL_TTL) if self._failures else min(ttls)
            self.answer.callback(Answer(addresses, ttl, not late and not self._failures))

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for question in self._questions:
            question.answer.cancel()
