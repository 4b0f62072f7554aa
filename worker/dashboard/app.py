"""The routes: two pages and a login, all read-only, rendered here; what moves by itself is fetched again by dashboard.js."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
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

from worker import database, words
from worker.dashboard import access, pages
from worker.settings import ConfigError, Settings

FOLDER = Path(__file__).parent
STATIC = {
    "style.css": (FOLDER / "static" / "style.css", "text/css"),
    "dashboard.js": (FOLDER / "static" / "dashboard.js", "text/javascript"),
    "icon.svg": (FOLDER / "static" / "icon.svg", "image/svg+xml"),
    "viewer.js": (FOLDER.parent / "demo" / "viewer.js", "text/javascript"),
}
LARGEST_FORM = 4096  # bytes

# How often a page asks for itself again, in seconds: while something runs, and else.
LIVE_S, IDLE_S = 1, 4

Next = Callable[[Request], Awaitable[Response]]


def create(engine: Engine, settings: Settings) -> Starlette:
    """The ASGI application. It needs no database to start."""
    token = settings.dashboard_token
    door = access.Door(token.get_secret_value() if token else None)
    headers = access.headers(settings)
    render = _renderer()

    def overview(request: Request) -> Response:
        query = request.query_params
        status = query.get("status", "") if query.get("status") in pages.STATES else ""
        search = query.get("q", "").strip()[:255].replace("\0", "")
        page = int(text) if (text := query.get("page", "")).isdecimal() and len(text) < 6 else 1
        page = min(max(page, 1), pages.LAST_PAGE)
        found = pages.listing(engine, status=status, search=search, page=page)
        return render(
            "queue.html.j2",
            **pages.glance(engine),
            listing=found,
            status=status,
            search=search,
            page=page,
            states=pages.STATES,
            within=pages.WITHIN,
            every=LIVE_S if any(job["status"] == "processing" for job in found.jobs) else IDLE_S,
        )

    def job(request: Request) -> Response:
        try:
            found = pages.job(engine, UUID(request.path_params["id"]))
        except ValueError:
            found = None
        if found is None:
            raise HTTPException(404)
        running = found["job"]["status"] == "processing"
        return render("job.html.j2", **found, every=LIVE_S if running else IDLE_S)

    async def login(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_FORM:
                raise HTTPException(413)
        given = parse_qs(body.decode(errors="replace")).get("token", [""])[0]
        if not door.fits(given):
            return render("login.html.j2", 401, wrong=True, target="/login")
        answer = RedirectResponse("/", 303)
        door.remember(request, answer)
        return answer

    def static(request: Request) -> Response:
        path, kind = STATIC.get(request.path_params["name"], (None, None))
        if path is None:
            raise HTTPException(404)
        # The address changes with the content.
        return Response(path.read_bytes(), media_type=kind, headers={"cache-control": "max-age=31536000"})

    async def guard(request: Request, proceed: Next) -> Response:
        answer = await _past(door, request, proceed, render)
        answer.headers.update(headers)
        answer.headers.setdefault("cache-control", "no-store")
        return answer

    def missing(_request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        title, text = {
            404: ("Not here", "There is no such job or page. The row may have been deleted."),
            405: ("Read-only", "This page shows jobs and changes none: see worker cancel and worker retry."),
        }.get(code, ("Something went wrong", "The command line that runs this page says what."))
        answer = render("message.html.j2", code, title=title, text=text, every=IDLE_S)
        answer.headers.update(headers)  # an error of our own passes by the guard
        return answer

    def database_away(_request: Request, error: Exception) -> Response:
        title, text = _explain(engine, error)
        return render("message.html.j2", 503, title=title, text=text, every=IDLE_S)

    return Starlette(
        routes=[
            Route("/", overview),
            Route("/jobs/{id}", job),
            Route("/login", login, methods=["POST"]),
            Route("/static/{name}", static),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={
            HTTPException: missing,
            Exception: missing,
            DBAPIError: database_away,
            PoolTimeout: database_away,
        },
    )


async def _past(door: access.Door, request: Request, proceed: Next, render: Callable[..., Response]) -> Response:
    path = request.url.path
    if path == "/login" or path.startswith("/static/") or door.lets_in(request):
        return await proceed(request)
    if door.token is None:
        return render(
            "message.html.j2",
            421,
            title="Another name",
            text="Without a token this page answers to localhost only.",
            every=IDLE_S,
        )
    query = parse_qs(request.url.query)
    given = query.pop("token", [""])[0]
    if not door.fits(given):
        return render("login.html.j2", 401, wrong=bool(given), target="/login")
    # Out of the address bar and the history at once.
    answer = RedirectResponse(f"{path}?{urlencode(query, doseq=True)}" if query else path, 303)
    door.remember(request, answer)
    return answer


def _explain(engine: Engine, error: Exception) -> tuple[str, str]:
    """What is wrong with the database, without what only its log should say."""
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeout)):
        return (
            "The database cannot be reached",
            "This page comes back by itself as soon as the database does. Jobs that run go on.",
        )
    if isinstance(error, ProgrammingError):
        try:
            database.check_schema(engine)
        except ConfigError as problem:
            return "The database does not fit", str(problem)
        except DBAPIError:
            pass
        return (
            "The database refuses",
            f"The role in DATABASE_URL may not read the queue: {str(error.orig).splitlines()[0]}.",
        )
    return "The database has failed", str(error.__cause__ or error).splitlines()[0]


def _renderer() -> Callable[..., Response]:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
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
    }
    environment.filters |= {
        "about": words.about,
        "duration": words.duration,
        "file_size": words.file_size,
        "last_part": words.last_part,
        "web_address": access.web_address,
        "since": lambda then, now: max(0.0, (now - then).total_seconds()),
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        "clock": lambda then: f"{then:%d %b %H:%M:%S}" if isinstance(then, datetime) else "",
    }

    def render(template: str, code: int = 200, /, **context: Any) -> Response:
        return HTMLResponse(environment.get_template(template).render(context), code)

    return render


def _link(**query: Any) -> str:
    """The overview with these in its address; what is empty, or the first page, is left out."""
    said: Mapping[str, Any] = {k: v for k, v in query.items() if v and (k, v) != ("page", 1)}
    return f"/?{urlencode(said)}" if said else "/"
