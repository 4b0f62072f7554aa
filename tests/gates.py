"""A photo server and a bucket whose answers can be held back, so that a job stays in a stage for as long as a test likes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Gates(ThreadingHTTPServer):
    """Serves one photo at every path, and is Supabase Storage for uploads."""

    daemon_threads = True

    def __init__(self, photo: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.photo = photo
        self.photos = threading.Event()  # set: open
        self.bucket = threading.Event()
        self.objects: dict[str, list[str]] = {}
        """Each path's contents, one after the other, as the beginnings of their sha256."""
        self.arrived = 0  # uploads, answered or not
        self.photos.set()
        self.bucket.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The settings with which a daemon stores its models here."""
        return {"SUPABASE_URL": self.url, "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_planted"}


@contextmanager
def serve(photo: bytes) -> Iterator[Gates]:
    server = Gates(photo)
    threading.Thread(target=server.serve_forever, name="gates", daemon=True).start()
    try:
        yield server
    finally:
        server.photos.set()
        server.bucket.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Gates

    def do_GET(self) -> None:
        self.server.photos.wait()
        self._answer("image/png", self.server.photo)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.arrived += 1
        self.server.bucket.wait()
        path = self.path.removeprefix("/storage/v1/object/3d-models/")
        self.server.objects.setdefault(path, []).append(_digest(body, self.headers.get_boundary()))
        self._answer("application/json", json.dumps({"Key": path, "Id": "1"}).encode())

    do_PUT = do_POST  # noqa: N815 - the base class's name

    def _answer(self, kind: str, content: bytes) -> None:
        try:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # who asked is no more

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def _digest(body: bytes, boundary: str | None) -> str:
    """Of the file in a form, or of the body itself, as `worker.storage.version` has it."""
    if boundary:
        parts = (part.partition(b"\r\n\r\n") for part in body.split(f"--{boundary}".encode())[1:-1])
        body = next(content for head, _, content in parts if b"filename=" in head).removesuffix(b"\r\n")
    return hashlib.sha256(body).hexdigest()[:16]
