"""The commands on models that wait for review, and on the published version: review, publish."""

from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy.engine import Engine

from worker.cli.output import AsJson, Ids, connected, console, for_each, print_json
from worker.core import settings
from worker.jobs import queue
from worker.ops.terminal import tables

app = typer.Typer()
review = typer.Typer(invoke_without_command=True)
app.add_typer(review, name="review")

Limit = Annotated[int, typer.Option(min=1, help="Maximum number of models to show.")]


@review.callback()
def list_models(context: typer.Context, as_json: AsJson = False, limit: Limit = 20) -> None:
    """List the models that wait for review, the oldest first, or decide on them."""
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
            console.print(f"and {waiting - len(found)} more: worker review --limit {waiting}", style="dim")


@review.command()
def approve(ids: Ids, as_json: AsJson = False) -> None:
    """Approve models and publish them, unless a newer one of the product is published.

    Exit status: 1 a model waits for no review, or its files are gone.
    """
    with connected(settings.load()) as engine:
        for_each(
            ids,
            lambda job: _approve(engine, job),
            "approved",
            "waits for no review, or its files are gone",
            as_json=as_json,
        )


def _approve(engine: Engine, job: UUID) -> bool:
    approved = queue.approve(engine, job)
    if approved and not all(row["published"] for row in queue.get_jobs(engine, [job])):
        console.print(f"{job}: a newer model stays published. See: worker publish {job}", soft_wrap=True)
    return approved


@review.command()
def reject(
    ids: Ids,
    reason: Annotated[str | None, typer.Option(help="The reason, for the row and the webhook.")] = None,
    as_json: AsJson = False,
) -> None:
    """Reject models that wait for review. They are not published.

    Exit status: 1 a model waits for no review.
    """
    with connected(settings.load()) as engine:
        for_each(
            ids,
            lambda job: queue.reject(engine, job, reason=reason),
            "rejected",
            "waits for no review",
            as_json=as_json,
        )


@app.command()
def publish(ids: Ids, as_json: AsJson = False) -> None:
    """Publish the models of completed jobs, even in place of newer ones.

    Exit status: 1 a model waits for review or was rejected, or its files are gone.
    """
    with connected(settings.load()) as engine:
        for_each(
            ids,
            lambda job: queue.publish_version(engine, job),
            "published",
            "has no model that may be published, or its files are gone",
            as_json=as_json,
        )
