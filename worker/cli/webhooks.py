"""`worker webhooks`: the events that the backend refused."""

from typing import Annotated

import typer

from worker.cli.options import AsJson, check_ids
from worker.cli.output import CANDIDATES, connected, console, find_unique, print_json
from worker.core import settings
from worker.ops.terminal import tables
from worker.ops.terminal.formats import counted, moment
from worker.webhooks import outbox

app = typer.Typer(no_args_is_help=True, help="List and resend webhooks that the backend refused.")


@app.command("list")
def list_webhooks(
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="Show N dead events at most, the latest first.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead events and count the waiting ones.

    A dead event is not sent any more: the backend has refused it, or a day has passed.
    """
    with connected(settings.load()) as engine:
        counts, events = outbox.counts(engine), outbox.dead(engine, limit)
    if as_json:
        print_json({**counts, "events": events})
        return
    since = f", the oldest since {moment(counts['oldest'])}" if counts["oldest"] else ""
    console.print(
        f"[bold]{counts['waiting']:,}[/bold] waiting{since}   [bold]{counts['dead']:,}[/bold] dead",
        highlight=False,
    )
    if events:
        console.print(tables.dead_table(events, console.width))


@app.command("replay")
def replay_webhooks(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", callback=check_ids, help="Ids of dead events, or unique beginnings of them."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Resend all dead events.")] = False,
    as_json: AsJson = False,
) -> None:
    """Resend dead events.

    An event that a later one of the same job has superseded is not sent.

    Exit status: 1 one of the ids is not resent.
    """
    if every == bool(ids):
        raise typer.BadParameter("Give either ids of dead events or --all.")
    with connected(settings.load()) as engine:
        named = find_unique(
            ids or [], lambda each: outbox.find_dead(engine, each, CANDIDATES + 1), "dead event"
        )
        sent = outbox.replay(engine, named or None)
    outcome = {str(event): event in sent for event in named or sent}
    if as_json:
        print_json(outcome)
    else:
        for event, was_sent in outcome.items():
            text = "is sent again" if was_sent else "is not dead, or a later event has superseded it"
            console.print(f"{event} {text}", highlight=False)
        if every:
            console.print(f"{counted(len(sent), 'dead event')} sent again.", highlight=False)
    raise typer.Exit(0 if all(outcome.values()) else 1)
