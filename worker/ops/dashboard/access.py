"""The hosts at which pages are served, the sources from which a browser may load, and the URLs that it may follow."""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from worker.core.settings import Settings

LONGEST_PATH = 8000  # letters


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses, also in brackets."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def headers(settings: Settings) -> Mapping[str, str]:
    """Return the headers of every answer. Pictures and models load only from the hosts of photos and from the store."""
    stores = _origins(settings)
    pictures = ["'self'", *stores, *_photo_sources(settings)]
    policy = {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": pictures,
        "connect-src": ["'self'", *stores],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    return {
        "content-security-policy": "; ".join(f"{name} {' '.join(of)}" for name, of in policy.items()),
        "x-content-type-options": "nosniff",
        # A browser that may send no referrer to anybody sends the origin "null" with our own forms.
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "x-frame-options": "DENY",
    }


def web_url(value: object) -> str | None:
    """Return the value if it is an http or https URL that is safe in a link or a picture, else None."""
    if not isinstance(value, str) or any(letter <= " " or letter in '\\"<>\x7f' for letter in value):
        return None
    try:
        parts = urlsplit(value)
        host, user = parts.hostname, parts.username
    except ValueError:
        return None
    return value if parts.scheme in {"http", "https"} and host and not user else None


def own_path(text: str) -> str:
    """Return a path of ours with its query, as a form may name it for the page after it; the overview for anything else."""
    is_ours = re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", text) is not None
    return text if is_ours and len(text) <= LONGEST_PATH else "/"


def small_photo(value: object) -> str | None:
    """Return a photo's URL for a line of a list, as web_url() does: of Shopify's own pictures that of a small copy."""
    url = web_url(value)
    if url and urlsplit(url).hostname == "cdn.shopify.com" and "#" not in url:
        return f"{url}{'&' if '?' in url else '?'}width=160"
    return url


def _origins(settings: Settings) -> list[str]:
    urls = filter(None, map(web_url, (settings.supabase_url, settings.storage_url)))
    return [f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, urls)]


def _photo_sources(settings: Settings) -> list[str]:
    schemes = ["https", "http"] if settings.photo_http else ["https"]
    sources = [
        f"{scheme}:" if host == "*" else f"{scheme}://{host}"
        for host in settings.photo_hosts
        for scheme in schemes
    ]
    return [*sources, *(["http://127.0.0.1:*", "http://localhost:*"] if settings.photo_loopback else [])]
