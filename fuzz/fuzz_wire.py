"""Coverage-guided fuzzing of the wire code; README.md says how to run it.

The first byte of an input chooses what is read and how it is cut; the rest is the wire.  An input is a
finding when it raises anything but a WireError, when a cut changes what is read, or when what is passed
on has not exactly one reading.  The corpus is begun from the tables of cases.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["twisted_lb.wire"]):
    import twisted_lb.wire.body
    import twisted_lb.wire.forwarding
    import twisted_lb.wire.framing  # noqa: F401

from tests.wire.cases import REQUEST_CASES, RESPONSE_CASES  # noqa: E402
from tests.wire.invariants import check_forwarded_request, check_forwarded_response  # noqa: E402
from tests.wire.test_properties import chunked_summary, request_summary, response_summary  # noqa: E402

REQUEST, RESPONSE, RESPONSE_TO_HEAD, CHUNKS = range(4)


def one_input(data: bytes) -> None:
    """Check one input."""
    if len(data) < 2:
        return
    kind, step = data[0] % 4, data[0] // 4 + 1
    wire = data[1:]
    pieces = [wire[i : i + step] for i in range(0, len(wire), step)]
    if kind == REQUEST:
        assert request_summary([wire]) == request_summary(pieces)
        check_forwarded_request(wire)
    elif kind == CHUNKS:
        assert chunked_summary([wire]) == chunked_summary(pieces)
    else:
        method = b"HEAD" if kind == RESPONSE_TO_HEAD else b"GET"
        assert response_summary([wire], method) == response_summary(pieces, method)
        check_forwarded_response(wire, method)


def write_seeds(folder: Path) -> None:
    """Begin the corpus with the cases that are not long."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(REQUEST_CASES):
        if len(case.data) < 1000:
            (folder / f"request_{number:03}").write_bytes(bytes([REQUEST]) + case.data)
            body = case.data.partition(b"\r\n\r\n")[2]
            if body:
                (folder / f"chunks_{number:03}").write_bytes(bytes([CHUNKS]) + body)
    for number, case in enumerate(RESPONSE_CASES):
        if len(case.data) < 1000:
            (folder / f"response_{number:03}").write_bytes(bytes([RESPONSE]) + case.data)


def main() -> None:
    """Fuzz, with libFuzzer's options."""
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders and not folders[0].exists():
        write_seeds(folders[0])
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
