"""What the response to GET /explain contains from the store: the levels of limits, and whether the key is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted_lb.interfaces import KEY, MICROTOKENS, OWN, QUOTA, SHADOW
from twisted_lb.request_record import KEY_REFUSED, UNAUTHORIZED


def refusal_of(found: Mapping[str, Any]) -> tuple[int, str] | None:
    """The status and the reason if requests with this key are refused; `found` is the result of `Running.levels`."""
    if found["refused"]:
        return 403, f"{KEY_REFUSED}: {found['refused']}"
    return None if found["key"] is not None else (401, UNAUTHORIZED)


def with_levels(limits: list[dict[str, Any]], found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The limits as they are shown; `found` is the result of `Running.levels`, None while the store is unavailable."""
    levels = {} if found is None else found["levels"]
    account = None if found is None else found["key"]
    shown: list[dict[str, Any]] = []
    of_user: dict[str, Any] | None = None  # the shadow policy, which comes last
    for limit in limits:
        bucket = limit["bucket"]
        one = {name: value for name, value in limit.items() if name != "bucket"}
        if limit["name"] == KEY and account is not None:
            own, quota = account["own"], account.get("quota")
            one.update({name: account[name] for name in ("capacity", "rate_per_sec", "level")})
            shown += [one] if own is None else [one, {**one, "name": OWN, **own}]
            if quota is not None:
                shown.append({**one, "name": QUOTA, "per": "user", **quota})
            if account.get("shadow") is not None:
                of_user = {**one, "name": SHADOW, "shadow": True, **account["shadow"]}
            continue
        if bucket in levels:
            one["level"] = levels[bucket] / MICROTOKENS
        shown.append(one)
    return shown if of_user is None else [*shown, of_user]
