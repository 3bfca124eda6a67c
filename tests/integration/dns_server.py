"""A name server on loopback, scripted by the test: addresses, silence, errors, long answers."""

from __future__ import annotations

import socket
import threading
from collections import Counter

from twisted.names import dns

from tests.integration.accepting import accepted
from tests.network.messages import message, record

MAX_DATAGRAM = 512


class NameServer:
    """Answers by UDP and TCP.  `addresses` are those of each name; a name that is not there is denied."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.addresses: dict[str, list[str]] = {}
        self.ttl = 1
        self.silent = False
        self.code = dns.OK
        self.long = False  # only TCP has the whole answer
        self.asked: Counter[str] = Counter()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self.port: int = self._listening.getsockname()[1]
        self._datagrams = socket.socket(family, socket.SOCK_DGRAM)
        self._datagrams.bind((host, self.port))
        self.place = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        for serve in (self._serve_datagrams, self._serve_streams):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()
        self._datagrams.close()

    def _answer(self, data: bytes, whole: bool) -> bytes:
        question = dns.Message()
        question.fromStr(data)
        [query] = question.queries
        name = str(query.name)
        self.asked[name] += 1
        if self.code != dns.OK:
            return message(question.id, name, query.type, code=self.code)
        found = self.addresses.get(name.lower())
        if found is None:
            return message(question.id, name, query.type, code=dns.ENAME)
        records = [record(name, one, self.ttl) for one in found if _kind(one) == query.type]
        return message(question.id, name, query.type, *(records if whole else []), truncated=not whole)

    def _serve_datagrams(self) -> None:
        while True:
            try:
                data, client = self._datagrams.recvfrom(4096)
                if self.silent:
                    continue
                answer = self._answer(data, not self.long)
                if len(answer) > MAX_DATAGRAM:
                    answer = self._answer(data, False)
                self._datagrams.sendto(answer, client)
            except OSError:
                return

    def _serve_streams(self) -> None:
        for connection in accepted(self._listening):
            with connection:
                data = connection.recv(4096)
                answer = self._answer(data[2:], True)
                connection.sendall(len(answer).to_bytes(2, "big") + answer)


def _kind(value: str) -> int:
    return dns.SRV if " " in value else dns.AAAA if ":" in value else dns.A
