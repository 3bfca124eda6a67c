"""What the benchmark needs of a peer."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.ground import Ground
from bench.stage import Running, Stage

KEY_COUNT = 1000
PROFILED_KEY_COUNT = 20  # under cProfile, where creating a thousand users would fill the profile


@dataclass(frozen=True)
class StartedPeer:
    """A peer that is ready for load."""

    running: Running
    port: int  # on 127.0.0.1
    keys: list[str]  # what the clients send in Authorization


class Peer(Protocol):
    """A proxy that spreads requests over the ground's servers."""

    uses_redis: bool

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """Start it on those cores.  With `profile`, under cProfile, which writes that file when the peer ends.

        Raises StageError when it does not come up, and ValueError when it cannot be run under cProfile.
        """


def unknown_keys() -> list[str]:
    """Keys of the same shape for the peers that do not look at them, so that the bytes on the wire are alike."""
    return [str(uuid.uuid4()) for _ in range(KEY_COUNT)]
