"""Wire cases: what a message is, where the RFC says so, and what must come of it.

One table a subject.  A claim is unique among all of them; requests are also played at a running
proxy (tests/integration/test_wire_cases.py).
"""

from __future__ import annotations

from tests.wire.cases import chunks, fields, framing, request_lines, responses

REQUEST_CASES = request_lines.CASES + fields.CASES + framing.CASES + chunks.CASES
RESPONSE_CASES = responses.CASES
