"""The jobs that a form is for: those that it names, or all that match a filter, which is the query string of a list."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.jobs.filters import BadFilter, Filter
from worker.jobs.search import Search
from worker.ops.dashboard.forms import BadForm, Form

NAMES = {"processing": "running", "pending": "waiting"}


class States(NamedTuple):
    """The states of jobs that an action changes, and those that it looks in if a filter asks for none of these."""

    all: Sequence[str]
    usual: Sequence[str]


TO_CANCEL = States(("processing", "pending"), ("processing", "pending"))
TO_RETRY = States(("failed", "cancelled", "completed"), ("failed",))


def in_parts(engine: Engine, form: Form, states: States, most: int) -> Iterator[Sequence[UUID]]:
    """Yield the ids of the jobs, `most` at a time. Those that a form names may be in any state."""
    if "filter" in form.fields:
        for wanted in _filters(form, states):
            yield from Search(engine, wanted).batches(most)
    else:
        ids = form.ids()
        yield from (ids[first : first + most] for first in range(0, len(ids), most))


def number(engine: Engine, form: Form, states: States) -> str | None:
    """Return how many jobs the filter of a form finds, and in which states: `more than 1,000 failed jobs`. None for none."""
    filters = _filters(form, states)
    counts = [Search(engine, wanted).count() for wanted in filters]
    jobs, exact = sum(count.jobs for count in counts), all(count.exact for count in counts)
    if exact and not jobs:
        return None
    named = " and ".join(NAMES.get(wanted.status, wanted.status) for wanted in filters)
    return f"{'' if exact else 'more than '}{jobs:,} {named} job{'s' * (jobs != 1)}"


def _filters(form: Form, states: States) -> list[Filter]:
    """Return the filters that together find the jobs in these states that match the filter of a form."""
    try:
        wanted = Filter.parse(dict(parse_qsl(form.text("filter"))))
    except BadFilter as error:
        raise BadForm(str(error)) from None
    if wanted.review and not wanted.status:
        wanted = replace(wanted, status="completed")  # what is reviewed is
    if wanted.status in (*TO_CANCEL.all, *TO_RETRY.all):
        return [wanted] if wanted.status in states.all else []
    return [replace(wanted, status=status) for status in states.usual]
