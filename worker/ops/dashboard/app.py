"""The routes: pages, which read, and actions, which change. dashboard.js fetches the pages again to keep them up to date."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from urllib.parse import urlencode
from uuid import UUID

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from worker import database
from worker.core.errors import ERRORS, first_line
from worker.core.settings import ConfigError, Settings
from worker.database import Row
from worker.ops.dashboard import access, actions, forms, job, lists, pages, rendering, sessions, trends
from worker.ops.dashboard.forms import Form
from worker.ops.dashboard.throttle import TooManyWrong

FORM_S = 10  # for all of a form to arrive

FOREIGN = (
    "Not from this page",
    "The request did not come from a page of this dashboard, so nothing was changed. A proxy must pass on the header Host.",
)
OUTDATED = ("Nothing was changed", "The page was of an earlier session. Go back, reload it and try again.")
NO_TOKENS = (
    "This dashboard only reads",
    "To act, start it with WORKER_DASHBOARD_ACT_TOKEN and log in with that token: docs/dashboard.md.",
)
READS_ONLY = (
    "Nothing was changed",
    "This session only reads. Log in with a token of WORKER_DASHBOARD_ACT_TOKEN to act.",
)

# How often a page is fetched again, in seconds: while a job runs, and otherwise.
LIVE_S, IDLE_S = 1, 4

log = structlog.get_logger()

CallNext = Callable[[Request], Awaitable[Response]]


def create(engine: Engine, settings: Settings) -> Starlette:
    """Build the ASGI application. It needs no database to start."""
    site = _Site(engine, sessions.Access(settings), access.headers(settings), rendering.renderer())
    return Starlette(
        routes=[
            Route("/", site.overview),
            Route("/jobs/{id}", site.job),
            Route("/errors", site.errors),
            Route("/hosts", site.page("hosts.html.j2", lists.host_list)),
            Route("/batches", site.page("batches.html.j2", lists.batch_list)),
            Route("/batches/{shop}/{batch:path}", site.batch),
            Route("/webhooks", site.page("webhooks.html.j2", lists.dead_events)),
            Route("/trends", site.page("trends.html.j2", trends.show)),
            Route("/limits", site.page("limits.html.j2", lists.limits)),
            Route("/actions/{name}", site.act, methods=["POST"]),
            Route("/login", site.ask_token),
            Route("/login", site.log_in, methods=["POST"]),
            Route("/logout", site.log_out, methods=["POST"]),
            Route("/static/{name}", _static),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=site.guard)],
        exception_handlers={
            DBAPIError: site.database_error,
            PoolTimeout: site.database_error,
            forms.BadForm: site.bad_form,
            HTTPException: site.failed,
            Exception: site.failed,
        },
    )


@dataclass(frozen=True)
class _Site:
    engine: Engine
    access: sessions.Access
    headers: Mapping[str, str]
    render: Callable[..., Response]

    def overview(self, request: Request) -> Response:
        found = pages.overview(self.engine, request.query_params)
        if len(found["readings"]) == 1 or "" in request.query_params.values():  # said by name from here on
            return RedirectResponse(rendering.link(found["wanted"]), 303)
        running = any(job["status"] == "processing" for _, _, jobs in found["parts"] for job in jobs)
        template = "queue.html.j2" if "health" in found else "found.html.j2"
        return self.render(
            request, template, 400 if found["problem"] and not found["typed"] else 200, **found,
            every=LIVE_S if running else IDLE_S,
        )  # fmt: skip

    def job(self, request: Request) -> Response:
        try:
            found = job.story(self.engine, UUID(request.path_params["id"]))
        except ValueError:
            found = None
        if found is None:
            raise HTTPException(404)
        running = found["job"]["status"] == "processing"
        return self.render(request, "job.html.j2", **found, every=LIVE_S if running else IDLE_S)

    def errors(self, request: Request) -> Response:
        return self.render(request, "errors.html.j2", kinds=ERRORS, every=0)

    def page(
        self, template: str, read: Callable[[Engine, Mapping[str, str]], Row]
    ) -> Callable[[Request], Response]:
        """Return the endpoint that shows what `read` finds for a query string."""

        def show(request: Request) -> Response:
            return self.render(request, template, **read(self.engine, request.query_params), every=IDLE_S)

        return show

    def batch(self, request: Request) -> Response:
        found = lists.one_batch(self.engine, request.path_params["shop"], request.path_params["batch"])
        if found is None:
            raise HTTPException(404)
        return self.render(request, "batch.html.j2", **found, every=IDLE_S)

    async def act(self, request: Request) -> Response:
        session: sessions.Session = request.state.session
        name = request.path_params["name"]
        form = await _read_form(request)
        if not session.allows(form.text("csrf", "")):
            return self._refuse(request, session)
        if name not in actions.ACTIONS:
            raise HTTPException(404)
        target = access.own_path(form.text("next", "/"))
        question = None
        if form.text("confirmed", "") != "1":
            question = await run_in_threadpool(actions.ACTIONS[name].ask, self.engine, form)
        if question is None:
            who = {
                "actor": session.name,
                "session": session.label,
                "client": sessions.client_address(request),
            }
            notice = await run_in_threadpool(actions.run, self.engine, name, form, who=who)
            if not notice.more:
                session.notice = notice
                return RedirectResponse(target, 303)
            question = actions.Question("There are more. Go on?", notice.text)
        return self.render(
            request,
            "confirm.html.j2",
            name=name,
            question=question,
            fields=form.target,
            target=target,
            every=0,
        )

    def ask_token(self, request: Request) -> Response:
        if not self.access.tokens:
            return self._message(request, 200, *NO_TOKENS)
        target = access.own_path(request.query_params.get("next", "/"))
        return self._ask_token(request, 200, "", target)

    async def log_in(self, request: Request) -> Response:
        form = await _read_form(request)
        return self._begin(request, form.text("token", ""), access.own_path(form.text("next", "/")))

    async def log_out(self, request: Request) -> Response:
        form = await _read_form(request)
        session: sessions.Session = request.state.session
        if session.csrf and form.text("csrf", "") == session.csrf:
            self.access.end(request)
        answer = RedirectResponse("/login", 303)
        self.access.set_cookie(request, answer)
        return answer

    async def guard(self, request: Request, proceed: CallNext) -> Response:
        try:
            answer = await self._answer(request, proceed)
        except TooManyWrong as error:
            answer = self._too_many_wrong(request, error, "/")
        answer.headers.update(self.headers)
        answer.headers.setdefault("cache-control", "no-store")
        return answer

    async def _answer(self, request: Request, proceed: CallNext) -> Response:
        path = request.url.path
        request.state.session = session = self.access.find(request)
        if request.method not in {"GET", "HEAD"} and not sessions.is_same_origin(request):
            if session and path.startswith("/actions/"):
                self._log_refusal(request, session, path.removeprefix("/actions/"))
            return self._message(request, 403, *FOREIGN)
        if session is None and not self.access.tokens:
            text = "Without a token this page can be opened at localhost only."
            return self._message(request, 421, "Wrong host", text)
        if path.startswith("/static/") or path == "/login":
            return await proceed(request)
        if "token" in request.query_params:
            # Out of the address bar and the history at once.
            return self._begin(request, request.query_params["token"], _without_token(request))
        if session is None:
            target = rendering.here(request) if request.method == "GET" else "/"
            return self._ask_token(request, 401, "", target)
        return await proceed(request)

    def failed(self, request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        title, text = {
            404: ("Not found", "There is no such job or page. The row may have been deleted."),
            405: ("Not possible", "This address does not take such requests."),
            408: ("Too slow", "The form did not arrive in time."),
            413: ("Too large", "The form is too large. Select less at once."),
            415: ("Not possible", "This address takes forms only."),
        }.get(code, ("Something went wrong", "The output of worker dashboard says what."))
        answer = self._message(request, code, title, text)
        answer.headers.update(self.headers)  # the guard does not see our own errors
        return answer

    def bad_form(self, request: Request, error: Exception) -> Response:
        return self._message(request, 400, "Not possible", str(error))

    def database_error(self, request: Request, error: Exception) -> Response:
        return self._message(request, 503, *_explain(self.engine, error))

    def _begin(self, request: Request, token: str, target: str) -> Response:
        try:
            session = self.access.begin(request, token)
        except TooManyWrong as error:
            return self._too_many_wrong(request, error, target)
        if session is None:
            return self._ask_token(request, 401, "This token is wrong." if token else "", target)
        client = sessions.client_address(request)
        log.info(
            "dashboard_login", actor=session.name, session=session.label, acts=session.acts, client=client
        )
        answer = RedirectResponse(target, 303)
        self.access.set_cookie(request, answer)
        return answer

    def _ask_token(self, request: Request, code: int, problem: str, target: str) -> Response:
        return self.render(request, "login.html.j2", code, problem=problem, target=target)

    def _too_many_wrong(self, request: Request, error: TooManyWrong, target: str) -> Response:
        seconds = ceil(error.wait_s)
        text = f"Too many wrong tokens were given. Try again in {seconds} second{'s' * (seconds != 1)}."
        answer = self._ask_token(request, 429, text, target)
        answer.headers["retry-after"] = str(seconds)
        return answer

    def _log_refusal(self, request: Request, session: sessions.Session, action: str) -> None:
        client = sessions.client_address(request)
        log.warning(
            "dashboard_action_refused",
            actor=session.name,
            session=session.label,
            client=client,
            action=action[:100],
        )

    def _refuse(self, request: Request, session: sessions.Session) -> Response:
        self._log_refusal(request, session, request.path_params["name"])
        return self._message(request, 403, *(OUTDATED if session.acts else READS_ONLY))

    def _message(self, request: Request, code: int, title: str, text: str) -> Response:
        # What is wrong with the database passes. A form is not sent again.
        every = IDLE_S if code >= 500 and request.method == "GET" else 0
        return self.render(request, "message.html.j2", code, title=title, text=text, every=every)


async def _read_form(request: Request) -> Form:
    """Read a posted form. Raises: BadForm; HTTPException 408, 413, 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            async for part in request.stream():
                body += part
                if len(body) > forms.LARGEST:
                    raise HTTPException(413)
    except TimeoutError:
        raise HTTPException(408) from None
    return Form.parse(bytes(body))


def _without_token(request: Request) -> str:
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    path = "/" + request.scope["raw_path"].decode("ascii", errors="replace").lstrip(
        "/"
    )  # never another host's
    return access.own_path(f"{path}?{urlencode(query)}" if query else path)


def _static(request: Request) -> Response:
    path, kind = rendering.STATIC.get(request.path_params["name"], (None, None))
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
