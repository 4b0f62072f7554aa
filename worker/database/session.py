"""The settings of a connection that our statements depend on. A database, a role or a server may set other values.

Three measures, because a transaction pooler restricts them:

- What the driver reads does not depend on settings: text in UTF-8, all else in the binary format, times in UTC.
- The rest is pinned when a connection is made. A transaction pooler refuses or ignores that.
- So the values in force are checked at the start, and a wrong one is named.

The functions in migrations/sql set for themselves what they need in the plans they make, and how long they wait for a lock.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import Format

from worker.core.settings import ConfigError
from worker.database import values

# A database that runs full, or fails over, is made read-only by default_transaction_read_only: that is not ours to undo.
# search_path is left as it is for the app's own triggers on the table; our statements name their schemas.
PINNED = {
    "default_transaction_isolation": "read committed",
    "statement_timeout": "9s",  # before the driver gives the connection up: ANSWER_S
    "lock_timeout": "4s",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "row_security": "on",
    "standard_conforming_strings": "on",
    "datestyle": "iso",
    "intervalstyle": "postgres",
    "timezone": "utc",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
OPTIONS = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in PINNED.items())

LEAST_STATEMENT_TIMEOUT_MS = 1000


class Cursor(psycopg.Cursor[Any]):
    """Reads results in the binary format, which depends on no setting but client_encoding."""

    def __init__(self, connection: psycopg.Connection[Any], **options: Any) -> None:
        super().__init__(connection, **options)
        self.format = Format.BINARY


def adapt(connection: psycopg.Connection[Any]) -> None:
    """Prepare a new connection to read binary results."""
    connection.cursor_factory = Cursor
    values.register(connection.adapters)


def takes_no_options(error: psycopg.OperationalError) -> bool:
    """True if a pooler refuses a connection for the options that it was made with."""
    return "startup parameter" in str(error)


def check(connection: sa.Connection) -> None:
    """Check the settings that a pooler does not let us pin. Raises: ConfigError, which names a wrong one and the command to fix it."""
    rows = connection.execute(
        sa.text(
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('client_encoding', 'server_encoding',"
            " 'default_transaction_isolation', 'row_security', 'statement_timeout')"
        )
    )
    found = {row.name: row.setting for row in rows}
    for name, problem, value in _problems(found):
        raise ConfigError(
            f"{name} is {found[name]}: {problem}. "
            + (
                f"Run as the database's owner: ALTER ROLE … SET {name} = {value}; or have the pooler not set it."
                if value
                else "Create the database with ENCODING 'UTF8'."
            )
        )


def _problems(found: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield each wrong setting: its name, the reason, and a right value."""
    if found["server_encoding"] != "UTF8":
        yield "server_encoding", "the database does not store Unicode, and shops' names are", ""
    if found["client_encoding"] != "UTF8":
        yield "client_encoding", "names in other scripts cannot be read", "'UTF8'"
    if found["default_transaction_isolation"] != "read committed":
        yield "default_transaction_isolation", "claims would fail beside each other", "'read committed'"
    if found["row_security"] != "on":
        yield "row_security", "statements under row-level security would fail", "on"
    if 0 < int(found["statement_timeout"]) < LEAST_STATEMENT_TIMEOUT_MS:
        yield "statement_timeout", "the queue's statements may take longer", "'10s'"
