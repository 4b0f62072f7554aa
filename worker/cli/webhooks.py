"""`worker webhooks`: the events that the backend refused."""

from typing import Annotated
from uuid import UUID

import typer

from worker.cli.output import AsJson, connected, console, print_json
from worker.core import settings
from worker.ops.terminal import tables
from worker.webhooks import outbox

app = typer.Typer(no_args_is_help=True, help="List and resend webhooks that the backend refused.")


@app.command("list")
def list_webhooks(
    limit: Annotated[
        int, typer.Option(min=0, help="Maximum number of dead events to show, the latest first.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead events, which are no longer sent, and count the waiting ones."""
    with connected(settings.load()) as engine:
        counts, events = outbox.counts(engine), outbox.dead(engine, limit)
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
    every: Annotated[bool, typer.Option("--all", help="Resend all dead events.")] = False,
    as_json: AsJson = False,
) -> None:
    """Resend dead events, except those that a later event of the same job has superseded.

    Exit status: 1 one of the ids is not resent.
    """
    if every == bool(ids):
        raise typer.BadParameter("Give ids of dead events or --all, not both.")
    with connected(settings.load()) as engine:
        sent = outbox.replay(engine, ids or None)
    outcome = {str(event): event in sent for event in ids or sent}
    if as_json:
        print_json(outcome)
    else:
        for event, was_sent in outcome.items():
            console.print(f"{event} {'is sent again' if was_sent else 'is not dead, or was superseded'}")
        if every:
            console.print(f"{len(sent)} dead events are sent again.")
    raise typer.Exit(0 if all(outcome.values()) else 1)
