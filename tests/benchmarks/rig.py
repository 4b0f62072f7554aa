"""What the benchmark of the queue needs: an embedded Postgres, real daemons, and a photo server that can take its time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from worker import database
from worker.core.settings import ConfigError
from worker.database import migrate
from worker.local import samples
from worker.local.postgres import Postgres, remove_server, start_server
from worker.local.server import DevServer, in_background, serve_folder
from worker.local.stack import defer_signals
from worker.local.weights import BACKGROUND_MODEL

TRICKLE_S = 25  # what a slow photo takes; the worker's own limit is 30 s

T = TypeVar("T")
Json = dict[str, Any]


class Photos(ThreadingHTTPServer):
    """Sends a photo byte by byte at /slow…, until `quick` is set, and 404 elsewhere."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Slow)
        self.photo = samples.path("vase.png").read_bytes()
        self.quick = threading.Event()

    @property
    def missing(self) -> list[str]:
        """Photos with which a job ends as soon as it begins."""
        return [f"http://127.0.0.1:{self.server_port}/missing.jpg"]

    def slow(self, count: int) -> list[str]:
        """Photos that keep a job busy, four of them for TRICKLE_S together, or until `quick` is set."""
        return [f"http://127.0.0.1:{self.server_port}/slow-{n}.png" for n in range(count)]


class _Slow(BaseHTTPRequestHandler):
    server: Photos

    def do_GET(self) -> None:
        if not self.path.startswith("/slow"):
            self.send_error(404)
            return
        with suppress(OSError):  # whoever asked may be killed
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.send_header("content-length", str(len(self.server.photo)))
            self.end_headers()
            for n in range(TRICKLE_S):
                self.wfile.write(self.server.photo[n : n + 1])
                if self.server.quick.wait(1):
                    break
            self.wfile.write(self.server.photo[n + 1 :])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@dataclass
class Daemon:
    """A real `worker run`."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def events(self, name: str, **fields: str) -> list[Json]:
        """Return the lines of its log with this event and these fields."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if (line | fields | {"event": name}) == line]

    def first(self, name: str, timeout: float, **fields: str) -> float:
        """Return when it first logged this, in seconds since the epoch. Raises: TimeoutError."""
        found = until(lambda: self.events(name, **fields), timeout, f"{name} of {self.name}")
        return datetime.fromisoformat(found[0]["timestamp"]).timestamp()

    def processes(self) -> list[int]:
        """Return its process id and that of its newest child."""
        return [self.process.pid, *(event["pid"] for event in self.events("child_ready")[-1:])]


@dataclass
class Rig:
    """What runs, all in one folder."""

    folder: Path
    postgres: Postgres
    photos: Photos
    backend: DevServer
    daemons: list[Daemon] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """The store's folder."""
        return self.folder / "files"

    def database(self, name: str) -> str:
        """Create a database with our schema. Return its URL."""
        url = self.postgres.create_database(name)
        migrate.upgrade(database.parse(url, "DATABASE_URL"))
        return url

    def start(self, url: str, **settings: str) -> Daemon:
        """Start a daemon. Return when it is ready to claim."""
        name = f"bench-{len(self.daemons)}"
        log = self.folder / f"{name}.log"
        environment = {
            "DATABASE_URL": url,
            "SUPABASE_URL": "",
            "BACKEND_URL": self.backend.url,
            "CUDA_VISIBLE_DEVICES": "",
            "WORKER_LANES": "1",
            "WORKER_NAME": name,
            "WORKER_ENGINE": "relief",
            "WORKER_BACKGROUND_MODEL": BACKGROUND_MODEL,
            "WORKER_PHOTO_LOOPBACK": "true",
            "WORKER_STORAGE_DIR": str(self.files),
            "WORKER_STORAGE_URL": self.backend.url,
            "WORKER_TEMP_DIR": str(self.folder / "tmp"),
            "WORKER_LOG_FORMAT": "json",
        }
        with log.open("wb") as output, defer_signals():
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run"],
                env=os.environ | environment | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal reaches us alone, and we end it
            )
            daemon = Daemon(name, process, log)
            self.daemons.append(daemon)
        until(lambda: daemon.events("ready") or process.poll() is not None, 120, f"{name} to be ready")
        if process.poll() is not None:
            raise ConfigError(f"A daemon did not start: {log.read_text().splitlines()[-1]}")
        return daemon

    def stop(self, *daemons: Daemon) -> None:
        """Kill these daemons, or all."""
        for daemon in daemons or self.daemons:
            for pid in daemon.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            daemon.process.wait()


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """Start all in `folder`, and leave nothing running. Raises: ConfigError."""
    with ExitStack() as stack:
        with defer_signals():
            postgres = start_server(folder / "postgres")
            stack.callback(remove_server, folder / "postgres")
            stack.callback(postgres.stop, "immediate")
        photos = stack.enter_context(in_background(Photos()))
        files = folder / "files"
        files.mkdir()
        backend = stack.enter_context(serve_folder(files, folder / "webhooks.jsonl"))
        made = Rig(folder, postgres, photos, backend)
        stack.callback(made.stop)
        yield made


def sql(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Execute a statement on a connection of its own. Return its rows."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def until(condition: Callable[[], T], timeout: float, what: str, every_s: float = 0.02) -> T:
    """Return what `condition` gives as soon as it is true; it is called every so often. Raises: TimeoutError."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(every_s)
    return found
