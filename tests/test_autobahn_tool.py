"""The comparison of tools/autobahn/run.py, on reports as the suite writes them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.test_floors import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "autobahn" / "run.py"))
CASE = "12.1.1"
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"


def report(**changed: Any) -> dict[str, Any]:
    """What the suite reports on a case that is in order."""
    stats = {"incomingOctetsWebSocketLevel": 4673, "incomingWebSocketFrames": 1000, "incomingOctetsAppLevel": 16000}
    stats |= {"preopenIncomingOctetsWireLevel": 243}
    heads = {"httpRequest": f"GET / HTTP/1.1\r\n{OFFER}\r\n\r\n", "httpResponse": f"HTTP/1.1 101 S\r\n{OFFER}\r\n\r\n"}
    closed = {"behavior": "OK", "behaviorClose": "OK", "remoteCloseCode": 1000}
    return {**closed, **heads, "duration": 380, "trafficStats": stats, **changed}


class ComparisonTests(SynchronousTestCase):
    def differ(self, direct: dict[str, Any], through: dict[str, Any] | None) -> bool:
        """Whether the tool finds a difference between reports; None: there is none."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for name, content in (("direct", direct), ("through", through)):
            if content is not None:
                (folder / f"{name}_case_12_1_1.json").write_text(json.dumps(content))
        found = {CASE: {name: [TOOL["verdict"](folder, name, CASE)] for name in TOOL["CONNECTIONS"]}}
        different = TOOL["differing"](found) == [CASE]
        self.assertIn(f"{int(different)} cases differ", TOOL["summary"](found, "autobahn-server"))
        return different

    def test_same(self) -> None:
        """Cases that took another time, with other fields of the handshake, do not differ."""
        more = {"preopenIncomingOctetsWireLevel": 400}
        answer = f"HTTP/1.1 101 S\r\nX-RateLimit-Limit: 5\r\n{OFFER}\r\n\r\n"
        through = report(duration=1, httpResponse=answer, trafficStats={**report()["trafficStats"], **more})
        self.assertFalse(self.differ(report(), through))

    def test_verdicts(self) -> None:
        """Another verdict is a difference, on the messages, on the end, and in the code of the close frame."""
        for changed in ({"behavior": "NON-STRICT"}, {"behaviorClose": "UNCLEAN"}, {"remoteCloseCode": 1002}):
            with self.subTest(changed):
                self.assertTrue(self.differ(report(), report(**changed)))

    def test_compression(self) -> None:
        """So is another offer or agreement on compression, and another number of bytes or frames."""
        for field in ("httpRequest", "httpResponse"):
            with self.subTest(field):
                self.assertTrue(self.differ(report(), report(**{field: "HTTP/1.1\r\n\r\n"})))
        for field in TOOL["COUNTED"]:
            with self.subTest(field):
                self.assertTrue(self.differ(report(), report(trafficStats={**report()["trafficStats"], field: 1})))

    def test_missing(self) -> None:
        """So is a case that the suite could not run through twisted_lb."""
        self.assertTrue(self.differ(report(), None))
