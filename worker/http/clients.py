"""HTTP clients for the servers that the operator names: the backend, the store and the mirrors of weights.

They obey the variables that curl and others obey. SSL_CERT_FILE and SSL_CERT_DIR name the certificate authorities, which
replace the usual ones. HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY name the proxy. Photo URLs are untrusted
input: `pipeline.download` has a client of its own, which uses no proxy.
"""

import ipaddress
import os
import ssl
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import getproxies_environment
from urllib.request import proxy_bypass_environment as bypasses  # type: ignore[attr-defined]

import httpcore
import httpx

from worker.core.settings import ConfigError
from worker.http.heads import TolerantNetwork, TolerantSyncNetwork

KEEP_ALIVE_S = 5.0  # an idle connection is older than most servers keep it


def authorities() -> ssl.SSLContext:
    """Return the certificate authorities to trust: those that the environment names, else the system's and certifi's.

    Raises: ConfigError if SSL_CERT_FILE or SSL_CERT_DIR cannot be used.
    """
    return _authorities(os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", ""))


@cache  # reading all certificate authorities takes longer than downloading a small photo
def _authorities(file: str, folders: str) -> ssl.SSLContext:
    if not (file or folders):
        context = httpx.create_ssl_context(trust_env=False)  # certifi's
        context.load_default_certs()
        return context
    # OpenSSL would ignore a folder that does not exist, and then trust nobody.
    if not all(Path(folder).is_dir() for folder in folders.split(os.pathsep) if folder):
        raise ConfigError("SSL_CERT_DIR cannot be used: it names a folder that does not exist.")
    try:
        return ssl.create_default_context(cafile=file or None, capath=folders or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"SSL_CERT_FILE cannot be used: {error.strerror or error}.") from None


def proxy(url: str) -> httpx.Proxy | None:
    """Return the proxy through which the environment says to reach a URL. None: connect directly.

    Raises: ConfigError, which does not repeat the proxy's URL: it may hold a password.
    """
    target = httpx.URL(url)
    named = getproxies_environment()
    variable = target.scheme if named.get(target.scheme) else "all"
    text = named.get(variable, "")
    if not text or _is_direct(target, named):
        return None
    try:
        found = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        found = httpx.URL()
    if found.scheme not in {"http", "https"} or not found.host:
        raise ConfigError(f"{variable.upper()}_PROXY must be the URL of an HTTP proxy, as http://HOST:PORT.")
    return httpx.Proxy(found)


def _is_direct(target: httpx.URL, named: dict[str, str]) -> bool:
    """True if NO_PROXY names the host: its name, a domain above it, its address, or a network such as 10.0.0.0/8."""
    if bypasses(target.netloc.decode("ascii"), named):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(target.host)
        for entry in named.get("no", "").split(","):
            with suppress(ValueError):
                if address in ipaddress.ip_network(entry.strip(), strict=False):
                    return True
    return False


def validate(url: str) -> None:
    """Check what the environment says about reaching a URL. Raises: ConfigError."""
    _options(url)


def client(url: str, **options: Any) -> httpx.Client:
    """Make a client for the server of this URL. `options` are those of httpx.Client. Raises: ConfigError."""
    return httpx.Client(transport=_Transport(url), trust_env=False, **options)


def async_client(url: str, **options: Any) -> httpx.AsyncClient:
    """Make a client for the server of this URL. `options` are those of httpx.AsyncClient. Raises: ConfigError."""
    return httpx.AsyncClient(transport=_AsyncTransport(url), trust_env=False, **options)


class _Transport(httpx.HTTPTransport):
    """httpx's, with a network of our own, for which httpx has no parameter."""

    def __init__(self, url: str) -> None:
        network = TolerantSyncNetwork(httpcore.SyncBackend())
        self._pool = httpcore.ConnectionPool(**_options(url), network_backend=network)


class _AsyncTransport(httpx.AsyncHTTPTransport):
    """As _Transport."""

    def __init__(self, url: str) -> None:
        network = TolerantNetwork(httpcore.AnyIOBackend())
        self._pool = httpcore.AsyncConnectionPool(**_options(url), network_backend=network)


def _options(url: str) -> dict[str, Any]:
    through = proxy(url)
    return {
        "ssl_context": authorities(),
        "proxy": through
        and httpcore.Proxy(
            str(through.url),
            through.raw_auth,
            ssl_context=authorities() if through.url.scheme == "https" else None,
        ),
        "max_connections": 100,
        "keepalive_expiry": KEEP_ALIVE_S,
    }
