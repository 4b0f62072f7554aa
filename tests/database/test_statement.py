"""A statement of one row is run again and again on a connection, without a cursor of the driver."""

import psycopg
import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError

from worker.database import fetch_one


def test_a_statement_is_run_again_with_values_of_other_types(engine: Engine) -> None:
    text = "SELECT %(b)s AS b, %(a)s AS a, '100 %%' AS all_of_it, %(a)s::text AS again"
    for a, b in (("ü", [2.5]), (7, [1, 100_000]), (None, [True, None])):
        found = fetch_one(engine, text, a=a, b=b)
        assert found == {"b": b, "a": a, "all_of_it": "100 %", "again": None if a is None else str(a)}


def test_a_statement_is_run_again_after_an_error(engine: Engine) -> None:
    text = "SELECT 1 / n AS found FROM (VALUES (CAST(%(n)s AS int))) AS one (n) WHERE n < 5"
    assert fetch_one(engine, text, n=1) == {"found": 1}
    with pytest.raises(DataError) as server:
        fetch_one(engine, text, n=0)
    assert isinstance(server.value.orig, psycopg.errors.DivisionByZero)
    assert fetch_one(engine, text, n=9) is None
    with pytest.raises(DataError, match="NUL"):
        fetch_one(engine, text, n="\0")
    assert fetch_one(engine, text, n=1) == {"found": 1}
