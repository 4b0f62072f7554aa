"""The command line. Every command prints for people; with `--json` one document on stdout and nothing else there."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from worker import __version__, database
from worker.cli import (
    batch,
    bench,
    delete,
    errors,
    hosts,
    jobs,
    local,
    plans,
    review,
    sections,
    webhooks,
    weights,
)
from worker.cli.options import AsJson
from worker.cli.output import console, print_json
from worker.core import settings

COMPLETE = "_WORKER_COMPLETE"
"""In the environment where a shell asks how to complete a command line."""

app = typer.Typer(
    cls=sections.Sections,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit status of all: 2 the command line is wrong, 75 try again later, 78 a setting is wrong. See docs/commands.md.",
)


def execute(arguments: Sequence[str]) -> int:
    """Run one command. Return its exit status; a failure is one line on stderr, and nothing is raised."""
    status = errors.guard(lambda: _invoke(arguments))
    # Python itself would flush when no error can be handled any more.
    return errors.guard(sys.stdout.flush) or status


def _invoke(arguments: Sequence[str]) -> None:
    command = get_command(app)
    sections.simplify(command)
    if COMPLETE in os.environ:
        command.main(prog_name="worker")
    with command.make_context(
        "worker", list(arguments), terminal_width=sections.width(), help_option_names=["-h", "--help"]
    ) as context:
        command.invoke(context)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Turn product photos into 3D models for Shopify shops, one row of public.jobs at a time."""


app.add_typer(jobs.app)
app.add_typer(batch.app, name="batch", rich_help_panel=sections.JOBS)
app.add_typer(review.app)
app.add_typer(delete.app)
app.add_typer(hosts.app)
app.add_typer(plans.app)
app.add_typer(webhooks.app, name="webhooks", rich_help_panel=sections.FLEET)


@app.command(rich_help_panel=sections.HOST)
def run() -> None:
    """Claim and run jobs until SIGTERM.

    Exit status: 0 drained, 75 start it again, 78 a setting is wrong.
    """
    from worker.core import logs  # noqa: PLC0415 - the other commands have no daemon
    from worker.daemon import main as daemon  # noqa: PLC0415

    configured = settings.load()
    logs.configure(configured.log_format, configured.log_level)
    raise typer.Exit(daemon.run(configured))


@app.command(rich_help_panel=sections.HOST)
def migrate(
    revision: Annotated[str, typer.Argument(metavar="REVISION", help="The revision to go to.")] = "head",
) -> None:
    """Upgrade the database's schema, as `alembic upgrade` does."""
    from worker.database.migrate import upgrade  # noqa: PLC0415 - alembic is of no use to the daemon

    target = database.url(settings.load())
    upgrade(target, revision)
    console.print(f"The schema of {target.database} is at {revision}.", soft_wrap=True, highlight=False)


@app.command(rich_help_panel=sections.HOST)
def doctor(as_json: AsJson = False) -> None:
    """Check this host and all that it needs, and name the fixes.

    Run it as the service's user: it tries the database, the store and the backend. Exit status: 78 something is wrong, 75 something does not answer, 1 a check failed itself.
    """
    from worker.ops import advice, doctor  # noqa: PLC0415 - its checks bring many libraries
    from worker.ops.terminal import findings  # noqa: PLC0415

    found = []
    for finding in doctor.examine():
        found.append(finding)
        if not as_json:
            console.print(findings.line(finding), soft_wrap=True)
    code = doctor.exit_status(found)
    if code and not as_json:
        console.print(f"For what you see elsewhere: {advice.PAGE}", style="dim", highlight=False)
    if as_json:
        checks = [
            {"check": each.name, "level": each.level.name.lower(), "text": each.text, "fix": each.fix}
            for each in found
        ]
        print_json({"exit_status": code, "checks": checks})
    raise typer.Exit(code)


app.add_typer(weights.app, name="weights", rich_help_panel=sections.HOST)
app.add_typer(bench.app)


@app.command(rich_help_panel=sections.HOST)
def dashboard(
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="The address to listen on; any but localhost needs a token: docs/dashboard.md.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8780,
) -> None:
    """Serve web pages to look at the queue, and to act on it."""
    from worker.core import logs  # noqa: PLC0415 - it says who has done what
    from worker.ops import dashboard  # noqa: PLC0415 - the daemon serves no pages

    configured = settings.load()
    logs.configure(configured.log_format, configured.log_level)
    dashboard.run(configured, host=host, port=port, console=console)


@app.command(rich_help_panel=sections.HOST)
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


app.add_typer(local.app)
