"""Keys in use keep working while others are guessed from the same address, also after a restart."""

from __future__ import annotations

import socket
import threading
from uuid import uuid4

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until

CUSTOMERS = 60
# The guesser's requests on one connection, and how many connections in a row have to be refused: with two workers, all
# of them reach the same one once in 500 times.
PER_CONNECTION = 20
IN_A_ROW = 10


class Guesses(threading.Thread):
    """Tries keys that nobody has, without a pause, on one connection after another."""

    def __init__(self, balancer: Balancer) -> None:
        super().__init__(daemon=True)
        self._port = balancer.port
        self.enough = threading.Event()
        self.answers: list[bytes] = []

    def run(self) -> None:
        while not self.enough.is_set():
            with socket.create_connection(("127.0.0.1", self._port), 60) as connection:
                for _ in range(PER_CONNECTION):
                    guess = str(uuid4()).encode()
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % guess)
                    self.answers.append(connection.recv(65_536)[9:12])

    def refused(self) -> bool:
        """Whether no worker has a budget left for the address, but for what the rate gives back meanwhile."""
        last = self.answers[-PER_CONNECTION * IN_A_ROW :]
        return last.count(b"429") > PER_CONNECTION * IN_A_ROW - PER_CONNECTION // 2


def test_customers_behind_the_address_of_a_guesser(
    new_balancer: Start, servers: Servers, processes: tuple[str, ...]
) -> None:
    """Not one customer whose key works is refused, before a restart and after it; keys that were never used are."""
    environment = {"ADDRESS_CAPACITY": str(3 * CUSTOMERS), "ADDRESS_RATE_PER_SEC": "0.2"}
    balancer = new_balancer(servers.yaml(), *processes, environment=environment).start()
    keys = [balancer.create_user(f"user{number}", 100, 0) for number in range(CUSTOMERS)]
    # Each is asked with once: the rate lets one through now and then, and that one is in use afterwards.
    never_used = [[balancer.create_user(f"unused{turn}{number}", 100, 0) for number in range(5)] for turn in "ab"]
    for key in keys:
        assert ask(balancer.port, "GET", "/", key=key).status == 200
    for unused in never_used:
        balancer.terminate()
        balancer.wait()
        balancer.start()
        guesses = Guesses(balancer)
        guesses.start()
        wait_until(lambda: guesses.refused() or not guesses.is_alive(), what="each worker refuses the guesser")
        statuses = [ask(balancer.port, "GET", "/", key=key).status for key in keys]
        profiles = [ask(balancer.port, "GET", "/user/tokens/profile", key=key).status for key in keys[:10]]
        refused = [ask(balancer.port, "GET", "/", key=key).status for key in unused]
        guesses.enough.set()
        guesses.join(60)
        assert (statuses, profiles) == ([200] * CUSTOMERS, [200] * 10)
        assert 429 in refused
        assert set(guesses.answers) <= {b"401", b"429"}
