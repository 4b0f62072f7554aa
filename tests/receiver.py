"""A backend for the tests: a real server on loopback that records requests and answers as a test wants."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from worker.local.server import in_background

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@dataclass(frozen=True)
class Webhook:
    path: str
    body: bytes
    headers: dict[str, str]  # with lower-case names

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


Answer = tuple[int, dict[str, str]]


class Backend(ThreadingHTTPServer):
    """`seen` has every request, `got` those answered with 2xx. Uses up `answers` first, then calls `reply`."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.seen: list[Webhook] = []
        self.got: list[Webhook] = []
        self.answers: list[Answer] = []
        # May also write to the handler itself, and then gives None.
        self.reply: Callable[[Webhook, BaseHTTPRequestHandler], Answer | None] = lambda _, __: (200, {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [webhook.event for webhook in self.got]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a sender that closes its connection."""


@contextmanager
def serve(port: int = 0) -> Iterator[Backend]:
    with in_background(Backend(port)) as server:
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: Backend
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        webhook = Webhook(self.path, body, {name.lower(): value for name, value in self.headers.items()})
        self.server.seen.append(webhook)
        answer = self.server.answers.pop(0) if self.server.answers else self.server.reply(webhook, self)
        if answer is None:
            self.close_connection = True
            return
        status, headers = answer
        if 200 <= status < 300:
            self.server.got.append(webhook)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass
