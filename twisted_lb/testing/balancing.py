"""The contract of a balancer as a suite of tests."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import cycle, islice, product
from typing import Any

from zope.interface.verify import verifyObject

from twisted_lb.backend import Backend
from twisted_lb.interfaces import OPTIONAL_METHODS, IBalancer, IPeeking
from twisted_lb.testing.fakes import ODD_REQUESTS, ODD_RESPONSES, FakeRequest
from twisted_lb.testing.interfaces import check_provides, hold

REQUESTS = 3000
# This many exchanges are in flight while servers are chosen: enough that one more or less does not distort the shares.
IN_FLIGHT = 40
# Over all these requests no server may get less than its share times this, or more than its share divided by this.
LEAST_SHARE = 0.7


def servers(*weights: int) -> list[Backend]:
    """Servers a, b, c ... with these weights."""
    return [Backend(chr(ord("a") + order), "127.0.0.1", 9001 + order, weight) for order, weight in enumerate(weights)]


class BalancerContract:
    """A mixin for a TestCase.  Set `fair` and `weighted` to what your balancer is meant to do."""

    # Whether different requests are spread over all servers.  False: it prefers some by design.
    fair = True
    # Whether the spreading is by weight.
    weighted = True

    def make(self) -> Any:
        """A new balancer, which has no servers yet."""
        raise NotImplementedError("define make(self), which returns a new balancer")

    def test_provides_the_interface(self) -> None:
        """The balancer and its class have the signatures of IBalancer."""
        check_provides(IBalancer, self.make())

    def test_no_servers(self) -> None:
        """Without servers there is no choice, and no error."""
        for balancer in (self.make(), self._told(servers(1, 1))):
            balancer.backends_changed([])
            chosen = self._draw(balancer, FakeRequest(), [])
            hold(not chosen, f"there are no servers, but it chose {chosen}")

    def test_only_server(self) -> None:
        """The only server is every request's first choice, and its last."""
        backends = servers(1)
        balancer = self._told(backends)
        for number in range(20):
            chosen = self._draw(balancer, FakeRequest(number), backends)
            hold(chosen == backends, f"the only server is a, but it chose {chosen}: such a request gets 503")

    def test_each_at_most_once(self) -> None:
        """The choices of a request contain no server twice, and end, also when requests overlap."""
        backends = servers(1, 5, 2, 1)
        balancer = self._told(backends)
        for number in range(50):
            self._draw(balancer, FakeRequest(number), backends)
        iterators = [iter(balancer.choices(FakeRequest(number))) for number in range(8)]
        drawn: list[list[Backend]] = [[] for _ in iterators]
        for _ in backends:
            for place, iterator in enumerate(iterators):
                drawn[place].extend(islice(iterator, 1))
        for chosen in drawn:
            self._check(chosen, backends)

    def test_only_servers_it_was_given(self) -> None:
        """A server that is down, or was replaced, is missing from the list of a change and is not chosen after it."""
        old, new = servers(1, 1, 1, 1), servers(1, 2, 1)
        balancer = self._told(old)
        self._first_choices(balancer, old, 50)
        for left in (old[:3], old[1:2], old[1:], new, old):
            balancer.backends_changed(list(left))
            for number in range(100):
                self._draw(balancer, FakeRequest(number), left)

    def test_another_choice(self) -> None:
        """With two servers or more there is a second choice."""
        for weights in ((1, 1), (1, 1, 1), (9, 1)):
            backends = servers(*weights)
            balancer = self._told(backends)
            for number in range(100):
                chosen = self._draw(balancer, FakeRequest(number), backends)
                hold(
                    len(chosen) > 1,
                    f"among {len(backends)} servers it chose only {chosen}: a request that this server"
                    " refuses has no other to go to",
                )

    def test_no_server_starves(self) -> None:
        """Over many different requests servers of equal weight get about equally many."""
        if self.fair:
            for count in (2, 3, 7):
                backends = servers(*[1] * count)
                self._check_shares(self._first_choices(self._told(backends), backends), backends)

    def test_weights(self) -> None:
        """Over many different requests the share of each server is about that of its weight."""
        if self.fair and self.weighted:
            for weights in ((3, 1), (5, 2, 1), (100, 100, 50)):
                backends = servers(*weights)
                self._check_shares(self._first_choices(self._told(backends), backends), backends)

    def test_slow_start(self) -> None:
        """A server in slow start gets a share of the requests by its `effective_weight`, not by its `weight`."""
        if self.fair and self.weighted:
            backends = servers(1, 1, 1)
            backends[1].ramp = 0.2
            self._check_shares(self._first_choices(self._told(backends), backends), backends)

    def test_notices_changes(self) -> None:
        """A new weight, and a server that was added or has recovered, take effect with the next change."""
        backends = servers(1, 1, 1)
        balancer = self._told(backends[:2])
        self._first_choices(balancer, backends[:2], 100)
        balancer.backends_changed(list(backends))
        chosen = self._draw(balancer, FakeRequest(), backends)
        if len(chosen) >= 3 or self.fair:
            counts = self._first_choices(balancer, backends) + Counter(backend.name for backend in chosen)
            hold(counts["c"] > 0, "server c was added, and is never chosen: each call of backends_changed counts")
        if self.fair:
            self._check_shares(self._first_choices(balancer, backends), backends)
        if self.fair and self.weighted:
            backends[0].weight = 4
            balancer.backends_changed(list(backends))
            self._check_shares(self._first_choices(balancer, backends), backends)

    def test_changes_under_way(self) -> None:
        """An iterator that is continued after the servers changed ends, raises nothing and repeats nothing."""
        for after in ([], servers(1), servers(2, 1, 1, 1)):
            before = servers(1, 2, 1)
            balancer = self._told(before)
            choices = iter(balancer.choices(FakeRequest()))
            drawn = [next(choices)]
            balancer.backends_changed(list(after))
            try:
                drawn.extend(islice(choices, 10))
            except Exception as error:
                message = f"an iterator raised {error!r} after a change: that must not break exchanges under way"
                raise AssertionError(message) from error
            self._check(drawn, [*before, *after])

    def test_request_finished(self) -> None:
        """Its `request_finished`, if it has one, accepts the end of any request, in any order, and raises nothing."""
        balancer = self.make()
        finished = getattr(balancer, "request_finished", None)
        if finished is None:
            return
        hold(callable(finished), "request_finished is not a method: it would never be called")
        backends = servers(1, 2, 1)
        balancer.backends_changed(list(backends))
        served = []
        for request in ODD_REQUESTS:
            for backend in islice(iter(balancer.choices(request)), 1):
                served.append((request, backend))
        # Servers are removed while they have requests, and a balancer replaces another one at a reload.
        balancer.backends_changed(list(backends[1:]))
        others = [(FakeRequest(number), backend) for number, backend in enumerate(servers(1, 1))]
        for request, backend in [*reversed(served), *others]:
            try:
                finished(request, backend)
            except Exception as error:
                message = f"request_finished raised {error!r} for {request} at {backend}: servers may be gone by then"
                raise AssertionError(message) from error
        self._draw(balancer, FakeRequest(), backends[1:])

    def test_odd_requests(self) -> None:
        """Whatever the request holds or lacks, there is a choice and no error."""
        backends = servers(1, 2, 1)
        balancer = self._told(backends)
        for request in ODD_REQUESTS:
            chosen = self._draw(balancer, request, backends)
            hold(bool(chosen), f"it chose no server for {request}")

    def test_full_servers(self) -> None:
        """Full servers do not break the choice, and one that is not full is among the choices."""
        backends = servers(1, 1, 1)
        for backend in backends:
            backend.maxconn = 1
        balancer = self._told(backends)
        for in_flight in ((1, 0, 1), (0, 1, 1), (1, 1, 0), (1, 1, 1)):
            for backend, count in zip(backends, in_flight, strict=True):
                backend.in_flight = count
            chosen = self._draw(balancer, FakeRequest(), backends)
            hold(bool(chosen), "it chose no server because servers are full: yield them, and the request can wait")
            free = 0 in in_flight
            hold(
                not free or any(not backend.full for backend in chosen),
                f"it chose only full servers, {chosen}, though another one has room",
            )

    def test_leaves_backends_alone(self) -> None:
        """A choice changes nothing on a server: what is in flight is counted by the proxy."""
        backends = servers(1, 2, 1)
        backends[0].in_flight = 3
        before = [_state(backend) for backend in backends]
        balancer = self._told(backends)
        kept = []
        for number in range(30):
            iterator = iter(balancer.choices(FakeRequest(number)))
            next(iterator)
            kept.append(iterator)
        kept.clear()
        for number in range(30):
            self._draw(balancer, FakeRequest(number), backends)
        for backend, was in zip(backends, before, strict=True):
            for name, value in _state(backend).items():
                hold(
                    value == was[name],
                    f"it changed {name} of server {backend.name} from {was[name]!r} to {value!r};"
                    " a balancer only reads, or the counts leak",
                )

    def test_peek(self) -> None:
        """Its `peek`, if it has one, yields what the next `choices` do, and changes nothing, whatever is in flight."""
        if not IPeeking.providedBy(self.make()):
            return
        verifyObject(IPeeking, self.make())
        backends = servers(1, 5, 2, 1)
        balancer = self._told(backends)
        kept = []
        for number, request in enumerate([*map(FakeRequest, range(50)), *ODD_REQUESTS]):
            peeked = [list(islice(balancer.peek(request), len(backends) + 1)) for _ in range(3)]
            iterator = balancer.choices(request)
            if number % 3:
                chosen = list(iterator)
            else:
                # Some are under way while the next ones are chosen.
                chosen = list(islice(iterator, 1))
                peeked = [names[:1] for names in peeked]
                kept.append(iterator)
            for names in peeked:
                hold(
                    names == chosen,
                    f"for {request} peek yielded {_names(names)}, and the next choices are {_names(chosen)}:"
                    " they have to be the same, and peek must not change them",
                )
        balancer.backends_changed([])
        hold(not list(balancer.peek(FakeRequest())), "there are no servers, but peek yields some")

    def test_optional_methods(self) -> None:
        """Its optional methods accept any request and server in any order, raise nothing, and break no choice."""
        balancer = self.make()
        methods = {name: getattr(balancer, name) for name in OPTIONAL_METHODS if hasattr(balancer, name)}
        backends = servers(1, 2, 1)
        balancer.backends_changed(list(backends))
        # The last server was chosen before a change, or by the balancer that this one replaces.
        pairs = [*zip(ODD_REQUESTS, islice(cycle(backends), len(ODD_REQUESTS))), (FakeRequest(), servers(1)[0])]
        for name, method in methods.items():
            for (request, backend), response in product(pairs, ODD_RESPONSES[:2]):
                more = (response,) if "response" in OPTIONAL_METHODS[name] else ()
                try:
                    method(request, backend, *more)
                except Exception as error:
                    message = f"{name} raised {error!r} for {request} at {backend}"
                    raise AssertionError(message) from error
        self._draw(balancer, FakeRequest(), backends)

    def _told(self, backends: list[Backend]) -> Any:
        balancer = self.make()
        balancer.backends_changed(list(backends))
        return balancer

    def _draw(self, balancer: Any, request: FakeRequest, backends: list[Backend]) -> list[Backend]:
        """All choices for a request, checked."""
        try:
            # One more than there are: endless choices end here.
            chosen = list(islice(balancer.choices(request), len(backends) + 1))
        except Exception as error:
            message = f"choices raised {error!r} for {request}: the client would get 500"
            raise AssertionError(message) from error
        self._check(chosen, backends)
        return chosen

    def _check(self, chosen: list[Backend], backends: list[Backend]) -> None:
        for backend in chosen:
            hold(
                any(backend is one for one in backends),
                f"it chose {backend!r}, which is not among the servers of the last change, {_names(backends)}:"
                " that server is down, draining or gone",
            )
        twice = [backend.name for backend, count in Counter(chosen).items() if count > 1]
        message = f"its choices for one request, {_names(chosen)}, repeat {twice}: a retry would meet them again"
        hold(not twice, message)

    def _first_choices(self, balancer: Any, backends: list[Backend], requests: int = REQUESTS) -> Counter[str]:
        """How often each server is the first choice; each exchange lasts until IN_FLIGHT later ones have begun."""
        counts: Counter[str] = Counter()
        under_way: deque[Backend] = deque()
        for number in range(requests):
            for backend in self._some(balancer, number):
                self._check([backend], backends)
                counts[backend.name] += 1
                backend.in_flight += 1
                under_way.append(backend)
            if len(under_way) > IN_FLIGHT:
                under_way.popleft().in_flight -= 1
        for backend in under_way:
            backend.in_flight -= 1
        return counts

    def _some(self, balancer: Any, number: int) -> Iterator[Backend]:
        """The first choice, if there is one."""
        return islice(iter(balancer.choices(FakeRequest(number))), 1)

    def _check_shares(self, counts: Counter[str], backends: list[Backend]) -> None:
        total = sum(backend.effective_weight for backend in backends)
        requests = sum(counts.values())
        shown = ", ".join(f"{one.name} (weight {one.effective_weight:g}): {counts[one.name]}" for one in backends)
        hold(requests > 0, f"it chose no server at all among {_names(backends)}")
        for backend in backends:
            hold(
                counts[backend.name] > 0,
                f"server {backend.name} starves: {requests} requests went to {shown}"
                " (set fair = False if that is meant)",
            )
        for backend in backends:
            share = requests * backend.effective_weight / total
            hold(
                LEAST_SHARE * share < counts[backend.name] < share / LEAST_SHARE,
                f"server {backend.name} got {counts[backend.name]} of {requests} requests where its weight says"
                f" {share:.0f}: {shown} (set weighted = False if weights do not count)",
            )


def _names(backends: Iterable[Backend]) -> list[str]:
    return [backend.name for backend in backends]


def _state(backend: Backend) -> dict[str, object]:
    public = {name: getattr(backend, name) for name in dir(backend) if not name.startswith("_")}
    return {name: value for name, value in public.items() if not callable(value)}
