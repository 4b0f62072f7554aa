"""Access to the pages, and the sources from which a browser may load."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from worker.core.settings import Settings

COOKIE = "worker_dashboard"
COOKIE_S = 30 * 86_400


class TokenAuth:
    """Let in clients that know the token; without a configured token, all clients on localhost."""

    def __init__(self, token: str | None) -> None:
        self.token = token.encode() if token else None

    def verify(self, token: str) -> bool:
        """Compare a token in constant time. False where no token is configured."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token)

    def authorize(self, request: Request) -> bool:
        """True if the request carries the token, as a bearer or in our cookie."""
        if self.token is None:
            # Only on loopback, where another site's page could reach us under its own name (DNS rebinding).
            return is_loopback(_host(request))
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.verify(credentials.strip())
        cookie = request.cookies.get(COOKIE, "")
        return hmac.compare_digest(cookie.encode(), self._cookie().encode())

    def set_cookie(self, request: Request, response: Response) -> None:
        """Log the browser in for COOKIE_S seconds."""
        response.set_cookie(
            COOKIE,
            self._cookie(),
            max_age=COOKIE_S,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )

    def _cookie(self) -> str:
        """Return the cookie's value. It is not the token: somebody who finds the cookie cannot log in elsewhere with it."""
        return hmac.new(self.token or b"", b"worker dashboard", hashlib.sha256).hexdigest()


def _host(request: Request) -> str:
    """Return the host that the client named. request.url falls back to our own address if the header is malformed."""
    try:
        return urlsplit("//" + request.headers.get("host", "")).hostname or ""
    except ValueError:
        return ""


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
        "referrer-policy": "no-referrer",
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
