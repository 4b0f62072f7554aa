"""docs/shopify.md: its program is type-checked, then run on the real tables with a server that answers as Shopify's pages say."""

import itertools
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from conftest import complete_next, until
from receiver import SECRET
from sqlalchemy.engine import Engine
from typescript import compile_program

from worker.jobs import queue
from worker.webhooks import sender, signature

PAGE = (Path(__file__).parents[2] / "docs" / "shopify.md").read_text()
SHOP = "shop.myshopify.com"
PRODUCT = "gid://shopify/Product/123"


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


class Shopify:
    """A shop's files and the media of its products, as the calls of the page change them."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.media: dict[str, list[str]] = {}
        self.shown: list[tuple[str, ...]] = []
        """The media of the product after each change."""
        self.uploads: dict[str, bytes] = {}
        self.models: dict[str, bytes] = {}
        """What the worker's store serves, by path."""
        self.fails: set[bytes] = set()
        """The contents that Shopify cannot convert."""
        self.refusals = 0
        """The number of calls still to be refused as too many."""
        self.address = ""
        self.numbers = itertools.count(1)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if self.refusals:
            self.refusals -= 1
            return {"errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]}
        calls = {
            "stagedUploadsCreate": self.stage,
            "fileCreate": self.create,
            "nodes": self.look_up,
            "fileUpdate": self.update,
            "fileDelete": self.delete,
        }
        name = next(name for name in calls if name in query)
        return {"data": {name: calls[name](variables)}}

    def stage(self, variables: dict[str, Any]) -> dict[str, Any]:
        (asked,) = variables["input"]
        assert (asked["resource"], asked["mimeType"], asked["httpMethod"]) == (
            "MODEL_3D",
            "model/gltf-binary",
            "POST",
        )
        place = f"{self.address}/staged/{next(self.numbers)}/{asked['filename']}"
        target = {
            "url": f"{self.address}/upload",
            "resourceUrl": place,
            "parameters": [{"name": "key", "value": place}, {"name": "size", "value": asked["fileSize"]}],
        }
        return {"stagedTargets": [target], "userErrors": []}

    def create(self, variables: dict[str, Any]) -> dict[str, Any]:
        (asked,) = variables["files"]
        if asked["originalSource"] not in self.uploads:
            return {
                "files": [],
                "userErrors": [{"code": "INVALID", "field": ["files"], "message": "no upload"}],
            }
        found = f"gid://shopify/Model3d/{next(self.numbers)}"
        self.files[found] = {
            "bytes": self.uploads[asked["originalSource"]],
            "alt": asked["alt"],
            "status": ["PROCESSING"],
        }
        return {"files": [{"id": found}], "userErrors": []}

    def look_up(self, variables: dict[str, Any]) -> list[dict[str, Any] | None]:
        found: list[dict[str, Any] | None] = []
        for each in variables["ids"]:
            file = self.files.get(each)
            if file is None:
                found.append(None)
                continue
            status = file["status"].pop() if file["status"] else "READY"
            if status == "READY" and file["bytes"] in self.fails:
                status = "FAILED"
            problem = {
                "code": "MODEL3D_PROCESSING_ERROR",
                "details": "cannot be read",
                "message": "Processing failed",
            }
            errors = [problem] if status == "FAILED" else []
            found.append({"id": each, "fileStatus": status, "fileErrors": [], "mediaErrors": errors})
        return found

    def update(self, variables: dict[str, Any]) -> dict[str, Any]:
        for change in variables["files"]:
            assert not self.files[change["id"]]["status"], "only ready files can be updated"
            for product in change.get("referencesToAdd", []):
                self.media.setdefault(product, []).append(change["id"])
            for product in change.get("referencesToRemove", []):
                self.media[product].remove(change["id"])
        self.shown.append(tuple(self.media[PRODUCT]))
        return {"files": [], "userErrors": []}

    def delete(self, variables: dict[str, Any]) -> dict[str, Any]:
        for each in variables["ids"]:
            del self.files[each]
            assert all(each not in media for media in self.media.values())
        return {"deletedFileIds": variables["ids"], "userErrors": []}


@contextmanager
def serving(shopify: Shopify) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(shopify.models[self.path])

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/upload":
                boundary = self.headers["content-type"].partition("boundary=")[2].encode()
                parts = [part.partition(b"\r\n\r\n") for part in body.split(b"--" + boundary)[1:-1]]
                assert b'name="file"' in parts[-1][0], "the file is the last field"
                place, size, content = (value.removesuffix(b"\r\n") for _, _, value in parts)
                assert int(size) == len(content)
                shopify.uploads[place.decode()] = content
                self.reply(b"")
            else:
                assert self.path == "/admin/api/2026-10/graphql.json"
                assert self.headers["x-shopify-access-token"] == "the shop's token"
                asked = json.loads(body)
                self.reply(json.dumps(shopify.answer(asked["query"], asked["variables"])).encode())

        def reply(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        shopify.address = f"http://127.0.0.1:{server.server_port}"
        yield shopify.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return the page's program, type-checked and compiled. Shopify's address is a variable in it, and it waits less."""
    source = block("ts")
    for old, new in [
        ("`https://${shop}/admin", "`${process.env.SHOPIFY}/admin"),
        ("STEP_S = 5", "STEP_S = 0.02"),
        ("resolve, 1000", "resolve, 20"),
        ("2 ** tries", "0.01 * 2 ** tries"),
    ]:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return compile_program(source, tmp_path, "shopify")


@dataclass
class Shop:
    """The worker's tables, the backend's program on them, and Shopify."""

    engine: Engine
    sql: psycopg.Connection
    shopify: Shopify
    backend: str

    def enqueue(self) -> None:
        queue.enqueue(self.engine, shop=SHOP, product_id=PRODUCT, image_urls=["https://a/b"])

    def make(self, digit: str, *, wants_review: bool = False) -> UUID:
        """Complete the next job with a model of this content, and send its events."""
        self.shopify.models[f"/{SHOP}/123/v.{digit * 32}.glb"] = digit.encode()
        job = complete_next(
            self.engine, digest=digit * 32, wants_review=wants_review, store=self.shopify.address
        )
        self.deliver()
        return job.id

    def deliver(self) -> None:
        """Send the events that wait, each twice."""
        waiting = "SELECT id, body FROM worker.outbox WHERE delivered_at IS NULL ORDER BY seq"
        for event, body in self.sql.execute(waiting).fetchall() * 2:
            assert self.post(str(event), body.encode()) == 204
        self.sql.execute("UPDATE worker.outbox SET delivered_at = now() WHERE delivered_at IS NULL")

    def post(self, event: str, body: bytes, *, key: str = SECRET) -> int:
        headers = signature.headers(signature.keys(key), event=event, body=body, sent_at=datetime.now(UTC))
        return httpx.post(self.backend + sender.PATH, content=body, headers=headers).status_code

    def shows(self, content: bytes, *, files: int = 1, error: str | None = None) -> bool:
        """True if nothing is left to do, the product has this model alone, and the shop has so many files."""
        rows = self.sql.execute("SELECT due_at IS NULL, last_error, cardinality(made) FROM shopify_models")
        media = [self.shopify.files[each]["bytes"] for each in self.shopify.media.get(PRODUCT, [])]
        done = rows.fetchall() == [(True, error, files)]
        return done and media == [content] and len(self.shopify.files) == files


@pytest.fixture
def shop(program: Path, engine: Engine, sql: psycopg.Connection, database_url: str) -> Iterator[Shop]:
    sql.execute(block("sql").encode())
    sql.execute(
        "CREATE TABLE shopify_sessions AS SELECT %s::text AS shop, 'the shop''s token' AS access_token",
        [SHOP],
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shopify = Shopify()
    with serving(shopify) as address:
        variables = {"DATABASE_URL": database_url, "WEBHOOK_SECRET": SECRET, "PORT": str(port)}
        process = subprocess.Popen(["node", program], env=os.environ | variables | {"SHOPIFY": address})
        try:
            until(lambda: listens(port), what="the program to listen")
            yield Shop(engine, sql, shopify, f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_page_s_program_hands_each_published_model_to_shopify_once(
    shop: Shop, engine: Engine, sql: psycopg.Connection
) -> None:
    assert shop.post("forged", b"{}", key="whsec_" + "bmV3" * 8) == 401
    shop.enqueue()
    flagged = shop.make("a", wants_review=True)
    assert sql.execute("SELECT count(*) FROM webhooks_seen").fetchone() == (2,)
    assert sql.execute("SELECT count(*) FROM shopify_models").fetchone() == (0,), "nobody has approved it"

    shop.shopify.refusals = 2
    assert queue.approve(engine, flagged)
    shop.deliver()
    until(lambda: shop.shows(b"a"), what="the approved model")
    assert [file["alt"] for file in shop.shopify.files.values()] == ["3D model of the product"]

    shop.enqueue()
    shop.enqueue()
    older = shop.make("b", wants_review=True)
    shop.make("c")
    until(lambda: shop.shows(b"c"), what="the newer model")
    late = sql.execute("SELECT body FROM worker.outbox WHERE body LIKE '%/v.aaaa%' AND terminal").fetchone()
    assert late
    assert shop.post("late", late[0].encode()) == 204
    assert queue.approve(engine, older)
    shop.deliver()
    assert shop.shows(b"c"), "of an older model, or approved while a newer one is published"
    assert queue.publish_version(engine, older)
    shop.deliver()
    until(lambda: shop.shows(b"b"), what="the older model again")

    shop.shopify.fails.add(b"d")
    shop.enqueue()
    shop.make("d")
    error = "MODEL3D_PROCESSING_ERROR cannot be read"
    until(lambda: shop.shows(b"b", files=2, error=error), what="the broken model to be given up")
    shop.enqueue()
    shop.make("e")
    until(lambda: shop.shows(b"e"), what="the model after it")
    assert [len(media) for media in shop.shopify.shown] == [1] * 4, "never without a model, never with two"
