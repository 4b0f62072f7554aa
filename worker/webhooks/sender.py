"""Delivers the outbox to the backend: a job's events in order, with retries, and without delaying any job."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import httpx
import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker import __version__
from worker.core import metrics
from worker.core.errors import one_line, parse_retry_after
from worker.core.settings import ConfigError, Settings
from worker.core.threads import jitter
from worker.database.monitor import is_connection_lost
from worker.http import clients
from worker.webhooks import outbox, retries, signature
from worker.webhooks.outbox import Event

PATH = "/api/models/webhook/update"

TIMEOUT = httpx.Timeout(15, connect=5)
TOTAL_S = 15  # for one attempt, however slowly the answer arrives
SENDING_S = 45  # longer than any attempt; then another sender may take the event
AT_ONCE = 8  # events of different jobs, so that a backend that takes seconds to answer causes no backlog
ANSWER_LIMIT = 64 * 1024  # bytes of the backend's answer that are read

IDLE_S = 60.0  # before events are looked for that nobody woke us for: a daemon died, or notifications do not arrive
AWAY_S = 5.0  # between two tries while the database is away

T = TypeVar("T")

log = structlog.get_logger()


class Sender(threading.Thread):
    """One thread of the daemon. `wake` it when an event was written; `stop` it when no more will be. Raises: ConfigError."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        super().__init__(name="webhooks", daemon=True)
        self.engine = engine
        self.url = webhook_url(settings.backend_url)
        clients.validate(self.url)
        secret, token = settings.webhook_secret, settings.webhook_bearer_token
        self.keys = signature.keys(secret.get_secret_value()) if secret else []
        self.types = settings.webhook_events
        self.type_in_body = settings.webhook_type_in_body
        self.headers = {"content-type": "application/json", "user-agent": f"shop-model-worker/{__version__}"}
        if token:
            self.headers["authorization"] = bearer(token.get_secret_value())
        self.stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._paused = False

    def wake(self) -> None:
        """Look for events now. For any thread."""
        # Before the loop runs and after it has ended there is nothing to wake.
        if self._loop:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    def stop(self, timeout: float) -> None:
        """Send what can be sent at once, for up to `timeout` seconds, then end. The rest waits in the outbox for a daemon."""
        self.stopping.set()
        self.wake()
        self.join(timeout)

    def run(self) -> None:
        """Deliver until `stop`."""
        while True:
            try:
                asyncio.run(self._deliver())
            except Exception:
                # Not foreseen. If this thread ended, no webhooks would be sent any more.
                log.exception("webhooks_error")
                if not self.stopping.wait(AWAY_S):
                    continue
            return

    async def _deliver(self) -> None:
        """Deliver until `stop`, and then what can be sent at once."""
        self._turn = asyncio.Lock()  # to use the database: one connection is enough
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        sending: set[asyncio.Task[None]] = set()
        async with clients.async_client(self.url, timeout=TIMEOUT, follow_redirects=False) as client:
            while True:
                self._wake.clear()
                last = self.stopping.is_set()
                wait_s = await self._begin(client, sending)
                if last and not sending and not self._wake.is_set():
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait_s)

    async def _begin(self, client: httpx.AsyncClient, sending: set[asyncio.Task[None]]) -> float:
        """Begin to send what is due. Returns the longest wait for more."""
        try:
            while len(sending) < AT_ONCE:
                event = await self._ask(lambda: outbox.take(self.engine, sending_s=SENDING_S))
                if event is None:
                    due_in = await self._ask(lambda: outbox.due_in(self.engine))
                    return IDLE_S if due_in is None else min(IDLE_S, max(1.0, due_in))
                task = asyncio.create_task(self._send(client, event))
                sending.add(task)
                task.add_done_callback(sending.discard)
                task.add_done_callback(lambda _: self._wake.set())  # the job's next event may go now
        except SQLAlchemyError:
            return AWAY_S * jitter(0.5, 1)
        return IDLE_S

    async def _send(self, client: httpx.AsyncClient, event: Event) -> None:
        status, retry_after_s = None, None
        if event.type not in self.types:
            with suppress(SQLAlchemyError):
                await self._ask(lambda: outbox.delivered(self.engine, event))
            return
        try:
            async with asyncio.timeout(TOTAL_S):
                status, retry_after_s = await self._post(client, event)
            problem = None if 200 <= status < 300 else f"the backend answered {status}"
        except TimeoutError:
            problem = f"no whole answer within {TOTAL_S} s"
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
        except Exception:
            # Not foreseen, so nobody knows if the next attempt does better; the event gets one.
            log.exception("webhook_error", job_id=str(event.job_id), seq=event.seq)
            problem = "an internal error"
        # If the database is away, the event is sent again, with the same id, after SENDING_S.
        with suppress(SQLAlchemyError):
            await self._settle(event, problem, status, retry_after_s)

    async def _post(self, client: httpx.AsyncClient, event: Event) -> tuple[int, float | None]:
        """Send the event. Returns the answer's status and Retry-After in seconds; its body may repeat a secret and is dropped."""
        text = f'{{"type": "{event.type}", {event.body[1:]}' if self.type_in_body else event.body
        body = text.encode()
        headers = self.headers | {"webhook-type": event.type}
        headers |= signature.headers(self.keys, event=str(event.id), body=body, sent_at=datetime.now(UTC))
        async with client.stream("POST", self.url, content=body, headers=headers) as answer:
            received = 0
            async for chunk in answer.aiter_raw():
                received += len(chunk)
                if received > ANSWER_LIMIT:
                    break
            return answer.status_code, parse_retry_after(answer.headers.get("retry-after"))

    async def _settle(
        self, event: Event, problem: str | None, status: int | None, retry_after_s: float | None
    ) -> None:
        bound = log.bind(job_id=str(event.job_id), seq=event.seq, attempt=event.attempts)
        if problem is None:
            await self._ask(lambda: outbox.delivered(self.engine, event))
            metrics.WEBHOOKS.labels("delivered").inc()
            bound.debug("webhook_delivered")
            return
        retry = retries.next_attempt(
            status,
            retry_after_s,
            attempts=event.attempts,
            refusals=event.refusals,
            terminal=event.terminal,
        )
        if (wait_s := retry.wait_s) is None:
            await self._ask(
                lambda: outbox.dead_letter(self.engine, event, refusals=retry.refusals, reason=problem)
            )
            metrics.WEBHOOKS.labels("dead").inc()
            bound.error("webhook_dead", reason=problem)
        else:
            await self._ask(
                lambda: outbox.retry_later(
                    self.engine, event, wait_s=wait_s, refusals=retry.refusals, reason=problem
                )
            )
            metrics.WEBHOOKS.labels("retry_scheduled").inc()
            bound.warning("webhook_retry_scheduled", reason=problem, seconds=round(wait_s, 1))

    async def _ask(self, query: Callable[[], T]) -> T:
        """Run a query beside the loop. Raises: SQLAlchemyError; the monitor logs an outage, other errors are logged here once."""
        async with self._turn:
            try:
                answer = await asyncio.to_thread(query)
            except SQLAlchemyError as error:
                if not self._paused and not is_connection_lost(cause := getattr(error, "orig", error)):
                    self._paused = True
                    log.warning("webhooks_paused", reason=one_line(cause))
                raise
            if self._paused:
                self._paused = False
                log.info("webhooks_resumed")
            return answer


def webhook_url(backend_url: str | None) -> str:
    """Return the URL for webhooks; BACKEND_URL may be that URL itself.

    Raises: ConfigError, which does not repeat the value: it may hold a password.
    """
    if backend_url is None:
        raise ConfigError("BACKEND_URL is not set.")
    try:
        parsed = httpx.URL(backend_url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError("BACKEND_URL must be a URL that begins with https:// or http://.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError(
            "BACKEND_URL must not hold a password, a query or a fragment. A token goes into "
            "WORKER_WEBHOOK_BEARER_TOKEN."
        )
    return backend_url.rstrip("/").removesuffix(PATH) + PATH


def bearer(token: str) -> str:
    """Return the value of the header `authorization`. Raises: ConfigError, which does not repeat the token."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("WORKER_WEBHOOK_BEARER_TOKEN must be printable ASCII without spaces.")
    return f"Bearer {token}"
