"""`worker bench`: measure how many photos this host makes into models, and what they cost."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from worker.cli.options import AsJson
from worker.cli.output import console, print_json
from worker.cli.sections import HOST

app = typer.Typer()


@app.command(rich_help_panel=HOST)
def bench(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PHOTO", exists=True, dir_okay=False, readable=True, help="Photos. Default: the samples."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Jobs to run. Default: one a photo.")
    ] = None,
    quality: Annotated[
        Literal["fast", "balanced", "quality"],
        typer.Option(metavar="PRESET", help="fast, balanced or quality."),
    ] = "balanced",
    lanes: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Lanes of each device; again and again to compare. Default: WORKER_LANES.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run photos through this host's lanes, and measure them.

    It uses this host's engine and weights, and reports jobs an hour, wall-clock and CPU seconds of each step, and peak memory. It uses a queue and a store of its own,
    not the real ones. It needs the package's extra `dev`.

    Exit status: 0 all jobs completed, 1 some did not, 78 it cannot run here.
    """
    from worker.local import bench  # noqa: PLC0415 - the other commands have no use for it

    with console.status("Starting …") as status:

        def show(rows: bench.Rows) -> None:
            ended = sum(row["completed_at"] is not None for row in rows)
            status.update(f"{ended} of {len(rows)} jobs have ended …")

        found = bench.run(photos or [], jobs=jobs, quality=quality, lanes=lanes or [], on_rows=show)
    if as_json:
        print_json(found)
    else:
        for table in bench.as_tables(found):
            console.print(table)
            console.print()
    runs = found.get("by_lanes", {"": found}).values()
    raise typer.Exit(os.EX_OK if all(run["completed"] == run["jobs"] for run in runs) else 1)
