"""`worker dev` and `worker demo`: everything on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from worker import engines
from worker.cli.output import console

app = typer.Typer()


def _known_engine(name: str) -> str:
    if name not in engines.ENGINES:
        raise typer.BadParameter(f"'{name}' is not one of {', '.join(map(repr, engines.ENGINES))}.")
    return name


EngineName = Annotated[
    str,
    typer.Option(
        callback=_known_engine,
        help=f"One of {', '.join(engines.ENGINES)}; {engines.WITHOUT_WEIGHTS} makes previews and needs no weights.",
    ),
]


@app.command()
def dev(
    folder: Annotated[Path, typer.Option(envvar="WORKER_DEV_DIR", help="The folder for its data.")] = Path(
        ".worker"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for files and webhooks; 0 takes a free one.")
    ] = 8765,
    dashboard_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port of the dashboard; 0 takes a free one.")
    ] = 0,
    engine: EngineName = engines.WITHOUT_WEIGHTS,
) -> None:
    """Run everything on this machine: Postgres, a store, a receiver for webhooks, the dashboard and the daemon.

    Ctrl-C lets a running job finish; a second one requeues it immediately.

    Exit status: 0 stopped by a signal, 78 it cannot run here, for instance because another `worker dev` runs in the folder;
    else that of the daemon.
    """
    from worker.local import dev  # noqa: PLC0415 - what only a laptop needs

    raise typer.Exit(
        dev.run(folder, engine=engine, port=port, dashboard_port=dashboard_port, console=console)
    )


@app.command()
def demo(
    results: Annotated[Path, typer.Option(help="The folder for the models and the page.")] = Path("results"),
    engine: EngineName = engines.WITHOUT_WEIGHTS,
) -> None:
    """Make 3D models of sample photos through the real daemon, and a page to look at them.

    Exit status: 0 each job ended as it should, 1 one did not, 78 it cannot run here.
    """
    from worker.local import demo  # noqa: PLC0415 - what only a laptop needs

    raise typer.Exit(demo.run(results, engine=engine, console=console))
