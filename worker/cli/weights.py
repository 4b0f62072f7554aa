"""`worker weights`: the models on this disk."""

import os
from typing import Annotated, Any

import typer

from worker import engines
from worker.cli.options import AsJson
from worker.cli.output import console, die, print_json
from worker.core import settings
from worker.core.settings import ConfigError

app = typer.Typer(no_args_is_help=True, help="Fetch and verify the models on this disk.")


def known_models(names: list[str] | None) -> list[str] | None:
    """Return the names of models. Raises: typer.BadParameter if one is unknown."""
    if names:
        from worker import weights  # noqa: PLC0415 - brings an HTTP client

        for name in names:
            if name not in weights.NAMES:
                raise typer.BadParameter(f"'{name}' is not one of {', '.join(map(repr, weights.NAMES))}.")
    return names


WeightNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        callback=known_models,
        help="triposr, or the name of a background model. Default: the configured models.",
    ),
]


@app.command("fetch")
def fetch_weights(
    names: WeightNames = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL|FOLDER",
            help="Fetch the one named model from this mirror or folder instead of its publisher.",
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store TripoSR in half precision, which halves its size.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep TripoSR's published file after its conversion.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch models that are missing.

    A fetch that was interrupted is resumed.

    Exit status: 75 try again later, 78 a setting, the disk or the source prevents it.
    """
    from worker import weights  # noqa: PLC0415 - see above
    from worker.daemon import systemd  # noqa: PLC0415 - a unit may run this before the daemon
    from worker.ops.terminal import progress  # noqa: PLC0415

    configured = settings.load()
    if source and len(names or []) != 1:
        raise typer.BadParameter("--from needs the name of one model.")
    paths = {}
    for name in names or engines.weights_needed(configured.engine, configured.background_model):
        try:
            with progress.download_bar(console, name) as on_progress:
                paths[name] = weights.fetch(
                    configured.weights_dir,
                    name,
                    source=source,
                    half=half,
                    keep=keep,
                    on_progress=systemd.extending(name, on_progress),
                    on_step=lambda what: console.print(what, soft_wrap=True, highlight=False, style="dim"),
                )
        except weights.SourceUnreachable as error:
            die(str(error), os.EX_TEMPFAIL)
        except (weights.FetchFailed, weights.WeightsMissing) as error:
            raise ConfigError(str(error)) from None
        except OSError as error:
            raise ConfigError(f"WORKER_WEIGHTS_DIR cannot be used: {error}.") from None
        if not as_json:
            console.print(f"{name}: {paths[name]}", soft_wrap=True, highlight=False)
    if as_json:
        print_json({name: {"path": path} for name, path in paths.items()})


@app.command("verify")
def verify_weights(names: WeightNames = None, as_json: AsJson = False) -> None:
    """Check that models are present and unchanged.

    Exit status: 78 one of them is not.
    """
    from worker import weights  # noqa: PLC0415 - see above

    configured = settings.load()
    report: dict[str, dict[str, Any]] = {}
    for name in names or engines.weights_needed(configured.engine, configured.background_model):
        try:
            path = weights.verify(configured.weights_dir, name)
        except weights.WeightsMissing as error:
            # A checkpoint that is not the official one can be used, and is reported all the same.
            usable = isinstance(error, weights.NotOfficial)
            report[name] = {"verified": False, "usable": usable, "problem": str(error)}
        else:
            report[name] = {"verified": True, "usable": True, "path": path}
    problems = [result["problem"] for result in report.values() if not result["verified"]]
    if as_json:
        print_json(report)
        raise typer.Exit(os.EX_CONFIG if problems else 0)
    for name in (name for name, result in report.items() if result["verified"]):
        console.print(f"{name}: verified")
    if problems:
        raise ConfigError(" ".join(problems))


@app.command("path")
def path_of_weights(names: WeightNames = None, as_json: AsJson = False) -> None:
    """Print where models belong, present or not."""
    from worker import weights  # noqa: PLC0415 - see above

    configured = settings.load()
    names = names or engines.weights_needed(configured.engine, configured.background_model)
    try:
        paths = {name: weights.path(configured.weights_dir, name) for name in names}
    except weights.WeightsMissing as error:
        raise ConfigError(str(error)) from None
    if as_json:
        print_json({name: {"path": path} for name, path in paths.items()})
    else:
        typer.echo("\n".join(map(str, paths.values())))
