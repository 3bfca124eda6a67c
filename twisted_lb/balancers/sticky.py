"""Sticky: a client stays with the server that answered it first; another balancer chooses that server.

1. The response of a server carries a cookie with the server's name and a signature: HMAC-SHA256 under
   `secret`, which all workers and instances share.
2. A request with that cookie goes to that server, even when it is full: the proxy then lets the request
   wait, or takes the next choice, which is the other balancer's.
3. A cookie that was forged, or whose server is not available, is ignored: the other balancer chooses, and the
   response sets a new cookie.

The cookie values are made when the servers change, so that a request costs one dictionary lookup.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from hmac import digest
from random import Random

from zope.interface import alsoProvides, implementer

from twisted_lb.backend import Backend
from twisted_lb.balancers.consistent_hash import cookie_value
from twisted_lb.balancers.options import OptionError, flag, token
from twisted_lb.balancers.registry import BalancerError, make_balancer
from twisted_lb.interfaces import OPTIONAL_METHODS, IBalancer, IPeeking, IPreparing, IRequest, IResponseFields
from twisted_lb.steps import chunks

LEAST_SECRET = 16  # characters
SIGNATURE_BYTES = 18  # of the 32 of SHA-256; 24 characters of base64


@implementer(IBalancer, IPreparing, IResponseFields)
class Sticky:
    """One server for one client.

    `over` is the balancer for clients without a cookie: a name, or {name: ..., and its options}.  `cookie` is the
    cookie's name, `secret` signs it, and `secure` has it sent over TLS only.
    """

    def __init__(
        self,
        secret: object = None,
        over: object = "round_robin",
        cookie: object = "lb",
        secure: object = False,
        *,
        now: Callable[[], float],
        chance: Random,
    ) -> None:
        if not isinstance(secret, str) or len(secret) < LEAST_SECRET:
            # The given value is not shown: it may be in use elsewhere.
            what = "nothing" if secret is None else "the one given"
            raise OptionError("secret", f"a text of at least {LEAST_SECRET} characters", _Hidden(what))
        self._secret = secret.encode()
        self._cookie = token("cookie", cookie, "the name of a cookie").encode()
        self._attributes = b"; Path=/; HttpOnly; SameSite=Lax" + (b"; Secure" if flag("secure", secure) else b"")
        name, options = _parts("over", over)
        try:
            self._over = make_balancer(name, options, now, chance)
        except BalancerError as error:
            raise BalancerError(f"over: {error}") from error
        for method in OPTIONAL_METHODS:
            if callable(getattr(self._over, method, None)):
                setattr(self, method, getattr(self._over, method))
        if IPeeking.providedBy(self._over):
            alsoProvides(self, IPeeking)
        self._values: dict[str, bytes] = {}  # by the server's name
        self._backends: dict[bytes, Backend] = {}  # by the cookie's value

    def backends_changed(self, backends: list[Backend]) -> None:
        """From now on only cookies of these are valid."""
        self._values = {backend.name: self._values.get(backend.name) or self._value(backend) for backend in backends}
        self._backends = {self._values[backend.name]: backend for backend in backends}
        self._over.backends_changed(backends)

    def prepare(self, weights: Mapping[Backend, float]) -> Iterator[None]:
        """See IPreparing: signs the names, and has the other balancer prepare."""
        for some in chunks(list(weights)):
            self._values.update({one.name: self._value(one) for one in some if one.name not in self._values})
            yield
        if IPreparing.providedBy(self._over):
            yield from self._over.prepare(weights)

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The cookie's server, then as the other balancer chooses."""
        return self._with_own(request, self._over.choices)

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking; only where the other balancer provides it."""
        return self._with_own(request, self._over.peek)

    def server_of(self, request: IRequest) -> Backend | None:
        """The server that the client's cookie names, if there is one and it is available."""
        value = cookie_value(request, self._cookie)
        return self._backends.get(value) if value else None

    def _with_own(self, request: IRequest, choices: Callable[[IRequest], Iterator[Backend]]) -> Iterator[Backend]:
        backend = self.server_of(request)
        if backend is None:
            yield from choices(request)
            return
        yield backend
        for other in choices(request):
            if other is not backend:
                yield other

    def response_fields(self, request: IRequest, backend: Backend) -> list[tuple[bytes, bytes]]:
        """The fields of the other balancer, and the cookie, unless the client has sent it."""
        fields: list[tuple[bytes, bytes]] = []
        if IResponseFields.providedBy(self._over):
            fields += self._over.response_fields(request, backend)
        value = self._values.get(backend.name) or self._value(backend)
        if cookie_value(request, self._cookie) == value:
            return fields
        return [*fields, (b"Set-Cookie", b"%b=%b%b" % (self._cookie, value, self._attributes))]

    def _value(self, backend: Backend) -> bytes:
        name = backend.name.encode()
        signature = digest(self._secret, self._cookie + b"=" + name, "sha256")[:SIGNATURE_BYTES]
        # Discovered servers are named name@address:port; the address must not be disclosed to clients.
        shown = name.partition(b"@")[0]
        return b"%b.%b" % (shown, urlsafe_b64encode(signature))

    def __repr__(self) -> str:
        return f"<Sticky by the cookie {self._cookie.decode()} over {self._over!r}>"


class _Hidden:
    """Stands for a value in an error."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __repr__(self) -> str:
        return self._what


def _parts(option: str, given: object) -> tuple[str, dict[str, object]]:
    """The name of a balancer, and its options."""
    if isinstance(given, str) and given != "sticky":
        return given, {}
    if isinstance(given, dict):
        options = dict(given)
        name = options.pop("name", None)
        if isinstance(name, str) and name != "sticky" and all(isinstance(key, str) for key in options):
            return name, options
    raise OptionError(option, "the name of another balancer, or {name: ..., and its options}", given)
