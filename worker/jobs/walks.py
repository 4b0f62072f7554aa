"""The statements of a search: a walk along one index, and what is asked of the jobs on the way."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Self
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.database import Row, fetch_all
from worker.jobs.filters import REVIEWS, BadFilter, Filter, ids_of, read_time

# What can be asked of the steps of a walk.
MATCHES = "SELECT id, time, n, matches FROM ({steps}) AS step WHERE matches OR n = %(visits)s LIMIT %(most)s"
NUMBER = """
SELECT count(*) FILTER (WHERE matches) AS jobs, coalesce(bool_or(n = %(visits)s), false) AS stopped
FROM (SELECT n, matches FROM ({steps}) AS step WHERE matches OR n = %(visits)s LIMIT %(most)s) AS seen
"""
KINDS = """
SELECT status, review, preset, engine, code, pool, count(*) FILTER (WHERE matches) AS jobs, bool_or(n = %(visits)s) AS stopped
FROM ({steps}) AS step GROUP BY status, review, preset, engine, code, pool
"""

# A walk reads ids and times by an index. A job's row is looked up by its id, which OFFSET 0 makes the only way; `matches` says
# if it fits the rest, and `n` counts the steps.
_STEPS = """
    SELECT step.id, step.time, step.n, coalesce({matches}, false) AS matches{columns}
    FROM (
        SELECT id, time, row_number() OVER () AS n FROM (
            SELECT id, time FROM ({walk}) AS by_index
            ORDER BY time {direction}, id {direction} LIMIT %(visits)s
        ) AS walked
    ) AS step
    {lookup}
"""
_LOOKUP = "LEFT JOIN LATERAL (SELECT * FROM public.jobs WHERE jobs.id = step.id OFFSET 0) AS job ON true"
_PART = """
    (SELECT {{id}} AS id, {{time}} AS time FROM {where} ORDER BY {{time}} {direction}, {{id}} {direction} LIMIT %(visits)s)
"""
_KIND_COLUMNS = """, job.status::text AS status, nullif(job.review, 'none') AS review, job.quality AS preset,
    left(coalesce(CASE WHEN pg_column_size(job.metadata) < 8000 THEN job.metadata #>> '{worker,engine}' END, job.engine), 100) AS engine, left(job.error_code, 100) AS code, job.pool"""

# What each field asks of a job's row. Metadata of a backend may have a megabyte: to read a thousand of these takes seconds.
_CONDITIONS = {
    "product": "worker.last_part(job.product_id) = worker.last_part(%(product)s)",
    "variant": "worker.last_part(job.variant_id) = worker.last_part(%(variant)s)",
    "handle": "lower(job.product_handle) = lower(%(handle)s)",
    "job": "job.id BETWEEN %(first)s AND %(last)s",
    "batch": "job.batch = %(batch)s",
    "status": "CASE %(status)s WHEN 'ended' THEN job.completed_at IS NOT NULL ELSE job.status::text = %(status)s END",
    "review": "job.review = %(review)s",
    "code": "job.error_code = %(code)s",
    "preset": "job.quality = %(preset)s",
    "engine": """(job.engine = %(made_by)s
        OR CASE WHEN pg_column_size(job.metadata) < 50000 THEN job.metadata #>> '{worker,engine}' = %(made_by)s END)""",
    "pool": "job.pool = %(pool)s",
    "host": """(job.claimed_by = %(host)s OR EXISTS (
        SELECT FROM worker.attempts AS attempt WHERE attempt.job_id = job.id AND %(host)s IN (attempt.worker, attempt.host)))""",
}
_PART_OF_SHOP = "position(lower(%(shop)s) IN lower(job.shop)) > 0"
# As worker.search holds them.
_NAMES = {
    "product": "worker.last_part(%(product)s)",
    "variant": "worker.last_part(%(variant)s)",
    "handle": "lower(%(handle)s)",
    "batch": "%(batch)s",
}


class Place(NamedTuple):
    """A place in a list: that of a job, at the time of the list."""

    time: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.time:%Y-%m-%dT%H:%M:%S.%fZ}_{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what str() has written. Raises: BadFilter."""
        time, _, job = text.partition("_")
        try:
            return cls(datetime.fromisoformat(time).astimezone(UTC), UUID(job))
        except (ValueError, OverflowError):
            raise BadFilter("The link to this part of the list is damaged.") from None


class Part(NamedTuple):
    """A table, what the index asks of its rows, and what the index is ordered by."""

    where: str
    time: str = "created_at"
    id: str = "id"


class Walk(NamedTuple):
    """The parts are walked side by side, in the order of their times."""

    parts: Sequence[Part]
    serves: Sequence[str] = ()  # the fields that need no condition
    narrow: bool = False  # few jobs can match
    by_end: bool = False
    parameters: Row = {}  # noqa: RUF012 - never written


def ask(
    engine: Engine,
    question: str,
    wanted: Filter,
    shops: Sequence[str] | None,
    *,
    older: Place | None = None,
    newer: Place | None = None,
    **limits: int,
) -> list[Row]:
    """Answer a question about the jobs of a filter, or those next to a place. Raises: sqlalchemy's DBAPIError.

    shops: those that the filter names; None if it names none, or so many that they are not walked one by one.
    limits: the parameters of the question: `visits`, the steps of the walk at the most; `most`, the rows of the answer.
    """
    walk = choose(wanted, shops)
    values = _parameters(wanted) | {"shops": shops} | walk.parameters
    conditions = [
        text for name, text in _CONDITIONS.items() if name in wanted.values and name not in walk.serves
    ]
    if wanted.shop and "shop" not in walk.serves:
        conditions.append(_PART_OF_SHOP if shops is None else "job.shop = ANY (%(shops)s)")
    window = [
        f"{{time}} {sign} %({name})s" for name, sign in (("since", ">="), ("until", "<")) if name in values
    ]
    if place := newer or older:
        sign = ">" if newer else "<"
        window.append(
            f"{{time}} {sign}= %(place_time)s AND ({{time}}, {{id}}) {sign} (%(place_time)s, %(place_id)s)"
        )
        values |= {"place_time": place.time, "place_id": place.id}
    direction = "ASC" if newer else "DESC"
    steps = _STEPS.format(
        matches=" AND ".join(conditions) or "true",
        columns=_KIND_COLUMNS if question is KINDS else "",
        lookup=_LOOKUP if conditions or question is KINDS else "",
        walk=" UNION ALL ".join(
            _PART.format(where=" AND ".join([part.where, *window]), direction=direction).format(
                id=part.id, time=part.time
            )
            for part in walk.parts
        ),
        direction=direction,
    )
    return fetch_all(engine, question.format(steps=steps), **values, **limits)


_ALL = Part("worker.search WHERE true", id="job_id")
_RUNNING = Part("public.jobs WHERE status = 'processing'", "started_at")
_WAITING = Part("public.jobs WHERE status = 'pending'")
_AT_END = Part("public.jobs WHERE completed_at IS NOT NULL", "completed_at")


def choose(wanted: Filter, shops: Sequence[str] | None) -> Walk:
    """Return the walk with the fewest steps to the jobs of a filter."""
    if wanted.status == "processing":
        return Walk([_RUNNING], ["status"])
    return _by_name(wanted, shops) or _by_state(wanted)


def _by_name(wanted: Filter, shops: Sequence[str] | None) -> Walk | None:
    if wanted.job:
        return Walk([Part("public.jobs WHERE id BETWEEN %(first)s AND %(last)s")], ["job"], narrow=True)
    for name, value in _NAMES.items():
        if getattr(wanted, name):
            part = Part(f"worker.search WHERE {name} = {value}", id="job_id")
            return Walk([part], [name], narrow=True)
    if shops is None:
        return None
    names = {f"shop_{n}": shop for n, shop in enumerate(shops)}
    parts = [Part(f"public.jobs WHERE shop = %({name})s") for name in names]
    return Walk(parts or [Part("public.jobs WHERE false")], ["shop"], narrow=True, parameters=names)


def _by_state(wanted: Filter) -> Walk:
    if wanted.code:
        part = Part("public.jobs WHERE error_code = %(code)s", "coalesce(completed_at, run_after)")
        return Walk([part], ["code"], by_end=True)
    # As literals, because each of these indexes is of some values alone.
    if wanted.review:
        value = REVIEWS[REVIEWS.index(wanted.review)]
        return Walk([Part(f"public.jobs WHERE review = '{value}'", "completed_at")], ["review"], by_end=True)
    if wanted.status in {"failed", "cancelled"}:
        part = Part(f"public.jobs WHERE status = '{wanted.status}'", "completed_at")
        return Walk([part], ["status"], by_end=True)
    if wanted.status == "pending":
        return Walk([_WAITING], ["status"])
    if wanted.status or wanted.host:
        return Walk([_AT_END] if wanted.status else [_RUNNING, _AT_END], by_end=True)
    return Walk([_ALL])


def _parameters(wanted: Filter) -> Row:
    """Return the values that the statements compare with."""
    values: Row = dict(wanted.values)
    if "engine" in values:
        values["made_by"] = values.pop("engine")  # not a name that fetch_all() has already
    if "job" in values:
        values["first"], values["last"] = ids_of(wanted.job) or (None, None)
    for name in values.keys() & {"since", "until"}:
        values[name] = read_time(values[name])
    return values
