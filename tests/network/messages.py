"""DNS messages as name servers send them."""

from __future__ import annotations

from twisted.names import dns


def record(name: str, value: str, ttl: int = 60) -> dns.RRHeader:
    """An address, an alias, or an SRV record as in a zone file: "10 5 8000 node1.example"."""
    payload: object
    if " " in value:
        priority, weight, port, target = value.split()
        payload = dns.Record_SRV(int(priority), int(weight), int(port), target.rstrip(".").encode(), ttl)
    elif ":" in value:
        payload = dns.Record_AAAA(value, ttl)
    elif value[0].isdigit():
        payload = dns.Record_A(value, ttl)
    else:
        payload = dns.Record_CNAME(value, ttl)
    return dns.RRHeader(name, payload.TYPE, dns.IN, ttl, payload)  # type: ignore[attr-defined]


def message(
    number: int,
    name: str,
    kind: int,
    *answers: dns.RRHeader,
    code: int = dns.OK,
    truncated: bool = False,
    minimum: int | None = None,
) -> bytes:
    """An answer; with a `minimum`, the authority says for how many seconds a denial holds."""
    made = dns.Message(number, answer=1, rCode=code, trunc=truncated, maxSize=0)
    made.addQuery(name.encode(), kind, dns.IN)
    made.answers = list(answers)
    if minimum is not None:
        made.authority = [dns.RRHeader("example", dns.SOA, dns.IN, 3600, dns.Record_SOA(minimum=minimum))]
    data: bytes = made.toStr()
    return data
