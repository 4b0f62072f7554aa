"""What happens to jobs in one daemon: the tests of this file share it and its database."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import gates
import numpy as np
import psycopg
import pytest
from conftest import NUMBERS, Daemon, launch, new_database, until
from PIL import Image
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.local.postgres import Postgres
from worker.local.server import DevServer, serve_folder

SECRETS = {"WEBHOOK_SECRET": "c2VjcmV0LXBsYW50ZWQ=", "SUPABASE_SERVICE_ROLE_KEY": "planted-key"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the daemon's folder; `site` in it has the photos."""
    path = tmp_path_factory.mktemp("daemon")
    (path / "site").mkdir()
    return path


@pytest.fixture(scope="module")
def database_url(postgres: Postgres) -> Iterator[str]:
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[DevServer]:
    with serve_folder(folder / "site", folder / "webhooks.jsonl") as server:
        yield server


@pytest.fixture(scope="module")
def daemon(database_url: str, site: DevServer, folder: Path, u2netp: Path) -> Iterator[Daemon]:
    variables = {
        "DATABASE_URL": database_url,
        "BACKEND_URL": site.url,
        "WORKER_STORAGE_DIR": str(folder / "store"),
        "WORKER_WEIGHTS_DIR": str(u2netp),
        "WORKER_LEASE_S": "6",
    }
    daemon = launch(folder, 0, variables | SECRETS)
    daemon.wait_for("ready")
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


@pytest.fixture
def enqueue(engine: Engine, daemon: Daemon) -> Callable[[str], UUID]:
    """Return a function that inserts a job for a photo, each for another product, after the daemon has a child."""

    def insert(url: str) -> UUID:
        until(lambda: Path(f"/proc/{child(daemon)}").exists())
        return queue.enqueue(
            engine, shop="a", product_id=str(next(NUMBERS)), image_urls=[url], quality="fast"
        )

    return insert


def child(daemon: Daemon) -> int:
    """Return the process id of the daemon's current child."""
    return int(daemon.events("child_ready")[-1]["pid"])


def events_of(daemon: Daemon, job: UUID) -> list[str]:
    return [event["event"] for event in daemon.events() if event.get("job_id") == str(job)]


def test_every_stage_is_seen_in_the_row(
    enqueue: Callable[[str], UUID], engine: Engine, sql: psycopg.Connection, held: gates.Gates
) -> None:
    """Through a trigger that writes down what the row said, since a poll could miss a stage."""
    sql.execute("CREATE TABLE seen (number serial, id uuid, status text, progress int, stage text)")
    sql.execute("""
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen (id, status, progress, stage) VALUES (NEW.id, NEW.status, NEW.progress, NEW.stage);
            RETURN NULL;
        END $$""")
    sql.execute("CREATE TRIGGER see AFTER UPDATE OF progress ON jobs FOR EACH ROW EXECUTE FUNCTION see()")
    held.photos.set()
    job = enqueue(held.url)
    until(lambda: queue.get_jobs(engine, [job])[0]["completed_at"])
    sql.execute("DROP TRIGGER see ON jobs")
    seen = sql.execute("SELECT status, progress, stage FROM seen WHERE id = %s ORDER BY number", [job])
    assert seen.fetchall() == [
        ("processing", 5, "claimed"),
        ("processing", 10, "downloading"),
        ("processing", 40, "framed"),
        ("processing", 50, "generating"),
        ("processing", 60, "surface"),
        ("processing", 70, "textured"),
        ("processing", 80, "written"),
        ("processing", 85, "uploading"),
        ("processing", 95, "uploaded"),
        ("completed", 100, "completed"),
    ]


def photo_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "1x1":
        Image.new("RGB", (1, 1)).save(buffer, "PNG")
    elif kind == "white":
        Image.new("RGB", (500, 500), "white").save(buffer, "JPEG")
    else:
        noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "JPEG")
        return buffer.getvalue()[:20_000]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("missing", None, "photo_not_found"),
        ("text.png", b"not a photo", "photo_not_an_image"),
        ("tiny.png", photo_bytes("1x1"), "photo_too_small"),
        ("white.jpg", photo_bytes("white"), "no_object"),
        ("cut.jpg", photo_bytes("truncated"), "photo_broken"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_photo_fails_at_once_with_a_code_and_a_sentence(
    enqueue: Callable[[str], UUID],
    engine: Engine,
    daemon: Daemon,
    site: DevServer,
    folder: Path,
    name: str,
    content: bytes | None,
    code: str,
) -> None:
    if content:
        (folder / "site" / name).write_bytes(content)
    job = enqueue(f"{site.url}/{name}")
    until(lambda: queue.get_jobs(engine, [job])[0]["completed_at"])
    row = queue.get_jobs(engine, [job])[0]
    assert (row["status"], row["error_code"], row["attempts"]) == ("failed", code, 1)
    assert row["error_message"].endswith((".", "…"))
    assert row["report"]["photos"][0]["error_code"] == code
    until(lambda: not daemon.leftovers())
    assert not (daemon.files / "a" / f"{row['product_id']}.glb").exists()


def test_an_unreachable_photo_is_tried_again_later(
    enqueue: Callable[[str], UUID], engine: Engine, sql: psycopg.Connection
) -> None:
    job = enqueue("http://127.0.0.1:9/photo.jpg")
    until(lambda: queue.get_jobs(engine, [job])[0]["error_code"])
    row = queue.get_jobs(engine, [job])[0]
    assert (row["status"], row["error_code"], row["progress"]) == ("pending", "photo_unreachable", 0)
    assert sql.execute("SELECT run_after > now() FROM jobs WHERE id = %s", [job]).fetchone() == (True,)


def test_a_killed_child_costs_an_attempt_and_the_next_one_does_the_job(
    enqueue: Callable[[str], UUID],
    engine: Engine,
    sql: psycopg.Connection,
    daemon: Daemon,
    held: gates.Gates,
) -> None:
    job = enqueue(held.url)
    until(lambda: queue.get_jobs(engine, [job])[0]["progress"] >= 10)
    first = child(daemon)
    os.kill(first, signal.SIGKILL)
    until(lambda: child(daemon) != first)
    held.photos.set()
    until(lambda: queue.get_jobs(engine, [job])[0]["status"] == "completed")
    assert queue.get_jobs(engine, [job])[0]["attempts"] == 2
    history = sql.execute(
        "SELECT error_code FROM worker.attempts WHERE job_id = %s ORDER BY started_at", [job]
    )
    assert history.fetchall() == [("worker_lost",), (None,)]
    until(lambda: not daemon.leftovers())


def test_a_cancelled_job_stops_while_it_runs(
    enqueue: Callable[[str], UUID], engine: Engine, daemon: Daemon, held: gates.Gates
) -> None:
    job = enqueue(held.url)
    until(lambda: queue.get_jobs(engine, [job])[0]["progress"] >= 10)
    queue.request_cancel(engine, job)
    until(lambda: queue.get_jobs(engine, [job])[0]["status"] == "cancelled")
    until(lambda: not daemon.leftovers())


def test_a_deleted_row_ends_the_work_quietly(
    enqueue: Callable[[str], UUID],
    engine: Engine,
    sql: psycopg.Connection,
    daemon: Daemon,
    held: gates.Gates,
) -> None:
    job = enqueue(held.url)
    until(lambda: queue.get_jobs(engine, [job])[0]["progress"] >= 10)
    product = queue.get_jobs(engine, [job])[0]["product_id"]
    sql.execute("DELETE FROM jobs WHERE id = %s", [job])
    until(lambda: "lease_lost" in events_of(daemon, job))
    held.photos.set()
    until(lambda: not daemon.leftovers())
    assert "lane_error" not in events_of(daemon, job)
    assert not (daemon.files / "a" / f"{product}.glb").exists()


def test_the_daemon_is_light(daemon: Daemon) -> None:
    resident = Path(f"/proc/{daemon.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(resident) < 150 * 1024
    code = "import worker.daemon.main, sys; "
    code += "print([m for m in ('torch', 'numpy', 'rembg', 'alembic', 'worker.pipeline', 'worker.weights') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_the_child_sees_no_secret(daemon: Daemon) -> None:
    environment = Path(f"/proc/{child(daemon)}/environ").read_text()
    for secret in (*SECRETS.values(), "DATABASE_URL", "postgresql://"):
        assert secret not in environment
