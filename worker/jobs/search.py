"""Find jobs: by shop, product, error and more, the newest first, at a cost that does not grow with the history.

A search walks along one index from a place in time, looks at a limited number of jobs there, and keeps those that match the
rest. Who needs more goes on at the place where it has stopped. The time of a list is that of its index: when the jobs were
inserted, or when they ended.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.database import Row, fetch_all, fetch_value, queries
from worker.database.ids import bounds

QUERIES = queries("worker.jobs")

VISITS = 5_000  # jobs that a search looks at
HOST_VISITS = 1_000  # and one by a host, each of them with its attempts
COUNT_VISITS = 2_000  # and a count of those that match
CHOICE_VISITS = 1_000  # and one by choices
STATE_VISITS = 300  # and one by states, each of them
COUNTED = 1_000  # more are not counted
MOST_SHOPS = 40  # whose jobs are walked side by side
SHOPS_READ = 5_000  # to find those whose name has a part
LONGEST = 255  # letters of a value
LEAST_DIGITS = 4  # of the beginning of a job's id

STATUSES = ("processing", "pending", "completed", "failed", "cancelled")
ENDED = "ended"  # any of the last three
REVIEWS = ("wanted", "approved", "rejected")
CHOICES = ("status", "review", "preset", "engine", "code", "pool")
"""The fields of which a page offers the values, with the number of jobs of each."""

_AGO = re.compile(r"(\d{1,4})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class BadFilter(ValueError):
    """A value that a field cannot have. The message says which it can."""


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


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a job must be. An empty field asks for nothing."""

    shop: str = ""  # a whole name if there is such a shop, else a part of one
    product: str = ""  # an id or a gid
    variant: str = ""
    handle: str = ""
    job: str = ""  # an id, or its first digits
    batch: str = ""
    status: str = ""
    review: str = ""
    code: str = ""  # error code
    preset: str = ""
    engine: str = ""  # the one that it asks for, or that made it
    pool: str = ""
    host: str = ""  # that has it, or has had it
    since: str = ""  # of the list's time: one in UTC, or how long ago, such as 2h or 7d
    until: str = ""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        """Read the values of a query string; other names are left alone. Raises: BadFilter."""
        found = cls(**{field.name: query.get(field.name, "").strip() for field in fields(cls)})
        for name, value in found.values.items():
            if len(value) > LONGEST or "\0" in value:
                raise BadFilter(f"{name} has at most {LONGEST} letters.")
        for name, value, values in (
            ("status", found.status, (*STATUSES, ENDED)),
            ("review", found.review, REVIEWS),
        ):
            if value and value not in values:
                raise BadFilter(f"{name} is one of {', '.join(values)}, not {value}.")
        for name, value in (("since", found.since), ("until", found.until)):
            if value:
                try:
                    _time(value)
                except (ValueError, OverflowError):
                    raise BadFilter(
                        f"{name} is a time such as 2026-01-31T15:00, or how long ago, such as 30m, 2h or 7d, not {value}."
                    ) from None
        if found.job and not _ids(found.job):
            raise BadFilter(
                f"job is an id, or at least the first {LEAST_DIGITS} digits of one, not {found.job}."
            )
        return found

    @property
    def values(self) -> dict[str, str]:
        """Return the fields that ask for something."""
        return {name: value for name, value in asdict(self).items() if value}

    def __str__(self) -> str:
        """Return the query string that parse() reads."""
        return urlencode(self.values)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A part of the list, the newest job first."""

    places: Sequence[Place]  # of the jobs that match
    more: bool  # others follow, in the direction of the walk
    stopped: Place | None  # where the walk has given up before the part was full

    @property
    def ids(self) -> Sequence[UUID]:
        """Return the jobs that match."""
        return [place.id for place in self.places]


class Count(NamedTuple):
    """A number of jobs; at least that many if not `exact`."""

    jobs: int
    exact: bool


class Search:
    """A filter before a database. Each method raises sqlalchemy's DBAPIError."""

    def __init__(self, engine: Engine, wanted: Filter) -> None:
        self.engine = engine
        self.wanted = wanted
        self.shops = _shops(engine, wanted.shop) if wanted.shop else None
        """The shops that `shop` names; None also if they are too many to be walked one by one."""

    @property
    def by_end(self) -> bool:
        """True if the list's time is that of the end of a job, and not of its insert."""
        return self._walk(self.wanted).by_end

    @property
    def visits(self) -> int:
        """Return how many jobs find() looks at, at the most."""
        return HOST_VISITS if self.wanted.host else VISITS

    def find(
        self, *, most: int, older: Place | None = None, newer: Place | None = None, visits: int | None = None
    ) -> Found:
        """Return the first `most` jobs that match, or those next to a place."""
        visits = visits or self.visits
        rows = self._ask(_MATCHES, self.wanted, older=older, newer=newer, visits=visits, most=most + 1)
        places = [Place(row["time"], row["id"]) for row in rows if row["matches"]]
        more = len(places) > most
        end = rows[-1] if rows and not more and rows[-1]["n"] == visits else None
        places = places[:most]
        if newer:
            places.reverse()
        return Found(places=places, more=more, stopped=Place(end["time"], end["id"]) if end else None)

    def batches(self, most: int) -> Iterator[Sequence[UUID]]:
        """Yield the ids of all jobs that match, newest first, up to `most` at a time.

        The caller may change the jobs of one part before it asks for the next. Jobs that are inserted meanwhile do not come.
        """
        place: Place | None = None
        while True:
            found = self.find(most=most, older=place)
            if found.places:
                yield found.ids
            place = found.places[-1] if found.more else found.stopped
            if place is None:
                return

    def count(self) -> Count:
        """Count the jobs that match, up to COUNTED, among the newest COUNT_VISITS."""
        return self._count(self.wanted, COUNT_VISITS)

    def choices(self) -> dict[str, dict[str, Count]]:
        """Count the jobs by the values of each field of CHOICES, as if that field asked for nothing; the commonest value first."""
        if self._walk(replace(self.wanted, **_NO_CHOICE)).narrow:
            return self._kinds(replace(self.wanted, **_NO_CHOICE), CHOICES)
        # Each state has an index of its own, and of all jobs the newest are often of one state.
        found = self._kinds(
            replace(self.wanted, **_NO_CHOICE | {"status": self.wanted.status or ENDED}), CHOICES[1:]
        )
        visits = STATE_VISITS if replace(self.wanted, status="", review="").values else COUNT_VISITS
        states = {
            status: self._count(replace(self.wanted, status=status, review=""), visits) for status in STATUSES
        }
        wanted = self._count(replace(self.wanted, status="", review=REVIEWS[0]), visits)
        return found | {"status": states, "review": found["review"] | {REVIEWS[0]: wanted}}

    def _count(self, wanted: Filter, visits: int) -> Count:
        visits = min(visits, self.visits)
        found = self._ask(_NUMBER, wanted, visits=visits, most=COUNTED + 1)[0]
        return _count(found["jobs"], exact=not found["stopped"])

    def _kinds(self, others: Filter, names: Sequence[str]) -> dict[str, dict[str, Count]]:
        rows = self._ask(_KINDS, others, visits=CHOICE_VISITS)
        exact = not any(row["stopped"] for row in rows)
        asked = {name: value for name, value in self.wanted.values.items() if name in names}
        sums: dict[str, dict[str, int]] = {name: {} for name in names}
        for row in rows:
            differs = {name for name, value in asked.items() if not _is(value, row[name])}
            for name, values in sums.items():
                if row["jobs"] and differs <= {name} and row[name] is not None:
                    values[row[name]] = values.get(row[name], 0) + row["jobs"]
        return {
            name: {
                value: _count(jobs, exact=exact)
                for value, jobs in sorted(values.items(), key=lambda item: (-item[1], item[0]))
            }
            for name, values in sums.items()
        }

    def _walk(self, wanted: Filter) -> "_Walk":
        return _choose(wanted, self.shops)

    def _ask(
        self,
        question: str,
        wanted: Filter,
        *,
        older: Place | None = None,
        newer: Place | None = None,
        **limits: int,
    ) -> list[Row]:
        """Answer a question about the jobs of a filter."""
        walk = self._walk(wanted)
        values = _parameters(wanted) | {"shops": self.shops} | walk.parameters
        conditions = [
            text for name, text in _CONDITIONS.items() if name in wanted.values and name not in walk.serves
        ]
        if wanted.shop and "shop" not in walk.serves:
            conditions.append(_PART_OF_SHOP if self.shops is None else "job.shop = ANY (%(shops)s)")
        window = [
            f"{{time}} {sign} %({name})s"
            for name, sign in (("since", ">="), ("until", "<"))
            if name in values
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
            columns=_KIND_COLUMNS if question is _KINDS else "",
            lookup=_LOOKUP if conditions or question is _KINDS else "",
            walk=" UNION ALL ".join(
                _PART.format(where=" AND ".join([part.where, *window]), direction=direction).format(
                    id=part.id, time=part.time
                )
                for part in walk.parts
            ),
            direction=direction,
        )
        return fetch_all(self.engine, question.format(steps=steps), **values, **limits)


def _ids(beginning: str) -> tuple[UUID, UUID] | None:
    """Return the first and the last id with this beginning. None if it is too short, or none of an id."""
    return bounds(beginning) if len(beginning.replace("-", "")) >= LEAST_DIGITS else None


def _count(jobs: int, *, exact: bool) -> Count:
    return Count(min(jobs, COUNTED), exact and jobs <= COUNTED)


def _is(asked: str, value: str | None) -> bool:
    return value in STATUSES[2:] if asked == ENDED else value == asked


def _time(text: str) -> datetime:
    """Return a time as UTC. Raises: ValueError, OverflowError."""
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _parameters(wanted: Filter) -> Row:
    """Return the values that the statements compare with."""
    values: Row = dict(wanted.values)
    if "engine" in values:
        values["made_by"] = values.pop("engine")  # not a name that fetch_all() has already
    if "job" in values:
        values["first"], values["last"] = _ids(wanted.job) or (None, None)
    for name in values.keys() & {"since", "until"}:
        values[name] = _time(values[name])
    return values


def _shops(engine: Engine, name: str) -> Sequence[str] | None:
    """Return the shop of this name, or else those whose name has it in it. None if they are too many to be walked one by one."""
    if fetch_value(engine, QUERIES["has_shop"], shop=name):
        return [name]
    found = fetch_all(engine, QUERIES["shops_with"], part=name, read=SHOPS_READ, most=MOST_SHOPS + 1)
    if len(found) > MOST_SHOPS or any(row["all_read"] for row in found):
        return None
    return [row["shop"] for row in found]


# The statements. A walk reads ids and times by an index. A job's row is looked up by its id, which OFFSET 0 makes the only
# way; `matches` says if it fits the rest, and `n` counts the steps.

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
_MATCHES = "SELECT id, time, n, matches FROM ({steps}) AS step WHERE matches OR n = %(visits)s LIMIT %(most)s"
_NUMBER = """
SELECT count(*) FILTER (WHERE matches) AS jobs, coalesce(bool_or(n = %(visits)s), false) AS stopped
FROM (SELECT n, matches FROM ({steps}) AS step WHERE matches OR n = %(visits)s LIMIT %(most)s) AS seen
"""
_KINDS = """
SELECT status, review, preset, engine, code, pool, count(*) FILTER (WHERE matches) AS jobs, bool_or(n = %(visits)s) AS stopped
FROM ({steps}) AS step GROUP BY status, review, preset, engine, code, pool
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
_NO_CHOICE = dict.fromkeys(CHOICES, "")


class _Part(NamedTuple):
    """A table, what the index asks of its rows, and what the index is ordered by."""

    where: str
    time: str = "created_at"
    id: str = "id"


class _Walk(NamedTuple):
    """The parts are walked side by side, in the order of their times."""

    parts: Sequence[_Part]
    serves: Sequence[str] = ()  # the fields that need no condition
    narrow: bool = False  # few jobs can match
    by_end: bool = False
    parameters: Row = {}  # noqa: RUF012 - never written


_ALL = _Part("worker.search WHERE true", id="job_id")
_RUNNING = _Part("public.jobs WHERE status = 'processing'", "started_at")
_WAITING = _Part("public.jobs WHERE status = 'pending'")
_AT_END = _Part("public.jobs WHERE completed_at IS NOT NULL", "completed_at")


def _choose(wanted: Filter, shops: Sequence[str] | None) -> _Walk:
    """Return the walk with the fewest steps to the jobs of a filter."""
    if wanted.status == "processing":
        return _Walk([_RUNNING], ["status"])
    return _by_name(wanted, shops) or _by_state(wanted)


def _by_name(wanted: Filter, shops: Sequence[str] | None) -> _Walk | None:
    if wanted.job:
        return _Walk([_Part("public.jobs WHERE id BETWEEN %(first)s AND %(last)s")], ["job"], narrow=True)
    for name, value in _NAMES.items():
        if getattr(wanted, name):
            part = _Part(f"worker.search WHERE {name} = {value}", id="job_id")
            return _Walk([part], [name], narrow=True)
    if shops is None:
        return None
    names = {f"shop_{n}": shop for n, shop in enumerate(shops)}
    parts = [_Part(f"public.jobs WHERE shop = %({name})s") for name in names]
    return _Walk(parts or [_Part("public.jobs WHERE false")], ["shop"], narrow=True, parameters=names)


def _by_state(wanted: Filter) -> _Walk:
    if wanted.code:
        part = _Part("public.jobs WHERE error_code = %(code)s", "coalesce(completed_at, run_after)")
        return _Walk([part], ["code"], by_end=True)
    # As literals, because each of these indexes is of some values alone.
    if wanted.review:
        value = REVIEWS[REVIEWS.index(wanted.review)]
        return _Walk(
            [_Part(f"public.jobs WHERE review = '{value}'", "completed_at")], ["review"], by_end=True
        )
    if wanted.status in {"failed", "cancelled"}:
        part = _Part(f"public.jobs WHERE status = '{wanted.status}'", "completed_at")
        return _Walk([part], ["status"], by_end=True)
    if wanted.status == "pending":
        return _Walk([_WAITING], ["status"])
    if wanted.status or wanted.host:
        return _Walk([_AT_END] if wanted.status else [_RUNNING, _AT_END], by_end=True)
    return _Walk([_ALL])
