-- What a worker does with a job: claim it, renew its lease, end it; and the rescue of jobs from lost workers. Every upgrade
-- applies this file: migrations/env.py. worker/jobs/queries.sql calls these functions, each in a transaction of its own.
--
-- Every function that moves a row forward sets the key for worker.guard_job() in its first line: the lease's token, or
-- 'queue' where there is no lease. A function sets it before it touches a row, whatever the planner does. The key ends with
-- the transaction, so it works behind a transaction pooler. If the token is not the row's, nothing changes and no row is
-- returned: the lease is lost.
--
-- Postgres caches the plans of functions. As one statement with recursive CTEs, the claim took 1.3 ms to plan and 0.5 ms to
-- run. But a plan that was made while a table was empty would scan the whole table until new statistics exist;
-- enable_seqscan = off keeps it on the indexes. No function sets search_path: it would also apply to the app's own triggers
-- on the table, which may name their tables without a schema. lock_timeout: a row that another session has locked is not an
-- outage, so the statement gives up before the connection does (worker/database/connection.py, ANSWER_S).
--
-- The claim and the settlement set a variable where PERFORM would do: PERFORM runs a query, at three times the cost.

-- Two rules cannot be checked in the claim's own snapshot, because another claim may be about to commit. So each function
-- takes a lock that ends with the claim, and checks after that: in a volatile function every statement sees what is committed
-- by then. For this reason no claim violates the unique index jobs_one_running_a_path, and none waits for it.

-- Lock a storage path for this claim. True if no job runs on it, and no newer one has ended on it.
CREATE OR REPLACE FUNCTION worker.path_is_free(path text, requested_at timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE COST 1000 AS $$
#variable_conflict use_variable
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('worker path ' || path, 0)) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
            SELECT FROM public.jobs
            WHERE status = 'processing' AND worker.storage_path(shop, product_id, variant_id) = path)
        AND NOT EXISTS (SELECT FROM worker.superseded AS rest WHERE rest.path = path AND rest.before > requested_at);
END $$;

-- Lock a shop for this claim. True if fewer than `most` of its jobs run. Claims of one shop wait for each other here until one
-- commits. A claim that has locked one shop, and found it full, does not wait for the lock of another: no deadlock.
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

-- Choose the next job and lock its row. `pools` and `engines` name the lines that the host can take: a line holds the jobs of
-- one pool and one engine, and the line of the engine '' those that any engine may do.
--
-- The highest priority comes first. Within a priority the lines take turns, that which was served longest ago first; within a
-- line the shops take turns, starting after the shop that was served last; within a shop, the job that has been due longest.
-- So nothing starves: whoever serves a part of the lines only cannot turn the shops of the others back. A job on the path of
-- a running job is skipped, and so is a shop at its limit, and a job that has not begun by its start_by: see expire_jobs().
-- The turns are computed from the rows; a cursor would be one row on
-- which all claims wait.
--
-- The function walks along the index jobs_waiting from shop to shop until it finds a job. If a shop's first job cannot run,
-- worker.next_of_shop() looks for another one there. So the cost depends on the running jobs, not on the backlog, nor on that
-- of other lines. A row is locked before its path, so that no path is locked for a row of another claim: a server does not
-- have room for thousands of advisory locks.
--
-- The ORDER BY of each query is the complete order of its index, and claim_job() disables sorting. So only that index can be
-- used, even if the statistics are from a time when the table was small or no job waited.
CREATE OR REPLACE FUNCTION worker.next_job(pools text[], engines text[], shop_limit int, refused uuid[]) RETURNS uuid
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    -- the priorities of each line below this one are left to try
    levels int[] := array_fill(32768, ARRAY[cardinality(pools) * cardinality(engines)]);
    its_pool text;
    its_engine text;
    n int := 0;
    one record;
    line record;
    turn text;
    wrapped boolean;
    is_free boolean;
    most int;
    chosen uuid;
BEGIN
    LOOP
        -- One query a line: a host has few of them, and one query for all has to sort, for which it takes longer to begin.
        line := NULL;
        FOREACH its_pool IN ARRAY pools LOOP
            FOREACH its_engine IN ARRAY engines LOOP
                n := n % cardinality(levels) + 1;
                SELECT n, its_pool AS pool, its_engine AS engine, waiting.priority, coalesce(served.shop, '') AS served,
                    coalesce(served.started_at, '-infinity') AS served_at INTO one
                FROM (
                    SELECT job.priority FROM public.jobs AS job
                    WHERE job.status = 'pending' AND job.pool = its_pool AND coalesce(job.engine, '') = its_engine
                      AND job.priority < levels[n]
                    ORDER BY job.pool, coalesce(job.engine, ''), job.priority DESC, job.shop, job.run_after, job.created_at
                    LIMIT 1
                ) AS waiting LEFT JOIN LATERAL (
                    SELECT job.shop, job.started_at FROM public.jobs AS job
                    WHERE job.pool = its_pool AND coalesce(job.engine, '') = its_engine
                      AND job.priority = waiting.priority AND job.started_at IS NOT NULL
                    ORDER BY job.pool DESC, coalesce(job.engine, '') DESC, job.priority DESC, job.started_at DESC LIMIT 1
                ) AS served ON true;
                CONTINUE WHEN NOT FOUND;
                IF line IS NULL THEN
                    line := one;
                ELSIF (-one.priority, one.served_at, one.pool, one.engine)
                    < (-line.priority, line.served_at, line.pool, line.engine) THEN
                    line := one;
                END IF;
            END LOOP;
        END LOOP;
        IF line IS NULL THEN
            RETURN NULL;
        END IF;
        levels[line.n] := line.priority;
        turn := line.served;
        wrapped := false;
        LOOP
            SELECT id, shop, worker.path_is_free(worker.storage_path(shop, product_id, variant_id), queued_at),
                least(shop_limit, (SELECT plan.jobs_at_once FROM worker.shop_limits AS plan WHERE plan.shop = waiting.shop))
            INTO chosen, turn, is_free, most FROM (
                SELECT id, shop, product_id, variant_id, queued_at FROM public.jobs
                WHERE status = 'pending' AND pool = line.pool AND coalesce(engine, '') = line.engine
                  AND priority = line.priority AND shop > turn AND (NOT wrapped OR shop <= line.served)
                  AND run_after <= now() AND id <> ALL (refused)
                  AND (start_by IS NULL OR start_by > now() OR started_at >= queued_at)
                ORDER BY pool, coalesce(engine, ''), priority DESC, shop, run_after, created_at LIMIT 1
                FOR UPDATE SKIP LOCKED) AS waiting;
            IF chosen IS NULL THEN
                EXIT WHEN wrapped;
                wrapped := true;
                turn := '';
            ELSIF NOT is_free THEN
                chosen := worker.next_of_shop(line.pool, line.engine, line.priority, turn, shop_limit, refused);
                IF chosen IS NOT NULL THEN
                    RETURN chosen;
                END IF;
            ELSIF most IS NULL OR worker.shop_has_room(turn, most) THEN
                RETURN chosen;
            END IF;
        END LOOP;
    END LOOP;
END $$;

-- Choose a job of one shop of a line whose first due job cannot run. That is the job that has been due longest, if it is
-- among the first hundred. Behind a hundred that cannot run, say thousands of requests for one product that is running, it is
-- one of the next hundred products in the order of their paths, from a random path on: that of them which has been due
-- longest. So the cost is the same however many jobs of a product wait, and each product has its chance.
CREATE OR REPLACE FUNCTION worker.next_of_shop(
    its_pool text, its_engine text, its_priority smallint, its_shop text, shop_limit int, refused uuid[]) RETURNS uuid
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    most CONSTANT int := 100;
    busy CONSTANT text[] := ARRAY(
        SELECT worker.storage_path(shop, product_id, variant_id) FROM public.jobs WHERE status = 'processing');
    few uuid[];
    seen int;
    chosen uuid;
    candidate record;
    start CONSTANT text := md5(random()::text);
    turn text := start;
    wrapped boolean := false;
BEGIN
    SELECT count(*), array_agg(id) FILTER (WHERE path <> ALL (busy)) INTO seen, few FROM (
        SELECT id, worker.storage_path(shop, product_id, variant_id) AS path FROM public.jobs
        WHERE status = 'pending' AND pool = its_pool AND coalesce(engine, '') = its_engine AND priority = its_priority
          AND shop = its_shop AND run_after <= now()
        ORDER BY pool, coalesce(engine, ''), priority DESC, shop, run_after, created_at LIMIT most) AS first;
    chosen := worker.next_of_few(few, shop_limit, refused);
    IF chosen IS NOT NULL OR seen < most THEN
        RETURN chosen;
    END IF;
    few := '{}';
    FOR n IN 1 .. most + cardinality(busy) LOOP
        SELECT id, run_after, worker.storage_path(shop, product_id, variant_id) AS path INTO candidate FROM public.jobs
        WHERE status = 'pending' AND pool = its_pool AND coalesce(engine, '') = its_engine AND priority = its_priority
          AND shop = its_shop AND worker.storage_path(shop, product_id, variant_id) > turn
        ORDER BY pool, coalesce(engine, ''), priority DESC, shop, worker.storage_path(shop, product_id, variant_id),
            run_after, created_at
        LIMIT 1;
        IF NOT FOUND OR wrapped AND candidate.path > start THEN
            EXIT WHEN wrapped;
            wrapped := true;
            turn := '';
            CONTINUE;
        END IF;
        turn := candidate.path;
        IF candidate.run_after <= now() AND turn <> ALL (busy) THEN
            few := few || candidate.id;
        END IF;
    END LOOP;
    RETURN worker.next_of_few(few, shop_limit, refused);
END $$;

-- Choose as next_job() does, but only among these few due jobs. It is used while other jobs have a later run_after, which
-- next_job() would have to pass: with 100,000 shops that have only such jobs it took 22 ms.
CREATE OR REPLACE FUNCTION worker.next_of_few(few uuid[], shop_limit int, refused uuid[]) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET enable_sort = on AS $$
#variable_conflict use_variable
DECLARE
    candidate uuid;
    chosen uuid;
    turn text;
    most int;
    full_shop text;
BEGIN
    FOR candidate, turn, most IN
        WITH due AS MATERIALIZED (
            SELECT id, pool, coalesce(engine, '') AS engine, priority, shop, run_after, created_at FROM public.jobs
            WHERE id = ANY (few) AND id <> ALL (refused)
        ), line AS MATERIALIZED (
            SELECT one.pool, one.engine, one.priority, served.shop, served.started_at
            FROM (SELECT DISTINCT pool, engine, priority FROM due) AS one LEFT JOIN LATERAL (
                SELECT job.shop, job.started_at FROM public.jobs AS job
                WHERE job.pool = one.pool AND coalesce(job.engine, '') = one.engine
                  AND job.priority = one.priority AND job.started_at IS NOT NULL
                ORDER BY job.pool DESC, coalesce(job.engine, '') DESC, job.priority DESC, job.started_at DESC LIMIT 1
            ) AS served ON true
        )
        SELECT due.id, due.shop, least(shop_limit, plan.jobs_at_once)
        FROM due JOIN line USING (pool, engine, priority) LEFT JOIN worker.shop_limits AS plan ON plan.shop = due.shop
        ORDER BY due.priority DESC, line.started_at NULLS FIRST, due.pool, due.engine,
            coalesce(due.shop <= line.shop, false), due.shop, due.run_after, due.created_at
    LOOP
        CONTINUE WHEN turn = full_shop;
        -- By primary key only: an index on waiting jobs would be read completely for each candidate.
        SELECT id INTO chosen FROM (
            SELECT id, status, run_after, start_by, started_at, queued_at,
                worker.storage_path(shop, product_id, variant_id) AS path
            FROM public.jobs WHERE id = candidate OFFSET 0 FOR UPDATE SKIP LOCKED) AS waiting
        WHERE status = 'pending' AND run_after <= now()
          AND (start_by IS NULL OR start_by > now() OR started_at >= queued_at)
          AND path <> ALL (ARRAY(
              SELECT worker.storage_path(shop, product_id, variant_id) FROM public.jobs WHERE status = 'processing'))
          AND worker.path_is_free(path, queued_at);
        CONTINUE WHEN chosen IS NULL;
        IF most IS NULL OR worker.shop_has_room(turn, most) THEN
            RETURN chosen;
        END IF;
        full_shop := turn;
    END LOOP;
    RETURN NULL;
END $$;

-- Take the next job of these pools that the engine may do, unless the host is paused. The attempt is counted here, not at its
-- end, so that a job that kills its worker runs out of attempts. The attempt gets a row in worker.attempts, which
-- worker.write_event() completes. Null if no job may be claimed.
--
-- A claim alone does not wait until the disk has it (synchronous_commit). If the server dies within a second, its job is waiting
-- again, and the worker's next statement says that the lease is lost. Nobody learns of a claim before it is safe: a commit
-- that waits, such as that which sends an event or settles a job, waits for all that was committed before.
--
-- A claim that `follows` comes at the end of a transaction that has written something else. If it fails, what was written stays,
-- and the lane's next claim fails by itself and says why. Its callers let it wait 0.1 s for a lock: two such transactions may
-- wait for each other, say where a trigger of the app counts the jobs of each shop in a row.
--
-- A row that cannot be claimed, because a trigger or a constraint of the app refuses the update, is passed over with a
-- warning in the server's log: it must not stop the jobs behind it. Several of them mean that no row can be claimed. Such a
-- trigger may raise any code, its own too. An error that says nothing of the row ends the claim: a missing right, a lock, a
-- deadlock, a server that is full or away.
--
-- One block for both kinds of failure, because each one is a subtransaction: a second one made four claimers 2 % slower.
CREATE OR REPLACE FUNCTION worker.take_next(
    claimer text, claimer_host text, pools text[], engine text, lease_s double precision, shop_limit int, follows boolean)
RETURNS worker.claimed_job
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    most CONSTANT int := 200;
    engines CONSTANT text[] := worker.engines_of(engine);
    key text;
    queue record;
    few uuid[];
    chosen uuid;
    claimed worker.claimed_job;
    refused uuid[] := '{}';
BEGIN
    key := set_config('worker.lease', 'queue', true);
    IF NOT follows THEN
        key := set_config('synchronous_commit', 'off', true);
        -- A former primary: new jobs go to another server, and an empty queue here would not show it.
        IF current_setting('transaction_read_only')::boolean THEN
            RAISE read_only_sql_transaction USING MESSAGE = 'the server is read-only';
        END IF;
    END IF;
    LOOP
        chosen := NULL;
        BEGIN
            SELECT EXISTS (SELECT FROM worker.hosts WHERE name = claimer AND paused_at IS NOT NULL) AS paused,
                EXISTS (SELECT FROM worker.superseded) AS superseded,
                EXISTS (SELECT FROM public.jobs AS job
                    WHERE job.status = 'pending' AND job.pool = ANY (pools) AND coalesce(job.engine, '') = ANY (engines)
                      AND job.run_after > now()
                    ORDER BY job.pool, coalesce(job.engine, ''), job.run_after OFFSET 0) AS scheduled
            INTO queue;
            IF queue.paused THEN
                RETURN NULL;
            END IF;
            IF queue.superseded THEN
                BEGIN
                    PERFORM worker.supersede_rest();
                EXCEPTION WHEN OTHERS OR assert_failure THEN
                    -- A trigger or a constraint of the app. The older jobs are never claimed, so they can wait.
                    RAISE WARNING 'Older jobs for the files of a completed job cannot be cancelled: %', SQLERRM;
                END;
            END IF;
            IF queue.scheduled THEN
                few := ARRAY(
                    SELECT one.id FROM unnest(pools) AS of (pool) CROSS JOIN unnest(engines) AS by (engine) CROSS JOIN LATERAL (
                        SELECT job.id FROM public.jobs AS job
                        WHERE job.status = 'pending' AND job.pool = of.pool AND coalesce(job.engine, '') = by.engine
                          AND job.run_after <= now()
                        ORDER BY job.pool, coalesce(job.engine, ''), job.run_after LIMIT most) AS one
                    LIMIT most);
            END IF;
            IF cardinality(few) < most THEN
                chosen := worker.next_of_few(few, shop_limit, refused);
            ELSE
                chosen := worker.next_job(pools, engines, shop_limit, refused);
            END IF;
            IF chosen IS NULL THEN
                RETURN NULL;
            END IF;
            UPDATE public.jobs
            SET status = 'processing', progress = 5, stage = 'claimed',
                -- a backend may have lowered max_attempts; the row must not break the rule and stop all claims
                attempts = least(jobs.attempts + 1, jobs.max_attempts),
                -- not before queued_at: see expire_jobs(). The job may have been queued since this transaction began.
                started_at = greatest(now(), jobs.queued_at), error_code = NULL, error_message = NULL,
                lease_token = md5(concat(chosen, clock_timestamp()))::uuid,  -- unique, not secret: worker.add_event()
                lease_expires_at = now() + make_interval(secs => lease_s), claimed_by = claimer
            WHERE id = chosen
            RETURNING id, lease_token, shop, product_id, variant_id, image_urls, quality, attempts, max_attempts,
                excluded_photos, refresh,
                CASE WHEN octet_length((metadata -> 'dimensions')::text) > 4000 THEN '"too long"'
                     ELSE (metadata -> 'dimensions')::text END,
                CASE WHEN octet_length((metadata -> 'views')::text) > 4000 THEN '"too long"'
                     ELSE (metadata -> 'views')::text END,
                CASE WHEN octet_length((metadata -> 'subject')::text) > 4000 THEN '"too long"'
                     ELSE (metadata -> 'subject')::text END,
                batch
            INTO claimed;
            INSERT INTO worker.attempts (job_id, lease_token, attempt, worker, host, started_at)
            VALUES (claimed.id, claimed.lease_token, claimed.attempts, claimer, claimer_host, now());
            RETURN claimed;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            IF chosen IS NULL OR cardinality(refused) = 4 OR SQLSTATE ~ '^(08|25|40|42|53|55P03|57|58)' THEN
                IF follows THEN
                    RETURN NULL;
                END IF;
                RAISE;
            END IF;
            RAISE WARNING 'job % cannot be claimed and is passed over: %', chosen, SQLERRM;
            refused := refused || chosen;
        END;
    END LOOP;
END $$;

-- Claim the next job, in a transaction of its own.
CREATE OR REPLACE FUNCTION worker.claim_job(
    claimer text, claimer_host text, pools text[], engine text, lease_s double precision, shop_limit int)
RETURNS worker.claimed_job
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN worker.take_next(claimer, claimer_host, pools, engine, lease_s, shop_limit, false);
END $$;

-- Return the engines of the lines that a host with this engine takes: '', which stands for any, and its own.
CREATE OR REPLACE FUNCTION worker.engines_of(engine text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE engines_of.engine WHEN '' THEN '{""}'::text[] ELSE ARRAY['', engines_of.engine] END
$$;

-- Return if a job is due that a host with these pools and this engine may take, if any lease has expired, if any job has not
-- begun by its start_by (`late`), and the seconds until the first of these otherwise. It uses the index jobs_due whatever the statistics say: with 100,000 jobs whose
-- run_after lies ahead, it reads one of each line.
CREATE OR REPLACE FUNCTION worker.next_due(
    pools text[], engine text, OUT due boolean, OUT expired boolean, OUT late boolean, OUT seconds double precision)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_sort = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    first timestamptz := (
        SELECT min(next.run_after)
        FROM unnest(pools) AS of (pool) CROSS JOIN unnest(worker.engines_of(engine)) AS by (engine) CROSS JOIN LATERAL (
            SELECT job.run_after FROM public.jobs AS job
            WHERE job.status = 'pending' AND job.pool = of.pool AND coalesce(job.engine, '') = by.engine
            ORDER BY job.pool, coalesce(job.engine, ''), job.run_after LIMIT 1) AS next);
    ends timestamptz := (SELECT min(lease_expires_at) FROM public.jobs WHERE status = 'processing');
    begin_by timestamptz := (
        SELECT start_by FROM public.jobs
        WHERE status = 'pending' AND start_by IS NOT NULL AND (started_at IS NULL OR started_at < queued_at)
        ORDER BY start_by LIMIT 1);
BEGIN
    due := coalesce(first <= now(), false);
    expired := coalesce(ends < now(), false);
    late := coalesce(begin_by <= now(), false);
    seconds := extract(epoch FROM least(ends, begin_by, CASE WHEN NOT due THEN first END) - now());
END $$;

-- Extend the lease. True if a cancel was requested.
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

-- Write the progress, which never falls, and extend the lease. True if a cancel was requested.
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

-- Complete a job with the version that it has begun, if any. Unless somebody must approve it first, it is published if no newer
-- one is, and older waiting jobs for the same files are cancelled. `completed` is false if the lease is lost, or the version:
-- then the job is made again when its lease expires. `to_publish` is the path of a publication that the caller now has for
-- `hold_s` seconds, with this token: worker.publish().
CREATE OR REPLACE FUNCTION worker.complete_job(
    job_id uuid, token uuid, url text, report jsonb, digest text, wants_review boolean, hold_s double precision,
    OUT completed boolean, OUT to_publish text)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '4s' SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    key CONSTANT text := set_config('worker.lease', token::text, true);
    path text;
    requested_at timestamptz;
BEGIN
    UPDATE public.jobs AS job
    SET status = 'completed', progress = 100, stage = 'completed', model_url = url, version = digest,
        review = CASE WHEN wants_review THEN 'wanted' ELSE 'none' END,
        metadata = metadata || jsonb_build_object('worker',
            CASE WHEN wants_review THEN report || '{"review": "wanted"}' ELSE report END),
        completed_at = now(), lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL
    WHERE id = job_id AND lease_token = token
      AND (digest IS NULL OR worker.has_version(job.shop, job.product_id, job.variant_id, digest))
    RETURNING worker.storage_path(shop, product_id, variant_id), queued_at INTO path, requested_at;
    completed := FOUND;
    IF NOT completed THEN
        RETURN;
    END IF;
    IF wants_review THEN
        UPDATE worker.versions AS version SET job_id = complete_job.job_id, used_at = now()
        WHERE version.path = path AND version.digest = digest AND version.job_id <> complete_job.job_id;
        RETURN;
    END IF;
    IF digest IS NOT NULL AND worker.publish(job_id, path, digest, requested_at, false, token, hold_s) THEN
        to_publish := path;
    END IF;
    IF EXISTS (
        SELECT FROM public.jobs AS older
        WHERE older.status = 'pending' AND older.queued_at < requested_at
          AND worker.storage_path(older.shop, older.product_id, older.variant_id) = path
        ORDER BY older.queued_at OFFSET 0) THEN
        PERFORM worker.supersede_older(path, requested_at);
    END IF;
END $$;

-- Complete a job as above. If that leaves nothing to publish, claim the next one. Returns a worker.claimed_job: with null
-- attributes if there is none, null itself if the lease is lost, or the version. One transaction in place of two saves a round
-- trip and a commit. Its declared type is record, which a client can read without knowing the type.
CREATE OR REPLACE FUNCTION worker.complete_and_claim(
    job_id uuid, token uuid, url text, report jsonb, digest text, wants_review boolean, hold_s double precision,
    claimer text, claimer_host text, pools text[], engine text, lease_s double precision, shop_limit int)
RETURNS record
LANGUAGE plpgsql VOLATILE SET lock_timeout = '100ms' AS $$
DECLARE
    ended CONSTANT record := worker.complete_job(job_id, token, url, report, digest, wants_review, hold_s);
    claimed worker.claimed_job;
BEGIN
    IF NOT ended.completed THEN
        RETURN NULL;
    END IF;
    IF ended.to_publish IS NULL THEN
        claimed := worker.take_next(claimer, claimer_host, pools, engine, lease_s, shop_limit, true);
    END IF;
    claimed.to_publish := ended.to_publish;
    RETURN claimed;
END $$;

-- Cancel the jobs that still wait for the files of one that is published, and were queued before it.
--
-- An older job may still wait after a failure or with a lower priority. With sorting disabled, only the index
-- jobs_waiting_path gives this order. Of very many older jobs, the first 500 are cancelled here, so that the statement stays
-- short. An entry in worker.superseded keeps the others from being claimed, until claims have cancelled them:
-- worker.supersede_rest().
-- Returns how many were cancelled here.
CREATE OR REPLACE FUNCTION worker.supersede_older(its_path text, requested timestamptz) RETURNS int
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_sort = off AS $$
#variable_conflict use_variable
DECLARE
    older uuid[];
    most CONSTANT int := 500;
    reason CONSTANT text := 'A newer request for the same product was finished first.';
BEGIN
    older := ARRAY(
        SELECT id FROM public.jobs
        WHERE status = 'pending' AND queued_at < requested
          AND worker.storage_path(shop, product_id, variant_id) = its_path
        ORDER BY queued_at LIMIT most);
    IF older <> '{}' THEN
        PERFORM set_config('worker.lease', 'queue', true);
        UPDATE public.jobs
        SET status = 'cancelled', completed_at = now(), error_code = 'superseded', error_message = reason
        WHERE id = ANY (older) AND status = 'pending';
        IF cardinality(older) = most THEN
            INSERT INTO worker.superseded AS rest (path, before, message) VALUES (its_path, requested, reason)
            ON CONFLICT (path) DO UPDATE SET before = greatest(rest.before, excluded.before);
            PERFORM pg_notify('worker_jobs', '') WHERE pg_notification_queue_usage() < 0.9;
        END IF;
    END IF;
    RETURN cardinality(older);
END $$;

-- Cancel up to 500 of the jobs that worker.supersede_older() has left, and wake a lane for the next ones. One claim at a time
-- does it. A job that another session has locked stays for a later claim.
CREATE OR REPLACE FUNCTION worker.supersede_rest() RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    room int := 500;
    entry worker.superseded;
    older uuid[];
BEGIN
    FOR entry IN SELECT * FROM worker.superseded AS rest ORDER BY rest.path FOR UPDATE SKIP LOCKED LOOP
        older := ARRAY(
            SELECT id FROM public.jobs
            WHERE status = 'pending' AND queued_at < entry.before
              AND worker.storage_path(shop, product_id, variant_id) = entry.path
            ORDER BY queued_at LIMIT room FOR UPDATE SKIP LOCKED);
        UPDATE public.jobs
        SET status = 'cancelled', completed_at = now(), error_code = 'superseded', error_message = entry.message
        WHERE id = ANY (older);
        DELETE FROM worker.superseded AS rest
        WHERE rest.path = entry.path AND NOT EXISTS (
            SELECT FROM public.jobs
            WHERE status = 'pending' AND queued_at < entry.before
              AND worker.storage_path(shop, product_id, variant_id) = entry.path
            ORDER BY queued_at OFFSET 0);
        room := room - cardinality(older);
        EXIT WHEN room = 0;
    END LOOP;
    PERFORM pg_notify('worker_webhooks', ''), pg_notify('worker_jobs', '')
        WHERE room < 500 AND pg_notification_queue_usage() < 0.9;
END $$;

-- Return the wait after a failed attempt: 15 s, doubled with each attempt, at most 10 min; half of it is random.
CREATE OR REPLACE FUNCTION worker.retry_wait(attempts int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
    SELECT make_interval(secs => least(600, 15 * 2.0 ^ (attempts - 1)) * (0.5 + random() / 2))
$$;

-- Settle a failed attempt: schedule a retry if it can help and attempts are left, else the job has failed. If a cancel was
-- requested, the job is cancelled instead of retried. After a child's first death there is no wait, as after a daemon's.
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

-- Cancel a running job on request, when the worker has stopped.
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

-- Requeue the job of a stopping daemon without using up an attempt; cancel it if that was requested.
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

-- Take the jobs whose leases have expired from their workers. A job is queued again, the first time immediately, later with
-- the wait of a failed attempt. It is cancelled if that was requested, and failed if its attempts are used up.
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

-- Cancel up to `most` jobs that have not begun by their start_by, since they were queued. One that has begun, and waits for a
-- retry, goes on. With sorting disabled, only the index jobs_start_by gives this order.
CREATE OR REPLACE FUNCTION worker.expire_jobs(message text, most int) RETURNS SETOF public.jobs
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_sort = off AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('worker.lease', 'queue', true);
    RETURN QUERY
        UPDATE public.jobs AS job
        SET status = 'cancelled', completed_at = now(), error_code = 'expired', error_message = message
        WHERE job.id = ANY (ARRAY(
            SELECT one.id FROM public.jobs AS one
            WHERE one.status = 'pending' AND one.start_by IS NOT NULL AND (one.started_at IS NULL OR one.started_at < one.queued_at)
              AND one.start_by <= now()
            ORDER BY one.start_by LIMIT most FOR UPDATE SKIP LOCKED))
        RETURNING job.*;
END $$;
