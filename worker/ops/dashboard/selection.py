"""The jobs that a form is for: those that it names, or all that match a filter, which is a query string of the list."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.ops.dashboard.forms import BadForm, Form

# The states of the jobs that an action is for.
TO_CANCEL = ("processing", "pending")
TO_RETRY = ("failed", "cancelled", "completed")


def in_parts(engine: Engine, form: Form, states: Sequence[str], most: int) -> Iterator[Sequence[UUID]]:
    """Yield the ids of the jobs, `most` at a time. Those that a form names may be in any state."""
    if "filter" in form.fields:
        number(engine, form, states)
    ids = form.ids()
    yield from (ids[first : first + most] for first in range(0, len(ids), most))


def number(_engine: Engine, _form: Form, _states: Sequence[str]) -> str | None:
    """Return how many jobs the filter of a form finds, and in which states: `more than 1,000 failed jobs`. None for none."""
    raise BadForm("A filter cannot be acted on yet.")
