"""What is reached over HTTP: the store, the hosts of photos, and the backend."""

from collections.abc import Iterator

import httpx

from worker.core.finding import Finding, Level, advice, fail, ok, unreachable
from worker.core.settings import Settings
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
    """Name the hosts from which photos are accepted."""
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
    try:
        with httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as client:
            answer = client.head(url)
    except httpx.TransportError as error:
        yield unreachable(
            "webhook",
            f"{url} does not answer: {type(error).__name__}: {error}",
            "Check that the backend runs and BACKEND_URL can be reached from here. Events wait meanwhile.",
        )
        return
    if answer.is_redirect:
        yield fail(
            "webhook",
            f"{url} answers {answer.status_code}, but redirects are not followed",
            "Set BACKEND_URL to the redirect's target; usually that is https:// in place of http://.",
        )
    else:
        yield ok("webhook", f"{url} answers ({answer.status_code} to HEAD)")


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
