"""What the tests share: a real Postgres with a new database for each test, real HTTP on loopback, the real daemon."""

import gc
import io
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import gates
import psycopg
import pytest
import supabase_server as supabase
from PIL import Image, ImageDraw
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

from worker import database, weights
from worker.database import migrate
from worker.jobs import queue
from worker.jobs.hosts import Host
from worker.jobs.queue import Job
from worker.local.postgres import Postgres, start_server
from worker.local.server import DevServer, serve_folder
from worker.storage import paths
from worker.versions import queue as versions

# Several tests run at the same time. OpenMP's threads spin while they wait and take the processors from the other tests: one
# test took 6 s alone and 109 s beside two others. Child processes inherit this setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores Ctrl-C, and so would the processes that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

NUMBERS = itertools.count()
HOST = Host(
    name="host", version="1", engine="relief", pools=("default",), lanes=1, devices=("cpu",), memory_mb=4096
)
TESTS = Path(__file__).parent
CHILD = TESTS / "child"
WEIGHTS = Path(os.environ.get("WORKER_WEIGHTS_DIR", Path.home() / ".cache" / "shop-model-worker"))
NPM = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shop-model-worker" / "npm"
"""Where .ci/run installs the packages that a few tests need."""

# The programs of another Postgres than the embedded one, set up as Supabase's are: .ci/run tries 15 and 17.
BINARIES = os.environ.get("WORKER_TEST_POSTGRES")

TEST_KINDS = ("system", "integration", "unit")
"""The kinds of tests, in the order in which they run."""


# Imports leave no garbage, and looking for it in each process takes a third of the time until the first test.
gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, in what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its kind. Run the system tests first, because they take longest."""
    for item in items:
        item.add_marker(kind(item))
    items.sort(key=lambda item: TEST_KINDS.index(kind(item)))


def kind(item: pytest.Item) -> str:
    """Return the kind of a test: `system` if it is in tests/system or starts a daemon, `integration` if it uses a database.

    A mark on the test or its module overrides this.
    """
    said = next((name for name in TEST_KINDS if item.get_closest_marker(name)), None)
    fixtures = set(getattr(item, "fixturenames", ()))
    if said:
        return said
    if "system" in item.path.relative_to(TESTS).parts or "start_daemon" in fixtures:
        return "system"
    return "integration" if fixtures & {"postgres", "u2netp"} else "unit"


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """Make a folder for the databases, in memory if there is room, because a busy disk slows the tests down."""
    shared = Path("/dev/shm")
    fits = shared.is_dir() and shutil.disk_usage(shared).free > 2_000_000_000
    # start_server() may also copy the server's programs to this folder.
    runs = fits and not os.statvfs(shared).f_flag & os.ST_NOEXEC
    folder = Path(tempfile.mkdtemp(prefix="shop-model-worker-", dir=shared if runs else None))
    folder.chmod(0o711)  # as root, the server runs as another user
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(memory: Path) -> Iterator[Postgres]:
    # The tests make hundreds of databases of 8 MB, and their data need not survive a crash. Beside a program that kept the
    # disk busy, the tests of the queue took 92 to 157 s on that disk and 51 to 55 s in memory.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(memory))
        server = start_server(memory / "postgres", binaries=Path(BINARIES) if BINARIES else None)
        with psycopg.connect(server.url(), autocommit=True) as admin:
            for setting in ("fsync = off", "max_wal_size = '64MB'"):
                admin.execute(f"ALTER SYSTEM SET {setting}".encode())
            admin.execute("SELECT pg_reload_conf()")
    if BINARIES:
        supabase.furnish(server)
    template = server.create_database("template_jobs")
    migrate.upgrade(database.parse(template, "DATABASE_URL"))
    if BINARIES:
        supabase.let_in(server)
    yield server
    server.stop("immediate")


@pytest.fixture
def superuser() -> None:
    """Skip the test where the tests' role is no superuser, as at Supabase."""
    if BINARIES:
        pytest.skip("needs a superuser")


def pytest_report_header() -> str | None:
    """Say which server is tested, where it is not the embedded one."""
    if not BINARIES:
        return None
    version = subprocess.run(
        [f"{BINARIES}/postgres", "--version"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return f"{version.strip()}, furnished like Supabase's, as a role that is no superuser"


@contextmanager
def new_database(postgres: Postgres, template: str = "template_jobs") -> Iterator[str]:
    """Create a database, yield its URL, and drop it at the end."""
    name = f"test_{next(NUMBERS)}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        # Copying the files takes a quarter less of a processor than writing each page into the log, the default.
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
    yield postgres.url(name)
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    with new_database(postgres, "template1") as url:
        yield url


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    with new_database(postgres) as url:
        yield url


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    engine = database.connect(database.parse(url, "DATABASE_URL"), pool_size=20)
    over = False
    made: list[psycopg.Connection] = []

    def end_late_threads(*_: object) -> None:
        # A listener's thread, say, which never ends in production: what it logs would reach the tests after this one.
        if over:
            raise SystemExit

    def note(connection: psycopg.Connection, _record: object) -> None:
        made.append(connection)
        if over:
            connection.close()
            raise SystemExit

    event.listen(engine, "do_connect", end_late_threads, insert=True)
    event.listen(engine, "connect", note)
    yield engine
    # The thread of a lease ends only after its current statement. It must not leave a connection open.
    over = True
    until(lambda: cast(QueuePool, engine.pool).checkedout() == 0)
    engine.dispose()
    for connection in made:
        connection.close()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    with connected(database_url) as engine:
        yield engine


@pytest.fixture
def sql(database_url: str) -> Iterator[psycopg.Connection]:
    """Connect without the worker's code, as a backend does."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def pooler(postgres: Postgres) -> Iterator[int]:
    """Run a real pgbouncer in transaction mode with two connections to the server; yield its port."""
    pgbouncer = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if pgbouncer is None:
        pytest.skip("pgbouncer is not installed; Debian has it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # It does not run as root, and another user cannot enter pytest's folders.
    nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        (folder / "users").write_text(f'"postgres" "{postgres.password}"\n')
        (folder / "ini").write_text(
            f"""
            [databases]
            * = host=127.0.0.1 port={postgres.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {folder}/users
            pool_mode = transaction
            default_pool_size = 2
            """.replace("            ", "")
        )
        for path in (folder, *folder.iterdir()):
            if nobody:
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [pgbouncer, str(folder / "ini")],
                stdout=log,
                stderr=log,
                user=nobody.pw_uid if nobody else None,
                group=nobody.pw_gid if nobody else None,
                extra_groups=[] if nobody else None,
            )
        try:
            until(lambda: b"process up" in (folder / "log").read_bytes(), what="pgbouncer")
            yield port
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def pooled_url(postgres: Postgres, database_url: str, pooler: int) -> str:
    return database_url.replace(f":{postgres.port}/", f":{pooler}/")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DevServer]:
    """Serve the photos that a test adds with `photos`, and receive the webhooks as a backend does."""
    folder = tmp_path / "site"
    folder.mkdir()
    with serve_folder(folder, tmp_path / "webhooks.jsonl") as server:
        yield server


@pytest.fixture
def photos(tmp_path: Path, site: DevServer) -> Callable[[str, bytes], str]:
    """Return a function that adds a file to the site and returns its URL."""

    def put(name: str, content: bytes) -> str:
        (tmp_path / "site" / name).write_bytes(content)
        return f"{site.url}/{name}"

    return put


@pytest.fixture(scope="session")
def mug() -> bytes:
    """Draw a mug with a handle as a transparent PNG, which needs no background model."""
    image = Image.new("RGBA", (400, 400))
    draw = ImageDraw.Draw(image)
    draw.ellipse((250, 130, 370, 270), outline=(180, 60, 40, 255), width=24)
    draw.rounded_rectangle((80, 80, 290, 330), 24, fill=(200, 70, 50, 255))
    draw.rectangle((80, 170, 290, 220), fill=(240, 220, 180, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def held(mug: bytes) -> Iterator[gates.Gates]:
    """Serve a photo that is sent only after `held.photos.set()`, so that a test decides how long its job runs."""
    with gates.serve(mug) as gate:
        gate.photos.clear()
        yield gate


@pytest.fixture(scope="session")
def u2netp() -> Path:
    """Fetch the weights of the small background model once; return the weights folder."""
    weights.fetch(WEIGHTS, "u2netp")
    return WEIGHTS


@dataclass
class Daemon:
    """A running `worker run`, its log and its folders."""

    process: "subprocess.Popen[bytes]"
    log: Path
    files: Path
    temp: Path

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        whole = self.log.read_text().rpartition("\n")[0]  # the last line may be half written
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if name in {None, line["event"]}]

    def wait_for(self, event: str, timeout: float = 60) -> dict[str, Any]:
        return until(lambda: self.events(event), timeout, f"{event} in\n{self.log.read_text()}")[0]

    def stop(self, timeout: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def leftovers(self) -> list[Path]:
        """Return the files of jobs, without the daemon's own lock and its check of the folder."""
        return [
            path
            for path in files_below(self.temp)
            if path.is_file() and path.name != ".lock" and not path.parent.name.startswith(".check-")
        ]


def complete_next(
    engine: Engine,
    *,
    digest: str,
    wants_review: bool = False,
    report: Mapping[str, Any] | None = None,
    store: str = "https://models.example",
) -> Job:
    """Claim the next job and complete it with a version, as a daemon does that has stored its files."""
    job = queue.claim(engine, worker="gpu-1:4711", lease_s=300)
    assert job
    stem = paths.stem(job.shop, job.product_id, job.variant_id)
    url = f"{store}/{stem}/v.{digest}.glb"
    versions.begin(engine, job, digest=digest, stem=stem, files={".glb": "0" * 64}, result_key=None)
    queue.complete(engine, job, model_url=url, report=report or {}, digest=digest, wants_review=wants_review)
    return job


T = TypeVar("T")


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder. `Path.rglob` raises if a folder is removed meanwhile."""
    return [Path(name) / file for name, _, files in os.walk(folder) for file in files]


StartDaemon = Callable[..., Daemon]


def launch(folder: Path, number: int, variables: dict[str, str], *, real_models: bool = False) -> Daemon:
    """Start `worker run` with its log and its files in the folder; `variables` override the defaults.

    Its models are the smallest possible (`tests/child/small.py`) unless `real_models` is true.
    """
    log = folder / f"daemon-{number}.log"
    defaults = {
        "WORKER_TEMP_DIR": str(folder / "tmp"),
        "WORKER_BACKGROUND_MODEL": "u2netp",
        "WORKER_PHOTO_LOOPBACK": "true",
        "WORKER_ENGINE": "relief",
        "WORKER_TURNTABLE": "false",  # costs more than the rest of the job
        "WORKER_LOG_FORMAT": "json",
        "CUDA_VISIBLE_DEVICES": "",
        "WORKER_LANES": "1",
        "PYTHONPATH": "" if real_models else str(CHILD),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run"],
            env=os.environ | defaults | variables,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Daemon(process, log, folder / "store", folder / "tmp")


@pytest.fixture
def start_daemon(database_url: str, site: DevServer, tmp_path: Path, u2netp: Path) -> Iterator[StartDaemon]:
    """Return a function that starts a daemon on the test's database, with settings by name. Kill the daemons afterwards."""
    started: list[Daemon] = []

    def start(*, ready: bool = True, real_models: bool = False, **environment: str) -> Daemon:
        variables = {
            "DATABASE_URL": database_url,
            "BACKEND_URL": site.url,
            "WORKER_STORAGE_DIR": str(tmp_path / "store"),
            "WORKER_WEIGHTS_DIR": str(u2netp),
        }
        daemon = launch(tmp_path, len(started), variables | environment, real_models=real_models)
        started.append(daemon)
        if ready:
            daemon.wait_for("ready")
        return daemon

    yield start
    for daemon in started:
        daemon.process.kill()
        daemon.process.wait()


def until(condition: Callable[[], T], timeout: float = 60, what: str = "it") -> T:
    """Wait until the condition is true; return its value."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.02)
    return found
