"""The commands on hosts: hosts, pause, resume."""

from typing import Annotated, NoReturn

import typer

from worker.cli.options import AsJson
from worker.cli.output import connected, console, print_json
from worker.cli.sections import FLEET
from worker.core import settings
from worker.jobs import hosts
from worker.ops import advice
from worker.ops.terminal import tables

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="HOST", help="The host's name in `worker hosts`.")]


@app.command("hosts", rich_help_panel=FLEET)
def list_hosts(as_json: AsJson = False) -> None:
    """List the hosts, with what each can do and does."""
    with connected(settings.load()) as engine:
        found = hosts.list_hosts(engine)
    if as_json:
        print_json(found)
    elif found:
        console.print(tables.hosts_table(found, console.width))
    else:
        console.print(f"No worker is running. {advice.start_worker()}", highlight=False)


@app.command(rich_help_panel=FLEET)
def pause(host: Name, as_json: AsJson = False) -> None:
    """Let a host claim no more jobs, also after a restart.

    It finishes what it runs.

    Exit status: 1 no host has this name.
    """
    with connected(settings.load()) as engine:
        done = hosts.pause(engine, host)
    _tell(host, "is paused", done=done, as_json=as_json)


@app.command(rich_help_panel=FLEET)
def resume(host: Name, as_json: AsJson = False) -> None:
    """Let a paused host claim jobs again, or forget a gone one.

    Exit status: 1 no host has this name.
    """
    with connected(settings.load()) as engine:
        done = hosts.resume(engine, host)
    _tell(host, "is resumed", done=done, as_json=as_json)


def _tell(host: str, what: str, *, done: bool, as_json: bool) -> NoReturn:
    if as_json:
        print_json({host: done})
    else:
        text = f"{host} {what}." if done else f"No host has the name {host}. See: worker hosts"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(0 if done else 1)
