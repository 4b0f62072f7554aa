"""A notification must never cost a row: with Postgres's queue of notifications full, everything goes on, unannounced."""

from pathlib import Path

import psycopg
import pytest
from conftest import connected

from worker import database
from worker.database import migrate
from worker.jobs import queue
from worker.local.postgres import remove_server, start_server


def test_a_full_queue_of_notifications_refuses_nothing(memory: Path) -> None:
    folder = memory / "full"
    server = start_server(folder)
    try:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")  # the least, 0.5 MB
            admin.execute("ALTER SYSTEM SET fsync = off")
        server.stop("fast")
        server = start_server(folder)
        url = server.create_database("jobs")
        migrate.upgrade(database.parse(url, ""))
        with (
            psycopg.connect(url, autocommit=True) as listener,
            psycopg.connect(url, autocommit=True) as sql,
            connected(url) as engine,
        ):
            # What a session that listens has not read yet is kept, and it reads nothing in an open transaction.
            listener.execute("LISTEN anything")
            listener.execute("BEGIN")
            fill = (
                "SELECT pg_notify('anything', repeat('x', 7900)) WHERE pg_notification_queue_usage() < 0.98"
            )
            while sql.execute(fill).fetchone():
                pass
            with pytest.raises(psycopg.OperationalError, match="NOTIFY queue"):
                sql.execute("SELECT pg_notify('anything', repeat('x', 7900)) FROM generate_series(1, 9) AS n")
            for product in "12":
                queue.enqueue(engine, shop="a", product_id=product, image_urls=["http://a/b"])
            job = queue.claim(engine, worker="w", lease_s=30)
            assert job
            queue.report(engine, job, progress=40, stage="framed", lease_s=30)
            assert sql.execute("SELECT cancel_job(id) FROM jobs WHERE status = 'pending'").fetchone() == (
                True,
            )
            queue.notify(engine, "anything")
            queue.gauges(engine, "anything")
            queue.complete(engine, job, model_url="http://m/1.glb", report={})
            assert sql.execute("SELECT retry_job(%s)", [job.id]).fetchone() == (True,)
            listener.execute("ROLLBACK")
    finally:
        server.stop("immediate")
        remove_server(folder)
