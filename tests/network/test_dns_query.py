"""DNS messages: the queries, and what is accepted of the answers."""

from __future__ import annotations

import os

from hypothesis import strategies as st
from twisted.names import dns
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.network.messages import message, record
from twisted_lb.network.dns_query import Answer, BadAnswer, encode_question, read_answer

NAME = "api.example"


def read(data: bytes, kind: int = dns.A) -> Answer | None:
    return read_answer(data, 7, NAME, kind)


class QuestionTests(SynchronousTestCase):
    def test_question(self) -> None:
        """A question asks for recursion, has its number, and may name what has a '_'."""
        made = dns.Message()
        made.fromStr(encode_question(7, "my_server.example", dns.AAAA))
        self.assertEqual((made.id, made.recDes, made.answer), (7, 1, 0))
        self.assertEqual([(str(one.name), one.type) for one in made.queries], [("my_server.example", dns.AAAA)])

    def test_no_name(self) -> None:
        """What is not the name of a host is refused: empty and long labels, long names."""
        for name in ("", "a..b", ".a", "x" * 64, "a." * 127 + "a"):
            self.assertRaises(ValueError, encode_question, 7, name, dns.A)


class AnswerTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        """All addresses of the kind, once each, with the least TTL."""
        records = [record(NAME, "192.0.2.1", 60), record(NAME, "192.0.2.2", 30), record(NAME, "192.0.2.1", 90)]
        self.assertEqual(read(message(7, NAME, dns.A, *records)), Answer(("192.0.2.1", "192.0.2.2"), 30))
        six = message(7, NAME, dns.AAAA, record(NAME, "2001:db8::1", 5))
        self.assertEqual(read(six, dns.AAAA), Answer(("2001:db8::1",), 5))

    def test_aliases(self) -> None:
        """Aliases are followed, in any order of the records and any case, and their TTLs count."""
        chain = [record("B.example", "192.0.2.1"), record("a.example", "b.example", 9), record(NAME, "A.example", 20)]
        self.assertEqual(read(message(7, NAME, dns.A, *chain)), Answer(("192.0.2.1",), 9))

    def test_circle(self) -> None:
        """Aliases that lead nowhere, or in a circle, have no address."""
        circle = [record(NAME, "a.example"), record("a.example", NAME)]
        self.assertEqual(read(message(7, NAME, dns.A, *circle)), Answer((), 0))

    def test_records_of_others(self) -> None:
        """Addresses of names that were not asked for are not taken."""
        self.assertEqual(read(message(7, NAME, dns.A, record("evil.example", "192.0.2.6"))), Answer((), 0))

    def test_denials(self) -> None:
        """There is no such name, or it has no address of the kind: for as long as the authority says."""
        self.assertEqual(read(message(7, NAME, dns.A, code=dns.ENAME)), Answer((), 0))
        self.assertEqual(read(message(7, NAME, dns.A, code=dns.ENAME, minimum=40)), Answer((), 40))
        self.assertEqual(read(message(7, NAME, dns.A, minimum=4)), Answer((), 4))

    def test_services(self) -> None:
        """SRV records are as in a zone file; those that lead to no host, or to what is not one, are left out."""
        records = ["10 5 8000 node1.example", "20 0 81 Node_2.example"]
        refused = ["0 0 80 .", "0 0 0 node3.example", "0 0 80 a/b.example"]
        answer = read(message(7, NAME, dns.SRV, *[record(NAME, one) for one in (*records, *refused)]), dns.SRV)
        self.assertEqual(answer, Answer(tuple(records), 60))
        self.assertEqual(read(message(7, NAME, dns.SRV, record(NAME, "0 0 80 .")), dns.SRV), Answer((), 60))

    def test_truncated(self) -> None:
        """An answer that is cut short is told apart."""
        self.assertIsNone(read(message(7, NAME, dns.A, truncated=True)))

    def test_bad(self) -> None:
        """Answers to other questions, with other numbers, questions, errors of the server and garbage are refused."""
        for data in [
            message(8, NAME, dns.A, record(NAME, "192.0.2.1")),
            message(7, "other.example", dns.A),
            message(7, NAME, dns.AAAA),
            encode_question(7, NAME, dns.A),
            message(7, NAME, dns.A, code=dns.ESERVER),
            message(7, NAME, dns.A, code=dns.EREFUSED),
            b"",
            b"x",
            os.urandom(500),
            message(7, NAME, dns.A, record(NAME, "192.0.2.1"))[:-3],
        ]:
            self.assertRaises(BadAnswer, read, data)

    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever comes is an answer, or refused as a bad one."""
        for start in (b"", message(7, NAME, dns.A, record(NAME, "192.0.2.1"))[:20]):
            try:
                read(start + data)
            except BadAnswer:
                pass
