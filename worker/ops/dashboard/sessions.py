"""Who may read and who may act: the tokens, and the sessions that they begin.

A session lives in this process's memory. Its cookie is a random name for it and no token; logging out, a time without use, or
a restart, which a new token needs, ends it.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_urlsafe
from time import monotonic
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import Response

from worker.core.settings import Settings
from worker.ops.dashboard.access import is_loopback
from worker.ops.dashboard.throttle import WrongTokens

COOKIE = "worker_dashboard"  # and the port that the browser names
IDLE_S = 12 * 3600  # without a click, a session ends
LONGEST_S = 30 * 86_400
MOST = 1000  # sessions; then the one that was used least recently ends, and first of those that read

log = structlog.get_logger()


@dataclass(frozen=True)
class Notice:
    """A sentence about what an action did, for the next page of its session."""

    text: str
    good: bool = True
    more: bool = False  # the action has stopped before its end, and can go on


@dataclass(kw_only=True)
class Session:
    """What a client may do. `name` and `label` are for the log: the token's name, and what tells two sessions of it apart."""

    name: str
    acts: bool = False
    csrf: str = ""
    label: str = ""
    begun: float = 0.0
    seen: float = 0.0
    notice: Notice | None = None

    @property
    def worth(self) -> tuple[bool, float]:
        """Return what orders sessions by which to keep."""
        return self.acts, self.seen

    def allows(self, csrf: str) -> bool:
        """True if this session may act, and the form was made for it."""
        return self.acts and bool(self.csrf) and hmac.compare_digest(csrf.encode(), self.csrf.encode())

    def take_notice(self) -> Notice | None:
        """Return the notice that waits to be shown, once."""
        notice, self.notice = self.notice, None
        return notice


class Access:
    """Find out what a client may do. Without any token, clients on localhost read."""

    def __init__(self, settings: Settings) -> None:
        reading = settings.dashboard_token
        # The token, the name of whoever has it, and if it may act.
        self.tokens: Sequence[tuple[bytes, str, bool]] = [
            *([(reading.get_secret_value().encode(), "reader", False)] if reading else []),
            *((token.encode(), name, True) for name, token in settings.dashboard_actors()),
        ]
        self.sessions: dict[bytes, Session] = {}
        self._wrong = WrongTokens()

    def find(self, request: Request) -> Session | None:
        """Return what the client of a request may do; None if it must log in, or may not be here at all.

        Raises: TooManyWrong.
        """
        if not self.tokens:
            # Only on loopback, where another site's page could reach us under its own name (DNS rebinding).
            return Session(name="localhost") if is_loopback(_host(request)) else None
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            known = self._verify(request, credentials.strip())
            return Session(name=known[0]) if known else None  # scripts read; they change jobs by SQL
        return self._of_cookie(request)

    def begin(self, request: Request, token: str) -> Session | None:
        """Begin the session of a token, in place of the one that the browser has. None if the token is wrong.

        Raises: TooManyWrong.
        """
        known = self._verify(request, token)
        if known is None:
            return None
        self.end(request)
        while len(self.sessions) >= MOST:
            del self.sessions[min(self.sessions, key=lambda each: self.sessions[each].worth)]
        name, acts = known
        secret = token_urlsafe(32)
        now = monotonic()
        session = Session(
            name=name, acts=acts, csrf=token_urlsafe(32), label=_key(secret).hex()[:8], begun=now, seen=now
        )
        self.sessions[_key(secret)] = session
        request.state.cookie = secret
        return session

    def end(self, request: Request) -> None:
        """End the session of a browser, if it has one."""
        self.sessions.pop(_key(request.cookies.get(cookie_name(request), "")), None)

    def set_cookie(self, request: Request, response: Response) -> None:
        """Give the browser the session that `begin` began for this request; without one, take the cookie back."""
        secret = getattr(request.state, "cookie", "")
        response.set_cookie(
            cookie_name(request),
            secret,
            max_age=LONGEST_S if secret else 0,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )

    def _verify(self, request: Request, token: str) -> tuple[str, bool] | None:
        """Return whose token it is and if it may act. Compares with all in constant time. Raises: TooManyWrong."""
        client = client_address(request)
        self._wrong.check(client)
        matches = [
            (name, acts) for known, name, acts in self.tokens if hmac.compare_digest(token.encode(), known)
        ]
        if matches:
            return matches[0]
        self._wrong.count(client)
        log.warning("dashboard_login_refused", client=client)
        return None

    def _of_cookie(self, request: Request) -> Session | None:
        session = self.sessions.get(_key(request.cookies.get(cookie_name(request), "")))
        if session is None:
            return None
        now = monotonic()
        if now - session.seen > IDLE_S or now - session.begun > LONGEST_S:
            self.end(request)
            return None
        # A page that refreshes itself keeps a session that reads, on a wall say, but not one that acts.
        if not (session.acts and is_refresh(request)):
            session.seen = now
        return session


def cookie_name(request: Request) -> str:
    """Return the name of our cookie. A browser sends it to all ports of a host, where other dashboards may be."""
    port = re.search(r":(\d{1,5})$", request.headers.get("host", ""))
    return f"{COOKIE}_{port[1]}" if port else COOKIE


def is_refresh(request: Request) -> bool:
    """True if dashboard.js fetches the page again, and no person did anything."""
    return "x-refresh" in request.headers


def is_same_origin(request: Request) -> bool:
    """True if a page of ours made the request: by Origin, which browsers send with every POST, and by Sec-Fetch-Site."""
    host = request.headers.get("host", "").lower()
    # Of either scheme: a proxy may take TLS away without saying so.
    ours = request.headers.get("origin", "").lower() in {f"http://{host}", f"https://{host}"}
    return ours and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"


def client_address(request: Request) -> str:
    """Return the client's IP address. Behind a proxy on this host, it is the one that the proxy forwards."""
    try:
        return str(ipaddress.ip_address(request.client.host if request.client else ""))
    except ValueError:
        return "unknown"


def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _host(request: Request) -> str:
    """Return the host that the client named. request.url falls back to our own address if the header is malformed."""
    try:
        return urlsplit("//" + request.headers.get("host", "")).hostname or ""
    except ValueError:
        return ""
