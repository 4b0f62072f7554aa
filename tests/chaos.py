"""A small world of daemons, a database, a backend and folders, and everything that can happen to it.

Each disturbance is a context: it begins with the `with`, and what it broke is whole again after it. A seed decides which
come, when and for how long; what the machine makes of it is another matter, so a seed repeats the causes, not the effects.
"""

import ctypes
import json
import os
import random
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import proxy
import psycopg
from conftest import Daemon, files_below, launch, until

from worker.local.postgres import Postgres, start_server

LEASE_S = 4
DAEMONS = 2
AT_FDCWD, RENAME_EXCHANGE = -100, 2

# A connection that no setting of a database or role disturbs: the test's own.
PLAIN = (
    "-c client_encoding=UTF8 -c datestyle=ISO -c intervalstyle=postgres -c statement_timeout=8000 -c lock_timeout=0"
    " -c default_transaction_read_only=off -c search_path=public"
)
HOSTILE = (
    "client_encoding = 'LATIN1'",
    "datestyle = 'SQL, DMY'",
    "datestyle = 'German'",
    "intervalstyle = 'sql_standard'",
    "timezone = 'Pacific/Chatham'",
    "bytea_output = 'escape'",
    "statement_timeout = '300ms'",
    "lock_timeout = '50ms'",
    "idle_session_timeout = '700ms'",
    "default_transaction_read_only = on",
    "default_transaction_isolation = 'serializable'",
    "search_path = 'pg_temp'",
    "standard_conforming_strings = off",
    "extra_float_digits = -10",
    "synchronous_commit = off",
)
NESTED = '{"deep":' + "[" * 3000 + "]" * 3000 + "}"
POISON: tuple[dict[str, Any], ...] = (
    {"metadata": '{"n":1e5000}'},
    {"metadata": NESTED},
    {"metadata": '{"dimensions":{"height":1e400,"unit":"m"},"views":{"front":1e300}}'},
    {"metadata": '{"image_urls":"none","dimensions":[[[]]],"worker":{"seconds":"long"}}'},
    {"shop": "商店.example"},
    {"shop": "\x1b[2J\x1b]0;owned\x07.example"},
    {"product_id": "ü" * 200},
    {"product_id": "x" * 250},
    {"product_id": "../../etc/passwd"},
    {"image_urls": ["javascript:alert(1)"]},
    {"image_urls": ["https://[::1"]},
    {"image_urls": ["http://127.0.0.1:9/refused.png"], "max_attempts": 1},
    {"quality": "best\nof all"},
)


class Web(ThreadingHTTPServer):
    """Serves one photo at every path and takes webhooks, well or in a bad `mood`: `errors`, `silence` or `cuts`."""

    daemon_threads = True

    def __init__(self, photo: bytes, on_webhook: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.photo = photo
        self.mood = ""
        self.better = threading.Event()
        self.accepted: list[tuple[str, dict[str, Any]]] = []
        """The webhooks that were answered with 204, in their order: webhook-id and body."""
        self.accepting = threading.Lock()
        self.on_webhook = on_webhook

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    server: Web
    timeout = 20

    def do_GET(self) -> None:
        if self._is_well():
            self._answer(200, self.server.photo, "image/png")

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["content-length"])).decode()
        # Python's reader of JSON refuses what is nested so deeply as the metadata of some of these jobs.
        body = {name: _value(text, name) for name in ("jobId", "seq", "status", "modelUrl", "errorMessage")}
        if self._is_well():
            with self.server.accepting:
                self.server.accepted.append((self.headers["webhook-id"], body))
            self.server.on_webhook(body)
            self._answer(204, b"", "text/plain")

    def _is_well(self) -> bool:
        mood = self.server.mood
        if mood == "errors":
            self._answer(500, b"made up", "text/plain")
        elif mood:
            self.server.better.wait(12 if mood == "silence" else 0)
            self.close_connection = True
        return not mood

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        with suppress(OSError):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _value(text: str, name: str) -> Any:
    """The value of a key of a webhook's body, a string or a number."""
    found = re.search(rf'"{name}": ?("(?:[^"\\\\]|\\\\.)*"|\d+)', text)
    return json.loads(found[1]) if found else None


class World:
    """Two daemons, one of them behind a proxy; `disturb` it, then `calm` it."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        server: Postgres,
        name: str,
        link: proxy.Proxy,
        photo: bytes,
        weights: Path,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.folder = folder
        self.server_folder = server.data.parent.parent
        self.server = server
        self.name = name
        self.link = link
        self.web = Web(photo, self._write_back)
        threading.Thread(target=self.web.serve_forever, name="web", daemon=True).start()
        self.temp, self.store = folder / "tmp", folder / "store"
        self.orders = folder / "rogue"
        self.orders.mkdir()
        self.jobs: list[Any] = []
        self.spared: set[Any] = set()  # jobs that nobody cancelled or poisoned: they must complete
        self.started = 0
        self.daemons: list[Daemon | None] = [None] * DAEMONS
        self.all_daemons: list[Daemon] = []
        self.ended_by_us: set[int] = set()
        self.story: list[str] = []
        self.variables = {
            "BACKEND_URL": self.web.url,
            "WORKER_STORAGE_DIR": str(self.store),
            "WORKER_WEIGHTS_DIR": str(weights),
            "WORKER_LEASE_S": str(LEASE_S),
            "WORKER_POLL_S": "0.5",
            "WORKER_GRACE_S": "3",
            "WORKER_SOFT_LIMIT_S": "60",
            "WORKER_HARD_LIMIT_S": "70",
            "WORKER_MIN_FREE_MB": "10",
            "PYTHON_ROGUE": str(self.orders),
        }

    # The database, as a backend or an operator sees it

    def ask(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement. Raises: psycopg.Error."""
        url = self.server.url(self.name)
        with psycopg.connect(url, autocommit=True, connect_timeout=5, options=PLAIN) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def attempt(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """As `ask`, but the database may be away, or refuse."""
        with suppress(psycopg.Error):
            return self.ask(statement, *parameters)
        return []

    def insert(self, **columns: Any) -> None:
        """A row as a backend writes it: mostly a good one."""
        number = len(self.jobs) + self.rng.randrange(10**9)
        poison = self.rng.choice(POISON) if not columns and self.rng.random() < 0.25 else {}
        row = {
            "shop": f"shop-{self.rng.randrange(4)}.example",
            "product_id": str(number),
            "image_urls": [f"{self.web.url}/{number}.png"],
            "quality": "fast",
            "priority": self.rng.randrange(3),
            "max_attempts": 25,
            "metadata": "{}",
        }
        row |= columns | poison
        names = ", ".join(row)
        marks = ", ".join(["%s"] * len(row))
        for (job,) in self.attempt(
            f"INSERT INTO jobs ({names}) VALUES ({marks}) RETURNING id", *row.values()
        ):
            self.jobs.append(job)
            if not poison:
                self.spared.add(job)

    def meddle(self) -> None:
        """What people and backends do to rows."""
        if not self.jobs:
            return
        job = self.rng.choice(self.jobs)
        statement = self.rng.choice(
            [
                "SELECT cancel_job(%s)",
                "SELECT retry_job(%s)",
                "UPDATE jobs SET priority = 9 WHERE id = %s",
                "UPDATE jobs SET run_after = now() + interval '1 s' WHERE id = %s",
                "UPDATE jobs SET status = 'completed', progress = 100, model_url = 'https://a/b' WHERE id = %s",
                "DELETE FROM jobs WHERE id = %s",
            ]
        )
        if statement.startswith(("SELECT cancel", "DELETE")):
            self.spared.discard(job)
        self.attempt(statement, job)

    def _write_back(self, body: dict[str, Any]) -> None:
        """What the existing backend does with each webhook, some time later: it writes all of it into the row."""
        if body["seq"] % 8 == 0:
            self.attempt(
                "UPDATE jobs SET status = %s::worker.job_state, model_url = %s, error_message = %s, updated_at = '2020-01-01'"
                " WHERE id = %s",
                body["status"],
                body["modelUrl"],
                body["errorMessage"],
                body["jobId"],
            )

    # Processes

    def start(self, place: int) -> None:
        port = self.link.port if place == 0 else self.server.port
        url = self.server.url(self.name).replace(f":{self.server.port}/", f":{port}/")
        self.started += 1
        variables = self.variables | {"DATABASE_URL": url, "WORKER_NAME": f"d{self.started}"}
        daemon = launch(self.folder, self.started, variables)
        self.daemons[place] = daemon
        self.all_daemons.append(daemon)

    def living(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons if daemon]

    def processes(self) -> set[int]:
        """All that live and were started by a daemon of this world, the daemons included."""
        mark = f"PYTHON_ROGUE={self.orders}".encode()
        # A daemon hides its environment from its own user.
        found = {daemon.process.pid for daemon in self.all_daemons if daemon.process.poll() is None}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                stopped = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if not stopped and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
        return found

    def order(self, pid: int, what: str) -> None:
        """Have a process run a function of `tests/child/rogue.py`."""
        (self.orders / "draft").write_text(what)
        (self.orders / "draft").rename(self.orders / str(pid))

    # From outside

    def disturb(self, seconds: float) -> None:
        """Let things happen for so long."""
        running: dict[str, tuple[float, ExitStack]] = {}
        clock, step = 0.0, 0.35
        pause = threading.Event()
        try:
            while clock < seconds:
                self.insert()
                if self.rng.random() < 0.5:
                    self.meddle()
                name = self.rng.choice(list(DISTURBANCES))
                lasts = self.rng.uniform(0.2, 1.5 * LEASE_S)
                if name not in running and self.rng.random() < 0.6:
                    self.story.append(f"{clock:.1f} s: {name} for {lasts:.1f} s")
                    stack = ExitStack()
                    stack.enter_context(DISTURBANCES[name](self))
                    running[name] = clock + lasts, stack
                for name in [name for name, (end, _) in running.items() if end <= clock]:
                    running.pop(name)[1].close()
                pause.wait(step)
                clock += step
        finally:
            for _, stack in running.values():
                stack.close()

    def calm(self, timeout: float) -> None:
        """Wait until all jobs have ended and all events are delivered; waits before a next try are cut short."""
        for place, daemon in enumerate(self.daemons):
            if daemon is None or daemon.process.poll() is not None:
                self.start(place)

        def ended() -> bool:
            self.attempt("UPDATE jobs SET run_after = now() WHERE status = 'pending' AND run_after > now()")
            return self.attempt("SELECT count(*) FROM jobs WHERE completed_at IS NULL") == [(0,)]

        until(ended, timeout, "all jobs to end")
        for daemon in self.living():
            daemon.wait_for("ready")
        self.own_folders = [
            path for path in self.temp.iterdir() if int(path.name.partition("-")[0]) in self.processes()
        ]
        until(
            lambda: (
                not [
                    file
                    for folder in self.own_folders
                    for file in files_below(folder)
                    if file.name != ".lock"
                ]
            )
        )
        # New ones, which find what is due and sweep what dead ones left.
        for place, daemon in enumerate(self.daemons):
            assert daemon
            assert daemon.stop() == 0
            self.ended_by_us.add(daemon.process.pid)
            self.attempt("UPDATE worker.outbox SET next_attempt_at = now() WHERE next_attempt_at > now()")
            self.start(place)
            self.living()[place].wait_for("ready")
        self.attempt("UPDATE worker.published SET next_try_at = now() WHERE next_try_at > now()")
        unpublished = "SELECT count(*) FROM worker.published WHERE next_try_at IS NOT NULL OR written IS DISTINCT FROM digest"
        until(lambda: self.ask(unpublished) == [(0,)], timeout, "all models to be published")
        waiting = "SELECT count(*) FROM worker.outbox WHERE delivered_at IS NULL AND dead_at IS NULL"
        until(lambda: self.ask(waiting) == [(0,)], timeout, "all webhooks to be delivered")

    def close(self) -> None:
        self.web.mood = ""
        self.web.better.set()
        for daemon in self.all_daemons:
            with suppress(OSError):
                daemon.process.send_signal(signal.SIGCONT)
            daemon.process.kill()
            daemon.process.wait()
        self.web.shutdown()
        self.web.server_close()


def exchange(one: Path, other: Path) -> None:
    """Swap two paths in one step, so that nobody finds the place empty and fills it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2", str(one))


@contextmanager
def kill_daemon(world: World) -> Iterator[None]:
    place = world.rng.randrange(DAEMONS)
    if daemon := world.daemons[place]:
        world.ended_by_us.add(daemon.process.pid)
        daemon.process.kill()
        daemon.process.wait()
        world.daemons[place] = None
    yield
    if world.daemons[place] is None:
        world.start(place)


@contextmanager
def stop_daemon(world: World) -> Iterator[None]:
    """As a deployment does: SIGTERM, sometimes a second one; another daemon comes at once."""
    place = world.rng.randrange(DAEMONS)
    daemon = world.daemons[place]
    twice = world.rng.random() < 0.5
    if daemon:
        world.ended_by_us.add(daemon.process.pid)
        daemon.process.send_signal(signal.SIGTERM)
        if twice:
            daemon.process.send_signal(signal.SIGTERM)
        world.start(place)
    yield


def pick(world: World, *, daemons: bool) -> int | None:
    """A process, of the daemons or of their children."""
    own = {daemon.process.pid for daemon in world.living()}
    found = sorted(own if daemons else world.processes() - own)
    return world.rng.choice(found) if found else None


@contextmanager
def kill_child(world: World) -> Iterator[None]:
    if pid := pick(world, daemons=False):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def freeze(world: World) -> Iterator[None]:
    pid = pick(world, daemons=world.rng.random() < 0.7)
    with suppress(OSError):
        if pid:
            os.kill(pid, signal.SIGSTOP)
    yield
    with suppress(OSError):
        if pid:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def stop_database(world: World) -> Iterator[None]:
    world.server.stop(world.rng.choice(["fast", "immediate"]))
    yield
    start_server(world.server_folder)


@contextmanager
def cut_connections(world: World) -> Iterator[None]:
    if world.rng.random() < 0.5:
        world.link.cut()
    else:
        world.attempt("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    yield


@contextmanager
def dead_link(world: World) -> Iterator[None]:
    """The proxy takes what is sent and says nothing."""
    world.link.swallow()
    yield
    world.link.heal()


@contextmanager
def lock_rows(world: World) -> Iterator[None]:
    """A person's open transaction, on some rows or on all unfinished ones."""
    share = world.rng.choice([0.3, 1])
    try:
        connection = psycopg.connect(world.server.url(world.name), connect_timeout=5, options=PLAIN)
    except psycopg.Error:
        yield
        return
    with suppress(psycopg.Error):
        connection.execute(
            "SELECT id FROM jobs WHERE completed_at IS NULL AND random() < %s FOR UPDATE SKIP LOCKED", [share]
        )
    yield
    connection.close()


@contextmanager
def hostile_setting(world: World) -> Iterator[None]:
    setting = world.rng.choice(HOSTILE)
    world.story.append(f"  {setting}")
    world.attempt(f"ALTER DATABASE {world.name} SET {setting}")
    world.attempt("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    yield
    until(lambda: _reset(world), what="the database to take its settings back")


def _reset(world: World) -> bool:
    try:
        world.ask(f"ALTER DATABASE {world.name} RESET ALL")
    except psycopg.Error:
        start_server(world.server_folder)
        return False
    world.attempt("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    return True


@contextmanager
def bad_backend(world: World) -> Iterator[None]:
    world.web.better.clear()
    world.web.mood = world.rng.choice(["errors", "silence", "cuts"])
    yield
    world.web.mood = ""
    world.web.better.set()


@contextmanager
def taken_away(world: World, folder: Path) -> Iterator[None]:
    """A file lies where the folder was; then the folder is back."""
    file = world.folder / f"not-{folder.name}"
    if not folder.is_dir():
        yield
        return
    file.touch()
    exchange(folder, file)
    yield
    exchange(folder, file)
    file.unlink()


@contextmanager
def clean_temp(world: World) -> Iterator[None]:
    """What a clean-up job does that knows nothing of us."""
    what = world.rng.choice(["all", "folders", "files"])
    if world.temp.is_dir():
        if what == "all":
            shutil.rmtree(world.temp, ignore_errors=True)
        for path in files_below(world.temp) if what == "files" else world.temp.glob("*"):
            with suppress(OSError):
                path.unlink() if what == "files" else shutil.rmtree(path, ignore_errors=True)
    yield


@contextmanager
def shift_clock(world: World) -> Iterator[None]:
    """The wall clock of one host jumps. No library for it is needed: the daemon's Python gets another time."""
    if pid := pick(world, daemons=True):
        world.order(pid, world.rng.choice(["a_day_ahead", "a_day_behind"]))
    yield


Disturbance = Callable[[World], Any]

DISTURBANCES: dict[str, Disturbance] = {
    "a daemon killed": kill_daemon,
    "a daemon stopped": stop_daemon,
    "a child killed": kill_child,
    "a process frozen": freeze,
    "the database stopped": stop_database,
    "connections cut": cut_connections,
    "a dead link": dead_link,
    "rows locked": lock_rows,
    "a hostile setting": hostile_setting,
    "a bad backend": bad_backend,
    "the temp folder taken away": lambda world: taken_away(world, world.temp),
    "the storage folder taken away": lambda world: taken_away(world, world.store),
    "the temp folder cleaned": clean_temp,
    "a clock shifted": shift_clock,
}
