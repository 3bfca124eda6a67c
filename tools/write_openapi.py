"""Write docs/openapi.json, which GET /openapi.json of the admin listener shows as well."""

from __future__ import annotations

from pathlib import Path

from twisted_lb.api.openapi import openapi_text

FILE = Path(__file__).parent.parent / "docs" / "openapi.json"

if __name__ == "__main__":
    FILE.write_text(openapi_text(), encoding="utf-8")
