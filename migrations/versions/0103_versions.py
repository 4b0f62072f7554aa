"""Versions of a product's model, which of them is published, the review of a job, and erasures.

Functions, triggers, views and grants are not here: migrations/sql has them, and every upgrade applies them (env.py).
"""

from alembic import op

revision = "0103"
down_revision = "0102"
branch_labels = None
depends_on = None

# Functions that the files of this revision make with other parameters or columns, or not at all: migrations/env.py.
CHANGED = (
    "public.retry_job(uuid)",
    "worker.complete_job(uuid, uuid, text, jsonb, text)",
    "worker.check_in(text, uuid, text, text, text[], int, text[], int)",
    "worker.claim_job(text, text, text[], text, double precision, int)",
    "worker.end_attempt()",
)


def upgrade() -> None:
    op.execute("DROP TRIGGER IF EXISTS end_attempt ON public.jobs")
    for function in CHANGED:
        op.execute(f"DROP FUNCTION IF EXISTS {function}")
    _extend_jobs()
    _make_claimed_job()
    _make_versions()
    _make_published()
    _make_erasures()
    for table in ("versions", "published", "erasures"):
        op.execute(f"ALTER TABLE worker.{table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    """The files of all versions stay in the bucket, below the paths of their products."""
    op.execute("DROP TABLE worker.erasures, worker.published, worker.versions")
    op.execute("DROP TYPE worker.claimed_job")
    op.execute("DROP INDEX public.jobs_to_review")
    op.execute("""
        ALTER TABLE public.jobs
            DROP COLUMN refresh, DROP COLUMN review, DROP COLUMN excluded_photos, DROP COLUMN version
    """)


def _extend_jobs() -> None:
    # The backend writes `refresh`: make the model anew, even if the same result is known. The worker and the functions for
    # backends write the others: excluded_photos are indices into image_urls from 0; version is the digest of the version
    # that the row's URLs name.
    op.execute("""
        ALTER TABLE public.jobs
            ADD refresh boolean NOT NULL DEFAULT false,
            ADD review text NOT NULL DEFAULT 'none',
            ADD excluded_photos smallint[] NOT NULL DEFAULT '{}',
            ADD version text
    """)
    op.execute("CREATE INDEX jobs_to_review ON public.jobs (completed_at) WHERE review = 'wanted'")


def _make_claimed_job() -> None:
    """What worker.claim_job() returns: what a worker reads of a row. The whole row took a tenth of the claim's time."""
    op.execute("""
        CREATE TYPE worker.claimed_job AS (
            id uuid, lease_token uuid, shop text, product_id text, variant_id text, image_urls text[], quality text,
            attempts smallint, max_attempts smallint, excluded_photos smallint[], refresh boolean,
            dimensions text, views text, subject text)
    """)


def _make_versions() -> None:
    """A job's files under a path that names their content. The row is there before the first file, and after the last."""
    op.execute("""
        CREATE TABLE worker.versions (
            path text,  -- worker.storage_path()
            digest text,  -- of all files; in the path of each of them
            stem text NOT NULL,  -- path of the product's or variant's files: worker/storage/paths.py
            shop text NOT NULL,
            product text NOT NULL,  -- last part of product_id
            job_id uuid NOT NULL,  -- that made it last
            result_key text,  -- hash of all that the files depend on
            files jsonb NOT NULL,  -- SHA-256 of each file by its ending
            begun_at timestamptz NOT NULL DEFAULT now(),
            used_at timestamptz NOT NULL DEFAULT now(),  -- made, found by its key, published or replaced by another
            rejected_at timestamptz,
            doomed_at timestamptz,  -- from then on its files are removed, and the row after them
            -- of the removal, as in worker.published
            token uuid,
            next_try_at timestamptz,
            tries smallint NOT NULL DEFAULT 0,
            last_error text,

            PRIMARY KEY (path, digest),
            CONSTRAINT doomed_has_next_try_at_and_nothing_else_has CHECK ((doomed_at IS NULL) = (next_try_at IS NULL))
        )
        WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    # Finds a known result. An erasure finds all of a shop.
    op.execute("CREATE INDEX versions_result ON worker.versions (shop, result_key)")
    op.execute("CREATE INDEX versions_used ON worker.versions (used_at) WHERE doomed_at IS NULL")
    op.execute("CREATE INDEX versions_due ON worker.versions (next_try_at) WHERE next_try_at IS NOT NULL")
    op.execute("""
        COMMENT ON TABLE worker.versions IS
        'Every model whose files are stored under a path of their own, and those whose files are being stored or removed.'
    """)


def _make_published() -> None:
    op.execute("""
        CREATE TABLE worker.published (
            path text PRIMARY KEY,  -- worker.storage_path()
            stem text NOT NULL,
            shop text NOT NULL,
            product text NOT NULL,
            digest text NOT NULL,  -- of the version whose files must lie at the path of the product
            job_id uuid NOT NULL,
            requested_at timestamptz NOT NULL,  -- queued_at of that job
            written text,  -- digest of the version whose files lie there, all of them; null: not known
            token uuid,  -- of the daemon that writes them now
            next_try_at timestamptz,  -- null: nothing to do. While they are written: the time of the next try if that fails
            tries smallint NOT NULL DEFAULT 0,
            last_error text
        )
        WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("CREATE INDEX published_due ON worker.published (next_try_at) WHERE next_try_at IS NOT NULL")
    op.execute("""
        COMMENT ON TABLE worker.published IS
        'The version of each product or variant that is published: whose files lie, or will in a moment, at its path.'
    """)


def _make_erasures() -> None:
    op.execute("""
        CREATE TABLE worker.erasures (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            shop text,
            product text,  -- last part of product_id; null: the whole shop
            variant text,  -- last part of variant_id; null: the product with all its variants
            requested_at timestamptz NOT NULL DEFAULT now(),
            done_at timestamptz,
            quiet_at timestamptz,  -- from then on nothing that was stored by a job that ran is on its way to the store
            token uuid,
            next_try_at timestamptz DEFAULT now(),  -- null: done
            tries smallint NOT NULL DEFAULT 0,
            last_error text,
            jobs int NOT NULL DEFAULT 0,
            versions int NOT NULL DEFAULT 0,
            files int NOT NULL DEFAULT 0,
            events int NOT NULL DEFAULT 0,

            CONSTRAINT done_names_nothing CHECK (
                CASE WHEN done_at IS NULL THEN shop IS NOT NULL AND next_try_at IS NOT NULL
                     ELSE num_nonnulls(shop, product, variant, token, next_try_at, last_error) = 0 END)
        )
    """)
    op.execute("CREATE INDEX erasures_due ON worker.erasures (next_try_at) WHERE next_try_at IS NOT NULL")
    op.execute("""
        COMMENT ON TABLE worker.erasures IS
        'What must be forgotten. When that is done, the line names nothing any more: id, times and counts are left.'
    """)
