"""`worker dashboard`: web pages for people, who look at the queue there and act on it."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import uvicorn
from rich.console import Console
from sqlalchemy.exc import OperationalError

from worker import database
from worker.core.errors import one_line
from worker.core.settings import ConfigError, Settings
from worker.database.monitor import is_auth_refused, is_connection_lost
from worker.ops.dashboard import access, app

CONNECTIONS = 4  # to the database; a page needs one at a time


def run(settings: Settings, *, host: str, port: int, console: Console) -> None:
    """Serve the page until a signal. Raises: ConfigError."""
    with _open(settings, host, port) as (server, listener, url):
        if reason := _why_unreachable(settings):
            text = f"The database cannot be reached; the page shows the queue as soon as it can. {reason}"
            console.print(text, soft_wrap=True, highlight=False, style="yellow")
        reads = "" if settings.dashboard_act_token else ", and only reads without WORKER_DASHBOARD_ACT_TOKEN"
        console.print(f"The dashboard is at {url}{reads}; Ctrl-C ends it.", soft_wrap=True, highlight=False)
        server.run(sockets=[listener])


@contextmanager
def serve(settings: Settings, *, host: str, port: int) -> Iterator[str]:
    """Serve the page from a thread of this process. Yield its URL. Raises: ConfigError."""
    with _open(settings, host, port) as (server, listener, url):
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="dashboard", daemon=True
        )
        thread.start()
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _open(settings: Settings, host: str, port: int) -> Iterator[tuple[uvicorn.Server, socket.socket, str]]:
    """Yield the server, the socket that it listens on, and the page's URL."""
    if not (settings.dashboard_token or settings.dashboard_act_token or access.is_loopback(host)):
        raise ConfigError(
            f"WORKER_DASHBOARD_TOKEN is not set: on {host} everybody who reaches the page could read it. Set a token "
            "(openssl rand -hex 24), or serve the page on localhost and open it through ssh -L."
        )
    engine = database.connect(database.url(settings), pool_size=CONNECTIONS)
    try:
        listener = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise ConfigError(
            f"The dashboard cannot be served at {host}:{port}: {why}. Choose another port."
        ) from None
    # Accepted connections inherit it. asyncio sets it only where a socket names its protocol, which create_server's do not;
    # without it an answer's second packet waits 40 ms for the first one's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(
        uvicorn.Config(
            app.create(engine, settings),
            access_log=False,  # a URL may hold the token
            log_level="warning",
            lifespan="off",
            server_header=False,
            limit_concurrency=100,
            timeout_graceful_shutdown=2,
        )
    )
    logging.getLogger("uvicorn.error").addFilter(_OneLine(settings))
    name = f"[{host}]" if ":" in host else host
    with listener:
        try:
            yield server, listener, f"http://{name}:{listener.getsockname()[1]}"
        finally:
            engine.dispose()


def _why_unreachable(settings: Settings) -> str | None:
    """Return why the database does not answer now; None if it does.

    Raises: ConfigError if its schema does not fit, sqlalchemy's errors if it refuses us.
    """
    engine = database.connect(database.url(settings), pool_size=1)
    try:
        database.check_schema(engine)
    except OperationalError as error:
        cause = error.orig
        if isinstance(cause, psycopg.Error) and is_connection_lost(cause) and not is_auth_refused(cause):
            return one_line(error)
        raise
    finally:
        engine.dispose()
    return None


class _OneLine(logging.Filter):
    """Log an error that no code has foreseen as one line; its traceback only with WORKER_LOG_LEVEL=debug."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] and self.settings.log_level != "debug":
            error = record.exc_info[1]
            text = f"{record.getMessage().strip()}: {type(error).__name__}: {one_line(error)}"
            record.msg, record.args, record.exc_info = self.settings.redact(text), (), None
        return True


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(f"There is no address {host}: {error.strerror}.") from None
