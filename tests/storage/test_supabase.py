"""The real supabase client against a server that answers as Supabase Storage does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from worker.errors import JobError
from worker.settings import ConfigError
from worker.storage.supabase import SupabaseStore

KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"


class Bucket(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.faults: list[
            tuple[int, Any]
        ] = []  # answers to give before working again; status 0 drops the connection
        self.requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Bucket

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests += 1
        if self.server.faults:
            status, answer = self.server.faults.pop(0)
            if status == 0:
                self.store(body)
                self.connection.close()
                return
            self.answer(status, answer)
            return
        self.store(body)
        self.answer(200, {"Key": "models/" + self.path, "Id": "1"})

    def store(self, body: bytes) -> None:
        self.server.objects[self.path] = (body, {name.lower(): value for name, value in self.headers.items()})

    def answer(self, status: int, answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    server = Bucket()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(bucket: Bucket) -> SupabaseStore:
    return SupabaseStore(f"http://127.0.0.1:{bucket.server_port}", KEY, "3d-models", wait_s=0.01)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.glb"
    file.write_bytes(b"glTF model")
    return file


PATH = "/storage/v1/object/3d-models/a.myshopify.com/123.glb"


def test_the_model_gets_there_with_its_type_and_a_fresh_address(
    bucket: Bucket, store: SupabaseStore, model: Path
) -> None:
    address = store.put("a.myshopify.com/123.glb", model, "model/gltf-binary")
    body, headers = bucket.objects[PATH]
    assert b"glTF model" in body
    assert b"model/gltf-binary" in body
    assert headers["x-upsert"] == "true"
    base = (
        f"http://127.0.0.1:{bucket.server_port}/storage/v1/object/public/3d-models/a.myshopify.com/123.glb?v="
    )
    assert address.startswith(base)
    model.write_bytes(b"another")
    assert store.put("a.myshopify.com/123.glb", model, "model/gltf-binary") != address


@pytest.mark.parametrize(
    "fault",
    [
        (503, b"<html>gateway</html>"),
        (400, {"statusCode": "429", "error": "too_many_connections", "message": "slow down"}),
        (544, {"statusCode": "544", "error": "DatabaseTimeout", "message": "timeout"}),
        (0, None),
    ],
    ids=["gateway", "overload", "database", "lost answer"],
)
def test_what_passes_is_tried_again(
    bucket: Bucket, store: SupabaseStore, model: Path, fault: tuple[int, Any]
) -> None:
    bucket.faults = [fault, fault]
    store.put("a.myshopify.com/123.glb", model, "model/gltf-binary")
    assert bucket.requests == 3
    assert PATH in bucket.objects


def test_what_does_not_pass_is_a_retryable_failure(bucket: Bucket, store: SupabaseStore, model: Path) -> None:
    bucket.faults = [(503, b"down")] * 9
    with pytest.raises(JobError) as error:
        store.put("a.myshopify.com/123.glb", model, "model/gltf-binary")
    assert (error.value.code, error.value.retryable) == ("storage_unavailable", True)


@pytest.mark.parametrize("status", ["413", "403", "404", "415"])
def test_a_refusal_is_final(bucket: Bucket, store: SupabaseStore, model: Path, status: str) -> None:
    bucket.faults = [(400, {"statusCode": status, "error": "no", "message": "no"})]
    with pytest.raises(JobError) as error:
        store.put("a.myshopify.com/123.glb", model, "model/gltf-binary")
    assert (error.value.code, error.value.retryable) == ("storage_refused", False)
    assert bucket.requests == 1


def test_a_malformed_address_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigError, match="SUPABASE_URL"):
        SupabaseStore("not an address", KEY, "3d-models")
