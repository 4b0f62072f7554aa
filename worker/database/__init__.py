"""Connections to Postgres, the monitor that knows if it can be used, and the migrations.

What `connection` offers is imported from here; `monitor` and `migrate` by their own names.
"""

from worker.database.connection import (
    ANSWER_S,
    CONNECT_ARGS,
    DROP_OLD_SCHEMA,
    FIRST_SCHEMA,
    SCHEMA,
    Connection,
    Row,
    check_schema,
    connect,
    execute,
    fetch_all,
    fetch_one,
    fetch_value,
    listen,
    parse,
    probe,
    queries,
    revision,
    transaction,
    url,
)
from worker.database.values import parse_json

__all__ = [
    "ANSWER_S",
    "CONNECT_ARGS",
    "DROP_OLD_SCHEMA",
    "FIRST_SCHEMA",
    "SCHEMA",
    "Connection",
    "Row",
    "check_schema",
    "connect",
    "execute",
    "fetch_all",
    "fetch_one",
    "fetch_value",
    "listen",
    "parse",
    "parse_json",
    "probe",
    "queries",
    "revision",
    "transaction",
    "url",
]
