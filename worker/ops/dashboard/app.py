"""The routes: two pages and a login, all read-only. dashboard.js fetches the pages again to keep them up to date."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from worker import database, engines
from worker.core.errors import first_line, printable
from worker.core.settings import ConfigError, Settings
from worker.ops.dashboard import access, job, pages
from worker.ops.terminal import formats
from worker.storage.paths import last_part

FOLDER = Path(__file__).parent
STATIC = {
    "style.css": (FOLDER / "static" / "style.css", "text/css"),
    "dashboard.js": (FOLDER / "static" / "dashboard.js", "text/javascript"),
    "icon.svg": (FOLDER / "static" / "icon.svg", "image/svg+xml"),
    "viewer.js": (FOLDER / "static" / "viewer.js", "text/javascript"),
}
LARGEST_FORM = 4096  # bytes

# How often a page is fetched again, in seconds: while a job runs, and otherwise.
LIVE_S, IDLE_S = 1, 4

CallNext = Callable[[Request], Awaitable[Response]]


def create(engine: Engine, settings: Settings) -> Starlette:
    """Build the ASGI application. It needs no database to start."""
    token = settings.dashboard_token
    auth = access.TokenAuth(token.get_secret_value() if token else None)
    site = _Site(engine, auth, access.headers(settings), _renderer())
    return Starlette(
        routes=[
            Route("/", site.overview),
            Route("/jobs/{id}", site.job),
            Route("/login", site.login, methods=["POST"]),
            Route("/static/{name}", _static),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=site.guard)],
        exception_handlers={
            DBAPIError: site.database_error,
            PoolTimeout: site.database_error,
            HTTPException: site.failed,
            Exception: site.failed,
        },
    )


@dataclass(frozen=True)
class _Site:
    engine: Engine
    auth: access.TokenAuth
    headers: Mapping[str, str]
    render: Callable[..., Response]

    def overview(self, request: Request) -> Response:
        query = request.query_params
        status = query.get("status", "") if query.get("status") in pages.STATES else ""
        search = query.get("q", "").strip()[:255].replace("\0", "")
        page = int(text) if (text := query.get("page", "")).isdecimal() and len(text) < 6 else 1
        page = min(max(page, 1), pages.LAST_PAGE)
        found = pages.listing(self.engine, status=status, search=search, page=page)
        return self.render(
            "queue.html.j2",
            **pages.summary(self.engine),
            listing=found,
            status=status,
            search=search,
            page=page,
            states=pages.STATES,
            within=pages.WITHIN,
            every=LIVE_S if any(job["status"] == "processing" for job in found.jobs) else IDLE_S,
        )

    def job(self, request: Request) -> Response:
        try:
            found = job.story(self.engine, UUID(request.path_params["id"]))
        except ValueError:
            found = None
        if found is None:
            raise HTTPException(404)
        running = found["job"]["status"] == "processing"
        return self.render("job.html.j2", **found, every=LIVE_S if running else IDLE_S)

    async def login(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_FORM:
                raise HTTPException(413)
        given = parse_qs(body.decode(errors="replace")).get("token", [""])[0]
        return self._log_in(request, given, "/")

    async def guard(self, request: Request, proceed: CallNext) -> Response:
        path = request.url.path
        if path == "/login" or path.startswith("/static/") or self.auth.authorize(request):
            answer = await proceed(request)
        elif self.auth.token is None:
            text = "Without a token this page can be opened at localhost only."
            answer = self._message(421, "Wrong host", text)
        else:
            path = "/" + path.lstrip("/")  # never another host's
            query = parse_qs(request.url.query)
            given = query.pop("token", [""])[0]
            # Out of the address bar and the history at once.
            answer = self._log_in(request, given, f"{path}?{urlencode(query, doseq=True)}" if query else path)
        answer.headers.update(self.headers)
        answer.headers.setdefault("cache-control", "no-store")
        return answer

    def failed(self, _request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        title, text = {
            404: ("Not found", "There is no such job or page. The row may have been deleted."),
            405: ("Read-only", "This page cannot change jobs. Use worker cancel and worker retry."),
        }.get(code, ("Something went wrong", "The output of worker dashboard says what."))
        answer = self._message(code, title, text)
        answer.headers.update(self.headers)  # the guard does not see our own errors
        return answer

    def database_error(self, _request: Request, error: Exception) -> Response:
        return self._message(503, *_explain(self.engine, error))

    def _log_in(self, request: Request, given: str, target: str) -> Response:
        if not self.auth.verify(given):
            return self.render("login.html.j2", 401, wrong=bool(given))
        answer = RedirectResponse(target, 303)
        self.auth.set_cookie(request, answer)
        return answer

    def _message(self, code: int, title: str, text: str) -> Response:
        return self.render("message.html.j2", code, title=title, text=text, every=IDLE_S)


def _static(request: Request) -> Response:
    path, kind = STATIC.get(request.path_params["name"], (None, None))
    if path is None:
        raise HTTPException(404)
    # The URL changes with the content.
    return Response(path.read_bytes(), media_type=kind, headers={"cache-control": "max-age=31536000"})


def _explain(engine: Engine, error: Exception) -> tuple[str, str]:
    """Return a title and a text that say what is wrong with the database. Details stay in its log."""
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeout)):
        return (
            "The database cannot be reached",
            "This page comes back by itself as soon as the database does. Running jobs continue.",
        )
    if isinstance(error, ProgrammingError):
        try:
            database.check_schema(engine)
        except ConfigError as problem:
            return "The database schema does not fit", str(problem)
        except DBAPIError:
            pass
        return (
            "The database refuses access",
            f"The role in DATABASE_URL may not read the queue: {first_line(error)}.",
        )
    return "The database query failed", first_line(error)


def _renderer() -> Callable[..., Response]:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    versions = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, (path, _) in STATIC.items()
    }
    environment.globals |= {
        "asset": lambda name: f"/static/{name}?v={versions[name]}",
        "link": _link,
        "previews": engines.PREVIEWS,
    }
    environment.filters |= {
        "about": formats.about,
        "duration": formats.duration,
        "file_size": formats.file_size,
        "last_part": last_part,
        "web_url": access.web_url,
        "since": lambda then, now: max(0.0, (now - then).total_seconds()),
        "clock": lambda then: f"{then:%d %b %H:%M:%S}" if isinstance(then, datetime) else "",
    }

    def render(template: str, code: int = 200, /, **context: Any) -> Response:
        return HTMLResponse(environment.get_template(template).render(context), code)

    return render


def _link(**query: Any) -> str:
    """Return the overview's URL with these parameters, except empty ones and the first page."""
    set_ones = {k: v for k, v in query.items() if v and (k, v) != ("page", 1)}
    return f"/?{urlencode(set_ones)}" if set_ones else "/"
