"""An HTTP proxy on loopback: it forwards requests and opens tunnels, whatever the host is called, to one port of this machine."""

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from worker.local.server import in_background


class ForwardProxy(ThreadingHTTPServer):
    """`asked` holds the first line of each request that it let pass."""

    daemon_threads = True

    def __init__(self, port: int, user: str, password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = ("127.0.0.1", port)
        self.credentials = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: ForwardProxy

    def do_CONNECT(self) -> None:
        if not self._authorized():
            return
        with socket.create_connection(self.server.target) as server:
            # Some proxies' answers break the rules.
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\nX Proxy: yes\r\n\r\n")
            other_way = threading.Thread(target=_pass_on, args=(server, self.connection), daemon=True)
            other_way.start()
            _pass_on(self.connection, server)
            other_way.join()

    def do_POST(self) -> None:
        if not self._authorized():
            return
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        kept = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        head = f"{self.command} {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in kept.items())
        with socket.create_connection(self.server.target) as server:
            server.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
            server.shutdown(socket.SHUT_WR)
            _pass_on(server, self.connection)

    do_GET = do_HEAD = do_DELETE = do_POST  # noqa: N815 - the base class's names

    def _authorized(self) -> bool:
        if self.headers.get("proxy-authorization") != self.server.credentials:
            self.send_error(407)
            return False
        self.server.asked.append(f"{self.command} {self.path}")
        return True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def serve(port: int, user: str, password: str) -> Iterator[ForwardProxy]:
    with in_background(ForwardProxy(port, user, password)) as server:
        yield server
