"""The queue's tables, types and indexes, and the role of the daemon.

Functions, triggers, views and grants are not here: migrations/sql has them, and every upgrade applies them (env.py).
"""

from alembic import op

revision = "0102"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_storage_path()
    _make_jobs()
    _make_outbox()
    _make_attempts()
    _make_hosts()
    _make_superseded()
    for table in (
        "public.jobs",
        "worker.outbox",
        "worker.attempts",
        "worker.hosts",
        "worker.superseded",
        "worker.alembic_version",
    ):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    _make_the_role()
    _publish()


def downgrade() -> None:
    _unpublish()
    op.execute("DROP TABLE worker.superseded, worker.hosts, worker.attempts, worker.outbox, public.jobs")
    op.execute("DROP TYPE worker.outcome, worker.job_state")
    op.execute("DROP FUNCTION worker.storage_path")
    op.execute("ALTER TABLE worker.alembic_version DISABLE ROW LEVEL SECURITY")
    # The role stays: another database of this server may use it.
    op.execute("""
        DO $$
        DECLARE
            found name;
        BEGIN
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'worker') THEN
                DROP POLICY IF EXISTS worker_sees_all ON worker.alembic_version;
                REVOKE ALL ON worker.alembic_version FROM worker;
                REVOKE ALL ON SCHEMA worker FROM worker;
            END IF;
            FOR found IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role') LOOP
                EXECUTE 'REVOKE ALL ON SCHEMA worker FROM ' || quote_ident(found);
            END LOOP;
        END $$
    """)


def _make_storage_path() -> None:
    """A digest of where a job's files lie: the same for two jobs if and only if worker/storage/paths.py gives one path.

    A digest, because an index entry holds 2,700 bytes at most and three names may have more. A line break in a name is
    doubled, so that no name runs into the next.

    The only function outside migrations/sql: two indexes hold its results, so its text changes only in a revision that
    builds them anew.
    """
    op.execute(r"""
        CREATE FUNCTION worker.storage_path(shop text, product_id text, variant_id text) RETURNS text
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN encode(sha256(replace(
            replace(shop, E'\n', E'\n\n') || E'\n/'
            || replace(coalesce(nullif(regexp_replace(product_id, '^gid:/(/.*)?/', ''), ''), product_id), E'\n', E'\n\n')
            || coalesce(
                E'\n/' || coalesce(nullif(regexp_replace(variant_id, '^gid:/(/.*)?/', ''), ''), variant_id), ''),
            E'\\', E'\\\\')::bytea), 'hex')
    """)


def _make_jobs() -> None:
    op.execute(
        "CREATE TYPE worker.job_state AS ENUM ('pending', 'processing', 'completed', 'failed', 'cancelled')"
    )
    # The rules of a row are one CHECK, which calls a function and stands beside it: migrations/sql/jobs.sql.
    op.execute("""
        CREATE TABLE public.jobs (
            -- written by the backend
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            shop text NOT NULL,
            product_id text NOT NULL,
            variant_id text,
            product_handle text,
            image_urls text[] NOT NULL,
            quality text NOT NULL DEFAULT 'balanced',
            pool text NOT NULL DEFAULT 'default',
            engine text,  -- null: any
            priority smallint NOT NULL DEFAULT 0,
            run_after timestamptz NOT NULL DEFAULT now(),
            max_attempts smallint NOT NULL DEFAULT 3,
            dedupe_key text,
            metadata jsonb NOT NULL DEFAULT '{}',
            -- written by the worker
            status worker.job_state NOT NULL DEFAULT 'pending',
            progress smallint NOT NULL DEFAULT 0,
            stage text,
            attempts smallint NOT NULL DEFAULT 0,
            model_url text,
            error_code text,
            error_message text,
            lease_token uuid,
            lease_expires_at timestamptz,
            claimed_by text,
            cancel_requested_at timestamptz,
            -- written by the database's clock
            created_at timestamptz NOT NULL DEFAULT now(),
            queued_at timestamptz NOT NULL DEFAULT now(),  -- the insert, or the last retry_job
            updated_at timestamptz NOT NULL DEFAULT now(),
            started_at timestamptz,
            completed_at timestamptz
        )
        WITH (
            -- Progress and renewals rewrite a row a dozen times: room on the page keeps those updates off the indexes,
            -- and vacuum comes after thousands of dead rows, not after a fifth of the history.
            fillfactor = 75,
            autovacuum_vacuum_scale_factor = 0.01,
            autovacuum_vacuum_threshold = 200,
            autovacuum_analyze_scale_factor = 0.02
        )
    """)
    op.execute("""
        COMMENT ON TABLE public.jobs IS
        'Product photos to be made into 3D models. Insert shop, product_id and image_urls; read status, progress, '
        'model_url and error_message. The worker owns the rest.'
    """)
    # A backend reads this name when its insert is refused; ON CONFLICT DO NOTHING works too.
    op.execute("""
        CREATE UNIQUE INDEX dedupe_key_is_unique_among_the_shop_s_unfinished_jobs ON public.jobs (shop, dedupe_key)
        WHERE dedupe_key IS NOT NULL AND completed_at IS NULL
    """)
    # A claim walks along the line of a pool and an engine, from shop to shop, and in a shop takes what has been due longest.
    # run_after stands before created_at so that jobs which wait for their time are passed over at once, however many they
    # are. Only waiting rows are in it, so it stays small whatever the history.
    op.execute("""
        CREATE INDEX jobs_waiting ON public.jobs (pool, coalesce(engine, ''), priority DESC, shop, run_after, created_at)
        WHERE status = 'pending'
    """)
    # The job of a line that is due next, of any priority. The claim reads it first.
    op.execute("""
        CREATE INDEX jobs_due ON public.jobs (pool, coalesce(engine, ''), run_after) WHERE status = 'pending'
    """)
    # The shop of a line that was served last at each priority.
    op.execute("""
        CREATE INDEX jobs_started ON public.jobs (pool, coalesce(engine, ''), priority, started_at)
        WHERE started_at IS NOT NULL
    """)
    # Finds the few running rows, also for the rescue. lease_expires_at is left out on purpose: indexed, every renewal
    # would touch the index.
    op.execute("""
        CREATE UNIQUE INDEX jobs_one_running_a_path ON public.jobs (worker.storage_path(shop, product_id, variant_id))
        WHERE status = 'processing'
    """)
    op.execute("""
        CREATE INDEX jobs_waiting_path ON public.jobs (worker.storage_path(shop, product_id, variant_id), queued_at)
        WHERE status = 'pending'
    """)
    # The next product of a shop, whatever the number of jobs that wait for one product.
    op.execute("""
        CREATE INDEX jobs_waiting_product ON public.jobs (pool, coalesce(engine, ''), priority DESC, shop,
            worker.storage_path(shop, product_id, variant_id), run_after, created_at)
        WHERE status = 'pending'
    """)
    op.execute("CREATE INDEX jobs_ended ON public.jobs (completed_at) WHERE completed_at IS NOT NULL")
    op.execute("CREATE INDEX jobs_product ON public.jobs (shop, product_id, created_at)")
    # A shop's latest jobs.
    op.execute("CREATE INDEX jobs_shop ON public.jobs (shop, created_at)")


# A foreign key to jobs would look the job up for every event and every attempt. Both are written while the job's row is
# locked, so it is there; when jobs are deleted, worker.forget_jobs() deletes what belongs to them, for all at once.


def _make_outbox() -> None:
    op.execute("""
        CREATE TABLE worker.outbox (
            seq bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,  -- rises within a job, since its row was locked
            id uuid NOT NULL DEFAULT gen_random_uuid(),  -- webhook-id: the same at every try
            type text NOT NULL,
            shop text NOT NULL,
            job_id uuid,  -- null: an event of the shop as a whole
            terminal boolean NOT NULL,
            body text NOT NULL,  -- the exact bytes to send, so that a signature made later still fits
            attempts smallint NOT NULL DEFAULT 0,
            refusals smallint NOT NULL DEFAULT 0,  -- number of 4xx answers; after a few the event is dead
            next_attempt_at timestamptz,  -- null: it waits behind another event, or is done. While it is being sent: the time of the next try if that fails
            sending_token uuid,  -- of the sender that has taken it; another sender sets its own
            delivered_at timestamptz,
            dead_at timestamptz,
            last_error text,
            created_at timestamptz NOT NULL DEFAULT now(),

            CONSTRAINT delivered_or_dead_not_both CHECK (delivered_at IS NULL OR dead_at IS NULL)
        )
        WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    # Each index is written twice for an event. A job has few events, so the waiting ones among them need no index of their own.
    op.execute("CREATE INDEX outbox_job ON worker.outbox (job_id, seq)")
    # The order in which events are taken. An event that waits behind another is not in it, so the cost of a take is constant.
    op.execute("""
        CREATE INDEX outbox_due ON worker.outbox (next_attempt_at, seq)
        WHERE next_attempt_at IS NOT NULL AND delivered_at IS NULL AND dead_at IS NULL
    """)
    # The events that an event of a shop as a whole waits for, and these events.
    op.execute("""
        CREATE INDEX outbox_waiting_shop ON worker.outbox (shop, seq)
        WHERE delivered_at IS NULL AND dead_at IS NULL
    """)
    op.execute("""
        CREATE INDEX outbox_waiting_whole_shop ON worker.outbox (shop, seq)
        WHERE job_id IS NULL AND delivered_at IS NULL AND dead_at IS NULL
    """)
    # What `worker webhooks list` shows.
    op.execute("CREATE INDEX outbox_dead ON worker.outbox (dead_at) WHERE dead_at IS NOT NULL")
    # For pruning: events that are delivered or dead.
    op.execute("""
        CREATE INDEX outbox_done ON worker.outbox (created_at)
        WHERE delivered_at IS NOT NULL OR dead_at IS NOT NULL
    """)


def _make_attempts() -> None:
    op.execute("CREATE TYPE worker.outcome AS ENUM ('completed', 'failed', 'cancelled', 'released', 'lost')")
    op.execute("""
        CREATE TABLE worker.attempts (
            id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,  -- rises with started_at
            job_id uuid NOT NULL,
            lease_token uuid NOT NULL,
            attempt smallint NOT NULL,
            worker text NOT NULL,
            host text NOT NULL,
            started_at timestamptz NOT NULL,
            ended_at timestamptz,
            outcome worker.outcome,
            error_code text,
            error_message text,
            seconds jsonb,  -- by step, as in metadata.worker.seconds

            CONSTRAINT ended_has_an_outcome_and_nothing_else_has
                CHECK ((ended_at IS NULL) = (outcome IS NULL))
        )
        WITH (
            -- The end of an attempt changes no indexed column, and finds room for the longer row on its page.
            fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200
        )
    """)
    op.execute("CREATE INDEX attempts_job ON worker.attempts (job_id)")
    op.execute(
        "COMMENT ON TABLE worker.attempts IS 'Every attempt at a job: its worker, its times and its outcome.'"
    )


def _make_hosts() -> None:
    op.execute("""
        CREATE TABLE worker.hosts (
            name text PRIMARY KEY,  -- WORKER_NAME, which a restart does not change
            instance uuid NOT NULL,  -- of the daemon's process, so that two daemons of one name are noticed
            version text NOT NULL,
            engine text NOT NULL,
            pools text[] NOT NULL,
            lanes int NOT NULL,
            devices text[] NOT NULL,
            memory_mb int NOT NULL,
            started_at timestamptz NOT NULL DEFAULT now(),
            seen_at timestamptz NOT NULL DEFAULT now(),
            paused_at timestamptz,
            stopped_at timestamptz  -- of a paused host whose daemon has stopped in order; any other row goes with its daemon
        )
        WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200)
    """)
    op.execute(
        "COMMENT ON TABLE worker.hosts IS 'The running daemons, by name. Each writes its row every few seconds.'"
    )


def _make_superseded() -> None:
    op.execute("""
        CREATE TABLE worker.superseded (
            path text PRIMARY KEY,  -- worker.storage_path()
            before timestamptz NOT NULL,  -- jobs that were queued before are not claimed any more
            message text NOT NULL  -- their error_message
        )
        WITH (autovacuum_vacuum_threshold = 200)
    """)
    op.execute("""
        COMMENT ON TABLE worker.superseded IS
        'Products of which more old jobs wait than one statement cancels. Claims cancel them; then the entry is gone.'
    """)


def _make_the_role() -> None:
    """A least-privileged role for the daemon: ALTER ROLE worker LOGIN PASSWORD '…'. migrations/sql/access.sql grants.

    Roles belong to the whole server, so it may exist already, and not everybody who may migrate may make one.
    """
    op.execute("""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'worker') THEN
                CREATE ROLE worker NOLOGIN;
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE WARNING 'the role "worker" could not be created without CREATEROLE; the daemon may run as this role';
            WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database's migration made it at this moment
        END $$
    """)


def _publish() -> None:
    """Supabase Realtime reports changes of the tables in this publication. Only once: the owner may take it out again."""
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'supabase_realtime' AND NOT puballtables)
               AND NOT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'supabase_realtime'
                               AND schemaname = 'public' AND tablename = 'jobs') THEN
                ALTER PUBLICATION supabase_realtime ADD TABLE public.jobs;
            END IF;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE WARNING 'public.jobs was not added to supabase_realtime: run this as the publication''s owner';
        END $$
    """)


def _unpublish() -> None:
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'supabase_realtime'
                       AND schemaname = 'public' AND tablename = 'jobs'
                       AND NOT (SELECT puballtables FROM pg_publication WHERE pubname = 'supabase_realtime')) THEN
                ALTER PUBLICATION supabase_realtime DROP TABLE public.jobs;
            END IF;
        END $$
    """)
