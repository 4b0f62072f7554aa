"""The commands on hosts: hosts, pause, resume."""

from typing import Annotated, NoReturn

import typer

from worker.cli.output import AsJson, connected, console, print_json
from worker.core import settings
from worker.jobs import hosts
from worker.ops.terminal import tables

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="HOST", help="The host's name in `worker hosts`.")]


@app.command("hosts")
def list_hosts(as_json: AsJson = False) -> None:
    """List the hosts whose workers run, with what each can do and does."""
    with connected(settings.load()) as engine:
        found = hosts.list_hosts(engine)
    if as_json:
        print_json(found)
    elif found:
        console.print(tables.hosts_table(found))
    else:
        console.print("No worker is running.")


@app.command()
def pause(host: Name, as_json: AsJson = False) -> None:
    """Let a host claim no more jobs, also after a restart. What it runs is finished.

    Exit status: 1 no host has this name.
    """
    with connected(settings.load()) as engine:
        done = hosts.pause(engine, host)
    _tell(host, "is paused", done=done, as_json=as_json)


@app.command()
def resume(host: Name, as_json: AsJson = False) -> None:
    """Let a paused host claim jobs again, or forget a host that is gone.

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
