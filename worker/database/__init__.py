"""Connections to Postgres, the monitor that knows whether it is there, and the migrations."""

from worker.database.connection import (
    ANSWER_S,
    CONNECT_ARGS,
    DROP_OLD_SCHEMA,
    FIRST_SCHEMA,
    SCHEMA,
    Connection,
    check_schema,
    connect,
    listen,
    parse,
    probe,
    queries,
    revision,
    url,
)

__all__ = [
    "ANSWER_S",
    "CONNECT_ARGS",
    "DROP_OLD_SCHEMA",
    "FIRST_SCHEMA",
    "SCHEMA",
    "Connection",
    "check_schema",
    "connect",
    "listen",
    "parse",
    "probe",
    "queries",
    "revision",
    "url",
]
