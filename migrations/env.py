"""Migrates the database, all in one transaction, one process at a time.

Tables, types, indexes, roles and data change in revisions (versions/), which never change once they are released.
Functions, triggers, views and grants stand whole in sql/, which says what is true now. A command that ends at the newest
revision, above all `alembic upgrade head`, applies these files after the revisions, even if no revision was new: an edited
function needs none of its own. But daemons compare revisions alone, so an edit that the Python code relies on comes with a
revision, be it an empty one. CREATE OR REPLACE removes nothing: what the files no longer make, or make with other
arguments or columns, a revision drops.

The files fit the newest tables only. So a command that goes to any other revision, above all `alembic downgrade`, first
drops all that they make (sql/drop.sql). The worker of the earlier revision applies its own files with its own
`worker migrate`, and its daemons start only after that. A revision calls no function of sql/, which may not be there.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from worker import database
from worker.core import settings
from worker.core.settings import ConfigError
from worker.database.taken import check_names

SQL = Path(__file__).parent / "sql"
FILES = (
    "jobs",
    "claim",
    "outbox",
    "hosts",
    "erasure",
    "versions",
    "review",
    "estimates",
    "batches",
    "plans",
    "search",
    "views",
    "history",
    "access",
)


def migrate(connection: sa.Connection | None) -> None:
    """Run the command. Without a connection print its statements, for a DBA to read: `alembic upgrade head --sql`."""
    newest = {context.script.get_current_head()}
    try:
        moves, goal = True, {context.get_revision_argument()}
    except KeyError:  # `alembic current`, `history` and others, which go nowhere
        moves, goal = False, set()
    if moves and connection is not None and database.revision(connection) is None:
        check_names(connection)  # before a function of the project's own is replaced or dropped
    if moves and goal != newest:
        apply(connection, "drop")
    context.run_migrations()
    if connection is not None:
        goal = set(context.get_context().get_current_heads())  # of a relative goal, too, such as +1
    if moves and goal == newest:
        for name in FILES:
            apply(connection, name)


def apply(connection: sa.Connection | None, name: str) -> None:
    """Run a file of sql/ as it is: without parameters neither `%` nor `:` means anything to the driver."""
    text = (SQL / f"{name}.sql").read_text()
    if connection is None:
        context.static_output(text)
    else:
        connection.execution_options(no_parameters=True).exec_driver_sql(text)


def online() -> None:
    """Raises: CommandError, ConfigError."""
    # `worker migrate` says which database; for alembic's own command the environment does.
    url = context.config.attributes.get("url") or database.url(settings.load())
    # Without a pool the connection closes with its block, after an error too.
    engine = sa.create_engine(
        url, connect_args=database.CONNECT_ARGS, hide_parameters=True, poolclass=sa.pool.NullPool
    )
    with engine.begin() as connection:
        # Two processes at once would both see an empty version table. The lock ends with the transaction, so it holds
        # behind a transaction pooler too.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('worker migrations'))"))
        database.revision(connection)  # refuses a database of before the first release
        # A migration that waits behind a long query must not make every job wait behind itself.
        connection.execute(sa.text("SET LOCAL lock_timeout = '30s'"))
        connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS worker"))
        context.configure(connection=connection, version_table_schema="worker")
        with context.begin_transaction():
            migrate(connection)


if context.is_offline_mode():
    context.configure(url="postgresql+psycopg://", version_table_schema="worker")
    with context.begin_transaction():
        context.execute("CREATE SCHEMA IF NOT EXISTS worker")
        migrate(None)
else:
    try:
        online()
    except (
        ConfigError
    ) as error:  # one line for alembic's own command; worker/database/migrate.py makes it ours again
        raise CommandError(str(error)) from None
