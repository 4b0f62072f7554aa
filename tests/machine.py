"""A database of its own for a state machine of hypothesis, and the run of the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from conftest import connected, new_database
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from psycopg.rows import dict_row

from worker.local.postgres import Postgres

M = TypeVar("M", bound=RuleBasedStateMachine)


@contextmanager
def in_database(machine: type[M], postgres: Postgres) -> Iterator[type[M]]:
    """Give the machine an `engine` and a connection `sql` to a new database."""
    with (
        new_database(postgres) as url,
        connected(url) as engine,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection,
    ):
        # hypothesis repeats what it has done and expects the same: no wait may be random.
        connection.execute(
            "CREATE OR REPLACE FUNCTION worker.retry_wait(attempts int) RETURNS interval LANGUAGE sql"
            " RETURN make_interval(secs => least(600, 15 * 2.0 ^ (attempts - 1)))"
        )
        yield type(machine.__name__, (machine,), {"engine": engine, "sql": connection})


def explore(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    """Run the machine for so many examples of at most so many steps, the same ones each time."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
