"""Runs the migrations on DATABASE_URL, all in one transaction, one runner at a time."""

import sqlalchemy as sa
from alembic import context

from worker import database
from worker.core import settings

if context.is_offline_mode():
    # `alembic upgrade head --sql` prints the statements for a DBA to read.
    context.configure(url="postgresql+psycopg://", version_table_schema="worker")
    context.execute("CREATE SCHEMA IF NOT EXISTS worker")
    with context.begin_transaction():
        context.run_migrations()
else:
    # `worker migrate` says which database; for alembic's own command the environment does.
    url = context.config.attributes.get("url") or database.url(settings.load())
    engine = sa.create_engine(url, connect_args=database.CONNECT_ARGS, hide_parameters=True)
    with engine.begin() as connection:
        # Two runners at once would both see an empty version table. The lock ends with the transaction,
        # so it holds behind a transaction pooler too.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('worker migrations'))"))
        # A migration that waits behind a long query must not make every job wait behind itself.
        connection.execute(sa.text("SET LOCAL lock_timeout = '30s'"))
        connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS worker"))
        context.configure(connection=connection, version_table_schema="worker")
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()
