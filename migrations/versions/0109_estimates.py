"""Estimates: the measured seconds of jobs, and when the waiting ones will start by the last forecast.

Functions, triggers, views and grants are not here: migrations/sql has them, and every upgrade applies them (env.py).
"""

from alembic import op

revision = "0109"
down_revision = "0108"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE worker.measured_seconds (
            pool text,
            engine text,  -- of the row; '': any
            quality text,
            seconds double precision[] NOT NULL,  -- from the claim to the end, of the last 50 jobs that were completed
            ended int NOT NULL,  -- number of jobs that were completed or failed
            busy_seconds double precision NOT NULL,  -- of a lane, for such a job with all its attempts: the mean, which forgets
            measured_at timestamptz NOT NULL,  -- the end of the last of them

            PRIMARY KEY (pool, engine, quality)
        )
        WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("""
        COMMENT ON TABLE worker.measured_seconds IS
        'How long recent jobs took, by pool, engine and preset.'
    """)
    op.execute("""
        CREATE TABLE worker.forecasts (
            pool text,
            engine text,
            priority smallint,
            shop text,
            last_in_part timestamptz[] NOT NULL,  -- of each part of the shop's jobs: run_after and created_at of its last job
            starts_at timestamptz[] NOT NULL,  -- when the jobs of each part will start; null: not known
            next_at timestamptz NOT NULL,  -- when the next forecast is due
            valid_until timestamptz NOT NULL,

            PRIMARY KEY (pool, engine, priority, shop)
        )
        WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("""
        COMMENT ON TABLE worker.forecasts IS
        'When the waiting jobs will start if all goes on as measured. A daemon makes it anew every few seconds.'
    """)
    op.execute("""
        CREATE TABLE worker.batch_forecasts (
            shop text,
            batch text,
            ends_at timestamptz NOT NULL,
            valid_until timestamptz NOT NULL,

            PRIMARY KEY (shop, batch)
        )
        WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("COMMENT ON TABLE worker.batch_forecasts IS 'When the last job of each batch will end.'")
    for table in ("measured_seconds", "forecasts", "batch_forecasts"):
        op.execute(f"ALTER TABLE worker.{table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("DROP TABLE worker.batch_forecasts, worker.forecasts, worker.measured_seconds")
