"""`worker dev`: the stack in a folder, the dashboard and the daemon, until a signal."""

import os
import secrets
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from worker.core import logs, settings
from worker.local.folder import own_folder
from worker.local.stack import (
    Stack,
    announce,
    handle_stop_signals,
    interrupt_on_signals,
    start_daemon,
    start_stack,
)
from worker.local.weights import ensure_weights
from worker.ops import dashboard
from worker.ops.advice import DEV_FOLDER


def run(folder: Path, *, engine: str, port: int, dashboard_port: int, console: Console) -> int:
    """Run until a signal or until the daemon ends. Return the exit status.

    Raises: ConfigError, also if another `worker dev` runs in the folder; KeyboardInterrupt for a signal during the start.
    """
    interrupt_on_signals()
    folder = folder.resolve()
    with own_folder(folder, "worker dev"):
        ensure_weights(console, engine)
        with start_stack(folder, engine=engine, port=port) as stack:
            environment = {**stack.environment, DEV_FOLDER: str(folder)}
            os.environ.update(environment)  # from here on we have the settings of our daemon
            token = secrets.token_urlsafe(24)  # for this run: whoever has the link may act
            configured = settings.load()
            logs.configure(configured.log_format, configured.log_level)
            configured = configured.model_copy(
                update={"dashboard_act_token": SecretStr(f"developer:{token}")}
            )
            with dashboard.serve(configured, host="127.0.0.1", port=dashboard_port) as dashboard_url:
                env_file = folder / "dev.env"
                _write_environment(env_file, environment)
                with start_daemon(environment) as daemon:
                    stopping = _stop_on_signal(daemon)
                    _explain(console, stack, env_file, f"{dashboard_url}/?token={token}")
                    while not stopping.wait(0.5) and daemon.poll() is None:
                        pass
                if not stopping.is_set():
                    console.print(
                        f"[red]The daemon ended by itself, with exit status {daemon.returncode}.[/red]"
                    )
                    return daemon.returncode
    return os.EX_OK


def _write_environment(file: Path, environment: Mapping[str, str]) -> None:
    """Write what a shell may source. Whoever waits for the file finds it whole, and only we can read its password."""
    draft = file.with_name("dev.env.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    draft.write_bytes(os.fsencode(lines))
    draft.replace(file)


def _stop_on_signal(daemon: "subprocess.Popen[bytes]") -> threading.Event:
    """Return an event that the first signal sets. The second tells the daemon, which then requeues its job immediately."""
    stopping = threading.Event()
    grace_s = settings.load().grace_s

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            text = f"Stopping: a running job may take up to {grace_s:g} s to finish; Ctrl-C again requeues it immediately."
        elif daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            text = "Stopping now: a running job is requeued."
        else:
            text = "Stopping Postgres."
        announce(text)

    handle_stop_signals(stop)
    return stopping


def _explain(console: Console, stack: Stack, env_file: Path, dashboard_url: str) -> None:
    database = escape(stack.environment["DATABASE_URL"])
    console.print(
        f"""
[bold]worker dev[/bold] is running; Ctrl-C ends it.

  dashboard  {dashboard_url}
  settings   . {escape(shlex.quote(str(env_file)))}
  database   {database}
  models     {escape(str(stack.files))}   served at {stack.server.url}
  webhooks   {stack.server.url}/webhooks   shows what a backend would have got

Insert a job as a backend does:

  psql "{database}"
  postgres=# INSERT INTO jobs (shop, product_id, image_urls)
             VALUES ('demo.myshopify.com', '1', ARRAY['https://…/photo.jpg']);

or in another terminal, with the settings above:

  worker enqueue --watch photo.jpg
""",  # noqa: S608 - for a person to read, not run
        highlight=False,
        soft_wrap=True,
    )
