"""The queue's rules for many shops: turns, one running job a storage path, a limit a shop, dedupe keys, cancels heard;
and a history of the attempts.

Not compatible with the daemons of revision 0003: the type that their statements name has made room for the view
`job_status`. Drain them first.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What is new in worker.guard_job() of 0001: before and after.
_GUARD = (
    ("'completed_at'];", "'completed_at', 'queued_at'];"),
    ("guarded CONSTANT text[]", "guarded text[]"),
    (
        "before := to_jsonb(OLD);",
        """-- They say where its files lie: another job must not come to run there beside it.
            IF OLD.status = 'processing' THEN
                guarded := guarded || ARRAY['shop', 'product_id', 'variant_id'];
            END IF;
            before := to_jsonb(OLD);""",
    ),
)

# The CHECKs of 0001, which worker.keeps_the_rules() replaces.
_CHECKS = {
    "shop_is_1_to_255_characters": "btrim(shop) <> '' AND length(shop) <= 255",
    "product_id_is_1_to_255_characters": "btrim(product_id) <> '' AND length(product_id) <= 255",
    "variant_id_is_1_to_255_characters": "btrim(variant_id) <> '' AND length(variant_id) <= 255",
    "image_urls_are_1_to_16": "cardinality(image_urls) BETWEEN 1 AND 16",
    "image_urls_are_http_or_https": r"array_to_string(image_urls, E'\n', '')"
    r" ~* '^https?://[^[:space:]]+(\nhttps?://[^[:space:]]+)*$'",
    "quality_is_fast_balanced_or_quality": "quality IN ('fast', 'balanced', 'quality')",
    "max_attempts_is_1_to_25": "max_attempts BETWEEN 1 AND 25",
    "metadata_is_an_object": "jsonb_typeof(metadata) = 'object'",
    "progress_is_0_to_100": "progress BETWEEN 0 AND 100",
    "attempts_are_0_to_max_attempts": "attempts BETWEEN 0 AND max_attempts",
    "pending_has_no_progress": "status <> 'pending' OR (progress = 0 AND stage IS NULL)",
    "processing_has_a_lease_and_nothing_else_has": "(status = 'processing') = (lease_token IS NOT NULL)"
    " AND (status = 'processing') = (lease_expires_at IS NOT NULL) AND (status = 'processing') = (claimed_by IS NOT NULL)"
    " AND (status <> 'processing' OR started_at IS NOT NULL)",
    "ended_has_completed_at_and_nothing_else_has": "(status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)",
    "completed_has_model_url_and_100": "CASE WHEN status = 'completed' THEN progress = 100 AND model_url IS NOT NULL"
    " ELSE progress <> 100 END",
    "failed_has_error_code_and_message": "status <> 'failed' OR (error_code IS NOT NULL AND error_message IS NOT NULL)",
}


def upgrade() -> None:
    op.execute("ALTER TYPE public.job_status RENAME TO job_state")

    op.execute("""
        ALTER TABLE public.jobs
            -- when the job was asked for, the last time: at its insert or by retry_job
            ADD COLUMN queued_at timestamptz NOT NULL DEFAULT now(),
            ADD COLUMN dedupe_key text
    """)
    op.execute("""
        UPDATE public.jobs SET run_after = greatest('1970-01-01 00:00+00', least('9999-01-01 00:00+00', run_after))
        WHERE run_after NOT BETWEEN '1970-01-01 00:00+00' AND '9999-01-01 00:00+00'
    """)
    _put_the_rules_into_one_check()
    for before, after in _GUARD:
        _change_guard(before, after)
    op.execute("""
        CREATE OR REPLACE FUNCTION worker.receive_job() RETURNS trigger
        LANGUAGE plpgsql SET search_path = '' AS $$
        BEGIN
            IF NEW.image_urls IS NULL AND jsonb_typeof(NEW.metadata -> 'image_urls') = 'array' THEN
                NEW.image_urls := ARRAY(SELECT jsonb_array_elements_text(NEW.metadata -> 'image_urls'));
            END IF;
            -- clock_timestamp, not now: rows of one transaction keep the order in which they came.
            NEW.created_at := clock_timestamp();
            NEW.queued_at := NEW.created_at;
            NEW.updated_at := NEW.created_at;
            RETURN NEW;
        END $$
    """)
    op.execute("""
        CREATE OR REPLACE FUNCTION public.retry_job(job_id uuid) RETURNS boolean
        LANGUAGE plpgsql AS $$
        DECLARE
            key text := coalesce(current_setting('worker.lease', true), '');
            again boolean;
        BEGIN
            PERFORM set_config('worker.lease', 'queue', true);
            UPDATE public.jobs
            SET status = 'pending', progress = 0, stage = NULL, attempts = 0, run_after = now(), model_url = NULL,
                error_code = NULL, error_message = NULL, cancel_requested_at = NULL, completed_at = NULL,
                queued_at = clock_timestamp()
            WHERE id = job_id AND completed_at IS NOT NULL;
            again := FOUND;
            PERFORM set_config('worker.lease', key, true);
            IF again THEN
                PERFORM pg_notify('worker_jobs', '');
            END IF;
            RETURN again;
        END $$
    """)
    # A search_path set here would hold for the app's own triggers on the table too, which may name its tables without a
    # schema. All names in these functions have theirs.
    op.execute("ALTER FUNCTION public.cancel_job RESET search_path")

    # The name is what a backend reads when its insert is refused; ON CONFLICT DO NOTHING works too.
    op.execute("""
        CREATE UNIQUE INDEX dedupe_key_is_unique_among_the_shop_s_unfinished_jobs ON public.jobs (shop, dedupe_key)
        WHERE dedupe_key IS NOT NULL AND completed_at IS NULL
    """)

    # A claim walks from shop to shop, and in a shop takes what has been due longest. run_after stands before
    # created_at so that jobs which wait for their time are passed over at once, however many they are.
    op.execute("DROP INDEX public.jobs_pending")
    op.execute("""
        CREATE INDEX jobs_waiting ON public.jobs (priority DESC, shop, run_after, created_at) WHERE status = 'pending'
    """)
    # Whose turn it was last at each priority.
    op.execute("""
        CREATE INDEX jobs_started ON public.jobs (priority, started_at) WHERE started_at IS NOT NULL
    """)
    # The few rows that run are found by jobs_one_running_a_path, below.
    op.execute("DROP INDEX public.jobs_processing")

    # Where a job's files lie, as worker/storage/paths.py has it but for the escapes, which never make two paths one.
    op.execute("""
        CREATE FUNCTION worker.storage_path(shop text, product_id text, variant_id text) RETURNS text
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN shop || E'\n' || coalesce(nullif(regexp_replace(product_id, '^gid:/(/.*)?/', ''), ''), product_id)
            || coalesce(E'\n' || coalesce(nullif(regexp_replace(variant_id, '^gid:/(/.*)?/', ''), ''), variant_id), '')
    """)
    _give_back_all_but_one_a_path()
    op.execute("""
        CREATE UNIQUE INDEX jobs_one_running_a_path ON public.jobs (worker.storage_path(shop, product_id, variant_id))
        WHERE status = 'processing'
    """)
    op.execute("""
        CREATE INDEX jobs_waiting_path ON public.jobs (worker.storage_path(shop, product_id, variant_id), queued_at)
        WHERE status = 'pending'
    """)

    # Two rules that a claim cannot see in a snapshot of its own start, because another claim may be about to commit. Each
    # takes a lock that ends with the claim and looks only then: in a volatile function every statement sees what is
    # committed by now. So the unique index above is never run into, and nobody waits at it.
    op.execute("""
        CREATE FUNCTION worker.path_is_free(path text) RETURNS boolean
        LANGUAGE plpgsql VOLATILE COST 1000 SET search_path = '' AS $$
        BEGIN
            IF NOT pg_try_advisory_xact_lock(hashtextextended('worker path ' || path, 0)) THEN
                RETURN false;
            END IF;
            RETURN NOT EXISTS (
                SELECT FROM public.jobs
                WHERE status = 'processing' AND worker.storage_path(shop, product_id, variant_id) = path);
        END $$
    """)
    # Claims of one shop wait for each other here, a commit long. One that has locked a shop and found it full only tries
    # the locks of others: two claims never wait for each other in a circle.
    op.execute("""
        CREATE FUNCTION worker.shop_has_room(name text, most int) RETURNS boolean
        LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
        DECLARE
            key CONSTANT bigint := hashtextextended('worker shop ' || name, 0);
        BEGIN
            IF (SELECT count(*) FROM public.jobs WHERE status = 'processing' AND shop = name) >= most THEN
                RETURN false;
            END IF;
            IF coalesce(current_setting('worker.locked_shop', true), '') = '' THEN
                PERFORM pg_advisory_xact_lock(key), set_config('worker.locked_shop', name, true);
            ELSIF NOT pg_try_advisory_xact_lock(key) THEN
                RETURN false;
            END IF;
            RETURN (SELECT count(*) FROM public.jobs WHERE status = 'processing' AND shop = name) < most;
        END $$
    """)

    op.execute(
        "CREATE TYPE worker.outcome AS ENUM ('completed', 'failed', 'cancelled', 'given back', 'lost')"
    )
    op.execute("""
        CREATE TABLE worker.attempts (
            lease_token uuid PRIMARY KEY,
            job_id uuid NOT NULL,
            attempt smallint NOT NULL,
            worker text NOT NULL,
            host text NOT NULL,
            started_at timestamptz NOT NULL,
            ended_at timestamptz,
            outcome worker.outcome,
            error_code text,
            error_message text,
            seconds jsonb,  -- a stage, as in metadata.worker.seconds

            CONSTRAINT ended_has_an_outcome_and_nothing_else_has
                CHECK ((ended_at IS NULL) = (outcome IS NULL))
        )
        WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200)
    """)
    op.execute("CREATE INDEX attempts_job ON worker.attempts (job_id)")
    op.execute("CREATE INDEX attempts_ended ON worker.attempts (ended_at) WHERE ended_at IS NOT NULL")
    op.execute(
        "COMMENT ON TABLE worker.attempts IS 'Every attempt at a job: who made it, when, and what came of it.'"
    )

    op.execute("ALTER TABLE worker.attempts ENABLE ROW LEVEL SECURITY")
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'worker') THEN
                GRANT SELECT, INSERT, UPDATE, DELETE ON worker.attempts TO worker;
                CREATE POLICY worker_sees_all ON worker.attempts TO worker USING (true) WITH CHECK (true);
            END IF;
        END $$
    """)
    # The claim writes the line; whichever statement ends the attempt closes it here, in the same transaction. A plan made
    # while the table was empty would read all of it, until statistics of a later day.
    op.execute("""
        CREATE FUNCTION worker.end_attempt() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
        BEGIN
            UPDATE worker.attempts
            SET ended_at = clock_timestamp(),
                outcome = CASE
                    WHEN NEW.status = 'completed' THEN 'completed'
                    WHEN current_setting('worker.lease', true) = 'queue' THEN 'lost'
                    WHEN NEW.status = 'cancelled' THEN 'cancelled'
                    WHEN NEW.error_code IS NULL THEN 'given back'
                    ELSE 'failed' END::worker.outcome,
                error_code = NEW.error_code,
                error_message = NEW.error_message,
                seconds = CASE WHEN NEW.metadata IS DISTINCT FROM OLD.metadata
                    THEN NEW.metadata #> '{worker,seconds}' END
            WHERE lease_token = OLD.lease_token;
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER end_attempt AFTER UPDATE ON public.jobs
        FOR EACH ROW WHEN (OLD.status = 'processing' AND NEW.status <> 'processing')
        EXECUTE FUNCTION worker.end_attempt()
    """)
    _forget_without_foreign_keys()

    # The claim walks along the index jobs_waiting from the shop that is next, and only as far as it finds a job: it costs
    # what is due and may not be had, not what the backlog is. Shops where all is postponed are passed over inside the
    # index, a thousand in the time of a few probes. A row is locked before its path is: of rows that others hold no path is
    # locked, for thousands of advisory locks are more than a server has. Whose turn it is follows from the rows themselves;
    # a cursor of its own would be a row that all claims wait at.
    #
    # A function, because its plans are kept: as one statement with recursive CTEs the same walk took 1.3 ms to plan and
    # 0.5 ms to run. Each probe's ORDER BY names its index's whole order, and sorting is barred: whatever the statistics
    # say, and they may be from when the table was small or nothing waited, only the index that is meant will do.
    op.execute("""
        CREATE FUNCTION worker.claim_job(claimer text, claimer_host text, lease_s double precision, shop_limit int)
        RETURNS SETOF public.jobs
        LANGUAGE plpgsql VOLATILE
        SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off AS $$
        DECLARE
            level smallint;
            served text;  -- whose job was the last to start at this priority
            turn text;
            wrapped boolean;
            chosen uuid;
        BEGIN
            -- A primary of yesterday: what waits shows up elsewhere, and an empty queue would never give that away.
            IF current_setting('transaction_read_only')::boolean THEN
                RAISE read_only_sql_transaction USING MESSAGE = 'the server is read-only';
            END IF;
            PERFORM set_config('worker.lease', 'queue', true);
            SELECT priority INTO level FROM public.jobs
                WHERE status = 'pending' ORDER BY priority DESC, shop, run_after, created_at LIMIT 1;
            WHILE level IS NOT NULL LOOP
                SELECT shop INTO served FROM public.jobs
                    WHERE priority = level AND started_at IS NOT NULL ORDER BY priority DESC, started_at DESC LIMIT 1;
                served := coalesce(served, '');
                turn := served;
                wrapped := false;
                LOOP
                    SELECT id, shop INTO chosen, turn FROM (
                        SELECT id, shop, worker.storage_path(shop, product_id, variant_id) AS path FROM public.jobs
                        WHERE status = 'pending' AND priority = level AND shop > turn AND (NOT wrapped OR shop <= served)
                          AND run_after <= now()
                          AND worker.storage_path(shop, product_id, variant_id) <> ALL (ARRAY(
                              SELECT worker.storage_path(shop, product_id, variant_id) FROM public.jobs
                              WHERE status = 'processing'))
                        ORDER BY priority DESC, shop, run_after, created_at OFFSET 0
                        FOR UPDATE SKIP LOCKED) AS waiting
                    WHERE worker.path_is_free(path) LIMIT 1;
                    IF chosen IS NULL THEN
                        EXIT WHEN wrapped;
                        wrapped := true;
                        turn := '';
                    ELSIF shop_limit IS NULL OR worker.shop_has_room(turn, shop_limit) THEN
                        RETURN QUERY
                            WITH claimed AS (
                                UPDATE public.jobs
                                SET status = 'processing', progress = 5, stage = 'claimed',
                                    -- a backend may have lowered max_attempts to what was made: one job must not stop all
                                    attempts = least(jobs.attempts + 1, jobs.max_attempts),
                                    started_at = now(), error_code = NULL, error_message = NULL,
                                    lease_token = gen_random_uuid(),
                                    lease_expires_at = now() + make_interval(secs => lease_s), claimed_by = claimer
                                WHERE id = chosen
                                RETURNING jobs.*
                            ), line AS (
                                INSERT INTO worker.attempts (lease_token, job_id, attempt, worker, host, started_at)
                                SELECT lease_token, id, attempts, claimer, claimer_host, started_at FROM claimed
                            )
                            SELECT * FROM claimed;
                        RETURN;
                    END IF;
                END LOOP;
                SELECT priority INTO level FROM public.jobs
                    WHERE status = 'pending' AND priority < level
                    ORDER BY priority DESC, shop, run_after, created_at LIMIT 1;
            END LOOP;
        END $$
    """)

    # An older job for the same files that still waits, because it is postponed or of lower priority, would put back what
    # this one has replaced. Without sorting only jobs_waiting_path has this order. A function like the claim, and for the
    # same reason.
    op.execute("""
        CREATE FUNCTION worker.complete_job(job_id uuid, token uuid, url text, report jsonb) RETURNS boolean
        LANGUAGE plpgsql VOLATILE SET enable_sort = off AS $$
        DECLARE
            path text;
            asked timestamptz;
            older uuid[];
        BEGIN
            PERFORM set_config('worker.lease', token::text, true);
            UPDATE public.jobs
            SET status = 'completed', progress = 100, stage = 'completed', model_url = url,
                metadata = metadata || jsonb_build_object('worker', report),
                completed_at = now(), lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
            WHERE id = job_id AND lease_token = token
            RETURNING worker.storage_path(shop, product_id, variant_id), queued_at INTO path, asked;
            IF NOT FOUND THEN
                RETURN false;
            END IF;
            older := ARRAY(
                SELECT id FROM public.jobs
                WHERE status = 'pending' AND queued_at < asked
                  AND worker.storage_path(shop, product_id, variant_id) = path
                ORDER BY queued_at);
            IF older <> '{}' THEN
                PERFORM set_config('worker.lease', 'queue', true);
                UPDATE public.jobs
                SET status = 'cancelled', completed_at = now(), error_code = 'superseded',
                    error_message = 'A newer request for the same product was finished first.'
                WHERE id = ANY (older) AND status = 'pending';
            END IF;
            RETURN true;
        END $$
    """)

    # Who runs the job hears at once that it should stop, and who sends webhooks that a waiting one has ended.
    op.execute("""
        CREATE FUNCTION worker.tell_of_cancel() RETURNS trigger
        LANGUAGE plpgsql SET search_path = '' AS $$
        BEGIN
            PERFORM pg_notify('worker_cancel', NEW.id::text);
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER tell_of_cancel AFTER UPDATE OF cancel_requested_at ON public.jobs
        FOR EACH ROW WHEN (OLD.cancel_requested_at IS NULL AND NEW.cancel_requested_at IS NOT NULL)
        EXECUTE FUNCTION worker.tell_of_cancel()
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER tell_of_cancel ON public.jobs")
    op.execute("DROP TRIGGER end_attempt ON public.jobs")
    op.execute("DROP INDEX public.jobs_one_running_a_path, public.jobs_waiting_path")
    op.execute(
        "DROP FUNCTION worker.tell_of_cancel, worker.end_attempt, worker.complete_job, worker.claim_job,"
        " worker.shop_has_room, worker.path_is_free, worker.storage_path"
    )
    _take_the_foreign_key_back()
    op.execute("DROP TABLE worker.attempts")
    op.execute("DROP TYPE worker.outcome")
    op.execute("ALTER FUNCTION public.cancel_job SET search_path = ''")
    op.execute("DROP INDEX public.jobs_started, public.jobs_waiting")
    op.execute("CREATE INDEX jobs_processing ON public.jobs (claimed_by) WHERE status = 'processing'")
    op.execute(
        "CREATE INDEX jobs_pending ON public.jobs (priority DESC, created_at) WHERE status = 'pending'"
    )
    op.execute("""
        CREATE OR REPLACE FUNCTION public.retry_job(job_id uuid) RETURNS boolean
        LANGUAGE plpgsql SET search_path = '' AS $$
        DECLARE
            key text := coalesce(current_setting('worker.lease', true), '');
            again boolean;
        BEGIN
            PERFORM set_config('worker.lease', 'queue', true);
            UPDATE public.jobs
            SET status = 'pending', progress = 0, stage = NULL, attempts = 0, run_after = now(), model_url = NULL,
                error_code = NULL, error_message = NULL, cancel_requested_at = NULL, completed_at = NULL
            WHERE id = job_id AND completed_at IS NOT NULL;
            again := FOUND;
            PERFORM set_config('worker.lease', key, true);
            IF again THEN
                PERFORM pg_notify('worker_jobs', '');
            END IF;
            RETURN again;
        END $$
    """)
    op.execute("""
        CREATE OR REPLACE FUNCTION worker.receive_job() RETURNS trigger
        LANGUAGE plpgsql SET search_path = '' AS $$
        BEGIN
            IF NEW.image_urls IS NULL AND jsonb_typeof(NEW.metadata -> 'image_urls') = 'array' THEN
                NEW.image_urls := ARRAY(SELECT jsonb_array_elements_text(NEW.metadata -> 'image_urls'));
            END IF;
            -- clock_timestamp, not now: rows of one transaction keep the order in which they came.
            NEW.created_at := clock_timestamp();
            NEW.updated_at := NEW.created_at;
            RETURN NEW;
        END $$
    """)
    for before, after in reversed(_GUARD):
        _change_guard(after, before)
    _take_the_checks_back()
    op.execute("ALTER TABLE public.jobs DROP COLUMN dedupe_key, DROP COLUMN queued_at")
    op.execute("ALTER TYPE public.job_state RENAME TO job_status")


def _change_guard(before: str, after: str) -> None:
    op.execute(f"""
        DO $do$ BEGIN
            EXECUTE replace(pg_get_functiondef('worker.guard_job'::regproc), $old${before}$old$, $new${after}$new$);
        END $do$
    """)


def _give_back_all_but_one_a_path() -> None:
    """Rows from before these rules: the order in which they came, and of two that run on one path the older goes on."""
    op.execute("SELECT set_config('worker.lease', 'queue', true)")
    op.execute("UPDATE public.jobs SET queued_at = created_at WHERE completed_at IS NULL")
    op.execute("""
        UPDATE public.jobs AS job
        SET status = 'pending', progress = 0, stage = NULL, attempts = job.attempts - 1,
            lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
        FROM public.jobs AS other
        WHERE job.status = 'processing' AND other.status = 'processing'
          AND (other.created_at, other.id) < (job.created_at, job.id)
          AND worker.storage_path(other.shop, other.product_id, other.variant_id)
              = worker.storage_path(job.shop, job.product_id, job.variant_id)
    """)
    op.execute("SELECT set_config('worker.lease', '', true)")


def _put_the_rules_into_one_check() -> None:
    """Postgres reads each CHECK anew for every statement: seventeen of them were a sixth of what a claim and a settlement
    cost, this one is a tenth of that. Whoever breaks a rule is told the same as by a CHECK of that name.
    """
    op.execute(r"""
        CREATE FUNCTION worker.keeps_the_rules(job public.jobs) RETURNS boolean
        LANGUAGE plpgsql STABLE SET search_path = '' AS $$
        DECLARE
            broken text;
        BEGIN
            -- What the backend alone says. The queue's statements, which show their key, leave it as it is.
            IF coalesce(current_setting('worker.lease', true), '') = '' THEN
                broken := CASE
                    WHEN btrim(job.shop) = '' OR length(job.shop) > 255 THEN 'shop_is_1_to_255_characters'
                    WHEN btrim(job.product_id) = '' OR length(job.product_id) > 255
                        THEN 'product_id_is_1_to_255_characters'
                    WHEN btrim(job.variant_id) = '' OR length(job.variant_id) > 255
                        THEN 'variant_id_is_1_to_255_characters'
                    WHEN btrim(job.dedupe_key) = '' OR length(job.dedupe_key) > 255
                        THEN 'dedupe_key_is_1_to_255_characters'
                    WHEN cardinality(job.image_urls) NOT BETWEEN 1 AND 16 THEN 'image_urls_are_1_to_16'
                    WHEN array_to_string(job.image_urls, E'\n', '')
                         !~* '^https?://[^[:space:]]+(\nhttps?://[^[:space:]]+)*$' THEN 'image_urls_are_http_or_https'
                    WHEN job.quality NOT IN ('fast', 'balanced', 'quality') THEN 'quality_is_fast_balanced_or_quality'
                    WHEN job.max_attempts NOT BETWEEN 1 AND 25 THEN 'max_attempts_is_1_to_25'
                END;
            END IF;
            broken := coalesce(broken, CASE
                -- Python's dates, and so whoever lists jobs, know no infinity.
                WHEN job.run_after NOT BETWEEN '1970-01-01 00:00+00' AND '9999-01-01 00:00+00'
                    THEN 'run_after_is_before_the_year_9999'
                WHEN jsonb_typeof(job.metadata) <> 'object' THEN 'metadata_is_an_object'
                WHEN job.progress NOT BETWEEN 0 AND 100 THEN 'progress_is_0_to_100'
                WHEN job.attempts NOT BETWEEN 0 AND job.max_attempts THEN 'attempts_are_0_to_max_attempts'
                WHEN job.status = 'pending' AND (job.progress <> 0 OR job.stage IS NOT NULL)
                    THEN 'pending_has_no_progress'
                WHEN num_nonnulls(job.lease_token, job.lease_expires_at, job.claimed_by)
                     <> CASE job.status WHEN 'processing' THEN 3 ELSE 0 END
                     OR job.status = 'processing' AND job.started_at IS NULL
                    THEN 'processing_has_a_lease_and_nothing_else_has'
                WHEN (job.status IN ('completed', 'failed', 'cancelled')) <> (job.completed_at IS NOT NULL)
                    THEN 'ended_has_completed_at_and_nothing_else_has'
                WHEN (job.status = 'completed') <> (job.progress = 100)
                     OR job.status = 'completed' AND job.model_url IS NULL THEN 'completed_has_model_url_and_100'
                WHEN job.status = 'failed' AND num_nulls(job.error_code, job.error_message) > 0
                    THEN 'failed_has_error_code_and_message'
            END);
            IF broken IS NOT NULL THEN
                RAISE check_violation USING SCHEMA = 'public', TABLE = 'jobs', CONSTRAINT = broken,
                    MESSAGE = format('new row for relation "jobs" violates check constraint "%s"', broken);
            END IF;
            RETURN true;
        END $$
    """)
    op.execute("ALTER TABLE public.jobs " + ", ".join(f"DROP CONSTRAINT {name}" for name in _CHECKS))
    op.execute(
        "ALTER TABLE public.jobs ADD CONSTRAINT jobs_keep_the_rules CHECK (worker.keeps_the_rules(jobs))"
    )
    op.execute(
        "COMMENT ON CONSTRAINT jobs_keep_the_rules ON public.jobs IS"
        " 'All rules of a row, each by the name that an error gives: \\sf worker.keeps_the_rules'"
    )


def _take_the_checks_back() -> None:
    op.execute("ALTER TABLE public.jobs DROP CONSTRAINT jobs_keep_the_rules")
    op.execute("DROP FUNCTION worker.keeps_the_rules")
    checks = (f"ADD CONSTRAINT {name} CHECK ({rule})" for name, rule in _CHECKS.items())
    op.execute("ALTER TABLE public.jobs " + ", ".join(checks))


def _forget_without_foreign_keys() -> None:
    """A foreign key looks the job up for every event and every attempt. What is written to these tables is written while
    the job's row is locked, so it is there; what a key does when a job is deleted, this does at once for all of them.
    """
    op.execute("ALTER TABLE worker.outbox DROP CONSTRAINT outbox_job_id_fkey")
    op.execute("""
        CREATE FUNCTION worker.forget_jobs() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
        BEGIN
            IF TG_OP = 'TRUNCATE' THEN
                TRUNCATE worker.outbox, worker.attempts;
            ELSE
                DELETE FROM worker.outbox WHERE job_id = ANY (ARRAY(SELECT id FROM gone));
                DELETE FROM worker.attempts WHERE job_id = ANY (ARRAY(SELECT id FROM gone));
            END IF;
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER forget_jobs AFTER DELETE ON public.jobs REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION worker.forget_jobs()
    """)
    op.execute("""
        CREATE TRIGGER forget_all_jobs AFTER TRUNCATE ON public.jobs
        FOR EACH STATEMENT EXECUTE FUNCTION worker.forget_jobs()
    """)


def _take_the_foreign_key_back() -> None:
    op.execute("DROP TRIGGER forget_jobs ON public.jobs")
    op.execute("DROP TRIGGER forget_all_jobs ON public.jobs")
    op.execute("DROP FUNCTION worker.forget_jobs")
    op.execute("""
        ALTER TABLE worker.outbox ADD CONSTRAINT outbox_job_id_fkey
            FOREIGN KEY (job_id) REFERENCES public.jobs ON DELETE CASCADE
    """)
