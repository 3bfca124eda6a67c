"""Settings that are valid individually, but not together."""

from __future__ import annotations

from collections.abc import Container, Iterator

from twisted_lb.config.settings import Settings
from twisted_lb.webhook import check_url, read_secret_key


def combination_problems(settings: Settings, given: Container[str]) -> Iterator[tuple[str, str]]:
    """The name of a setting, and what is wrong with it; `given` has the names of those that do not have defaults."""
    if settings.workers > 1 and not settings.redis_url:
        yield (
            "workers",
            "more than one worker needs REDIS_URL: the embedded store cannot be shared by several processes",
        )
    if "tls_client_auth" in given and not settings.tls_client_ca_file:
        yield "tls_client_auth", "it needs TLS_CLIENT_CA_FILE: without it, no client is asked for a certificate"
    if settings.self_service_create == "token" and not settings.admin_token:
        yield "self_service_create", "it needs ADMIN_TOKEN, which requests have to carry"
    if settings.webhook_url:
        try:
            check_url(settings.webhook_url)
        except ValueError as error:
            yield "webhook_url", str(error)
        if not settings.webhook_secret:
            yield "webhook_url", "it needs WEBHOOK_SECRET, with which notices are signed"
    if settings.webhook_secret:
        try:
            read_secret_key(settings.webhook_secret)
        except ValueError as error:
            yield "webhook_secret", str(error)
    if settings.default_capacity > settings.max_capacity:
        yield "max_capacity", f"it is below DEFAULT_CAPACITY, {settings.default_capacity}, which new users get"
    if settings.default_rate_per_sec > settings.max_rate_per_sec:
        default = settings.default_rate_per_sec
        yield "max_rate_per_sec", f"it is below DEFAULT_RATE_PER_SEC, {default:g}, which new users get"
    if settings.global_capacity and not settings.global_rate_per_sec:
        yield "global_capacity", "GLOBAL_RATE_PER_SEC must be greater than 0: the bucket would never be refilled"
