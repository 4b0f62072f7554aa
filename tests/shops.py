"""Shops with all that can be stored of one: rows in each state, attempts, events, versions, published files, drafts."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote
from uuid import UUID

import psycopg
from bucket_server import BUCKET, KEY, BucketServer, Object
from psycopg.types.json import Jsonb
from sqlalchemy.engine import Engine

from worker import database
from worker.database.session import Cursor
from worker.storage import Store, paths
from worker.storage.local import LocalStore
from worker.storage.supabase import SupabaseStore
from worker.versions import erase

ENDINGS = (".cutout.png", ".png", ".webp", ".usdz", ".glb")


class Shelf:
    """A store of one of the two kinds, and what lies in it."""

    def __init__(self, folder: Path | None, server: BucketServer | None) -> None:
        self.folder = folder
        self.server = server
        self._opened: list[SupabaseStore] = []

    def open(self) -> Store:
        """Open the store, for one process or thread."""
        if self.folder:
            return LocalStore(self.folder)
        assert self.server
        self._opened.append(SupabaseStore(self.server.url, KEY, BUCKET, wait_s=0.001))
        return self._opened[-1]

    def close(self) -> None:
        """Close the connections of all that were opened."""
        for store in self._opened:
            store.storage.session.close()

    def put(self, path: str) -> None:
        """Store a file that holds its path."""
        if self.folder:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(path)
        elif self.server:
            self.server.bucket.objects[path] = Object(path.encode(), "image/png", "", {})

    def files(self) -> set[str]:
        """Return the paths of all files, drafts too."""
        if self.server:
            return set(self.server.bucket.objects)
        assert self.folder
        return {
            file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if not file.is_dir()
        }


def insert(
    sql: psycopg.Connection, shop: str, product: str = "1", variant: str | None = None, **columns: Any
) -> UUID:
    """Insert a job as a backend does."""
    values = {
        "shop": shop,
        "product_id": product,
        "variant_id": variant,
        "image_urls": [f"https://cdn.example/{quote(shop)}/photo-{quote(product)}.jpg"],
        "product_handle": f"made by {shop}",
        "metadata": Jsonb({"note": [f"for {shop}"]}),
    } | columns
    names, places = ", ".join(values), ", ".join(["%s"] * len(values))
    row = sql.execute(
        f"INSERT INTO jobs ({names}) VALUES ({places}) RETURNING id".encode(), list(values.values())
    ).fetchone()
    assert row
    return UUID(str(row[0]))


def move(sql: psycopg.Connection, job: UUID, status: str) -> None:
    """Bring a job that waits into a state, with its attempt and its events."""
    sql.execute("UPDATE jobs SET priority = 1000 WHERE id = %s", [job])
    row = sql.execute("SELECT id FROM worker.claim_job('w', 'h', '{default}', '', 600, NULL)").fetchone()
    assert row == (job,)
    if status == "failed":
        sql.execute(
            "SELECT worker.fail_job(id, lease_token, 'no_object', 'No object in ' || image_urls[1], false,"
            " jsonb_build_object('photo', image_urls[1])) FROM jobs WHERE id = %s",
            [job],
        )
    elif status == "lost":
        set_columns(sql, job, lease_expires_at="1999-01-01")
    elif status == "completed":
        set_columns(
            sql,
            job,
            status="completed",
            progress=100,
            completed_at="now",
            model_url=f"https://bucket/{job}",
            lease_token=None,
            lease_expires_at=None,
            claimed_by=None,
        )


def set_columns(sql: psycopg.Connection, job: UUID, **columns: Any) -> None:
    """Update a row as the queue's own functions do."""
    setting = ", ".join(f"{name} = %s" for name in columns)
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute(f"UPDATE jobs SET {setting} WHERE id = %s".encode(), [*columns.values(), job])


def add_version(
    sql: psycopg.Connection, shelf: Shelf, job: UUID, *, content: str = "", published: bool = True
) -> str:
    """Store a version of a job, and publish it. Returns the path of its files."""
    row = sql.execute("SELECT shop, product_id, variant_id FROM jobs WHERE id = %s", [job]).fetchone()
    assert row
    stem = paths.stem(*row)
    files = {ending: sha256(f"{stem}{ending}{content or job}".encode()).hexdigest() for ending in ENDINGS}
    digest = paths.version_digest(files)
    sql.execute(
        """INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, result_key, files)
        SELECT worker.storage_path(shop, product_id, variant_id), %s, %s, shop, worker.last_part(product_id), id, 'key', %s
        FROM jobs WHERE id = %s
        ON CONFLICT (path, digest) DO UPDATE SET job_id = excluded.job_id""",
        [digest, stem, Jsonb(files), job],
    )
    of_version = paths.version_stem(stem, digest)
    for ending in ENDINGS:
        shelf.put(of_version + ending)
    if published:
        sql.execute(
            """INSERT INTO worker.published (path, stem, shop, product, digest, job_id, requested_at, written)
            SELECT path, stem, shop, product, digest, job_id, now(), digest FROM worker.versions WHERE job_id = %s
            ON CONFLICT (path) DO UPDATE SET digest = excluded.digest, job_id = excluded.job_id, written = excluded.written""",
            [job],
        )
        for ending in ENDINGS:
            shelf.put(stem + ending)
    return of_version


def furnish(sql: psycopg.Connection, shelf: Shelf, shop: str, products: int = 2) -> None:
    """Fill the tables and the store with all that a shop can have. Each of them names the shop."""
    for n in range(products):
        completed = insert(sql, shop, f"gid://shopify/Product/{n}", f"{n}")
        move(sql, completed, "completed")
        add_version(sql, shelf, completed)
        for status in ("completed", "failed"):
            move(sql, insert(sql, shop, f"{n}"), status)
        insert(sql, shop, f"{n}", dedupe_key=f"{shop} {n}")
    lost = insert(sql, shop, "lost")
    move(sql, lost, "lost")
    add_version(sql, shelf, lost, published=False)
    stem = paths.stem(shop, "0")
    for stray in (f"{stem}.png", f"{stem}/old.usdz", f"{paths.stem(shop)}/gone/1.glb"):
        shelf.put(stray)
    if shelf.folder:
        shelf.put(f"{paths.stem(shop)}/.0.glb.draft")
    sql.execute("INSERT INTO worker.shop_limits (shop, jobs_a_day) VALUES (%s, 5000)", [shop])
    for name in ("spring", "autumn"):
        name_of_batch = [shop, name]
        sql.execute(
            "INSERT INTO worker.batches (shop, batch, created_at, opened, changed_at) VALUES (%s, %s, now(), true, now())",
            name_of_batch,
        )
        sql.execute(
            "INSERT INTO worker.batch_changes (shop, batch, waiting) VALUES (%s, %s, 1)", name_of_batch
        )
    sql.execute("INSERT INTO worker.shop_days (shop, day, quality) VALUES (%s, now(), 'fast')", [shop])
    sql.execute("INSERT INTO worker.shop_changes VALUES (%s, now(), 'fast', 1, 0, 0, 0, 1, 1, 1)", [shop])
    insert(sql, shop, "batched", batch="spring")
    sql.execute("SELECT worker.write_shop_event(%s, 'batch.finished', '{}')", [shop])
    sql.execute(
        "UPDATE worker.outbox SET dead_at = now(), next_attempt_at = NULL WHERE seq ="
        " (SELECT min(seq) FROM worker.outbox WHERE shop = %s)",
        [shop],
    )


def supersede(sql: psycopg.Connection, *names: str) -> None:
    """Enter older jobs of these shops that are not to be claimed. The next claim would remove the entry."""
    for shop in names:
        sql.execute(
            "INSERT INTO worker.superseded SELECT worker.storage_path(%s, '0', NULL), now(), %s", [shop, shop]
        )


def texts(sql: psycopg.Connection) -> dict[str, list[str]]:
    """Return each row of each table of the schema, as text."""
    tables = sql.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'worker')"
    ).fetchall()
    return {
        name: sorted(row[0] for row in sql.execute(f"SELECT each::text FROM {name} AS each".encode()))
        for (name,) in tables
    }


def traces(sql: psycopg.Connection, shelf: Shelf, shop: str) -> list[str]:
    """Return all rows and paths that name a shop: in clear, in a URL, in a path, in the digest of a product's path."""
    row = sql.execute(
        "SELECT array_agg(worker.storage_path(%s, n::text, NULL)) FROM generate_series(0, 9) n", [shop]
    ).fetchone()
    assert row
    names = {shop, json.dumps(shop)[1:-1], quote(shop), paths.stem(shop), *row[0]}
    found = [f"{table}: {text}" for table, rows in texts(sql).items() for text in rows]
    return [text for text in [*found, *shelf.files()] if any(name in text for name in names)]


def forget(sql: psycopg.Connection, shop: str, product: str | None = None) -> UUID:
    """Call the function for backends."""
    row = (
        sql.execute("SELECT forget_shop(%s)", [shop]).fetchone()
        if product is None
        else sql.execute("SELECT forget_product(%s, %s)", [shop, product]).fetchone()
    )
    assert row
    return UUID(str(row[0]))


def finish(engine: Engine, store: Store, sql: psycopg.Connection) -> None:
    """Carry out all erasures, as daemons do, without the waits between their rounds."""
    for _ in range(200):
        while work := erase.take(engine):
            erase.carry_out(engine, store, work)
        if sql.execute("SELECT count(*) FROM worker.erasures WHERE done_at IS NULL").fetchone() == (0,):
            return
        time.sleep(0.01)  # for a lease to expire
        expire(sql)
    raise AssertionError("an erasure does not end")


def expire(sql: psycopg.Connection) -> None:
    """Make every erasure due, as when its time has come."""
    sql.execute("UPDATE worker.erasures SET next_try_at = now() WHERE done_at IS NULL")


def run_until_killed(url: str, shelf: Shelf, steps: int) -> bool:
    """Carry out what is due in a process that kills itself at the given step. False if it came to its end before.

    A step is the time before or after a statement, or before or after a request to the store.
    """
    child = get_context("fork").Process(target=_carry_out, args=(url, shelf, steps))
    child.start()
    child.join(60)
    assert child.exitcode in {0, -signal.SIGKILL}
    return child.exitcode != 0


def _carry_out(url: str, shelf: Shelf, steps: int) -> None:
    left = steps

    def step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    execute = Cursor.execute

    def run(self: Cursor, *arguments: Any, **named: Any) -> Any:
        step()
        cursor = execute(self, *arguments, **named)
        step()
        return cursor

    setattr(Cursor, "execute", run)  # noqa: B010 - of this process alone
    engine = database.connect(database.parse(url, "DATABASE_URL"))
    store = cast(Store, _Stepping(shelf.open(), step))  # it is asked for files alone
    while work := erase.take(engine):
        erase.carry_out(engine, store, work)
    os._exit(0)


class _Stepping:
    def __init__(self, store: Store, step: Callable[[], None]) -> None:
        self.store = store
        self.step = step

    def find(self, stem: str) -> list[str]:
        found = self.store.find(stem)
        self.step()
        return found

    def remove(self, doomed: Iterable[str], _check: Callable[[], None]) -> None:
        """Remove the files one by one: a process may die between any two of them."""
        for path in doomed:
            self.step()
            self.store.remove([path])
