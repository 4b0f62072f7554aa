"""A laptop's stand-in for the bucket's public URL and for the backend: files out, webhooks in."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from worker.core.settings import ConfigError
from worker.ops.dashboard.access import is_loopback
from worker.storage import CONTENT_TYPES, beneath
from worker.webhooks.sender import PATH

LARGEST_WEBHOOK = 1024 * 1024  # bytes
POLL_S = 0.05  # how soon a server notices that it should end
TYPES = CONTENT_TYPES | {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".avif": "image/avif"}

Server = TypeVar("Server", bound=ThreadingHTTPServer)


class DevServer(ThreadingHTTPServer):
    """Serves a folder, takes webhooks at the backend's path, and shows them at GET /webhooks."""

    daemon_threads = True

    def __init__(
        self, folder: Path, journal: Path, port: int, on_webhook: Callable[[dict[str, Any]], None]
    ) -> None:
        """Listen on loopback. Raises: ConfigError if the port cannot be had."""
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"Files and webhooks cannot be served at 127.0.0.1:{port}: {error.strerror}. Choose another port; 0 takes a free one."
            ) from None
        self.folder = folder
        self.journal = journal
        self.on_webhook = on_webhook
        self.writing = threading.Lock()

    @property
    def url(self) -> str:
        """The server's own URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.server_port}"

    def record(self, event: dict[str, Any]) -> None:
        """Append a webhook to the journal and pass it on."""
        with self.writing, self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        self.on_webhook(event)


@contextmanager
def serve_folder(
    folder: Path, journal: Path, port: int = 0, on_webhook: Callable[[dict[str, Any]], None] = lambda _: None
) -> Iterator[DevServer]:
    """Run the server on loopback. `journal` gets a JSON line for every webhook, and `on_webhook` is called with it.

    Raises: ConfigError if the port cannot be had.
    """
    with in_background(DevServer(folder, journal, port, on_webhook)) as server:
        yield server


@contextmanager
def in_background(server: Server) -> Iterator[Server]:
    """Serve from a thread until the context ends, and close the server."""
    name = type(server).__name__.lower()
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), name=name, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers programs of this machine. Any page in the developer's browser can send requests here as well: such a page may show
    the files only if it comes from this machine itself, and it neither sees nor sends webhooks.
    """

    server: DevServer
    timeout = 60  # seconds for a client that says nothing

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        # Another site's page could reach us under its own name (DNS rebinding).
        if not _is_here("//" + self.headers.get("host", "")):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "This server is called 127.0.0.1 or localhost.")
            return False
        return True

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/webhooks":
            self._send_webhooks()
        elif path == PATH:  # the doctor asks if it is there
            self.send_response(HTTPStatus.METHOD_NOT_ALLOWED)
            self.send_header("allow", "POST")
            self.send_header("content-length", "0")
            self.end_headers()
        elif not _is_here(self.headers.get("origin", self.server.url)):
            self.send_error(HTTPStatus.FORBIDDEN, "Only pages of this machine may read the files.")
        else:
            self._send_file(path.removeprefix("/").split("/"))

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if self.path != PATH or not length.isdecimal() or int(length) > LARGEST_WEBHOOK:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        if self.headers.get("origin") is not None:  # the daemon sends none, and every browser does
            self.send_error(HTTPStatus.FORBIDDEN, "Webhooks come from the daemon, not from a page.")
            return
        try:
            event = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.server.record({"id": self.headers.get("webhook-id"), "body": event})
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def _send_webhooks(self) -> None:
        """Show what was received, to programs and in the browser's address bar, but to no page of another origin."""
        origin = self.headers.get("origin")
        if origin is not None and origin != f"http://{self.headers['host']}":
            self.send_error(HTTPStatus.FORBIDDEN, "No other page may read the webhooks.")
            return
        journal = self.server.journal
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        body = ("[" + ",\n".join(lines) + "]\n").encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("cross-origin-resource-policy", "same-origin")
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, names: Sequence[str]) -> None:
        names = [unquote(name) for name in names]
        try:
            # A hidden file is the draft of another.
            if any(name.startswith(".") for name in names):
                raise FileNotFoundError
            with beneath.opened(self.server.folder) as folder:
                file = beneath.open_file(folder, names)
        except (OSError, ValueError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            self.send_response(HTTPStatus.OK)
            self.send_header("content-type", TYPES.get(Path(names[-1]).suffix, "application/octet-stream"))
            self.send_header("content-length", str(os.fstat(file.fileno()).st_size))
            # A page of a backend under development, on a port of its own, shows the model in a viewer, which fetches it.
            if origin := self.headers.get("origin"):
                self.send_header("access-control-allow-origin", origin)
            self.send_header("vary", "origin")
            self.end_headers()
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile)

    def end_headers(self) -> None:
        self.send_header("x-content-type-options", "nosniff")
        self.send_header("x-frame-options", "DENY")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: the daemon's own log tells what happens."""


def _is_here(url: str) -> bool:
    """True if a URL or an origin names this machine."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
