"""What follows an attempt that the backend did not answer with 2xx: when the next one is made, or that none is."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

GONE = 410  # the backend wants no more of this
PASSING = {408, 425, 429}  # of the 4xx those that say: later

ATTEMPTS = 28  # with the waits below about a day
ATTEMPTS_AT_PROGRESS = 13  # not quite two hours, for the job's end waits behind it
REFUSALS = 5

LONGEST_WAIT_S = 7200.0
LONGEST_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True)
class Retry:
    """`wait_s` is None for an event that is dead."""

    wait_s: float | None
    refusals: int


def next_attempt(
    status: int | None, retry_after_s: float | None, *, attempts: int, refusals: int, terminal: bool
) -> Retry:
    """`status` is None where there was no answer; `attempts` counts this one, `refusals` the 4xx before it."""
    refused = status is not None and 300 <= status < 500 and status not in PASSING
    refusals += refused
    allowed = ATTEMPTS if terminal else ATTEMPTS_AT_PROGRESS
    if status == GONE or refusals >= REFUSALS or attempts >= allowed:
        return Retry(None, refusals)
    # A deploy may answer 404 for some minutes: a job's end is tried again after 15 s, 1 min, 4 min, 16 min.
    at_an_end = refused and terminal
    wait = 15 * 4.0 ** (refusals - 1) if at_an_end else min(LONGEST_WAIT_S, 2.0**attempts)
    jittered = wait * random.uniform(0.5, 1)  # noqa: S311 - jitter
    return Retry(max(retry_after_s or 0.0, jittered), refusals)


def seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After that is a number or a date, an hour at most; None for what is neither."""
    if retry_after is None:
        return None
    try:
        wait = float(retry_after) if retry_after.strip().isdigit() else _until(retry_after)
    except ValueError:
        return None
    return min(LONGEST_RETRY_AFTER_S, max(0.0, wait))


def _until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
