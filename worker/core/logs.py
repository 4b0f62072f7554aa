"""The log of the daemon and the dashboard: one line an event on stdout, JSON for machines, readable on a terminal."""

import io
import logging
import sys
from contextlib import suppress
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, Processor

from worker.core.errors import printable, redact_text


def configure(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set up the log of this process. `auto` is `console` on a terminal and `json` elsewhere."""
    terminal = sys.stdout.isatty()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may lack the letters of a shop's name
    # Tracebacks show no local variables: one of them could be a secret.
    readable = structlog.dev.ConsoleRenderer(
        colors=terminal, exception_formatter=structlog.dev.plain_traceback
    )
    as_json: list[Processor] = [
        # Letters as they are where the stream takes them.
        structlog.processors.JSONRenderer(ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8"),
    ]
    rendering: list[Processor] = (
        [_printable, readable] if form == "console" or (form == "auto" and terminal) else as_json
    )
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering = [structlog.processors.format_exc_info, _redact, *rendering]
    structlog.configure(
        processors=[*common, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _Output(sys.stdout),
    )
    # Libraries log through the standard library. Their warnings become lines like ours. Their other messages are noise,
    # and httpx logs every URL that it requests.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name, _of_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Take the secrets out of errors' URLs: an error of Postgres may repeat a row, and a row has the tokens of photos."""
    errors = {
        key: redact_text(event[key]) for key in ("exception", "reason") if isinstance(event.get(key), str)
    }
    return {**event, **errors}


def _printable(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Let no text of a row command the terminal; JSON escapes such characters anyway."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


class _Output:
    """Writes lines. One that cannot be written, say to a full disk, is dropped: no job may fail because of its log."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            # In one call, so that lines of two threads do not mix.
            self._file.write(message + "\n")
            self._file.flush()

    debug = info = warning = error = critical = exception = msg


def _of_library(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {**event, "event": "library", "message": event["event"]}
