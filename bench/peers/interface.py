"""What the benchmark needs of a peer."""

from __future__ import annotations

import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.ground import Ground
from bench.load import Tls
from bench.stage import Running, Stage

KEY_COUNT = 1000
# No bucket may run dry, but each request takes a real token from a real bucket.
BUCKET = {"capacity": 1_000_000_000, "rate_per_sec": 1_000_000}
PROFILED_KEY_COUNT = 20  # under cProfile, where creating a thousand users would fill the profile


@dataclass(frozen=True)
class StartedPeer:
    """A peer that is ready for load."""

    running: Running
    port: int  # on 127.0.0.1
    keys: list[str]  # what the clients send in Authorization
    tls: Tls = Tls.NONE  # how they connect


class Peer(Protocol):
    """A proxy that spreads requests over the ground's servers."""

    uses_redis: bool

    def missing(self) -> str:
        """How to install what it needs; empty when it is there."""

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """Start it on those cores.  With `profile`, under cProfile, which writes that file when the peer ends.

        Raises StageError when it does not come up, and ValueError when it cannot be run under cProfile.
        """


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """The files of a certificate (ECDSA, P-256), which is the same kind for all peers, and of its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key


def unknown_keys() -> list[str]:
    """Keys of the same shape for the peers that do not look at them, so that the bytes on the wire are alike."""
    return [str(uuid.uuid4()) for _ in range(KEY_COUNT)]
