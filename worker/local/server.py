"""A laptop's stand-in for the bucket's public URL and for the backend: files out, webhooks in."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from worker.core.settings import ConfigError
from worker.webhooks.sender import PATH

LARGEST_WEBHOOK = 1024 * 1024  # bytes
POLL_S = 0.05  # how soon a server notices that it should end

Server = TypeVar("Server", bound=ThreadingHTTPServer)


class DevServer(ThreadingHTTPServer):
    """Serves a folder, takes webhooks at the backend's path, and shows them at GET /webhooks."""

    daemon_threads = True

    def __init__(
        self, folder: Path, journal: Path, port: int, on_webhook: Callable[[dict[str, Any]], None]
    ) -> None:
        """Listen on loopback. Raises: ConfigError if the port cannot be had."""
        try:
            super().__init__(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
        except OSError as error:
            raise ConfigError(
                f"Files and webhooks cannot be served at 127.0.0.1:{port}: {error.strerror}. Choose another port; 0 takes a free one."
            ) from None
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


class _Handler(SimpleHTTPRequestHandler):
    server: DevServer
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".glb": "model/gltf-binary"}

    def do_GET(self) -> None:
        if self.path != "/webhooks":
            super().do_GET()
            return
        journal = self.server.journal
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        body = ("[" + ",\n".join(lines) + "]\n").encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        if self.path == PATH:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            super().do_HEAD()

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        if self.path != PATH or length > LARGEST_WEBHOOK:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            event = json.loads(self.rfile.read(length))
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.server.record({"id": self.headers.get("webhook-id"), "body": event})
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def end_headers(self) -> None:
        # A storefront under development lies at another address.
        self.send_header("access-control-allow-origin", "*")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: the daemon's own log tells what happens."""
