"""What the dashboard's list walks along: the names of each job in a table of its own, and indexes of the jobs that need somebody.

Functions, triggers, views and grants are not here: migrations/sql has them, and every upgrade applies them (env.py).
"""

from alembic import op

revision = "0105"
down_revision = "0104"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_search()
    _make_indexes()
    op.execute("ALTER TABLE worker.search ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("DROP TABLE worker.search")
    op.execute("""
        DROP INDEX public.jobs_pending, public.jobs_failed, public.jobs_cancelled, public.jobs_error, public.jobs_reviewed
    """)
    op.execute("CREATE INDEX jobs_to_review ON public.jobs (completed_at) WHERE review = 'wanted'")


def _make_search() -> None:
    """A row for each job, written at its insert. Indexes on public.jobs would be written again at each change of its status."""
    op.execute("""
        CREATE TABLE worker.search (
            created_at timestamptz,  -- of the job, like all else
            job_id uuid,
            product text NOT NULL,  -- last part of product_id
            variant text,  -- last part of variant_id
            handle text,  -- in lower case
            batch text,

            PRIMARY KEY (created_at, job_id)
        )
        WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute(r"""
        INSERT INTO worker.search (created_at, job_id, product, variant, handle, batch)
        SELECT created_at, id, coalesce(nullif(regexp_replace(product_id, '^gid:/(/.*)?/', ''), ''), product_id),
            coalesce(nullif(regexp_replace(variant_id, '^gid:/(/.*)?/', ''), ''), variant_id), lower(product_handle), batch
        FROM public.jobs
    """)
    op.execute("CREATE INDEX search_product ON worker.search (product, created_at)")
    for name in ("variant", "handle", "batch"):
        op.execute(
            f"CREATE INDEX search_{name} ON worker.search ({name}, created_at) WHERE {name} IS NOT NULL"
        )
    op.execute(
        "COMMENT ON TABLE worker.search IS 'The names by which people look for a job, newest jobs first.'"
    )


def _make_indexes() -> None:
    """Indexes that an ordinary job writes once, at its insert, or never."""
    op.execute("CREATE INDEX jobs_pending ON public.jobs (created_at) WHERE status = 'pending'")
    op.execute("CREATE INDEX jobs_failed ON public.jobs (completed_at) WHERE status = 'failed'")
    op.execute("CREATE INDEX jobs_cancelled ON public.jobs (completed_at) WHERE status = 'cancelled'")
    # A job that waits for another attempt has its last error, too.
    op.execute("""
        CREATE INDEX jobs_error ON public.jobs (error_code, coalesce(completed_at, run_after)) WHERE error_code IS NOT NULL
    """)
    op.execute("DROP INDEX public.jobs_to_review")
    op.execute("CREATE INDEX jobs_reviewed ON public.jobs (review, completed_at) WHERE review <> 'none'")
