"""`worker weights`: the models on disk."""

import os
from typing import Annotated, Any

import typer

from worker import weights
from worker.cli.output import AsJson, console, die, print_json
from worker.core import settings
from worker.core.settings import ConfigError
from worker.daemon import systemd

app = typer.Typer(no_args_is_help=True, help="The models that the worker needs on disk.")
WeightNames = Annotated[
    list[str] | None, typer.Argument(help="triposr, or a background model; what is configured without.")
]


@app.command("fetch")
def fetch_weights(
    names: WeightNames = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL|FOLDER",
            help="A mirror's address, or a folder, with the published files of the one model that is named.",
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="TripoSR in half precision, in half the space.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep TripoSR's published file beside what it is converted to.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetches models, once, and goes on where it was interrupted. Exit codes: 75 try again later, 78 it cannot work."""
    from worker.ops.terminal import progress as bar  # noqa: PLC0415 - the daemon draws no bars

    configured = settings.load()
    if source and len(names or []) != 1:
        raise typer.BadParameter("--from goes with the name of one model.")
    paths = {}
    for name in names or weights.needed(configured.engine, configured.background_model):
        try:
            with bar.shown(console, name) as progress:
                paths[name] = weights.fetch(
                    configured.weights_dir,
                    name,
                    source=source,
                    half=half,
                    keep=keep,
                    progress=systemd.extending(name, progress),
                    say=lambda what: console.print(what, soft_wrap=True, highlight=False, style="dim"),
                )
        except weights.SourceUnreachable as error:
            die(str(error), os.EX_TEMPFAIL)
        except (weights.FetchFailed, weights.WeightsMissing) as error:
            raise ConfigError(str(error)) from None
        if not as_json:
            console.print(f"{name}: {paths[name]}", soft_wrap=True, highlight=False)
    if as_json:
        print_json({name: {"path": path} for name, path in paths.items()})


@app.command("verify")
def verify_weights(names: WeightNames = None, as_json: AsJson = False) -> None:
    """Says whether models are there and whole. Exit code: 78 if one is not."""
    configured = settings.load()
    report: dict[str, dict[str, Any]] = {}
    for name in names or weights.needed(configured.engine, configured.background_model):
        try:
            path = weights.verify(configured.weights_dir, name)
        except weights.WeightsMissing as error:
            # Another checkpoint than the official one can be used, and is told all the same.
            usable = isinstance(error, weights.NotOfficial)
            report[name] = {"verified": False, "usable": usable, "problem": str(error)}
        else:
            report[name] = {"verified": True, "usable": True, "path": path}
    problems = [result["problem"] for result in report.values() if not result["verified"]]
    if as_json:
        print_json(report)
        raise typer.Exit(os.EX_CONFIG if problems else 0)
    for name in (name for name, result in report.items() if result["verified"]):
        console.print(f"{name}: as it should be")
    if problems:
        raise ConfigError(" ".join(problems))


@app.command("path")
def path_of_weights(names: WeightNames = None, as_json: AsJson = False) -> None:
    """Prints where models belong, whether they are there or not."""
    configured = settings.load()
    names = names or weights.needed(configured.engine, configured.background_model)
    try:
        paths = {name: weights.path(configured.weights_dir, name) for name in names}
    except weights.WeightsMissing as error:
        raise ConfigError(str(error)) from None
    if as_json:
        print_json(paths)
    else:
        typer.echo("\n".join(map(str, paths.values())))
