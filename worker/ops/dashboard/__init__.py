"""`worker dashboard`: a read-only web page for people. Nothing in it writes to the queue."""

import socket

import uvicorn
from rich.console import Console

from worker import database
from worker.core.settings import ConfigError, Settings
from worker.ops.dashboard import access, app

CONNECTIONS = 4  # to the database; a page needs one at a time


def run(settings: Settings, *, host: str, port: int, console: Console) -> None:
    """Until a signal. Raises: ConfigError."""
    if settings.dashboard_token is None and not access.is_loopback(host):
        raise ConfigError(
            f"WORKER_DASHBOARD_TOKEN is not set, and without it {host} is open to whoever reaches it. Set it "
            "(openssl rand -hex 24), or leave the page on localhost and go there by ssh -L."
        )
    engine = database.connect(database.url(settings), pool_size=CONNECTIONS)
    try:
        listener = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise ConfigError(f"The page cannot be served at {host}:{port}: {error.strerror}.") from None
    # Accepted connections inherit it. asyncio sets it only where a socket names its protocol, which create_server's do not;
    # without it an answer's second packet waits 40 ms for the first one's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    name = f"[{host}]" if ":" in host else host
    console.print(
        f"The dashboard is at http://{name}:{listener.getsockname()[1]}; Ctrl-C ends it.",
        soft_wrap=True,
        highlight=False,
    )
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
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        engine.dispose()


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(f"There is no address {host}: {error.strerror}.") from None
