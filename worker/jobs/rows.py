"""Reads new jobs from a file: CSV with a header, or one JSON object a line. The database checks the values."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import psycopg

from worker.core.errors import first_line
from worker.database import parse_json

# What a backend may write at an insert, but for `id` and `cancel_requested_at`.
COLUMNS = (
    "shop", "product_id", "variant_id", "product_handle", "image_urls", "quality", "pool", "engine", "batch", "refresh",
    "start_by", "priority", "run_after", "max_attempts", "dedupe_key", "metadata",
)  # fmt: skip
JSON_LINES = (".jsonl", ".ndjson", ".json")
MOST_PROBLEMS = 10


class BadFile(Exception):
    """A file of jobs is wrong. `problems` has a sentence for each, with its line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = problems


@dataclass(frozen=True)
class Line:
    """A job of a file: the line at which it begins, and the columns that it names."""

    number: int
    columns: Mapping[str, Any]


def read(path: Path, defaults: Mapping[str, str]) -> list[Line]:
    """Read all jobs of a file. `defaults`: the columns that a line may leave empty. Raises: BadFile, OSError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadFile(["the file is not UTF-8"]) from None
    lines: list[Line] = []
    problems: list[str] = []
    for number, found in _json_lines(text) if path.suffix.lower() in JSON_LINES else _csv_lines(text):
        if isinstance(found, str):
            problems.append(f"line {number}: {found}")
        else:
            lines.append(Line(number, {**defaults, **found}))
        if len(problems) == MOST_PROBLEMS:
            break
    if problems:
        raise BadFile(problems)
    if not lines:
        raise BadFile(["the file has no jobs"])
    return lines


Found = Iterator[tuple[int, dict[str, Any] | str]]
"""A line's number with its columns, or with what is wrong there."""


def refusal(error: BaseException | None) -> str:
    """Return why the database refuses a row, without the row's values, which an error's other lines show."""
    if not isinstance(error, psycopg.Error):
        return first_line(error) if error else ""
    if isinstance(error, psycopg.errors.CheckViolation | psycopg.errors.UniqueViolation):
        return f"it breaks the rule {error.diag.constraint_name}"
    return error.diag.message_primary or first_line(error)


def _json_lines(text: str) -> Found:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        columns = parse_json(line)
        if not isinstance(columns, dict):
            yield number, "this is no JSON object"
        elif problem := _unknown(list(columns)):
            yield number, problem
        elif not isinstance(columns.get("metadata"), dict | None):
            yield number, "metadata is no JSON object"
        elif not isinstance(columns.get("image_urls"), list | None):
            yield number, "image_urls is no JSON array"
        else:
            yield number, {name: value for name, value in columns.items() if value is not None}


def _csv_lines(text: str) -> Found:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if problem := _unknown(header):
            yield number, problem
            return
        number = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield number, _columns(header, cells)
            number = reader.line_num + 1
    except csv.Error as error:
        yield number, str(error)


def _columns(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | str:
    if len(cells) != len(header):
        return f"it has {len(cells)} fields, and the header {len(header)}"
    columns: dict[str, Any] = {
        name: cell for name, cell in zip(header, cells, strict=True) if cell.strip() != ""
    }
    if "metadata" in columns:
        columns["metadata"] = parse_json(columns["metadata"])
        if not isinstance(columns["metadata"], dict):
            return "metadata is no JSON object"
    if "image_urls" in columns:
        columns["image_urls"] = _urls(columns["image_urls"])
    return columns


def _urls(cell: str) -> Any:
    """URLs hold no space, so a list of them needs no other separator; a JSON array is taken too."""
    return parse_json(cell) if cell.lstrip().startswith("[") else cell.split()


def _unknown(names: Sequence[str]) -> str:
    """Return what is wrong with the names of columns; nothing if they are all known."""
    for name in names:
        if name not in COLUMNS:
            close = get_close_matches(name, COLUMNS, n=1)
            hint = f"the nearest is {close[0]}" if close else f"the columns are {', '.join(COLUMNS)}"
            return f"there is no column {json.dumps(name)}; {hint}"
        if names.count(name) > 1:
            return f"the column {name} is there twice"
    return "" if names else "the header is empty"
