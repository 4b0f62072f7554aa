"""Reads values of rows so that nothing a row may hold raises: JSON of any size and depth, times without a date.

They are read in Postgres's binary format, which depends on no setting of the session (worker/database/session.py).
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.errors import DataError
from psycopg.pq import Format
from psycopg.types.datetime import TimestamptzBinaryLoader
from psycopg.types.string import TextBinaryLoader

_LARGEST = sys.float_info.max
_MOST_DIGITS = 18  # of an integer; a longer one becomes a float


def parse_json(text: str) -> Any:
    """Parse JSON leniently. Numbers are finite and small enough for arithmetic.

    Returns the text itself if Python cannot read it, say because it is nested too deep.
    """
    try:
        return json.loads(text, parse_int=_integer, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def register(adapters: AdaptersMap) -> None:
    """Read JSON and times of a connection leniently, times in UTC, and types that the driver does not know, such as enums, as text."""
    adapters.register_loader("json", _JsonLoader)
    adapters.register_loader("jsonb", _JsonbLoader)
    adapters.register_loader("timestamptz", _TimeLoader)
    adapters.register_loader(0, TextBinaryLoader)


class _JsonLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        return parse_json(bytes(data).decode(errors="replace"))


class _JsonbLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        return parse_json(bytes(data[1:]).decode(errors="replace"))  # the first byte is the format's version


class _TimeLoader(TimestamptzBinaryLoader):
    """Loads times in UTC, and one that Python's dates cannot hold as the nearest that they can.

    psycopg itself uses the session's time zone, and warns of those that Python does not know.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._timezone = UTC

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except (DataError, OverflowError, ValueError):
            past = bytes(data)[0] >= 0x80  # microseconds, signed, big-endian
            return datetime.min.replace(tzinfo=UTC) if past else datetime.max.replace(tzinfo=UTC)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else _finite(digits)


def _finite(digits: str) -> float:
    return min(max(float(digits), -_LARGEST), _LARGEST)
