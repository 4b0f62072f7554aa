"""A server that answers like Supabase Storage: mostly with HTTP 400, and the true status in the body."""

import base64
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP as HTTP_POLICY
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from worker.local.server import in_background

KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"
BUCKET = "3d-models"
KEY_RULE = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]+")
GLOBAL_LIMIT = 50 * 1024 * 1024


@dataclass
class Object:
    content: bytes
    content_type: str
    cache_control: str
    metadata: dict[str, Any]


class Refused(Exception):
    def __init__(self, status: str, error: str, message: str, http: int = 400) -> None:
        self.body = {"statusCode": status, "error": error, "message": message}
        self.http = http


# A fault takes the handler and a function that does the request, and answers in its own way.
Fault = Callable[["Handler", Callable[[], Any]], None]


def html(status: int) -> Fault:
    """Answer like a gateway that does not reach the server."""
    return lambda handler, _: handler.answer(status, b"<html><body>gateway</body></html>", "text/html")


def html_after(status: int) -> Fault:
    """Do the request, but answer like a gateway that lost the answer."""

    def fault(handler: "Handler", do: Callable[[], Any]) -> None:
        do()
        handler.answer(status, b"<html><body>gateway</body></html>", "text/html")

    return fault


def refusal(status: str, error: str, http: int = 400) -> Fault:
    return lambda handler, _: handler.answer(
        http, {"statusCode": status, "error": error, "message": f"made up: {error}"}
    )


def busy(status: int, retry_after: str) -> Fault:
    """A server that asks for patience."""

    def fault(handler: "Handler", _: Callable[[], Any]) -> None:
        handler.send_response(status)
        handler.send_header("retry-after", retry_after)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return fault


def says(answer: Any) -> Fault:
    """A success that says something else than the server would."""
    return lambda handler, _: handler.answer(200, answer)


def reset(handler: "Handler", _: Callable[[], Any]) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.drop()


def lose_answer(handler: "Handler", do: Callable[[], Any]) -> None:
    do()
    handler.drop()


def hang(handler: "Handler", _: Callable[[], Any]) -> None:
    handler.server.over.wait()
    handler.drop()


def hang_after(handler: "Handler", do: Callable[[], Any]) -> None:
    do()
    handler.server.over.wait()
    handler.drop()


def slow(handler: "Handler", do: Callable[[], Any]) -> None:
    time.sleep(0.2)
    handler.answer(200, do())


def not_json(handler: "Handler", _: Callable[[], Any]) -> None:
    handler.answer(200, b"<html>Sign in to the network</html>", "text/html")


FAULTS: dict[str, Fault] = {
    "502 of a gateway": html(502),
    "502 after it was done": html_after(502),
    "503 of a gateway": html(503),
    "520 of a gateway": html(520),
    "429 in the body": refusal("429", "too_many_connections"),
    "429 of a gateway": html(429),
    "500 in the body": refusal("500", "Internal", 500),
    "544 in the body": refusal("544", "DatabaseTimeout", 544),
    "reset": reset,
    "lost answer": lose_answer,
    "hang": hang,
    "hang after it was done": hang_after,
    "slow": slow,
    "another's 200": not_json,
}


@dataclass
class Bucket:
    public: bool = True
    file_size_limit: int | None = None
    allowed_mime_types: list[str] | None = None
    objects: dict[str, Object] = field(default_factory=dict)


class BucketServer(ThreadingHTTPServer):
    """The server. `fault` is called with the method and path of each request and returns its fault, or None."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bucket = Bucket()
        self.buckets = {BUCKET: self.bucket}
        self.key = KEY
        self.fault: Callable[[str, str], Fault | None] = lambda _method, _path: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def uploads(self, ending: str = "") -> list[str]:
        """Return the path of every upload request, repeated ones too."""
        start = f"/storage/v1/object/{BUCKET}/"
        return [
            path.removeprefix(start)
            for method, path in self.requests
            if method == "POST" and path.startswith(start) and path.endswith(ending)
        ]

    def fail_once_each(self, *faults: Fault, method: str = "POST") -> None:
        left = list(faults)
        self.fault = lambda asked, _path: left.pop(0) if left and asked == method else None


class Handler(BaseHTTPRequestHandler):
    server: BucketServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with self.server.lock:
            self.server.requests.append((self.command, self.path))
            fault = self.server.fault(self.command, self.path)

        def do() -> Any:
            with self.server.lock:
                return self.route(body)

        try:
            if fault:
                fault(self, do)
            else:
                answer = do()
                if isinstance(answer, Object):
                    self.answer(200, answer.content, answer.content_type, answer)
                else:
                    self.answer(200, answer)
        except Refused as refused:
            self.answer(refused.http, refused.body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base class's names

    def route(self, body: bytes) -> Any:  # noqa: C901, PLR0911 - the server's routes, one after the other
        parts = urlsplit(self.path)
        steps = [unquote(step) for step in parts.path.removeprefix("/storage/v1/").split("/")]
        match self.command, steps:
            case "GET", ["object", "public", bucket, *path]:
                if bucket not in self.server.buckets or not self.server.buckets[bucket].public:
                    raise Refused("404", "Bucket not found", "Bucket not found")
                return self.find(bucket, path)
            case "GET", ["object", "sign", bucket, *path]:
                claims = json.loads(base64.urlsafe_b64decode(parse_qs(parts.query)["token"][0]))
                if claims["exp"] < time.time():
                    raise Refused("400", "InvalidJWT", '"exp" claim timestamp check failed')
                assert claims["url"] == "/".join([bucket, *path])
                return self.find(bucket, path)
        if self.headers.get("authorization") != f"Bearer {self.server.key}":
            raise Refused("403", "Unauthorized", "Invalid Compact JWS")
        match self.command, steps:
            case "GET", ["bucket", name]:
                return self.describe(name)
            case "GET", ["object", "info", bucket, *path]:
                found = self.find(bucket, path)
                return {
                    "name": "/".join(path),
                    "size": len(found.content),
                    "content_type": found.content_type,
                    "etag": f'"{md5(found.content).hexdigest()}"',
                    "metadata": found.metadata,
                }
            case "GET", ["object", bucket, *path]:
                return self.find(bucket, path)
            case "POST", ["object", "sign", bucket, *path]:
                self.find(bucket, path)
                url = "/".join([bucket, *path])
                expires = time.time() + int(json.loads(body)["expiresIn"])
                token = base64.urlsafe_b64encode(json.dumps({"url": url, "exp": expires}).encode()).decode()
                return {"signedURL": f"/object/sign/{url}?token={token}"}
            case "POST", ["object", "list", bucket]:
                return self.list(bucket, json.loads(body))
            case "POST" | "PUT", ["object", bucket, *path]:
                return self.store(bucket, "/".join(path), body)
            case "DELETE", ["object", bucket]:
                gone = [name for name in json.loads(body)["prefixes"] if name in self.at(bucket).objects]
                return [{"name": name, "object": self.at(bucket).objects.pop(name) and None} for name in gone]
        raise Refused("404", "Not Found", f"Route {self.command}:{parts.path} not found", 404)

    def at(self, name: str) -> Bucket:
        if name not in self.server.buckets:
            raise Refused("404", "Bucket not found", "Bucket not found")
        return self.server.buckets[name]

    def find(self, bucket: str, path: list[str]) -> Object:
        try:
            return self.at(bucket).objects["/".join(path)]
        except KeyError:
            raise Refused("404", "not_found", "Object not found") from None

    def describe(self, name: str) -> dict[str, Any]:
        bucket = self.at(name)
        moment = "2026-11-22T12:00:00.000Z"
        return {
            "id": name,
            "name": name,
            "owner": "",
            "public": bucket.public,
            "created_at": moment,
            "updated_at": moment,
            "file_size_limit": bucket.file_size_limit,
            "allowed_mime_types": bucket.allowed_mime_types,
        }

    def store(self, name: str, path: str, body: bytes) -> dict[str, str]:
        bucket = self.at(name)
        if not KEY_RULE.fullmatch(path):
            raise Refused("400", "InvalidKey", f"Invalid key: {path}")
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP_POLICY).parsebytes(head + body)
        fields = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
        file = fields["file"]
        content = file.get_payload(decode=True)
        assert isinstance(content, bytes)
        kind = file.get_content_type() if "content-type" in file else "text/plain;charset=UTF-8"
        allowed = bucket.allowed_mime_types
        if allowed and kind not in allowed and f"{kind.split('/')[0]}/*" not in allowed:
            raise Refused("415", "invalid_mime_type", f"mime type {kind} is not supported")
        if len(content) > (bucket.file_size_limit or GLOBAL_LIMIT):
            raise Refused("413", "Payload too large", "The object exceeded the maximum allowed size")
        if path in bucket.objects and self.command == "POST" and self.headers.get("x-upsert") != "true":
            raise Refused("409", "Duplicate", "The resource already exists")
        metadata = fields["metadata"].get_content() if "metadata" in fields else "{}"
        seconds = fields["cacheControl"].get_content().strip()
        bucket.objects[path] = Object(content, kind, f"max-age={seconds}", json.loads(metadata))
        return {"Id": "00000000-0000-0000-0000-000000000000", "Key": f"{name}/{path}"}

    def list(self, name: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """One level below the prefix, sorted by name; a folder has no id. `search` matches as LIKE does, in any case."""
        start = f"{asked['prefix'].strip('/')}/".lstrip("/")
        found: dict[str, bool] = {}
        for path in self.at(name).objects:
            if path.startswith(start):
                first, slash, _ = path.removeprefix(start).partition("/")
                found[first] = not slash
        like = re.compile(re.escape(asked.get("search") or "").replace("_", "."), re.IGNORECASE)
        names = sorted(first for first in found if like.match(first))
        page = names[asked.get("offset", 0) :][: asked.get("limit", 100)]
        return [{"name": first, "id": "an id" if found[first] else None, "metadata": None} for first in page]

    def answer(
        self, status: int, answer: Any, content_type: str = "application/json", stored: Object | None = None
    ) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        if stored:
            self.send_header("cache-control", stored.cache_control)
        self.end_headers()
        self.wfile.write(data)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serve() -> Iterator[BucketServer]:
    with in_background(BucketServer()) as server:
        try:
            yield server
        finally:
            server.over.set()
