"""The command line. Every command prints for people; with `--json` one document on stdout and nothing else there."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from worker import __version__, database
from worker.cli import batch, bench, delete, errors, hosts, jobs, local, review, webhooks, weights
from worker.cli.output import AsJson, console, print_json
from worker.core import settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn product photos into 3D models for Shopify shops, one row of public.jobs at a time.",
)


def execute(arguments: Sequence[str]) -> int:
    """Run one command. Return its exit status; a failure is one line on stderr, and nothing is raised."""
    status = errors.guard(lambda: _invoke(arguments))
    # Python itself would flush when no error can be handled any more.
    return errors.guard(sys.stdout.flush) or status


def _invoke(arguments: Sequence[str]) -> None:
    command = get_command(app)
    with command.make_context("worker", list(arguments)) as context:
        command.invoke(context)


@app.command()
def run() -> None:
    """Claim and run jobs until SIGTERM.

    Exit status: 0 drained, 75 start it again, 78 a setting is wrong.
    """
    from worker.core import logs  # noqa: PLC0415 - the other commands have no daemon
    from worker.daemon import main as daemon  # noqa: PLC0415

    configured = settings.load()
    logs.configure(configured.log_format, configured.log_level)
    raise typer.Exit(daemon.run(configured))


@app.command()
def migrate(revision: Annotated[str, typer.Argument(help="The revision to go to.")] = "head") -> None:
    """Upgrade the database's schema to this version of the worker, as `alembic upgrade head` does."""
    from worker.database.migrate import upgrade  # noqa: PLC0415 - alembic is of no use to the daemon

    target = database.url(settings.load())
    upgrade(target, revision)
    console.print(f"The schema of {target.database} is at {revision}.", soft_wrap=True, highlight=False)


app.add_typer(jobs.app)
app.add_typer(review.app)
app.add_typer(batch.app, name="batch")
app.add_typer(delete.app)
app.add_typer(hosts.app)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this host, the database, the store and the backend, and say how to fix what is wrong.

    Run it as the service's user. Exit status: 78 something is wrong, 75 something does not answer, 1 a check failed itself.
    """
    from worker.ops import doctor  # noqa: PLC0415 - its checks bring many libraries
    from worker.ops.terminal import findings  # noqa: PLC0415

    found = []
    for finding in doctor.examine():
        found.append(finding)
        if not as_json:
            console.print(findings.line(finding), soft_wrap=True)
    code = doctor.exit_status(found)
    if as_json:
        checks = [
            {"check": each.name, "level": each.level.name.lower(), "text": each.text, "fix": each.fix}
            for each in found
        ]
        print_json({"exit_status": code, "checks": checks})
    raise typer.Exit(code)


app.add_typer(weights.app, name="weights")
app.add_typer(webhooks.app, name="webhooks")


app.add_typer(local.app)
app.add_typer(bench.app)


@app.command()
def dashboard(
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; any but localhost needs a token: docs/dashboard.md."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8780,
) -> None:
    """Serve web pages on which people look at the queue, its jobs and their models, and act on them."""
    from worker.core import logs  # noqa: PLC0415 - it says who has done what
    from worker.ops import dashboard  # noqa: PLC0415 - the daemon serves no pages

    configured = settings.load()
    logs.configure(configured.log_format, configured.log_level)
    dashboard.run(configured, host=host, port=port, console=console)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
