"""structlog: one line an event on stdout, JSON for machines, readable on a terminal."""

import logging
import sys
from typing import Literal

import structlog


def configure(form: Literal["auto", "json", "console"], level: str) -> None:
    """Sets up the daemon's log; `auto` is readable on a terminal and JSON elsewhere."""
    terminal = sys.stdout.isatty()
    # No traceback shows local variables: one of them could be a secret.
    readable = structlog.dev.ConsoleRenderer(
        colors=terminal, exception_formatter=structlog.dev.plain_traceback
    )
    as_json = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([readable] if form == "console" or (form == "auto" and terminal) else as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(),
    )
