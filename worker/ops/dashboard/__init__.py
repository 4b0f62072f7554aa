"""`worker dashboard`: a read-only web page for people. Nothing in it writes to the queue."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from rich.console import Console

from worker import database
from worker.core.settings import ConfigError, Settings
from worker.ops.dashboard import access, app

CONNECTIONS = 4  # to the database; a page needs one at a time


def run(settings: Settings, *, host: str, port: int, console: Console) -> None:
    """Serve the page until a signal. Raises: ConfigError."""
    with _open(settings, host, port) as (server, listener, url):
        console.print(f"The dashboard is at {url}; Ctrl-C ends it.", soft_wrap=True, highlight=False)
        with suppress(KeyboardInterrupt):
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
    if settings.dashboard_token is None and not access.is_loopback(host):
        raise ConfigError(
            f"WORKER_DASHBOARD_TOKEN is not set, and without it {host} is open to whoever reaches it. Set it "
            "(openssl rand -hex 24), or leave the page on localhost and go there by ssh -L."
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
            access_log=False,  # an address may carry the token
            log_level="warning",
            lifespan="off",
            server_header=False,
            limit_concurrency=100,
            timeout_graceful_shutdown=2,
        )
    )
    name = f"[{host}]" if ":" in host else host
    with listener:
        try:
            yield server, listener, f"http://{name}:{listener.getsockname()[1]}"
        finally:
            engine.dispose()


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(f"There is no address {host}: {error.strerror}.") from None
