"""Everything on a laptop: embedded Postgres, a folder for the bucket, a receiver for webhooks, and the real daemon."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from worker import database, weights
from worker.core import settings
from worker.core.settings import ConfigError
from worker.database import migrate
from worker.local.postgres import start_server
from worker.local.server import DevServer, serve_folder
from worker.ops.terminal import progress as bar

BACKGROUND_MODEL = "u2netp"  # small, permissively licensed, and in the package registry
STOP_S = 150  # longer than the daemon's own grace period


@dataclass(frozen=True)
class Stack:
    """What runs, and the settings with which others reach it."""

    environment: Mapping[str, str]
    server: DevServer
    files: Path


@contextmanager
def defer_signals() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the block, for the main thread: only who is known to run can be ended."""
    came: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: came.append(number))
        for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def start_stack(
    folder: Path, *, engine: str, port: int = 0, on_webhook: Callable[[dict[str, Any]], None] = lambda _: None
) -> Iterator[Stack]:
    """Postgres with our schema, a store and a receiver, all in `folder`; stopped afterwards, the data kept."""
    folder = folder.resolve()
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    with ExitStack() as ending:
        with defer_signals():
            postgres = start_server(folder / "postgres")
            ending.callback(postgres.stop)
        server = ending.enter_context(serve_folder(files, folder / "webhooks.jsonl", port, on_webhook))
        environment = {
            "DATABASE_URL": postgres.url(),
            "SUPABASE_URL": "",  # a developer's own setting would be a second place for the models
            "WORKER_STORAGE_DIR": str(files),
            "WORKER_STORAGE_URL": server.url,
            "BACKEND_URL": server.url,
            "WORKER_ENGINE": engine,
            "WORKER_BACKGROUND_MODEL": BACKGROUND_MODEL,
            "WORKER_PHOTO_HOSTS": "*",  # whatever a developer tries
            "WORKER_PHOTO_HTTP": "true",
            "WORKER_PHOTO_LOOPBACK": "true",
            "WORKER_TEMP_DIR": str(folder / "tmp"),
        }
        migrate.upgrade(database.parse(postgres.url(), "DATABASE_URL"))
        yield Stack(environment, server, files)


@contextmanager
def start_daemon(stack: Stack, **popen: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """`worker run`, as production starts it, drained afterwards."""
    with ExitStack() as ending:
        with defer_signals():
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run"],
                env=os.environ | dict(stack.environment),
                start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we drain it
                **popen,
            )
            ending.callback(_drain, process)
        yield process


def _drain(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ensure_weights(console: Console, engine: str) -> None:
    """Fetches what is missing of the engine's and the small background model's weights. Raises: ConfigError."""
    folder = settings.load().weights_dir
    for name in weights.needed(engine, BACKGROUND_MODEL):
        try:
            weights.verify(folder, name)
        except weights.NotOfficial as error:
            console.print(str(error), soft_wrap=True, highlight=False)
        except weights.WeightsMissing:
            console.print(f"Fetching the model {name}, once …")
            try:
                with bar.shown(console, name) as progress:
                    weights.fetch(folder, name, progress=progress)
            except weights.FetchFailed as error:
                raise ConfigError(str(error)) from None


def run(folder: Path, *, engine: str, port: int, console: Console) -> int:
    """Until a signal or the daemon's own end; the exit code."""
    ensure_weights(console, engine)
    done = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with start_stack(folder, engine=engine, port=port) as running:
        file = folder / "dev.env"
        # Whoever waits for the file finds it whole, and nobody else ever reads its password.
        draft = folder / "dev.env.new"
        draft.touch(mode=0o600)
        draft.write_text("".join(f"export {k}={shlex.quote(v)}\n" for k, v in running.environment.items()))
        draft.replace(file)
        with start_daemon(running) as process:
            _explain(console, running, file)
            while not done.wait(0.5) and process.poll() is None:
                pass
        if not done.is_set():
            console.print(f"[red]The daemon ended by itself, with exit status {process.returncode}.[/red]")
            return process.returncode
    return 0


def _explain(console: Console, running: Stack, file: Path) -> None:
    database = running.environment["DATABASE_URL"]
    console.print(
        f"""
[bold]worker dev[/bold] is running; Ctrl-C ends it.

  settings   source {shlex.quote(str(file))}
  database   {database}
  models     {running.files}   served at {running.server.url}
  webhooks   {running.server.url}/webhooks   shows what a backend would have got

Insert a job as a backend does:

  psql "{database}"
  postgres=# INSERT INTO jobs (shop, product_id, image_urls)
             VALUES ('demo.myshopify.com', '1', ARRAY['https://…/photo.jpg']);

or in another terminal, after the source above:

  worker enqueue --watch photo.jpg
""",  # noqa: S608 - for a person to read, not run
        highlight=False,
        soft_wrap=True,
    )
