"""Decides what follows an attempt without a 2xx answer: when the next one is made, or that the event is dead."""

from dataclasses import dataclass

from worker.core.errors import is_retryable_status
from worker.core.threads import jitter

GONE = 410  # the backend wants no more of this event

ATTEMPTS = 28  # about a day with the waits below
ATTEMPTS_AT_PROGRESS = 13  # almost two hours, since the job's end waits behind it
REFUSALS = 5

LONGEST_WAIT_S = 7200.0
LONGEST_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True)
class Retry:
    """When to send an event again. `wait_s` is None if it is dead; `refusals` counts its 3xx and 4xx answers so far."""

    wait_s: float | None
    refusals: int


def next_attempt(
    status: int | None, retry_after_s: float | None, *, attempts: int, refusals: int, terminal: bool
) -> Retry:
    """Decide after a failed attempt.

    status: of the answer; None if there was none.
    retry_after_s: what the answer's Retry-After asks for; respected up to an hour.
    attempts: made so far, this one included.
    refusals: before this attempt.
    terminal: the event is a job's end and not mere progress.
    """
    refused = status is not None and 300 <= status < 500 and not is_retryable_status(status)
    refusals += refused
    allowed = ATTEMPTS if terminal else ATTEMPTS_AT_PROGRESS
    if status == GONE or refusals >= REFUSALS or attempts >= allowed:
        return Retry(None, refusals)
    # A backend may answer 404 for some minutes during a deploy: a job's end is sent again after 15 s, 1, 4 and 16 min.
    refused_end = refused and terminal
    wait = 15 * 4.0 ** (refusals - 1) if refused_end else min(LONGEST_WAIT_S, 2.0**attempts)
    return Retry(max(min(LONGEST_RETRY_AFTER_S, retry_after_s or 0.0), wait * jitter(0.5, 1)), refusals)
