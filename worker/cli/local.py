"""`worker dev` and `worker demo`: everything on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from worker import engines
from worker.cli.options import known_engine, one_of
from worker.cli.output import console
from worker.cli.sections import LAPTOP
from worker.ops.advice import DEV_FOLDER

app = typer.Typer()

EngineName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=known_engine,
        autocompletion=one_of(list(engines.ENGINES)),
        help=f"One of {', '.join(engines.ENGINES)}; {engines.WITHOUT_WEIGHTS} makes previews and needs no weights.",
    ),
]


@app.command(rich_help_panel=LAPTOP)
def dev(
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", envvar=DEV_FOLDER, help="The folder for its data.")
    ] = Path(".worker"),
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="The port for files and webhooks; 0 takes a free one."
        ),
    ] = 8765,
    dashboard_port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="The port of the dashboard; 0 takes a free one."),
    ] = 0,
    engine: EngineName = engines.WITHOUT_WEIGHTS,
) -> None:
    """Run everything on this machine, to develop a backend.

    It starts Postgres, a store, a receiver for webhooks, the dashboard and the daemon. Ctrl-C lets a running job finish; a second one requeues it immediately.

    Exit status: 0 stopped by a signal, 78 it cannot run here, for instance because another `worker dev` runs in the folder;
    else that of the daemon.
    """
    from worker.local import dev  # noqa: PLC0415 - what only a laptop needs

    raise typer.Exit(
        dev.run(folder, engine=engine, port=port, dashboard_port=dashboard_port, console=console)
    )


@app.command(rich_help_panel=LAPTOP)
def demo(
    results: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The folder for the models and the page.")
    ] = Path("results"),
    engine: EngineName = engines.WITHOUT_WEIGHTS,
) -> None:
    """Make models of sample photos, and a page that shows them.

    The real daemon makes them, in a database and a store of their own.

    Exit status: 0 each job ended as it should, 1 one did not, 78 it cannot run here.
    """
    from worker.local import demo  # noqa: PLC0415 - what only a laptop needs

    raise typer.Exit(demo.run(results, engine=engine, console=console))
