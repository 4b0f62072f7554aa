"""Checks of the services behind HTTP: the store, the hosts of photos, and the backend."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import uuid4

import httpx

from worker.core.errors import redact_url
from worker.core.finding import Finding, Level, advice, fail, ok, unreachable
from worker.core.settings import ConfigError, Settings
from worker.http import clients
from worker.ops.advice import supervisor
from worker.storage import StoreUnreachable, open_store
from worker.webhooks import sender, signature

KEY_BYTES = 24  # the minimum of Standard Webhooks
TIMEOUT = httpx.Timeout(10, connect=5)


def store(settings: Settings) -> Iterator[Finding]:
    """Write a small file, as the daemon does at its start, and remove it."""
    try:
        findings = open_store(settings).check()
    except StoreUnreachable as error:
        if settings.storage_dir:
            yield fail("store", str(error), "Let the worker's user write there.")
            return
        yield unreachable(
            "store",
            f"the store does not answer: {error}",
            "Check that SUPABASE_URL can be reached from here.",
        )
        return
    yield from findings
    if not any(finding.level is Level.FAIL for finding in findings):
        place = settings.storage_dir or f"{settings.supabase_bucket_name} at {settings.supabase_url}"
        yield ok("store", f"{place}: a file was written and removed")


def photos(settings: Settings) -> Iterator[Finding]:
    """Name the hosts from which photos are accepted, and check that certificates can be checked."""
    clients.authorities()
    if supervisor() == "dev":  # it allows what a developer may try
        yield ok("photos", "from anywhere, as worker dev has it")
        return
    if settings.photo_loopback:
        yield advice(
            "photos",
            "photos are accepted from this machine itself",
            "Unset WORKER_PHOTO_LOOPBACK; it is for development only.",
        )
    if "*" in settings.photo_hosts:
        yield advice(
            "photos", "photos are accepted from any public host", "Name the hosts in WORKER_PHOTO_HOSTS."
        )
    yield ok("photos", f"from {', '.join(settings.all_photo_hosts())}")


def webhook(settings: Settings) -> Iterator[Finding]:
    """Check that the backend answers at its webhook URL."""
    if settings.backend_url is None:
        yield advice(
            "webhook", "no webhooks are sent", "Set BACKEND_URL, or let the backend read the rows itself."
        )
        return
    url = sender.webhook_url(settings.backend_url)
    proxy = clients.proxy(url)
    way = f", through the proxy {redact_url(str(proxy.url))}" if proxy else ""
    try:
        with clients.client(url, timeout=TIMEOUT, follow_redirects=False) as client:
            status = client.head(url, headers=_webhook_headers(settings)).status_code
    except httpx.TransportError as error:
        yield unreachable(
            "webhook",
            f"{url} does not answer{way}: {type(error).__name__}: {error}",
            "Check that the backend runs and BACKEND_URL can be reached from here. Events wait meanwhile.",
        )
        return
    if 300 <= status < 400:
        yield fail(
            "webhook",
            f"{url} answers {status}, but redirects are not followed",
            "Set BACKEND_URL to the redirect's target; usually that is https:// in place of http://.",
        )
    elif status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        yield advice(
            "webhook",
            f"{url} answers {status} to HEAD{way}: if it answers so to a webhook too, events are dropped after five tries",
            "Except this path from the backend's authentication, or set WORKER_WEBHOOK_BEARER_TOKEN to a token that it accepts.",
        )
    elif status == HTTPStatus.NOT_FOUND:
        yield advice(
            "webhook",
            f"{url} answers 404 to HEAD{way}: the backend may not have this path, or have it for POST alone",
            f"See its answer to curl -X POST {url}; if that is 404 too, correct BACKEND_URL.",
        )
    elif status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        yield fail(
            "webhook",
            f"the proxy refuses us{way}",
            "Set HTTPS_PROXY or HTTP_PROXY to http://USER:PASSWORD@HOST:PORT.",
        )
    else:
        yield ok("webhook", f"{url} answers ({status} to HEAD){way}")


def _webhook_headers(settings: Settings) -> dict[str, str]:
    """Return the headers of a webhook without a body, which the backend's authentication treats as it treats webhooks."""
    keys = []
    if settings.webhook_secret:
        with suppress(ConfigError):  # the check of the secret says so
            keys = signature.keys(settings.webhook_secret.get_secret_value())
    headers = signature.headers(keys, event=str(uuid4()), body=b"", sent_at=datetime.now(UTC))
    if settings.webhook_bearer_token:
        headers["authorization"] = sender.bearer(settings.webhook_bearer_token.get_secret_value())
    return headers


def secret(settings: Settings) -> Iterator[Finding]:
    """Check that webhooks are signed with keys that are long enough."""
    fix = "Create one with: openssl rand -base64 32"
    if settings.backend_url is None:
        return
    if settings.webhook_secret is None:
        yield advice("webhook secret", "webhooks are not signed: WEBHOOK_SECRET is not set", fix)
        return
    keys = signature.keys(settings.webhook_secret.get_secret_value())
    if any(len(key) < KEY_BYTES for key in keys):
        yield advice("webhook secret", f"a key in WEBHOOK_SECRET is shorter than {KEY_BYTES} bytes", fix)
    else:
        yield ok("webhook secret", f"well-formed, keys: {len(keys)}")
