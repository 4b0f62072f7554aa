"""Planted secrets are looked for in everything that a run full of failures leaves behind.

The one place where a photo's token may stand is the column in which the backend itself put it: jobs.image_urls.
"""

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bucket_server
import psycopg
import pytest
import receiver
from conftest import StartDaemon, files_below, until
from receiver import Answer
from sqlalchemy.engine import Engine

from worker import database
from worker.core.settings import ConfigError
from worker.jobs import queue
from worker.local.server import in_background

DATABASE_PASSWORD = "planted-database-password"
BEARER = "planted-bearer-token"
PHOTO_TOKEN = "planted-photo-token"
WEBHOOK_SECRETS = [base64.b64encode(f"planted webhook secret {n} ....".encode()).decode() for n in "12"]
SERVICE_KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.cGxhbnRlZC1zZXJ2aWNlLWtleQ"

PLANTED = {
    "the service key": SERVICE_KEY.rpartition(".")[2],
    "the database's password": DATABASE_PASSWORD,
    "the bearer token": BEARER,
    "a photo's token": PHOTO_TOKEN,
    "a webhook secret": WEBHOOK_SECRETS[0],
    "the other webhook secret": WEBHOOK_SECRETS[1],
    "a webhook secret's bytes": "planted webhook secret",
}


def leaks(where: str, content: bytes | str) -> list[str]:
    text = content.encode() if isinstance(content, str) else content
    return [f"{what} in {where}" for what, secret in PLANTED.items() if secret.encode() in text]


class Photos(BaseHTTPRequestHandler):
    """A CDN that loses things."""

    server: "Cdn"

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        if name == "/moved.png":
            self.send_response(302)
            self.send_header("location", f"/gone.png?token={PHOTO_TOKEN}")
            self.end_headers()
        elif name in {"/mug.png", "/vanishing.png"}:
            if name == "/vanishing.png":
                self.server.lose_files()
            self.send_response(200)
            self.send_header("content-length", str(len(self.server.photo)))
            self.end_headers()
            self.wfile.write(self.server.photo)
        else:
            self.send_error(500 if name == "/broken.png" else 404)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class Cdn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, photo: bytes, lose_files: Callable[[], None]) -> None:
        super().__init__(("127.0.0.1", 0), Photos)
        self.photo = photo
        self.lose_files = lose_files

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(photo: bytes, lose_files: Callable[[], None]) -> Iterator[Cdn]:
    with in_background(Cdn(photo, lose_files)) as server:
        yield server


def exploding() -> Callable[[str, str], bucket_server.Fault | None]:
    """Return a fault of two of one product's uploads."""
    faults = [bucket_server.refusal("500", "Internal", 500), bucket_server.lose_answer]

    def fault(method: str, path: str) -> bucket_server.Fault | None:
        if method != "POST" or "/explodes" not in path:
            return None
        return faults.pop(0) if faults else None

    return fault


@contextmanager
def watching(folders: list[Path], daemon: Callable[[], int | None]) -> Iterator[list[str]]:
    """What leaks meanwhile: into files that come and go, and into the environments of the daemon's children."""
    found: list[str] = []
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            children = Path(f"/proc/{daemon()}/task").glob("*/children")
            with suppress(OSError):
                pids = {pid for file in children for pid in file.read_text().split()}
                for file in [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("environ", "cmdline")]:
                    seen.add(file.name)
                    found.extend(leaks(f"a child's {file.name}", file.read_bytes()))
            for file in [file for folder in folders for file in files_below(folder)]:
                with suppress(OSError):
                    found.extend(leaks(f"the file {file.name}", file.read_bytes()))
                    seen.add("files")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
    assert seen == {"environ", "cmdline", "files"}


@pytest.fixture
def least_privileged(sql: psycopg.Connection, database_url: str) -> Iterator[str]:
    """The address with which a daemon logs in that has the worker's rights and no more."""
    sql.execute(f"CREATE ROLE planted LOGIN PASSWORD '{DATABASE_PASSWORD}' IN ROLE worker".encode())
    yield f"postgresql://planted:{DATABASE_PASSWORD}@{database_url.rpartition('@')[2]}"
    sql.execute("DROP ROLE planted")


def test_no_secret_is_left_behind_by_a_run_full_of_failures(
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    least_privileged: str,
    tmp_path: Path,
    mug: bytes,
) -> None:
    # What no handler of the daemon expects, with an error that repeats the row, as those of Postgres may.
    sql.execute("""
        CREATE FUNCTION explode() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'made up: %', NEW.image_urls; END $$;
        CREATE TRIGGER explode BEFORE UPDATE ON jobs FOR EACH ROW
            WHEN (NEW.progress = 95 AND NEW.product_id = 'explodes') EXECUTE FUNCTION explode()""")
    scratch, temporary = tmp_path / "tmp", tmp_path / "TMPDIR"
    temporary.mkdir()
    process: list[int] = []

    def lose_files() -> None:
        for folder in scratch.glob("*/*-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def complain(webhook: receiver.Webhook, handler: BaseHTTPRequestHandler) -> Answer | None:
        """A debug page that repeats the request, secrets and all."""
        if len(webhooks.seen) % 2 == 0:
            return None
        page = json.dumps(webhook.headers).encode()
        handler.send_response(
            500 if len(webhooks.seen) % 3 else 403, "no " + webhook.headers["authorization"]
        )
        handler.send_header("content-length", str(len(page)))
        handler.end_headers()
        handler.wfile.write(page)
        return None

    with (
        receiver.serve() as webhooks,
        bucket_server.serve() as bucket,
        serving(mug, lose_files) as cdn,
        watching([scratch, temporary], lambda: process[0] if process else None) as meanwhile,
    ):
        webhooks.reply = complain
        bucket.key = SERVICE_KEY
        bucket.fault = exploding()
        variables = {
            "DATABASE_URL": least_privileged,
            "SUPABASE_URL": bucket.url,
            "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
            "WORKER_STORAGE_DIR": "",
            "BACKEND_URL": webhooks.url,
            "WEBHOOK_SECRET": f"whsec_{WEBHOOK_SECRETS[0]},{WEBHOOK_SECRETS[1]}",
            "WORKER_WEBHOOK_BEARER_TOKEN": BEARER,
            "WORKER_LOG_LEVEL": "debug",
            "TMPDIR": str(temporary),
        }
        daemon = start_daemon(**variables)
        process.append(daemon.process.pid)
        for n, url in enumerate(
            [
                f"{cdn.url}/vanishing.png",
                f"{cdn.url}/mug.png",
                f"{cdn.url}/missing.png",
                f"{cdn.url}/broken.png",
                f"{cdn.url}/moved.png",
                "http://127.0.0.1:9/nobody.png",
                "http://127.0.0.1:99999/no-port.png",
                "http://[bad/no-host.png",
            ]
        ):
            product = "explodes" if n == 1 else str(n)
            token = f"{url}?token={PHOTO_TOKEN}"
            queue.enqueue(engine, shop="a", product_id=product, image_urls=[token], quality="fast")
        sql.execute("UPDATE jobs SET max_attempts = 1")
        # The database goes away under it.
        daemon.wait_for("child_error", 60)
        sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'shop-model-worker' AND pid <> pg_backend_pid()"
        )
        until(
            lambda: (
                sql.execute("SELECT count(*) = 0 FROM jobs WHERE completed_at IS NULL").fetchone() == (True,)
            ),
            60,
            "all jobs to end",
        )
        until(lambda: len(webhooks.seen) > 6)
        daemon.stop(60)
        stored = b"".join(file.content for file in bucket.bucket.objects.values())
        leaked = leaks("the bucket", stored) + meanwhile

        # Starts that fail, too.
        elsewhere = least_privileged.rpartition("@")[0] + "@127.0.0.1:1/x"
        away = start_daemon(ready=False, **variables | {"DATABASE_URL": elsewhere})
        away.wait_for("database_lost")
        away.process.kill()
    with pytest.raises(ConfigError) as error:
        database.parse(f"postgresql://planted:{DATABASE_PASSWORD}@host:port/x", "DATABASE_URL")
    leaked += leaks("the message", str(error.value))

    # What was to go wrong did.
    assert "Traceback" in "".join(event["exception"] for event in daemon.events("child_error"))
    assert "Traceback" in "".join(event["exception"] for event in daemon.events("lane_error"))
    assert daemon.events("webhook_retry_scheduled")
    codes = {row[0] for row in sql.execute("SELECT coalesce(error_code, status::text) FROM jobs")}
    assert {"internal_error", "photo_not_found", "photo_unreachable"} <= codes

    for log in (daemon.log, away.log):
        leaked += leaks(f"the log {log.name}", log.read_bytes())
    tables = sql.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'worker')"
    ).fetchall()
    assert {"jobs", "outbox"} <= {name for _, name in tables}
    for schema, name in tables:
        rows = sql.execute(f"SELECT (to_jsonb(t) - 'image_urls')::text FROM {schema}.{name} AS t".encode())
        for row in rows.fetchall():
            leaked += leaks(f"the table {name}", row[0])
    assert leaked == []
