"""What people change with the buttons of the pages, each through the function that backends use.

An action is a form that posts to /actions/NAME. What cannot be undone is asked once more: the form comes back as a question, and
its answer has the field `confirmed`. Each change is a line of the log, with who made it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.core.errors import first_line
from worker.database import fetch_value, queries
from worker.jobs import batches, hosts, plans, queue
from worker.ops.dashboard import selection
from worker.ops.dashboard.forms import BadForm, Form
from worker.ops.dashboard.sessions import Notice
from worker.webhooks import outbox

log = structlog.get_logger()

QUERIES = queries("worker.ops.dashboard")

AT_ONCE = 100  # jobs or events in one statement
MOST_S = 20  # of work for one request; then the page asks if it shall go on
LOGGED = 100  # values of a field in the log


LOST = "What has been computed is lost."
FORGOTTEN = "A completed job forgets the model that it has made. What is published stays."


class Question(NamedTuple):
    """What is asked before an action, and what it cannot undo."""

    text: str
    warning: str = ""


class Action(NamedTuple):
    """`run` changes something and says what; `ask` returns the question before it, None if there is none."""

    run: Callable[[Engine, Form], Notice]
    ask: Callable[[Engine, Form], Question | None] = lambda _engine, _form: None


class Done(NamedTuple):
    """What became of many: `sums` by outcome, if there are `more`, and why Postgres refused the rest."""

    sums: Counter[str]
    more: bool = False
    problem: str = ""

    def notice(self, text: str, otherwise: str) -> Notice:
        """Return a notice with this text, or, if nothing was changed, with why."""
        if self.problem:
            return Notice(f"{text or 'Nothing was changed.'} {self.problem}", good=False)
        return Notice(text or otherwise * (not self.more), good=bool(text), more=self.more)


def run(engine: Engine, name: str, form: Form, *, who: Mapping[str, str]) -> Notice:
    """Run an action and log it. Returns what it did, or why Postgres refused it.

    who: the fields that say in the log who did it.

    Raises: BadForm, sqlalchemy's DBAPIError if Postgres is away.
    """
    target = {field[:60]: values[:LOGGED] for field, values in form.target.items()}
    bound = log.bind(action=name, **who, target=target)
    try:
        notice = ACTIONS[name].run(engine, form)
    except DBAPIError as error:
        problem = _explain(error)
        if problem is None:
            bound.warning("dashboard_action", done=False, outcome="The database cannot be reached.")
            raise
        notice = Notice(f"Nothing was changed. {problem}", good=False)
    bound.info("dashboard_action", done=notice.good, outcome=notice.text)
    return notice


def _explain(error: DBAPIError) -> str | None:
    """Return a sentence for somebody whose change Postgres refuses; None if Postgres is away."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state in {"42501", "25006"}:
        return f"The database role of this dashboard may only read: {first_line(error)}."
    if state == "23505":
        return "Another unfinished job has the same dedupe_key."
    if state in {"55P03", "40P01", "57014"}:
        return "Another session has locked a row. Try again in a moment."
    if state[:2] in {"22", "23", "P0"}:  # data, rules, a trigger of the app's
        return f"{first_line(error)}."
    return None


# Jobs: one or some by their ids, or all that match a filter.


def _cancel(engine: Engine, form: Form) -> Notice:
    parts = selection.in_parts(engine, form, selection.TO_CANCEL, AT_ONCE)
    done = _each_part(parts, lambda ids: queue.cancel_jobs(engine, ids))
    texts = {"cancelled": "Cancelled {}.", "stopping": "Asked {} to stop."}
    text = " ".join(text.format(_jobs(done.sums[name])) for name, text in texts.items() if done.sums[name])
    return done.notice(text, "Nothing to cancel: no such job waits or runs.")


def _ask_cancel(engine: Engine, form: Form) -> Question | None:
    if "filter" in form.fields:
        number = selection.number(engine, form, selection.TO_CANCEL)
        return Question(f"Cancel {number} that match the filter?", LOST) if number else None
    ids = form.ids()
    states = queue.count_states(engine, ids)
    unfinished = sum(states.get(state, 0) for state in selection.TO_CANCEL.all)
    text = f"Cancel {'this job' if len(ids) == 1 else _jobs(unfinished)}?"
    return Question(text, LOST if states.get("processing") else "") if unfinished else None


def _retry(engine: Engine, form: Form) -> Notice:
    photo = form.number("without_photo", least=0, most=15)
    if photo is not None:
        again = queue.retry(engine, form.only_id(), without_photo=photo)
        return _outcome(
            again, f"Queued again, without photo {photo + 1}.", "Not queued: the job has not ended."
        )
    parts = selection.in_parts(engine, form, selection.TO_RETRY, AT_ONCE)
    done = _each_part(parts, lambda ids: queue.retry_jobs(engine, ids))
    texts = {
        "queued": "Queued {} again.",
        "refused": "Not {}: another unfinished one has the same dedupe_key.",
    }
    text = " ".join(text.format(_jobs(done.sums[name])) for name, text in texts.items() if done.sums[name])
    return done.notice(text, "Nothing to retry: no such job has ended.")


def _ask_retry(engine: Engine, form: Form) -> Question | None:
    photo = form.number("without_photo", least=0, most=15)
    if photo is not None:
        text = f"Make this model again without photo {photo + 1}?"
        return Question(text, "It is left out until the row gets other photos.")
    if "filter" in form.fields:
        number = selection.number(engine, form, selection.TO_RETRY)
        forgets = number is not None and "completed" in number
        return Question(f"Retry {number} that match the filter?", FORGOTTEN * forgets) if number else None
    ids = form.ids()
    completed = queue.count_states(engine, ids).get("completed", 0)
    if not completed:
        return None
    if len(ids) == 1:
        return Question("Make this model again?", FORGOTTEN)
    return Question(f"Retry {_jobs(len(ids))}, {completed:,} of them completed?", FORGOTTEN)


def _approve(engine: Engine, form: Form) -> Notice:
    job = form.only_id()
    return _decided(
        engine,
        job,
        queue.approve(engine, job),
        published="Approved. The model is published in a moment.",
        unpublished="Approved. Another model of the product stays published.",
        otherwise="Not approved: the model does not wait for it, or its files are gone.",
    )


def _reject(engine: Engine, form: Form) -> Notice:
    reason = form.text("reason", "", most=2000).strip()
    job = form.only_id()
    return _decided(
        engine,
        job,
        queue.reject(engine, job, reason=reason or None),
        published="Rejected. An equal model of an earlier job stays published.",
        unpublished="Rejected. The model is not published.",
        otherwise="Not rejected: the model does not wait for it.",
    )


def _decided(
    engine: Engine, job: UUID, done: bool, *, published: str, unpublished: str, otherwise: str
) -> Notice:
    """Return the sentence for a decision: by whether the job's version is published now, or why nothing was decided."""
    is_published = done and fetch_value(engine, QUERIES["is_published"], id=job)
    return _outcome(done, published if is_published else unpublished, otherwise)


def _publish(engine: Engine, form: Form) -> Notice:
    done = queue.publish_version(engine, form.only_id())
    return _outcome(
        done,
        "Published. The shop shows this version in a moment.",
        "Not published: the version waits for review, was rejected, or its files are gone.",
    )


# Hosts, batches, webhooks, plans


def _pause(engine: Engine, form: Form) -> Notice:
    name = form.text("name")
    return _outcome(hosts.pause(engine, name), f"{name} claims no more jobs.", f"There is no host {name}.")


def _resume(engine: Engine, form: Form) -> Notice:
    name = form.text("name")
    return _outcome(hosts.resume(engine, name), f"{name} is resumed.", f"There is no host {name}.")


def _cancel_batch(engine: Engine, form: Form) -> Notice:
    number = batches.cancel(engine, form.text("shop"), form.text("batch"))
    return _outcome(bool(number), f"Cancelled {_jobs(number)}, or asked them to stop.", "No job of the batch waits or runs.")  # fmt: skip


def _ask_cancel_batch(engine: Engine, form: Form) -> Question | None:
    found = batches.status(engine, shop=form.text("shop"), batch=form.text("batch"))
    unfinished = sum(batch["waiting"] + batch["running"] for batch in found)
    if not unfinished:
        return None
    return Question(f"Cancel {_jobs(unfinished)} of the batch {form.text('batch')}?", LOST)


def _retry_batch(engine: Engine, form: Form) -> Notice:
    number = batches.retry(engine, form.text("shop"), form.text("batch"))
    return _outcome(bool(number), f"Queued {_jobs(number)} again.", "No job of the batch has failed.")


def _set_priority(engine: Engine, form: Form) -> Notice:
    priority = form.number("priority", least=-32_768, most=32_767)
    if priority is None:
        raise BadForm("Give a priority.")
    number = batches.set_priority(engine, form.text("shop"), form.text("batch"), priority)
    return _outcome(bool(number), f"Set the priority of {_jobs(number)} to {priority}.", "No job of the batch waits or runs.")  # fmt: skip


def _replay(engine: Engine, form: Form) -> Notice:
    done = _each_part(_dead_events(engine, form), lambda ids: {"sent": len(outbox.replay(engine, ids))})
    sent = done.sums["sent"]
    text = f"Sending {sent:,} event{'s' * (sent != 1)} again." if sent else ""
    return done.notice(text, "Nothing to send: no such event is dead, or later ones have replaced them.")


def _ask_replay(_engine: Engine, form: Form) -> Question | None:
    if "id" in form.fields:
        return None
    return Question(f"Send all dead events of {form.text('shop')} again?")


def _set_plan(engine: Engine, form: Form) -> Notice:
    shop = form.text("shop", most=255).strip()
    if not shop:
        raise BadForm("Name a shop.")
    presets = [value for value in form.fields.get("preset", []) if value in plans.PRESETS]
    plans.set_plan(
        engine,
        shop,
        jobs_a_day=form.number("jobs_a_day", least=0, most=2_147_483_647),
        jobs_at_once=form.number("jobs_at_once", least=0, most=2_147_483_647),
        presets=presets or None,
    )
    return Notice(f"The plan of {shop} holds for what is inserted and claimed from now on.")


def _remove_plan(engine: Engine, form: Form) -> Notice:
    shop = form.text("shop")
    return _outcome(plans.remove(engine, shop), f"{shop} has no limits any more.", f"{shop} has no plan.")


ACTIONS = {
    "cancel": Action(_cancel, _ask_cancel),
    "retry": Action(_retry, _ask_retry),
    "approve": Action(_approve, lambda _engine, _form: Question("Approve this model?", "It is published, and cannot be rejected after that.")),
    "reject": Action(_reject),
    "publish": Action(_publish),
    "pause": Action(_pause),
    "resume": Action(_resume),
    "cancel-batch": Action(_cancel_batch, _ask_cancel_batch),
    "retry-batch": Action(_retry_batch),
    "set-priority": Action(_set_priority),
    "replay": Action(_replay, _ask_replay),
    "set-plan": Action(_set_plan),
    "remove-plan": Action(_remove_plan, lambda _engine, form: Question(f"Remove the plan of {form.text('shop')}?", "The shop has no limits then.")),
}  # fmt: skip


def _outcome(done: bool, text: str, otherwise: str) -> Notice:
    return Notice(text if done else otherwise, good=done)


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def _each_part(
    parts: Iterator[Sequence[UUID]], change: Callable[[Sequence[UUID]], Mapping[str, int]]
) -> Done:
    """Change part after part, for MOST_S seconds at most, until Postgres refuses one."""
    sums: Counter[str] = Counter()
    end = monotonic() + MOST_S
    try:
        for ids in parts:
            if sums and monotonic() > end:
                return Done(sums, more=True)
            sums.update(change(ids))
    except DBAPIError as error:
        problem = _explain(error)
        if problem is None:
            raise
        return Done(sums, problem=problem)
    return Done(sums)


def _dead_events(engine: Engine, form: Form) -> Iterator[Sequence[UUID]]:
    """Yield the dead events that a form names, or those of a shop, in parts."""
    if "id" in form.fields:
        yield form.ids()
        return
    before = None
    while events := outbox.dead(engine, AT_ONCE, shop=form.text("shop"), before=before):
        yield [event["id"] for event in events]
        before = events[-1]["dead_at"], events[-1]["seq"]
