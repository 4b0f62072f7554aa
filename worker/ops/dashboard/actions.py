"""What people change with the buttons of the pages, each through the function that backends use.

An action is a form that posts to /actions/NAME. What cannot be undone is asked once more: the form comes back as a question, and
its answer has the field `confirmed`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.core.errors import first_line
from worker.jobs import queue
from worker.ops.dashboard.sessions import Notice

log = structlog.get_logger()

MOST_IDS = 1000  # in one form
OWN_FIELDS = {"csrf", "next", "confirmed"}  # of every form


class BadForm(Exception):
    """A form that no page of ours has. The message says what is wrong with it."""


class Form:
    """The fields of a posted form. Each is read by a method that checks it, and raises BadForm."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self.fields = fields

    def text(self, name: str, default: str | None = None) -> str:
        """Return the only value of a field."""
        values = self.fields.get(name, [] if default is None else [default])
        if len(values) != 1 or "\0" in values[0]:
            raise BadForm(f"The form needs one {name}.")
        return values[0]

    def ids(self) -> list[UUID]:
        """Return the ids of the field `id`, which a form may have many times, each once."""
        try:
            found = list(dict.fromkeys(UUID(value) for value in self.fields.get("id", ())))
        except ValueError:
            raise BadForm("The form names something that is no id.") from None
        if len(found) > MOST_IDS:
            raise BadForm(f"Select at most {MOST_IDS:,} at once.")
        return found


class Action(NamedTuple):
    """`run` changes something and returns what it did; `ask` returns the question before it, None if there is none."""

    run: Callable[[Engine, Form], Notice]
    ask: Callable[[Engine, Form], str | None] = lambda _engine, _form: None


def run(engine: Engine, name: str, form: Form, *, who: Mapping[str, str]) -> Notice:
    """Run an action and log it: who did it, to what, with which outcome. Raises: BadForm; sqlalchemy's DBAPIError if the database is away."""
    target = {key: values[:20] for key, values in form.fields.items() if key not in OWN_FIELDS}
    try:
        notice = ACTIONS[name].run(engine, form)
    except DBAPIError as error:
        if (sentence := _explain(error)) is None:
            log.warning("dashboard_action", action=name, **who, target=target, outcome="database unavailable")
            raise
        notice = Notice(sentence, good=False)
    log.info("dashboard_action", action=name, **who, target=target, done=notice.good, outcome=notice.text)
    return notice


def _explain(error: DBAPIError) -> str | None:
    """Return a sentence for somebody whose change Postgres refuses; None if Postgres is away."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state in {"42501", "25006"}:
        return f"Nothing was changed: the database role of this dashboard may only read. {first_line(error)}."
    if state == "23505":
        return "Nothing was changed: another unfinished job has the same dedupe_key."
    if state in {"55P03", "40P01", "57014"}:
        return "Nothing was changed: another session holds the rows. Try again in a moment."
    if state[:2] in {"22", "23", "P0"}:  # data, rules, a trigger of the app's
        return f"Nothing was changed: {first_line(error)}."
    return None


def _cancel(engine: Engine, form: Form) -> Notice:
    ids = form.ids()
    if not ids:
        raise BadForm("The form names no job.")
    if not queue.request_cancel(engine, ids[0]):
        return Notice("Nothing to cancel: the job has ended.", good=False)
    return Notice("The job is cancelled, or stops within seconds if it runs.")


def _ask_cancel(_engine: Engine, _form: Form) -> str:
    return "Cancel this job? What it has computed is lost."


ACTIONS = {
    "cancel": Action(_cancel, _ask_cancel),
}
