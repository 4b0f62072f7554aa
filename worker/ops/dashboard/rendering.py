"""How pages are rendered: the templates, what each of them may use, and the files that a browser loads beside them."""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from worker import engines
from worker.core.errors import printable
from worker.jobs.filters import Filter
from worker.ops.dashboard import access, lists, pages, search, sessions
from worker.ops.terminal import formats
from worker.storage.paths import last_part

FOLDER = Path(__file__).parent
STATIC = {
    "style.css": (FOLDER / "static" / "style.css", "text/css"),
    "dashboard.js": (FOLDER / "static" / "dashboard.js", "text/javascript"),
    "actions.js": (FOLDER / "static" / "actions.js", "text/javascript"),
    "icon.svg": (FOLDER / "static" / "icon.svg", "image/svg+xml"),
    "viewer.js": (FOLDER / "static" / "viewer.js", "text/javascript"),
}
NAVIGATION = {
    "/": "Jobs",
    "/batches": "Batches",
    "/hosts": "Hosts",
    "/webhooks": "Webhooks",
    "/limits": "Limits",
    "/trends": "Over time",
}


def here(request: Request) -> str:
    """Return the path and the query of a request, for the form that leads back to it."""
    path = request.scope["raw_path"].decode("ascii", errors="replace")
    query = request.url.query
    return access.own_path(f"{path}?{query}" if query else path)


def renderer() -> Callable[..., Response]:
    """Return the function that renders a template for a request: `render(request, template, status, **context)`."""
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
        "link": link,
        "fields": search.FIELDS,
        "previews": engines.PREVIEWS,
        "navigation": NAVIGATION,
        "batch_path": lists.batch_path,
    }
    environment.filters |= {
        "about": formats.about,
        "code_spans": _code_spans,
        "duration": formats.duration,
        "exact": escape,  # of a field that nobody sees: not made printable
        "file_size": formats.file_size,
        "last_part": last_part,
        "web_url": access.web_url,
        "small_photo": access.small_photo,
        "number": pages.number,
        "since": lambda then, now: max(0.0, (now - then).total_seconds()),
        "clock": lambda then: f"{then:%d %b %H:%M:%S}" if isinstance(then, datetime) else "",
    }

    def render(request: Request, template: str, code: int = 200, /, **context: Any) -> Response:
        session = getattr(request.state, "session", None) or sessions.Session(name="")
        common = {
            "session": session,
            "here": here(request),
            "notice": None if sessions.is_refresh(request) else session.take_notice(),
        }
        return HTMLResponse(environment.get_template(template).render(common | context), code)

    return render


def _code_spans(text: str) -> Markup:
    """Return a text of ours with what stands in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def link(wanted: Filter = Filter(), /, **changes: Any) -> str:  # noqa: B008 - it does not change
    """Return the list's address with this filter, some values changed and others added, without the empty ones."""
    query = {name: str(value) for name, value in (wanted.values | changes).items() if value}
    return f"/?{urlencode(query)}" if query else "/"
