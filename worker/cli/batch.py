"""The commands on batches: batch add, status, watch, cancel, retry, export."""

import csv
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.engine import Engine

from worker.cli.options import AsJson
from worker.cli.output import connected, console, die, print_error, print_json
from worker.core import settings
from worker.database import Row
from worker.jobs import batches, rows
from worker.ops.terminal import live, tables
from worker.ops.terminal.formats import counted
from worker.ops.terminal.progress import jobs_bar

app = typer.Typer(no_args_is_help=True, help="Insert, watch, cancel and retry many jobs under one name.")

Name = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's name.")]
Shop = Annotated[
    str | None,
    typer.Option(
        metavar="SHOP", help="The shop's domain; needed only if several shops have a batch of this name."
    ),
]
EXPORTED = (
    "id", "shop", "product_id", "variant_id", "product_handle", "status", "model_url", "review", "version", "error_code",
    "error_message", "attempts", "created_at", "completed_at",
)  # fmt: skip


@app.command()
def add(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with a header, or .jsonl with one object a line; its columns are those of public.jobs. "
            "Several image_urls are separated by spaces.",
        ),
    ],
    batch: Annotated[
        str | None,
        typer.Option(metavar="BATCH", help="The batch's name. Default: the file's name without its ending."),
    ] = None,
    shop: Annotated[
        str | None, typer.Option(metavar="SHOP", help="The shop of lines that name none.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all lines, and insert nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Insert the jobs of a file, all or none.

    Exit status: 1 a line is wrong, and nothing was inserted.
    """
    defaults = {"batch": batch or file.stem} | ({"shop": shop} if shop else {})
    try:
        lines = rows.read(file, defaults)
        with connected(settings.load()) as engine, jobs_bar(console, len(lines)) as on_progress:
            refused = batches.add(engine, lines, keep=not dry_run, on_progress=on_progress)
    except rows.BadFile as error:
        *others, last = error.problems
        for problem in others:
            print_error(f"{file}, {problem}.")
        die(f"{file}, {last}. Nothing was inserted.", 1)
    names = sorted({line.columns["batch"] for line in lines})
    if as_json:
        print_json(
            {
                "batches": names,
                "inserted": 0 if dry_run else len(lines) - len(refused),
                "refused": [
                    {"line": line.number, "dedupe_key": line.columns.get("dedupe_key")} for line in refused
                ],
            }
        )
        return
    done = "would be inserted" if dry_run else "inserted"
    _print(
        f"{counted(len(lines) - len(refused), 'job')} {done} in {_listed(names, 'the batch', 'the batches')}."
    )
    if refused:
        numbers = [str(line.number) for line in refused]
        _print(
            f"{len(refused):,} refused, because an unfinished job of the shop has the same dedupe_key: "
            f"{_listed(numbers, 'line', 'lines')}."
        )


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="BATCH", help="The batch's name. Default: all batches.")
    ] = None,
    shop: Annotated[str | None, typer.Option(metavar="SHOP", help="Only batches of this shop.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how many jobs of each batch wait, run and ended."""
    with connected(settings.load()) as engine:
        found = batches.status(engine, batch=name, shop=shop)
    if as_json:
        print_json(found)
    elif found:
        console.print(tables.batches_table(found, console.width))
    else:
        console.print("There is no such batch." if name or shop else "There are no batches.")


@app.command()
def watch(name: Name, shop: Shop = None, as_json: AsJson = False) -> None:
    """Show a batch until all of its jobs have ended.

    Exit status: 0 all jobs completed, 1 one ended otherwise.
    """
    with connected(settings.load()) as engine:
        found = live.watch_batch(engine, _find(engine, name, shop)["shop"], name, console)
    if as_json:
        print_json(found)
    raise typer.Exit(0 if found and found["completed"] == found["total"] else 1)


@app.command()
def cancel(name: Name, shop: Shop = None, as_json: AsJson = False) -> None:
    """Cancel the waiting jobs of a batch and ask running ones to stop.

    Exit status: 1 there is no such batch.
    """
    with connected(settings.load()) as engine:
        found = _find(engine, name, shop)
        changed = batches.cancel(engine, found["shop"], name)
        running = sum(row["running"] for row in batches.status(engine, shop=found["shop"], batch=name))
    if as_json:
        print_json({"batch": name, "jobs": changed})
        return
    asked = min(running, changed)
    text = f"{counted(changed - asked, 'job')} cancelled"
    _print(f"{text}, cancel requested for {asked:,} that run." if asked else f"{text}.")


@app.command()
def retry(name: Name, shop: Shop = None, as_json: AsJson = False) -> None:
    """Queue the failed jobs of a batch again.

    Exit status: 1 there is no such batch.
    """
    with connected(settings.load()) as engine:
        changed = batches.retry(engine, _find(engine, name, shop)["shop"], name)
    if as_json:
        print_json({"batch": name, "jobs": changed})
    else:
        _print(f"{counted(changed, 'failed job')} queued again.")


@app.command()
def export(
    name: Name,
    shop: Shop = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write. Default: stdout."),
    ] = None,
) -> None:
    """Write what became of each job of a batch as CSV.

    Exit status: 1 there is no such batch.
    """
    with connected(settings.load()) as engine:
        found = batches.results(engine, _find(engine, name, shop)["shop"], name)
    with output.open("w", newline="") if output else nullcontext(sys.stdout) as file:
        writer = csv.DictWriter(file, EXPORTED)
        writer.writeheader()
        writer.writerows(found)


def _find(engine: Engine, name: str, shop: str | None) -> Row:
    """Return the batch of this name. Ends the command unless there is exactly one."""
    found = batches.status(engine, batch=name, shop=shop)
    if not found:
        die(f"There is no batch {name}{f' of {shop}' if shop else ''}. See: worker batch status", 1)
    if len(found) > 1:
        die(f"Several shops have a batch {name}. Name one with --shop. See: worker batch status {name}", 1)
    return found[0]


def _listed(names: Sequence[Any], one: str, many: str) -> str:
    """Return up to ten names, after the word for one or for many."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return f"{one if len(names) == 1 else many} {', '.join(names[:10])}{more}"


def _print(text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
