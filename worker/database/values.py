"""Reads values of rows so that nothing a row may hold raises: JSON of any size and depth, times without a date."""

import json
import sys
from datetime import UTC, datetime
from typing import Any

from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.errors import DataError
from psycopg.types.datetime import TimestamptzLoader

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
    """Read JSON and times of a connection leniently."""
    for name in ("json", "jsonb"):
        adapters.register_loader(name, _JsonLoader)
    adapters.register_loader("timestamptz", _TimeLoader)


class _JsonLoader(Loader):
    def load(self, data: Buffer) -> Any:
        return parse_json(bytes(data).decode(errors="replace"))


class _TimeLoader(TimestamptzLoader):
    """Loads a time that Python's dates cannot hold as the nearest that they can."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except (DataError, OverflowError, ValueError):
            past = bytes(data).startswith(b"-") or bytes(data).endswith(b"BC")
            return datetime.min.replace(tzinfo=UTC) if past else datetime.max.replace(tzinfo=UTC)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else _finite(digits)


def _finite(digits: str) -> float:
    return min(max(float(digits), -_LARGEST), _LARGEST)
