"""Wire cases: a message, the section of the RFC, and the expected result.

One table per subject.  Each claim is unique; requests are also sent to a running proxy
(tests/integration/test_wire_cases.py).
"""

from __future__ import annotations

from tests.wire.cases import chunks, fields, framing, request_lines, responses

REQUEST_CASES = request_lines.CASES + fields.CASES + framing.CASES + chunks.CASES
RESPONSE_CASES = responses.CASES
