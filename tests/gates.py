"""A photo server and a bucket that can hold their answers back, so that a test decides how long a job stays in a stage."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import bucket_server

from worker.local.server import in_background

UPLOADS = f"/storage/v1/object/{bucket_server.BUCKET}/"


class Gates(ThreadingHTTPServer):
    """Serve one photo at every path. `photos` and `bucket` are events: while one is not set, its requests wait."""

    daemon_threads = True

    def __init__(self, photo: bytes, store: bucket_server.BucketServer) -> None:
        super().__init__(("127.0.0.1", 0), _Photo)
        self.photo = photo
        self.photos = threading.Event()
        self.bucket = threading.Event()
        self.objects: dict[str, list[bytes]] = {}
        """By path: the content of each upload, in order."""
        self.arrived = 0  # uploads, answered or not
        self.photos.set()
        self.bucket.set()
        self.environment = {
            "SUPABASE_URL": store.url,
            "SUPABASE_SERVICE_ROLE_KEY": store.key,
            "WORKER_TURNTABLE": "false",
        }
        """The settings of a daemon that stores its models there."""
        store.fault = self._gate

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def versions(self, product: str) -> list[str]:
        """The paths of the models that were uploaded for a product of the shop `a`, each as often as it was."""
        return [
            path
            for path, uploads in self.objects.items()
            for _ in uploads
            if path.startswith(f"a/{product}/v.") and path.endswith(".glb")
        ]

    def _gate(self, method: str, path: str) -> bucket_server.Fault | None:
        # The check at a daemon's start is not held back.
        model = method == "POST" and path.startswith(UPLOADS) and "worker-check" not in path
        return self._hold if model else None

    def _hold(self, handler: bucket_server.Handler, do: Callable[[], Any]) -> None:
        self.arrived += 1
        self.bucket.wait()
        answer = do()
        path = handler.path.removeprefix(UPLOADS)
        self.objects.setdefault(path, []).append(handler.server.bucket.objects[path].content)
        with suppress(OSError):  # the client may have gone
            handler.answer(200, answer)


@contextmanager
def serve(photo: bytes) -> Iterator[Gates]:
    with bucket_server.serve() as store, in_background(Gates(photo, store)) as server:
        try:
            yield server
        finally:
            server.photos.set()
            server.bucket.set()


class _Photo(BaseHTTPRequestHandler):
    server: Gates

    def do_GET(self) -> None:
        self.server.photos.wait()
        with suppress(OSError):
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.send_header("content-length", str(len(self.server.photo)))
            self.end_headers()
            self.wfile.write(self.server.photo)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass
