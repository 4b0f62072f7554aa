"""Batches: the sums of each and the changes that are not in them yet. Plans: limits of shops and their days.

Functions, triggers, views and grants are not here: migrations/sql has them, and every upgrade applies them (env.py).
"""

from alembic import op

revision = "0104"
down_revision = "0103"
branch_labels = None
depends_on = None

# Functions that the files of this revision make with other parameters or columns: migrations/env.py.
CHANGED = (
    "worker.check_in(text, uuid, text, text, text[], int, text[], int)",
    "worker.next_due(text[], text)",
)


def upgrade() -> None:
    for function in CHANGED:
        op.execute(f"DROP FUNCTION IF EXISTS {function}")
    _extend_jobs()
    _make_batches()
    _make_plans()
    for table in ("batches", "batch_changes", "shop_limits", "shop_days", "shop_changes"):
        op.execute(f"ALTER TABLE worker.{table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute(
        "DROP TABLE worker.shop_changes, worker.shop_days, worker.shop_limits, worker.batch_changes, worker.batches"
    )
    op.execute("DROP INDEX public.jobs_batch, public.jobs_start_by")
    op.execute("ALTER TYPE worker.claimed_job DROP ATTRIBUTE batch")
    op.execute("ALTER TABLE public.jobs DROP COLUMN batch, DROP COLUMN start_by")


def _extend_jobs() -> None:
    # The backend writes both: `batch` at the insert, `start_by` until the job has begun.
    op.execute("ALTER TABLE public.jobs ADD batch text, ADD start_by timestamptz")
    op.execute("ALTER TYPE worker.claimed_job ADD ATTRIBUTE batch text")
    op.execute("CREATE INDEX jobs_batch ON public.jobs (shop, batch, status) WHERE batch IS NOT NULL")
    op.execute("""
        CREATE INDEX jobs_start_by ON public.jobs (start_by)
        WHERE status = 'pending' AND start_by IS NOT NULL AND (started_at IS NULL OR started_at < queued_at)
    """)


def _make_batches() -> None:
    """Who ends a job adds a row to `batch_changes` and locks nothing. A daemon adds these rows to the sums and deletes them.

    So the sums and the changes of one snapshot are exact at every moment, and no row is one that all lanes wait for.
    """
    sums = (
        "waiting",
        "running",
        "completed",
        "failed",
        "cancelled",
        "gone",  # deleted before they ended
        "for_review",
        "cached",  # completed with a known result
    )
    columns = ", ".join(f"{name} int NOT NULL DEFAULT 0" for name in sums)
    op.execute(f"""
        CREATE TABLE worker.batches (
            shop text,
            batch text,
            {columns},
            created_at timestamptz NOT NULL,
            started_at timestamptz,  -- when the first of its jobs was claimed
            ended_at timestamptz,  -- when a job of it ended last
            opened boolean NOT NULL,  -- a job of it was unfinished since the last batch.finished
            finishes int NOT NULL DEFAULT 0,  -- number of batch.finished
            changed_at timestamptz NOT NULL,

            PRIMARY KEY (shop, batch)
        )
        WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("CREATE INDEX batches_changed ON worker.batches (changed_at)")
    op.execute(
        "COMMENT ON TABLE worker.batches IS 'The sums of each batch, but for the rows in worker.batch_changes.'"
    )
    op.execute(f"""
        CREATE TABLE worker.batch_changes (
            shop text NOT NULL,
            batch text NOT NULL,
            {columns},
            changed_at timestamptz NOT NULL DEFAULT now()
        )
        WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("CREATE INDEX batch_changes_batch ON worker.batch_changes (shop, batch)")
    op.execute("""
        COMMENT ON TABLE worker.batch_changes IS
        'What jobs have changed in the sums of their batches since a daemon last added such rows to worker.batches.'
    """)


def _make_plans() -> None:
    op.execute("""
        CREATE TABLE worker.shop_limits (
            shop text PRIMARY KEY,
            jobs_a_day int CHECK (jobs_a_day >= 0),  -- null: no limit
            jobs_at_once int CHECK (jobs_at_once >= 0),
            presets text[]  -- values of `quality`; null: all
        )
    """)
    op.execute("COMMENT ON TABLE worker.shop_limits IS 'The plan of each shop that has one.'")
    op.execute("""
        CREATE TABLE worker.shop_days (
            shop text,
            day date,  -- in UTC
            quality text,
            inserted int NOT NULL DEFAULT 0,
            completed int NOT NULL DEFAULT 0,
            failed int NOT NULL DEFAULT 0,
            cancelled int NOT NULL DEFAULT 0,
            cached int NOT NULL DEFAULT 0,
            device_seconds double precision NOT NULL DEFAULT 0,
            cpu_seconds double precision NOT NULL DEFAULT 0,
            bytes bigint NOT NULL DEFAULT 0,

            PRIMARY KEY (shop, day, quality)
        )
        WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("COMMENT ON TABLE worker.shop_days IS 'What each shop has used, by day and preset.'")
    op.execute("""
        CREATE TABLE worker.shop_changes (
            shop text NOT NULL,
            day date NOT NULL,
            quality text NOT NULL,
            completed int NOT NULL,
            failed int NOT NULL,
            cancelled int NOT NULL,
            cached int NOT NULL,
            device_seconds double precision NOT NULL,
            cpu_seconds double precision NOT NULL,
            bytes bigint NOT NULL
        )
        WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("""
        COMMENT ON TABLE worker.shop_changes IS
        'What jobs have used since a daemon last added such rows to worker.shop_days.'
    """)
