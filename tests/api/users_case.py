"""The admin listener over an embedded store, in memory."""

from __future__ import annotations

import json
from typing import Any

from tests.api.caller import Answer, read_answer
from tests.api.operator import Client, head_of
from tests.stores.embedded_on_clock import START, StoreOnClock
from tests.test_admin_changes import Recorded
from twisted_lb.api.admin import admin_factory
from twisted_lb.api.operator_token import OperatorTokens
from twisted_lb.api.users import UserAdministration
from twisted_lb.config.admin_tokens import KEYS, READ, SERVERS, AdminToken, admin_tokens
from twisted_lb.credentials import digest
from twisted_lb.key_format import KeyFormat
from twisted_lb.timestamps import rfc3339

ADMIN = b"Authorization: Bearer s3cret"
NOW = rfc3339(START)


def scoped(name: str, *scopes: str) -> AdminToken:
    """A token with the text of its name."""
    return AdminToken(name, digest(name.encode()), frozenset(scopes))


class Replaceable:
    """A store whose methods tests can replace, also where it is compiled."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class UsersCase(StoreOnClock):
    """`call` is an operator's request; `audit.entries` is what was recorded."""

    prefix = ""

    def setUp(self) -> None:
        super().setUp()
        store: Any = Replaceable(self.store)
        self.store = store
        self.audit = Recorded()
        others = [scoped("reader", READ), scoped("keeper", KEYS), scoped("pools", SERVERS)]
        self.tokens = OperatorTokens([*admin_tokens("s3cret"), *others])
        self.listen()

    def listen(self) -> None:
        users = UserAdministration(self.store, KeyFormat(self.prefix), 5, 1.0, lambda: self.now_us, self.store)
        running: Any = None
        self.factory = admin_factory(self.clock, running, self.tokens, recording=self.audit, users=users)

    def send(self, method: str, target: str, body: bytes = b"", *fields: bytes) -> Client:
        client = Client(self.factory)
        length = [b"Content-Length: %d" % len(body)] if body else []
        client.send(head_of(method, target, *fields, *length) + body)
        self.clock.pump([0] * 10)
        return client

    def call(self, method: str, target: str, body: object = None, *fields: bytes) -> Answer:
        data = b"" if body is None else json.dumps(body).encode()
        return read_answer(self.send(method, target, data, *(fields or (ADMIN,))).received, method)

    def called(self, status: int, method: str, target: str, body: object = None, *fields: bytes) -> Any:
        """The JSON of an answer that must have this status."""
        answer = self.call(method, target, body, *fields)
        self.assertEqual(answer.status, status, answer)
        return answer.json if answer.body else None

    def refused(self, status: int, method: str, target: str, body: object = None, *fields: bytes) -> str:
        """The detail of a refusal, which must be recorded if it is of a change."""
        before = len(self.audit.entries)
        answer = self.call(method, target, body, *fields)
        self.assertEqual((answer.status, answer.field("content-type")), (status, "application/problem+json"), answer)
        if method != "GET":
            [entry] = self.audit.entries[before:]
            found = (entry["result"], entry["status"], entry["detail"], entry["request_id"])
            self.assertEqual(found, ("refused", status, answer.json["detail"], answer.json["request_id"]))
        return str(answer.json["detail"])

    def recorded(self) -> Any:
        """The last entry, without what each has, and what it has as (who, action, result)."""
        entry = dict(self.audit.entries[-1])
        self.assertEqual((entry.pop("event"), entry.pop("client")), ("admin_change", "192.168.1.1"))
        self.assertEqual(len(entry.pop("request_id")), 32)
        return (entry.pop("who"), entry.pop("action"), entry.pop("result")), entry
