"""Delivers the outbox to the backend: in order within a job, as often as it takes, and never in a job's way."""

import random
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import structlog
from sqlalchemy.engine import Engine, RowMapping
from sqlalchemy.exc import DBAPIError

from worker import __version__, database
from worker.outage import lost
from worker.settings import ConfigError, Settings
from worker.webhooks import signature

PATH = "/api/models/webhook/update"
QUERIES = database.queries("worker.webhooks")

TIMEOUT = httpx.Timeout(15, connect=5)
SENDING_S = 60  # longer than any one attempt; then another sender may take the event
IDLE_S = 20  # how soon a retry, or an event that another process left behind, is seen
ANSWER_LIMIT = 64 * 1024  # bytes of the backend's answer that are read

MAX_ATTEMPTS = 28  # with the waits below about a day
PATIENCE_WITH_REFUSALS = 5  # a deploy may answer 404 for a while

log = structlog.get_logger()


class Sender(threading.Thread):
    """One thread of the daemon. `nudge` it when an event was written; `stop` it once nothing more will be."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        super().__init__(name="webhooks", daemon=True)
        if settings.backend_url is None:
            raise ConfigError("BACKEND_URL is not set.")
        self.engine = engine
        self.address = settings.backend_url.rstrip("/") + PATH
        secret = settings.webhook_secret
        self.key = signature.key(secret.get_secret_value()) if secret else None
        self.client = httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=False)
        self._wake = threading.Event()
        self._stopping = False

    def nudge(self) -> None:
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Sends what can be sent at once, then ends; what is left stays in the outbox for the next daemon."""
        self._stopping = True
        self._wake.set()
        self.join(timeout)

    def run(self) -> None:
        while True:
            self._wake.clear()
            stopping = self._stopping
            try:
                while self.send_one():
                    pass
            except DBAPIError as error:
                # An outage speaks for itself, once for all threads.
                if not lost(error.orig):
                    log.warning("webhooks_paused", reason=database.reason(error.orig))
            if stopping:
                break
            self._wake.wait(IDLE_S)
        self.client.close()

    def send_one(self) -> bool:
        """Sends the event that has waited longest; False where none is due."""
        with self.engine.connect() as connection:
            event = connection.execute(QUERIES["take"], {"sending_s": SENDING_S}).mappings().one_or_none()
        if event is None:
            return False
        try:
            status, retry_after = self._post(event)
            problem = None if 200 <= status < 300 else f"the backend answered {status}"
        except httpx.HTTPError as error:
            status, retry_after, problem = 0, None, f"{type(error).__name__}: {error}"
        bound = log.bind(job_id=str(event["job_id"]), seq=event["seq"], attempt=event["attempts"])
        if problem is None:
            self._settle("delivered", event)
            bound.debug("webhook_delivered")
        elif _is_hopeless(status, event["attempts"]):
            self._settle("bury", event, error=problem)
            bound.error("webhook_dead", reason=problem)
        else:
            wait = max(retry_after or 0, _backoff_s(event["attempts"]))
            self._settle("postpone", event, error=problem, wait_s=wait)
            bound.warning("webhook_postponed", reason=problem, seconds=round(wait, 1))
        return True

    def _post(self, event: RowMapping) -> tuple[int, float | None]:
        """The answer's status, and its Retry-After in seconds."""
        body = event["body"].encode()
        headers = signature.headers(self.key, event=str(event["id"]), body=body, sent_at=datetime.now(UTC))
        headers |= {"content-type": "application/json", "user-agent": f"shop-model-worker/{__version__}"}
        with self.client.stream("POST", self.address, content=body, headers=headers) as answer:
            received = 0
            for chunk in answer.iter_raw():
                received += len(chunk)
                if received > ANSWER_LIMIT:
                    break
            return answer.status_code, _retry_after_s(answer.headers.get("retry-after"))

    def _settle(self, query: str, event: RowMapping, **parameters: object) -> None:
        with self.engine.connect() as connection:
            connection.execute(
                QUERIES[query], {"seq": event["seq"], "attempts": event["attempts"], **parameters}
            )


def _is_hopeless(status: int, attempts: int) -> bool:
    if status == 410 or attempts >= MAX_ATTEMPTS:
        return True
    refused = 300 <= status < 500 and status not in {408, 425, 429}
    return refused and attempts >= PATIENCE_WITH_REFUSALS


def _backoff_s(attempts: int) -> float:
    """2 s doubled with each attempt, at most two hours, half of it at random."""
    return float(min(7200, 2**attempts) * random.uniform(0.5, 1))  # noqa: S311 - jitter


def _retry_after_s(header: str | None) -> float | None:
    """Seconds from a number or a date, an hour at most; None for what is neither."""
    if header is None:
        return None
    try:
        seconds = float(header) if header.strip().isdigit() else _seconds_until(header)
    except ValueError:
        return None
    return min(3600.0, max(0.0, seconds))


def _seconds_until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
