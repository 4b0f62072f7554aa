"""The command `worker delete`: an erasure, as `forget_shop()` and `forget_product()` begin it, and its end."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

import structlog
import typer
from rich.prompt import Confirm
from sqlalchemy.engine import Engine

from worker.cli.options import AsJson
from worker.cli.output import connected, console, die, print_json
from worker.cli.sections import MODELS
from worker.core import settings
from worker.core.errors import JobError
from worker.database import Row
from worker.jobs import hosts
from worker.storage import Store, open_store, paths
from worker.versions import erase

WAIT_S = 120.0  # longer than a lease and the end of a child: a job that still runs then does not stop
DAEMON_S = 5.0  # within which a daemon that runs has taken the erasure
PAUSE_S = 0.3

app = typer.Typer()


@app.command(rich_help_panel=MODELS)
def delete(
    shop: Annotated[str, typer.Option(metavar="SHOP", help="The shop's domain.")],
    product: Annotated[
        str | None,
        typer.Argument(metavar="PRODUCT", help="The product's id or gid. Default: the whole shop."),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="ID", help="The variant's id or gid, to delete only it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all files and rows of a product or a shop for good.

    Its webhook events go too.

    Exit status: 75 it has begun and is not done yet.
    """
    # An empty id, such as an unset variable of a shell leaves, must not mean everything.
    if not shop.strip() or "" in {product, variant} or (variant and not product):
        raise typer.BadParameter("Give a shop, a product of it, or a variant of a product.")
    if as_json and not yes:
        raise typer.BadParameter("--json needs --yes.")
    configured = settings.load()
    stem = paths.stem(shop, product, variant)
    with connected(configured) as engine, _without_log():
        store = open_store(configured)
        if not yes:
            try:
                rows, files = erase.preview(engine, store, shop, product, variant)
            except JobError as error:
                die(f"The store failed: {error}", os.EX_TEMPFAIL if error.retryable else 1)
            _confirm(f"{stem}: files {files}, rows {rows}")
        erasure = erase.begin(engine, shop, product, variant)
        done = _see_through(engine, store, erasure)
    if as_json:
        print_json({"id": str(erasure), "path": stem} | {count: done[count] for count in erase.COUNTS})
    else:
        text = ", ".join(f"{count} {done[count]}" for count in erase.COUNTS)
        console.print(f"{stem}: deleted {text}", soft_wrap=True, highlight=False)


def _see_through(engine: Engine, store: Store, erasure: UUID) -> Row:
    """Wait until a daemon has carried the erasure out, or do it. Return its row. Ends the command if that takes too long."""
    began = time.monotonic()
    daemon = any(host["up"] for host in hosts.list_hosts(engine))
    while not (state := erase.get(engine, erasure))["done"]:
        waited = time.monotonic() - began
        ours = not state["taken"] and (not daemon or waited > DAEMON_S)
        if ours and (work := erase.take(engine, erasure)) and erase.carry_out(engine, store, work):
            continue
        if state["last_error"]:
            die(f"It has begun and failed: {state['last_error']} {_later(erasure)}", os.EX_TEMPFAIL)
        if waited > WAIT_S:
            running = ", ".join(
                f"{job['id']} at {job['claimed_by']}" for job in erase.running(engine, erasure)
            )
            why = f"These jobs still run: {running}." if running else "It takes long."
            die(f"It has begun and is not done. {why} {_later(erasure)}", os.EX_TEMPFAIL)
        time.sleep(PAUSE_S)
    return state


def _later(erasure: UUID) -> str:
    return f"A daemon goes on with erasure {erasure}; without one, run the command again."


@contextmanager
def _without_log() -> Iterator[None]:
    """Drop what the steps log: that is for daemons, and the command says in its own words how it ends."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        yield
    finally:
        structlog.configure(**before)


def _confirm(what: str) -> None:
    """Ask on the terminal. Raises: typer.Exit if the answer is no or nobody answers."""
    console.print(what, soft_wrap=True, highlight=False)
    try:
        agreed = Confirm.ask("Delete them for good?", console=console, default=False)
    except EOFError:
        die("Nobody answered on stdin. Use --yes to delete without being asked.", 1)
    if not agreed:
        console.print("Nothing was deleted.")
        raise typer.Exit(1)
