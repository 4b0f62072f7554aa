"""The console script's entry. It imports nothing heavy, so that Ctrl-C is handled from the first moment on."""

import io
import os
import signal
import sys

INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Run the command line of this process. Return its exit status.

    While the command's modules load and while Python shuts down, Ctrl-C ends the process at once and in silence.
    """
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a shop's name may have letters that the locale lacks
    obeys = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a background job ignores Ctrl-C
    try:
        if obeys:
            signal.signal(signal.SIGINT, _end_at_once)
        from worker.cli.app import execute  # noqa: PLC0415 - see above

        if obeys:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return execute(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(_number: int, _frame: object) -> None:
    os._exit(INTERRUPTED)


def _open_missing_streams() -> None:
    """Point each standard stream that is closed to /dev/null: the next file opened would take its number."""
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))
