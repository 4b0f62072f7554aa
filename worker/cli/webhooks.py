"""`worker webhooks`: what the backend would not take."""

from typing import Annotated
from uuid import UUID

import typer

from worker import database
from worker.cli.output import AsJson, console, print_json
from worker.core import settings
from worker.ops.terminal import tables
from worker.webhooks import outbox

app = typer.Typer(no_args_is_help=True, help="What the backend was told, or would not take.")


@app.command("list")
def list_webhooks(
    limit: Annotated[int, typer.Option(help="Of dead events, the latest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The dead events, which the backend would not take, and how many wait."""
    engine = database.connect(database.url(settings.load()))
    counts, events = outbox.counts(engine), outbox.dead(engine, limit)
    engine.dispose()
    if as_json:
        print_json({**counts, "events": events})
        return
    since = f", the oldest since {counts['oldest']:%d %b %H:%M} UTC" if counts["oldest"] else ""
    console.print(f"waiting [bold]{counts['waiting']}[/bold]{since}   dead [bold]{counts['dead']}[/bold]")
    if events:
        console.print(tables.dead_table(events))


@app.command("replay")
def replay_webhooks(
    ids: Annotated[list[UUID] | None, typer.Argument(help="Ids of dead events.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead events.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sends dead events after all, unless the backend has had a later one of the job. Exit code: 1 if one is not sent."""
    if every == bool(ids):
        raise typer.BadParameter("Name dead events, or say --all.")
    engine = database.connect(database.url(settings.load()))
    sent = outbox.replay(engine, ids or None)
    engine.dispose()
    outcome = {str(event): event in sent for event in ids or sent}
    if as_json:
        print_json(outcome)
    else:
        for event, was_sent in outcome.items():
            console.print(f"{event} {'is sent again' if was_sent else 'is not dead, or was overtaken'}")
        if every:
            console.print(f"{len(sent)} dead events are sent again.")
    raise typer.Exit(0 if all(outcome.values()) else 1)
