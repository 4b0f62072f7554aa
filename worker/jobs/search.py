"""Find jobs: by shop, product, error and more, the newest first, at a cost that does not grow with the history.

A search walks along one index from a place in time, looks at a limited number of jobs there, and keeps those that match the
rest. Who needs more goes on at the place where it has stopped. The time of a list is that of its index: when the jobs were
inserted, or when they ended.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.database import fetch_all, fetch_value, queries
from worker.jobs import walks
from worker.jobs.filters import ENDED, REVIEWS, STATUSES, Filter
from worker.jobs.walks import Place

QUERIES = queries("worker.jobs")

VISITS = 5_000  # jobs that a search looks at
HOST_VISITS = 1_000  # and one by a host, each of them with its attempts
COUNT_VISITS = 2_000  # and a count of those that match
CHOICE_VISITS = 1_000  # and one by choices
STATE_VISITS = 300  # and one by states, each of them
COUNTED = 1_000  # more are not counted
MOST_SHOPS = 40  # whose jobs are walked side by side
SHOPS_READ = 5_000  # to find those whose name has a part

CHOICES = ("status", "review", "preset", "engine", "code", "pool")
"""The fields of which a page offers the values, with the number of jobs of each."""

_NO_CHOICE = dict.fromkeys(CHOICES, "")


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
        return walks.choose(self.wanted, self.shops).by_end

    @property
    def visits(self) -> int:
        """Return how many jobs find() looks at, at the most."""
        return HOST_VISITS if self.wanted.host else VISITS

    def find(
        self, *, most: int, older: Place | None = None, newer: Place | None = None, visits: int | None = None
    ) -> Found:
        """Return the first `most` jobs that match, or those next to a place."""
        visits = visits or self.visits
        rows = walks.ask(
            self.engine,
            walks.MATCHES,
            self.wanted,
            self.shops,
            older=older,
            newer=newer,
            visits=visits,
            most=most + 1,
        )
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
        others = replace(self.wanted, **_NO_CHOICE)
        if walks.choose(others, self.shops).narrow:
            return self._kinds(others, CHOICES)
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
        found = walks.ask(self.engine, walks.NUMBER, wanted, self.shops, visits=visits, most=COUNTED + 1)[0]
        return _count(found["jobs"], exact=not found["stopped"])

    def _kinds(self, others: Filter, names: Sequence[str]) -> dict[str, dict[str, Count]]:
        rows = walks.ask(self.engine, walks.KINDS, others, self.shops, visits=CHOICE_VISITS)
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


def _count(jobs: int, *, exact: bool) -> Count:
    return Count(min(jobs, COUNTED), exact and jobs <= COUNTED)


def _is(asked: str, value: str | None) -> bool:
    return value in STATUSES[2:] if asked == ENDED else value == asked


def _shops(engine: Engine, name: str) -> Sequence[str] | None:
    """Return the shop of this name, or else those whose name has it in it. None if they are too many to be walked one by one."""
    if fetch_value(engine, QUERIES["has_shop"], shop=name):
        return [name]
    found = fetch_all(engine, QUERIES["shops_with"], part=name, read=SHOPS_READ, most=MOST_SHOPS + 1)
    if len(found) > MOST_SHOPS or any(row["all_read"] for row in found):
        return None
    return [row["shop"] for row in found]
