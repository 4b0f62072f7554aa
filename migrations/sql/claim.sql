-- What a worker does with a job: claim it, hold it, end it; and rescue jobs from workers that were lost. Every upgrade
-- applies this file: migrations/env.py. worker/jobs/queries.sql calls these functions, each as a transaction of its own.
--
-- Every function that moves a row forward sets the key for worker.guard_job() in its first line: the lease's token, or
-- 'queue' where no lease is held. In a function it is set before the first row is touched, whatever the planner does; the
-- transaction's end takes it back, so it works behind a transaction pooler. Where the token is not the row's, nothing is
-- changed and no row is returned: the lease is lost.
--
-- Plans of functions are kept. As one statement with recursive CTEs the claim's walk took 1.3 ms to plan and 0.5 ms to
-- run. But a plan that was made while a table was empty would read all of it, until statistics of a later day:
-- enable_seqscan = off leaves it the indexes. No search_path is set: it would hold for the app's own triggers on the table
-- too, which may name their tables without a schema. lock_timeout: a job's row that somebody else has locked is no outage,
-- and the connection that waits for it is not given up (worker/database/connection.py, ANSWER_S).

-- Two rules that a claim cannot see in a snapshot of its own start, because another claim may be about to commit. Each
-- takes a lock that ends with the claim and looks only then: in a volatile function every statement sees what is
-- committed by now. So the unique index jobs_one_running_a_path is never run into, and nobody waits at it.

-- Lock a storage path for this claim. True if no job runs on it.
CREATE OR REPLACE FUNCTION worker.path_is_free(path text) RETURNS boolean
LANGUAGE plpgsql VOLATILE COST 1000 SET search_path = '' AS $$
#variable_conflict use_variable
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('worker path ' || path, 0)) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM public.jobs
        WHERE status = 'processing' AND worker.storage_path(shop, product_id, variant_id) = path);
END $$;

-- Lock a shop for this claim. True if fewer than `most` of its jobs run. Claims of one shop wait for each other here, a
-- commit long. A claim that has locked a shop and found it full only tries the locks of others: two claims never wait for
-- each other in a circle.
CREATE OR REPLACE FUNCTION worker.shop_has_room(name text, most int) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
#variable_conflict use_variable
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
END $$;

-- Choose the next job and lock its row. Highest priority first; within it the shops take turns, from the one after the
-- shop that was served last; within a shop what has been due longest. A job whose files a running job may write, and a shop
-- at its limit, are passed over. Whose turn it is follows from the rows themselves; a cursor of its own would be a row that
-- all claims wait at.
--
-- A walk along the index jobs_waiting from the shop that is next, only as far as it finds a job: it costs what is due and
-- may not be had, not what the backlog is. A row is locked before its path is: of rows that others hold no path is locked,
-- for thousands of advisory locks are more than a server has.
--
-- Each probe's ORDER BY names its index's whole order, and claim_job() bars sorting: whatever the statistics say, and they
-- may be from when the table was small or nothing waited, only the index that is meant will do.
CREATE OR REPLACE FUNCTION worker.next_job(shop_limit int) RETURNS uuid
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    level smallint;
    served text;  -- whose job was the last to start at this priority
    turn text;
    wrapped boolean;
    chosen uuid;
BEGIN
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
                RETURN chosen;
            END IF;
        END LOOP;
        SELECT priority INTO level FROM public.jobs
            WHERE status = 'pending' AND priority < level
            ORDER BY priority DESC, shop, run_after, created_at LIMIT 1;
    END LOOP;
    RETURN NULL;
END $$;

-- Choose as next_job() does, among these few: all that are due, where other jobs wait for their time. Those would stand in
-- the walk's way: with 100,000 shops that have no others it took 22 ms.
CREATE OR REPLACE FUNCTION worker.next_of_few(few uuid[], shop_limit int) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET enable_sort = on AS $$
#variable_conflict use_variable
DECLARE
    candidate uuid;
    chosen uuid;
    turn text;
    full_shop text;
BEGIN
    FOR candidate, turn IN
        WITH due AS MATERIALIZED (
            SELECT id, priority, shop, run_after, created_at FROM public.jobs WHERE id = ANY (few)
        ), served AS MATERIALIZED (
            SELECT level.priority, (
                SELECT job.shop FROM public.jobs AS job
                WHERE job.priority = level.priority AND job.started_at IS NOT NULL
                ORDER BY job.priority DESC, job.started_at DESC LIMIT 1) AS shop
            FROM (SELECT DISTINCT priority FROM due) AS level
        )
        SELECT due.id, due.shop FROM due JOIN served USING (priority)
        ORDER BY due.priority DESC, coalesce(due.shop <= served.shop, false), due.shop, due.run_after, due.created_at
    LOOP
        CONTINUE WHEN turn = full_shop;
        -- By its key alone: an index of what waits would be read as a whole for each.
        SELECT id INTO chosen FROM (
            SELECT id, status, run_after, worker.storage_path(shop, product_id, variant_id) AS path FROM public.jobs
            WHERE id = candidate OFFSET 0 FOR UPDATE SKIP LOCKED) AS waiting
        WHERE status = 'pending' AND run_after <= now()
          AND path <> ALL (ARRAY(
              SELECT worker.storage_path(shop, product_id, variant_id) FROM public.jobs WHERE status = 'processing'))
          AND worker.path_is_free(path);
        CONTINUE WHEN chosen IS NULL;
        IF shop_limit IS NULL OR worker.shop_has_room(turn, shop_limit) THEN
            RETURN chosen;
        END IF;
        full_shop := turn;
    END LOOP;
    RETURN NULL;
END $$;

-- Take the next job. The attempt is counted here, not at the end, so that a job that kills its worker runs out of attempts;
-- and it leaves its line, which worker.end_attempt() closes.
CREATE OR REPLACE FUNCTION worker.claim_job(claimer text, claimer_host text, lease_s double precision, shop_limit int)
RETURNS SETOF public.jobs
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off AS $$
#variable_conflict use_variable
DECLARE
    most CONSTANT int := 200;
    few uuid[];
    chosen uuid;
BEGIN
    PERFORM set_config('worker.lease', 'queue', true);
    -- A primary of yesterday: what waits shows up elsewhere, and an empty queue would never give that away.
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'the server is read-only';
    END IF;
    IF (SELECT run_after FROM public.jobs WHERE status = 'pending' ORDER BY run_after DESC LIMIT 1) > now() THEN
        few := ARRAY(
            SELECT id FROM public.jobs WHERE status = 'pending' AND run_after <= now() ORDER BY run_after LIMIT most);
    END IF;
    IF cardinality(few) < most THEN
        chosen := worker.next_of_few(few, shop_limit);
    ELSE
        chosen := worker.next_job(shop_limit);
    END IF;
    IF chosen IS NULL THEN
        RETURN;
    END IF;
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
END $$;

-- Is there something to do, for a lane (`due`) or for the rescue (`expired`), and if not, in how many seconds at the
-- earliest? Written for the index jobs_due, whatever the statistics say: with 100,000 jobs that wait for their time it
-- reads one of them.
CREATE OR REPLACE FUNCTION worker.next_due(OUT due boolean, OUT expired boolean, OUT seconds double precision)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_sort = off AS $$
#variable_conflict use_variable
DECLARE
    first timestamptz := (
        SELECT run_after FROM public.jobs WHERE status = 'pending' ORDER BY run_after LIMIT 1);
    ends timestamptz := (SELECT min(lease_expires_at) FROM public.jobs WHERE status = 'processing');
BEGIN
    due := coalesce(first <= now(), false);
    expired := coalesce(ends < now(), false);
    seconds := extract(epoch FROM least(ends, CASE WHEN NOT due THEN first END) - now());
END $$;

-- Keep a job for another lease. True if a cancel was requested.
CREATE OR REPLACE FUNCTION worker.renew_lease(job_id uuid, token uuid, lease_s double precision) RETURNS SETOF boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('worker.lease', token::text, true);
    RETURN QUERY
        UPDATE public.jobs SET lease_expires_at = now() + make_interval(secs => lease_s)
        WHERE id = job_id AND lease_token = token
        RETURNING cancel_requested_at IS NOT NULL;
END $$;

-- Write how far a job is, and renew its lease too. Progress never falls. True if a cancel was requested.
CREATE OR REPLACE FUNCTION worker.report_progress(
    job_id uuid, token uuid, new_progress int, new_stage text, lease_s double precision) RETURNS SETOF boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('worker.lease', token::text, true);
    RETURN QUERY
        UPDATE public.jobs
        SET progress = greatest(progress, new_progress), stage = new_stage,
            lease_expires_at = now() + make_interval(secs => lease_s)
        WHERE id = job_id AND lease_token = token
        RETURNING cancel_requested_at IS NOT NULL;
END $$;

-- Settle a job whose model is stored, and end the older ones for the same files. True if the lease was held.
--
-- An older job for the same files that still waits, because it failed or is of lower priority, would put back what this
-- one has replaced. Without sorting only jobs_waiting_path has this order.
CREATE OR REPLACE FUNCTION worker.complete_job(
    job_id uuid, token uuid, url text, report jsonb, superseded_message text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off SET enable_sort = off AS $$
#variable_conflict use_variable
DECLARE
    path text;
    requested_at timestamptz;
    older uuid[];
BEGIN
    PERFORM set_config('worker.lease', token::text, true);
    UPDATE public.jobs
    SET status = 'completed', progress = 100, stage = 'completed', model_url = url,
        metadata = metadata || jsonb_build_object('worker', report),
        completed_at = now(), lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
    WHERE id = job_id AND lease_token = token
    RETURNING worker.storage_path(shop, product_id, variant_id), queued_at INTO path, requested_at;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    older := ARRAY(
        SELECT id FROM public.jobs
        WHERE status = 'pending' AND queued_at < requested_at
          AND worker.storage_path(shop, product_id, variant_id) = path
        ORDER BY queued_at);
    IF older <> '{}' THEN
        PERFORM set_config('worker.lease', 'queue', true);
        UPDATE public.jobs
        SET status = 'cancelled', completed_at = now(), error_code = 'superseded', error_message = superseded_message
        WHERE id = ANY (older) AND status = 'pending';
    END IF;
    RETURN true;
END $$;

-- The wait after an attempt that failed: 15 s doubled with each attempt, at most 10 min, half of it at random.
CREATE OR REPLACE FUNCTION worker.retry_wait(attempts int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
    SELECT make_interval(secs => least(600, 15 * 2.0 ^ (attempts - 1)) * (0.5 + random() / 2))
$$;

-- Settle an attempt that failed: once more later if that can help and attempts are left, else for good. A job that would
-- be tried again is cancelled instead if that was requested. No wait after the first death of a child, as after that of a
-- daemon.
CREATE OR REPLACE FUNCTION worker.fail_job(
    job_id uuid, token uuid, code text, message text, retryable boolean, report jsonb) RETURNS SETOF public.jobs
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    verdict worker.job_state;
BEGIN
    PERFORM set_config('worker.lease', token::text, true);
    SELECT CASE WHEN NOT retryable OR attempts >= max_attempts THEN 'failed'
                WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                ELSE 'pending' END
        INTO verdict
        FROM public.jobs WHERE id = job_id AND lease_token = token FOR UPDATE;
    RETURN QUERY
        UPDATE public.jobs AS job
        SET status = verdict,
            progress = CASE verdict WHEN 'pending' THEN 0 ELSE job.progress END,
            stage = CASE verdict WHEN 'pending' THEN NULL ELSE job.stage END,
            run_after = CASE WHEN verdict = 'pending' AND NOT (code = 'worker_lost' AND job.attempts = 1)
                THEN now() + worker.retry_wait(job.attempts) ELSE job.run_after END,
            completed_at = CASE verdict WHEN 'pending' THEN NULL ELSE now() END,
            error_code = CASE verdict WHEN 'cancelled' THEN NULL ELSE code END,
            error_message = CASE verdict WHEN 'cancelled' THEN NULL ELSE message END,
            metadata = job.metadata || jsonb_build_object('worker', report),
            lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
        WHERE job.id = job_id AND job.lease_token = token
        RETURNING job.*;
END $$;

-- Settle a running job whose cancel was requested, once the worker has stopped.
CREATE OR REPLACE FUNCTION worker.stop_job(job_id uuid, token uuid) RETURNS SETOF public.jobs
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('worker.lease', token::text, true);
    RETURN QUERY
        UPDATE public.jobs AS job
        SET status = 'cancelled', completed_at = now(), lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
        WHERE job.id = job_id AND job.lease_token = token
        RETURNING job.*;
END $$;

-- Put a job back without using up an attempt, when the daemon stops before it is done; cancelled if that was requested.
CREATE OR REPLACE FUNCTION worker.release_job(job_id uuid, token uuid) RETURNS SETOF public.jobs
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('worker.lease', token::text, true);
    RETURN QUERY
        UPDATE public.jobs AS job
        SET status = CASE WHEN cancel_requested_at IS NULL THEN 'pending' ELSE 'cancelled' END::worker.job_state,
            completed_at = CASE WHEN cancel_requested_at IS NOT NULL THEN now() END,
            progress = 0, stage = NULL, attempts = attempts - 1,
            lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
        WHERE job.id = job_id AND job.lease_token = token
        RETURNING job.*;
END $$;

-- Take jobs from workers that were not heard of for a lease: back to pending, the first time at once and then with the
-- wait of a failed attempt; cancelled if that was requested; failed when their attempts are used up.
CREATE OR REPLACE FUNCTION worker.rescue_jobs(message text) RETURNS SETOF public.jobs
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('worker.lease', 'queue', true);
    RETURN QUERY
        WITH lost AS (
            SELECT id,
                CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                     WHEN attempts < max_attempts THEN 'pending'
                     ELSE 'failed' END::worker.job_state AS verdict
            FROM public.jobs
            WHERE status = 'processing' AND lease_expires_at < now()
            FOR UPDATE SKIP LOCKED
        )
        UPDATE public.jobs AS job
        SET status = lost.verdict,
            progress = CASE lost.verdict WHEN 'pending' THEN 0 ELSE job.progress END,
            stage = CASE lost.verdict WHEN 'pending' THEN NULL ELSE job.stage END,
            run_after = CASE WHEN lost.verdict = 'pending' AND job.attempts > 1
                THEN now() + worker.retry_wait(job.attempts) ELSE job.run_after END,
            completed_at = CASE lost.verdict WHEN 'pending' THEN NULL ELSE now() END,
            error_code = CASE lost.verdict WHEN 'cancelled' THEN NULL ELSE 'worker_lost' END,
            error_message = CASE lost.verdict WHEN 'cancelled' THEN NULL ELSE message END,
            lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
        FROM lost
        WHERE job.id = lost.id
        RETURNING job.*;
END $$;

-- Close an attempt's line in the transaction that ends the attempt, whichever function does. The claim wrote it.
CREATE OR REPLACE FUNCTION worker.end_attempt() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
BEGIN
    UPDATE worker.attempts
    SET ended_at = clock_timestamp(),
        outcome = CASE
            WHEN NEW.status = 'completed' THEN 'completed'
            WHEN current_setting('worker.lease', true) = 'queue' THEN 'lost'
            WHEN NEW.status = 'cancelled' THEN 'cancelled'
            WHEN NEW.error_code IS NULL THEN 'released'
            ELSE 'failed' END::worker.outcome,
        error_code = NEW.error_code,
        error_message = NEW.error_message,
        seconds = CASE WHEN NEW.metadata IS DISTINCT FROM OLD.metadata
            THEN NEW.metadata #> '{worker,seconds}' END
    WHERE lease_token = OLD.lease_token;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER end_attempt AFTER UPDATE ON public.jobs
FOR EACH ROW WHEN (OLD.status = 'processing' AND NEW.status <> 'processing')
EXECUTE FUNCTION worker.end_attempt();
