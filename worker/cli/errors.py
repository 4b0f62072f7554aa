"""The end of a command that fails: one line on stderr and an exit status, for every exception."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import psycopg
import typer
from sqlalchemy.exc import DBAPIError
from typer.exceptions import TyperException

from worker.cli.output import print_error
from worker.core import settings
from worker.core.errors import one_line
from worker.core.settings import ConfigError

USAGE = 2  # as typer and most commands have it
BROKEN_PIPE = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT


def guard(command: Callable[[], object]) -> int:
    """Run a command. Return 0, or the exit status of what it raised, which is printed in one line at most."""
    try:
        command()
    except BaseException as error:  # noqa: BLE001 - nothing passes, or Python prints a traceback
        try:
            return _report(error)
        except BrokenPipeError as broken:
            return _report(broken)
    return 0


def _report(error: BaseException) -> int:
    line, status = _outcome(error)
    if line:
        print_error(line)
    return status


def _outcome(error: BaseException) -> tuple[str, int]:
    """Return the line to print, if any, and the exit status."""
    match error:
        case KeyboardInterrupt():
            outcome = "", INTERRUPTED
        case BrokenPipeError() | SystemExit(__context__=BrokenPipeError()):  # the second by rich, of the help
            _drop_output()
            outcome = "", BROKEN_PIPE
        case typer.Exit(exit_code=int(code)) | SystemExit(code=int(code)):
            outcome = "", code
        case typer.Abort():
            outcome = "Nothing was done.", 1
        case EOFError():
            outcome = "A question was not answered, because stdin has ended. Nothing was done.", 1
        case TyperException():
            outcome = _usage(error), USAGE
        case ConfigError():
            outcome = str(error), os.EX_CONFIG
        case DBAPIError():
            outcome = _database(error)
        case OSError():
            _drop_output()
            where = f": {error.filename}" if error.filename else ""
            outcome = f"{error.strerror or error}{where}", os.EX_IOERR
        case _:
            outcome = _defect(error), os.EX_SOFTWARE
    return outcome


def _usage(error: TyperException) -> str:
    """Print the command's usage; return what is wrong, or nothing where typer has printed the help."""
    # What no single option is to blame for needs no "Invalid value" before it.
    alone = isinstance(error, typer.BadParameter) and error.param is None
    message = error.message if alone else error.format_message()
    message = message.replace("Value error, ", "")  # how pydantic begins what a check of ours says
    context = getattr(error, "ctx", None)
    if not message or context is None:
        return message
    if context.get_usage() in message:  # a group without a command: the message is its help
        print(message)  # noqa: T201 - for people
        return ""
    print(context.get_usage(), file=sys.stderr)  # noqa: T201 - for people
    end = "" if message.endswith("?") else "."
    return f"{message.rstrip('.')}{end} See: {context.command_path} --help"


def _database(error: DBAPIError) -> tuple[str, int]:
    from worker.database import monitor  # noqa: PLC0415 - a command that succeeds has no use for it

    cause = error.orig
    reason = one_line(cause)
    if isinstance(cause, psycopg.Error) and monitor.is_auth_refused(cause):
        return f"The database refuses the login in DATABASE_URL: {reason}. See: worker doctor", os.EX_CONFIG
    if isinstance(cause, psycopg.ProgrammingError) and cause.sqlstate is None:  # the driver's own, of the URL
        return f"DATABASE_URL is malformed: {reason}", os.EX_CONFIG
    if monitor.is_connection_lost(cause):
        return f"The database cannot be reached: {reason}", os.EX_TEMPFAIL
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return f"The role in DATABASE_URL lacks a right: {reason}. See: worker doctor", os.EX_CONFIG
    if monitor.is_transient(error):
        return f"The database is busy; try again: {reason}", os.EX_TEMPFAIL
    return f"The database refuses: {reason}", 1


def _defect(error: BaseException) -> str:
    """Describe an error that no code has foreseen. Print its traceback only where WORKER_LOG_LEVEL=debug asks for it."""
    text = f"This is a defect in the worker: {type(error).__name__}: {one_line(error)}."
    try:
        configured = settings.load()
    except ConfigError:  # without valid settings nothing has had a secret from them
        return text
    if configured.log_level != "debug":
        return f"{configured.redact(text)} Set WORKER_LOG_LEVEL=debug to see the traceback."
    lines = "".join(traceback.format_exception(error))
    print(configured.redact(lines), file=sys.stderr)  # noqa: T201 - for people
    return configured.redact(text)


def _drop_output() -> None:
    """Send what is still buffered for a closed pipe or a full disk nowhere, or Python complains of it while it shuts down."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(null, stream.fileno())
        os.close(null)
