"""Rows in any state, written past the guard, and the page served over real HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import psycopg
import uvicorn
from conftest import until
from psycopg import sql as pg
from psycopg.types.json import Jsonb
from sqlalchemy.engine import Engine

from worker.core.settings import Settings
from worker.ops.dashboard import app

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
ENDED = {"completed", "failed", "cancelled"}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "data-src", "action"}]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]


def insert(sql: psycopg.Connection, **columns: Any) -> str:
    """A job; what a status requires of its row is filled in. The id."""
    row: dict[str, Any] = {
        "shop": "a.myshopify.com",
        "product_id": "1",
        "image_urls": ["https://cdn.shopify.com/a.jpg"],
    }
    row |= {"status": "pending"} | columns
    if row["status"] == "processing":
        row = {"progress": 50, "stage": "generating", "claimed_by": "gpu-1", "attempts": 1} | row
        row |= {
            "lease_token": pg.SQL("gen_random_uuid()"),
            "lease_expires_at": pg.SQL("now() + interval '1 h'"),
        }
    if row["status"] in ENDED:
        row = {"completed_at": pg.SQL("now()")} | row
    if row["status"] != "pending":
        row = {"started_at": pg.SQL("now() - interval '9 s'")} | row
    if row["status"] == "completed":
        row = {"model_url": "https://store.example/a.glb", "progress": 100, "stage": "completed"} | row
    if row["status"] == "failed":
        row = {"error_code": "no_object", "error_message": "No product could be found."} | row
    values = {
        name: value
        if isinstance(value, pg.SQL)
        else pg.Literal(Jsonb(value) if name == "metadata" else value)
        for name, value in row.items()
    }
    statement = pg.SQL("INSERT INTO public.jobs ({}) VALUES ({}) RETURNING id").format(
        pg.SQL(", ").join(map(pg.Identifier, values)), pg.SQL(", ").join(values.values())
    )
    found = sql.execute(statement).fetchone()
    assert found
    return str(found[0])


def change(sql: psycopg.Connection, job: str, assignments: str) -> None:
    """What only the queue's own statements may."""
    key = "WITH key AS MATERIALIZED (SELECT set_config('worker.lease', 'queue', true))"
    sql.execute(f"{key} UPDATE public.jobs SET {assignments} FROM key WHERE id = '{job}'".encode())


@contextmanager
def served(engine: Engine, **settings: Any) -> Iterator[str]:
    """The dashboard's address."""
    configured = Settings().model_copy(update=settings)
    config = uvicorn.Config(
        app.create(engine, configured), port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
