"""A port that passes all bytes on to another port, and back: it counts connections, and can take its time."""

from __future__ import annotations

import socket
import threading
import time
from queue import SimpleQueue

from tests.integration.accepting import accepted


class CountingRelay:
    """Listens on a free loopback port from `start` to `stop`."""

    def __init__(self, target_port: int) -> None:
        self.connections = 0
        self.delay = 0.0  # seconds that bytes take, each way
        self.refusing = False  # whether new connections are closed at once
        self.deaf = False  # whether what the other port says is swallowed, and the connection cut
        self._ends: list[socket.socket] = []
        self._target_port = target_port
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]

    def start(self) -> CountingRelay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def cut(self) -> None:
        """End all connections, and refuse new ones until `mend`."""
        self.refusing = True
        for end in self._ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._ends.clear()

    def mend(self) -> None:
        """Accept connections again."""
        self.refusing = False

    def stop(self) -> None:
        """Accept no more; the connections end with their peers."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        for near in accepted(self._listening):
            if self.refusing:
                near.close()
                continue
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._target_port))
            self._ends += near, far
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                read: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(target=self._read, args=(one, read, one is far), daemon=True).start()
                threading.Thread(target=_write, args=(other, read), daemon=True).start()

    def _read(self, source: socket.socket, read: SimpleQueue[tuple[float, bytes]], reply: bool) -> None:
        try:
            while data := source.recv(256 * 1024):
                if reply and self.deaf:
                    break
                read.put((time.monotonic() + self.delay, data))
        except OSError:
            pass
        read.put((time.monotonic() + self.delay, b""))


def _write(sink: socket.socket, read: SimpleQueue[tuple[float, bytes]]) -> None:
    try:
        while True:
            due, data = read.get()
            time.sleep(max(due - time.monotonic(), 0.0))
            if not data:
                break
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
