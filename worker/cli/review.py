"""The commands on models that wait for review, and on the published version: review, publish."""

from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy.engine import Engine

from worker.cli.options import AsJson, Ids
from worker.cli.output import connected, console, find_jobs, for_each, print_json
from worker.cli.sections import MODELS
from worker.core import settings
from worker.database import Row
from worker.jobs import queue
from worker.ops.terminal import tables

app = typer.Typer()
review = typer.Typer(invoke_without_command=True)
app.add_typer(review, name="review", rich_help_panel=MODELS)

Limit = Annotated[int, typer.Option(min=1, metavar="N", help="Show N models at most.")]


@review.callback()
def list_models(context: typer.Context, as_json: AsJson = False, limit: Limit = 20) -> None:
    """List the models that wait for review, or decide on them.

    The oldest come first.
    """
    if context.invoked_subcommand:
        return
    with connected(settings.load()) as engine:
        found = queue.to_review(engine, limit)
        waiting = queue.health(engine)["to_review"]
    if as_json:
        print_json(found)
    elif not found:
        console.print("No model waits for review.")
    else:
        console.print(tables.review_list(found), soft_wrap=True)
        if waiting > len(found):
            console.print(f"and {waiting - len(found):,} more: worker review --limit {waiting}", style="dim")


@review.command()
def approve(ids: Ids, as_json: AsJson = False) -> None:
    """Approve models and publish them.

    A model is not published in place of a newer one of its product: see worker publish.

    Exit status: 1 a model waits for no review, or its files are gone.
    """
    with connected(settings.load()) as engine:
        for_each(find_jobs(engine, ids), lambda job: _approve(engine, job), as_json=as_json)


@review.command()
def reject(
    ids: Ids,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The reason, for the row and the webhook.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reject models that wait for review. They are not published.

    Exit status: 1 a model waits for no review.
    """
    with connected(settings.load()) as engine:
        for_each(find_jobs(engine, ids), lambda job: _reject(engine, job, reason), as_json=as_json)


@app.command(rich_help_panel=MODELS)
def publish(ids: Ids, as_json: AsJson = False) -> None:
    """Publish the models of completed jobs, older ones too.

    Exit status: 1 a model waits for review or was rejected, or its files are gone.
    """
    with connected(settings.load()) as engine:
        for_each(find_jobs(engine, ids), lambda job: _publish(engine, job), as_json=as_json)


def _approve(engine: Engine, job: UUID) -> tuple[bool, str]:
    approved = queue.approve(engine, job)
    row = _row(engine, job)
    if approved and row and not row["published"]:
        return True, f"approved, but a newer model stays published. See: worker publish {row['short']}"
    return approved, "approved" if approved else _why_undecided(row)


def _reject(engine: Engine, job: UUID, reason: str | None) -> tuple[bool, str]:
    rejected = queue.reject(engine, job, reason=reason)
    return rejected, "rejected" if rejected else _why_undecided(_row(engine, job))


def _publish(engine: Engine, job: UUID) -> tuple[bool, str]:
    if queue.publish_version(engine, job):
        return True, "published"
    match _row(engine, job):
        case None:
            why = "does not exist"
        case {"status": status} if status != "completed":
            why = f"has no model: it is {status}"
        case {"review": "wanted", "short": short}:
            why = f"waits for review. See: worker review approve {short}"
        case {"review": "rejected"}:
            why = "was rejected"
        case _:
            why = "has no files any more"
    return False, why


def _why_undecided(row: Row | None) -> str:
    if row is None:
        return "does not exist"
    return "has no files any more" if row["review"] == "wanted" else "waits for no review"


def _row(engine: Engine, job: UUID) -> Row | None:
    return next(iter(queue.get_jobs(engine, [job])), None)
