"""Everything on one machine: embedded Postgres, a folder for the bucket, a receiver for webhooks, and the real daemon."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.request import getproxies_environment
from uuid import UUID

from sqlalchemy.engine import Engine

from worker import database
from worker.core import settings
from worker.core.settings import ConfigError
from worker.database import migrate
from worker.jobs import queue
from worker.local.postgres import start_server
from worker.local.server import DevServer, serve_folder
from worker.local.weights import BACKGROUND_MODEL

PAUSE_S = 0.2  # between two readings of the rows
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, `kill`, a terminal that is closed
AFTER_GRACE_S = 30  # for the last webhooks and the end of the daemon


@dataclass(frozen=True)
class Stack:
    """The running parts, and the settings with which other programs reach them."""

    environment: Mapping[str, str]
    server: DevServer
    files: Path


@contextmanager
def start_stack(
    folder: Path, *, engine: str, port: int = 0, on_webhook: Callable[[dict[str, Any]], None] = lambda _: None
) -> Iterator[Stack]:
    """Run Postgres with our schema, a store and a receiver, all in `folder`. Stop them afterwards and keep the data.

    Raises: ConfigError.
    """
    folder = folder.resolve()
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    with ExitStack() as ending:
        server = ending.enter_context(serve_folder(files, folder / "webhooks.jsonl", port, on_webhook))
        with defer_signals():
            postgres = start_server(folder / "postgres")
            ending.callback(postgres.stop)
        environment = {
            "DATABASE_URL": postgres.url(),
            "SUPABASE_URL": "",  # a developer's own setting would be a second place for the models
            "WORKER_STORAGE_DIR": str(files),
            "WORKER_STORAGE_URL": server.url,
            "BACKEND_URL": server.url,
            "WORKER_ENGINE": engine,
            "WORKER_BACKGROUND_MODEL": BACKGROUND_MODEL,
            "WORKER_LANES": os.environ.get("WORKER_LANES") or "1",  # a laptop has other things to do
            "WORKER_PHOTO_HOSTS": "*",  # whatever a developer tries
            "WORKER_PHOTO_HTTP": "true",
            "WORKER_PHOTO_LOOPBACK": "true",
            "WORKER_TEMP_DIR": str(folder / "tmp"),
            # A developer's proxy does not lead back to this machine. Where both spellings are set, the lower case is read.
            "no_proxy": ",".join(filter(None, [getproxies_environment().get("no"), "127.0.0.1"])),
        }
        migrate.upgrade(database.parse(postgres.url(), "DATABASE_URL"))
        yield Stack(environment, server, files)


@contextmanager
def start_daemon(environment: Mapping[str, str], **popen: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `worker run` as production starts it, with our environment and these settings. Drain it afterwards."""
    with ExitStack() as ending:
        with defer_signals():
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run"],
                env=os.environ | dict(environment),
                start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we drain it
                **popen,
            )
            ending.callback(_drain, process)
        yield process


def await_jobs(
    db: Engine,
    ids: Sequence[UUID],
    daemon: "subprocess.Popen[bytes]",
    log: Path,
    *,
    limit_s: float,
    on_rows: Callable[[Sequence[Mapping[str, Any]]], None],
) -> Sequence[Mapping[str, Any]]:
    """Wait until the jobs have ended. Return their rows; `on_rows` gets them again and again.

    Raises: ConfigError if the daemon ends before, with the last line of its log, or if no job ends for `limit_s` seconds.
    """
    ended, deadline = 0, time.monotonic() + limit_s
    while True:
        rows = queue.get_jobs(db, ids)
        on_rows(rows)
        now_ended = sum(row["completed_at"] is not None for row in rows)
        if now_ended == len(ids):
            return rows
        if now_ended > ended:
            ended, deadline = now_ended, time.monotonic() + limit_s
        if daemon.poll() is not None:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ConfigError(said[-1].removeprefix("error: ") if said else "The daemon ended by itself.")
        if time.monotonic() > deadline:
            raise ConfigError(f"No job has ended for {limit_s:g} s; see {log}.")
        time.sleep(PAUSE_S)


def _drain(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(settings.load().grace_s + AFTER_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def interrupt_on_signals() -> None:
    """Let the first stop signal say so and raise KeyboardInterrupt, and ignore those that follow: nothing keeps us from
    stopping what was started.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        announce("Stopping ...")
        _interrupt()

    handle_stop_signals(interrupt)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a stop signal after the block, not in it: it starts a process, and only a process that
    is known to run can be stopped.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if not came:
            announce("Stopping ...")
        came.append(number)

    before = handle_stop_signals(note)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if came:
            _interrupt()


def handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Install a handler for the stop signals, but not for SIGHUP under `nohup`. Return the handlers that were there."""
    handled = [
        each for each in STOP_SIGNALS if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN
    ]
    return {each: signal.signal(each, handler) for each in handled}


def announce(text: str) -> None:
    """Write a line to stderr from a signal's handler, which may have interrupted another writer. The terminal may be gone."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{text}\n".encode())


def _interrupt() -> NoReturn:
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
