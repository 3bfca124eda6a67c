"""A pool whose history a test scripts: what happens to its servers, and the reported changes of state."""

from __future__ import annotations

from typing import Any

from twisted_lb.backend import Backend
from twisted_lb.config.pool import Ejection, HealthCheck
from twisted_lb.health.news import News
from twisted_lb.health.tracker import Health
from twisted_lb.pool.retry_policy import Blame

REFUSED = "connection refused"


class Life:
    """Some servers, a clock that the test advances, and the reported changes so far.

    `news` has the text of each change; `seen_up` has the servers that were up when each was reported.
    """

    def __init__(
        self,
        servers: int = 3,
        backups: int = 0,
        check: HealthCheck | None = None,
        panic_threshold: float = 0.3,
        slowstart: float = 0.0,
        **ejection: Any,
    ) -> None:
        self.now = 1000.0
        self.news: list[str] = []
        self.seen_up: list[str] = []
        self.check = check
        self.backends = [Backend(f"s{number}", "127.0.0.1", number, slowstart=slowstart) for number in range(servers)]
        self.backends += [Backend(f"b{number}", "127.0.0.1", 9, backup=True) for number in range(backups)]
        self.health = Health(Ejection(**ejection), panic_threshold, self._changed)
        self.follow()

    def _changed(self, news: News) -> None:
        self.news.append(news.text)
        self.seen_up.append(self.up)

    def __getitem__(self, index: int) -> Backend:
        return self.backends[index]

    @property
    def up(self) -> str:
        """The names of those that are up."""
        return " ".join(backend.name for backend in self.backends if backend.up)

    def take_news(self) -> list[str]:
        """The news since the last call."""
        news, self.news = self.news, []
        return news

    def follow(self) -> None:
        """Tell Health of the servers."""
        self.health.follow([(backend, self.check) for backend in self.backends], self.now)

    def fail(self, index: int, times: int = 1, fault: Blame = Blame.FAILED) -> None:
        """Requests to this server fail."""
        for _ in range(times):
            self.health.seen(self[index], False, self.now, REFUSED, fault)

    def serve(self, index: int, times: int = 1, status: int = 200) -> None:
        """This server answers requests."""
        for _ in range(times):
            self.health.answered(self[index], status, self.now)

    def probe(self, index: int, results: str) -> None:
        """Checks of this server: + passes, - fails."""
        for result in results:
            if result == "+":
                self.health.probe_passed(self[index], self.now)
            else:
                self.health.probe_failed(self[index], self.now, "status 500")

    def wait(self, seconds: float) -> bool:
        """Time passes; whether the last tick said that weights have changed."""
        self.now += seconds
        return self.health.tick(self.now)
