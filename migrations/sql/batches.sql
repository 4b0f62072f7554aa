-- Batches: jobs of one shop under one name, their sums, and what people do with all of them at once. Every upgrade applies this
-- file: migrations/env.py.
--
-- Each change of a job adds a row to worker.batch_changes and locks nothing that another job's change needs. A daemon folds
-- these rows into worker.batches now and then. Both are read in one snapshot, so the sums are exact at every moment. A batch
-- has finished when a fold finds none of its jobs unfinished: it sees what is committed, in whatever order jobs ended, were
-- retried or deleted. One daemon folds at a time.

-- Write down what a job's insert or update changes in the sums of its batch: at an insert, `before` is null. Deleted jobs:
-- worker.forget_jobs(). Its callers run with the owner's rights: who may change a job needs no right on the table. True, so that
-- the call is an expression, which costs less than a query.
CREATE OR REPLACE FUNCTION worker.count_in_batch(before public.jobs, after public.jobs) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO worker.batch_changes (shop, batch, waiting, running, completed, failed, cancelled, for_review, cached)
    VALUES (after.shop, after.batch,
        (after.status = 'pending')::int - (before.status IS NOT DISTINCT FROM 'pending')::int,
        (after.status = 'processing')::int - (before.status IS NOT DISTINCT FROM 'processing')::int,
        (after.status = 'completed')::int - (before.status IS NOT DISTINCT FROM 'completed')::int,
        (after.status = 'failed')::int - (before.status IS NOT DISTINCT FROM 'failed')::int,
        (after.status = 'cancelled')::int - (before.status IS NOT DISTINCT FROM 'cancelled')::int,
        (after.review = 'wanted')::int - (before.review IS NOT DISTINCT FROM 'wanted')::int,
        worker.is_cached(after.status, after.metadata)::int - worker.is_cached(before.status, before.metadata)::int);
    -- A daemon that ends a job folds soon by itself: worker/jobs/upkeep.py.
    IF after.completed_at IS NOT NULL AND coalesce(current_setting('worker.lease', true), '') = '' THEN
        PERFORM pg_notify('worker_batches', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
    RETURN true;
END $$;

-- True if a job was completed with a result that was known before.
CREATE OR REPLACE FUNCTION worker.is_cached(status worker.job_state, metadata jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(is_cached.status = 'completed' AND is_cached.metadata -> 'worker' ? 'cached', false)
$$;

-- SECURITY DEFINER: who may insert a job needs no right on the table. An update: worker.write_event().
CREATE OR REPLACE FUNCTION worker.add_to_batch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    counted CONSTANT boolean := worker.count_in_batch(NULL, NEW);
BEGIN
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER add_to_batch AFTER INSERT ON public.jobs
FOR EACH ROW WHEN (NEW.batch IS NOT NULL)
EXECUTE FUNCTION worker.add_to_batch();

-- Fold up to `most` batches, in the order of their names after the given one. A batch with no unfinished job, of which one was
-- unfinished since its last finish, has finished: its event is written in the same transaction, after those of its jobs. That
-- ends the call, so that no transaction waits for the events of two shops. Returns the last batch, null at the end or while
-- another daemon folds.
CREATE OR REPLACE FUNCTION worker.fold_batches(
    after_shop text, after_batch text, most int, OUT last_shop text, OUT last_batch text, OUT finished boolean)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    entry worker.batches;
BEGIN
    finished := false;
    IF NOT pg_try_advisory_xact_lock(hashtext('worker fold batches')) THEN
        RETURN;
    END IF;
    last_shop := after_shop;
    last_batch := after_batch;
    FOR n IN 1 .. most LOOP
        SELECT change.shop, change.batch INTO last_shop, last_batch FROM worker.batch_changes AS change
            WHERE (change.shop, change.batch) > (last_shop, last_batch) ORDER BY change.shop, change.batch LIMIT 1;
        EXIT WHEN NOT FOUND;
        entry := worker.fold_batch(last_shop, last_batch);
        finished := entry.opened AND entry.waiting + entry.running = 0;
        IF finished THEN
            UPDATE worker.batches AS one SET opened = false, finishes = one.finishes + 1
            WHERE one.shop = last_shop AND one.batch = last_batch;
            PERFORM worker.write_shop_event(entry.shop, 'batch.finished', jsonb_build_object(
                'batch', entry.batch,
                'total', entry.completed + entry.failed + entry.cancelled + entry.gone,
                'completed', entry.completed, 'failed', entry.failed, 'cancelled', entry.cancelled, 'gone', entry.gone,
                'forReview', entry.for_review, 'cached', entry.cached, 'finishes', entry.finishes + 1,
                'startedAt', entry.started_at, 'finishedAt', entry.ended_at));
            EXIT;
        END IF;
    END LOOP;
END $$;

-- Add the changes of a batch to its sums and delete them, all of one snapshot. Returns the sums.
CREATE OR REPLACE FUNCTION worker.fold_batch(its_shop text, its_batch text) RETURNS worker.batches
LANGUAGE sql VOLATILE AS $$
    WITH taken AS (
        DELETE FROM worker.batch_changes AS change WHERE change.shop = its_shop AND change.batch = its_batch RETURNING change.*
    )
    INSERT INTO worker.batches AS one (shop, batch, waiting, running, completed, failed, cancelled, gone, for_review, cached,
        created_at, started_at, ended_at, opened, changed_at)
    SELECT its_shop, its_batch, sum(waiting), sum(running), sum(completed), sum(failed), sum(cancelled), sum(gone),
        sum(for_review), sum(cached), min(changed_at), min(changed_at) FILTER (WHERE running > 0),
        max(changed_at) FILTER (WHERE waiting + running < 0), bool_or(waiting + running > 0), max(changed_at)
    FROM taken
    ON CONFLICT (shop, batch) DO UPDATE
    SET waiting = one.waiting + excluded.waiting, running = one.running + excluded.running,
        completed = one.completed + excluded.completed, failed = one.failed + excluded.failed,
        cancelled = one.cancelled + excluded.cancelled, gone = one.gone + excluded.gone,
        for_review = one.for_review + excluded.for_review, cached = one.cached + excluded.cached,
        created_at = least(one.created_at, excluded.created_at), started_at = least(one.started_at, excluded.started_at),
        ended_at = greatest(one.ended_at, excluded.ended_at), opened = one.opened OR excluded.opened,
        changed_at = greatest(one.changed_at, excluded.changed_at)
    RETURNING one.*
$$;

-- Forget all that the batches of a shop have counted, except the jobs that are there.
CREATE OR REPLACE FUNCTION worker.recount_batches(its_shop text) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('worker fold batches'));
    -- One statement, so that all parts see the same: a change that is committed later stays for the next fold.
    WITH taken AS (
        DELETE FROM worker.batch_changes AS change WHERE change.shop = its_shop
    ), counted AS MATERIALIZED (
        SELECT job.batch, count(*) FILTER (WHERE job.status = 'pending') AS waiting,
            count(*) FILTER (WHERE job.status = 'processing') AS running,
            count(*) FILTER (WHERE job.status = 'completed') AS completed,
            count(*) FILTER (WHERE job.status = 'failed') AS failed,
            count(*) FILTER (WHERE job.status = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE job.review = 'wanted') AS for_review,
            count(*) FILTER (WHERE worker.is_cached(job.status, job.metadata)) AS cached,
            min(job.created_at) AS created_at, min(job.started_at) AS started_at, max(job.completed_at) AS ended_at
        FROM public.jobs AS job WHERE job.shop = its_shop AND job.batch IS NOT NULL GROUP BY job.batch
    ), emptied AS (
        DELETE FROM worker.batches AS one
        WHERE one.shop = its_shop AND NOT EXISTS (SELECT FROM counted WHERE counted.batch = one.batch)
    )
    INSERT INTO worker.batches AS one (shop, batch, waiting, running, completed, failed, cancelled, for_review, cached,
        created_at, started_at, ended_at, opened, changed_at)
    SELECT its_shop, batch, waiting, running, completed, failed, cancelled, for_review, cached,
        created_at, started_at, ended_at, waiting + running > 0, now()
    FROM counted
    ON CONFLICT (shop, batch) DO UPDATE
    SET waiting = excluded.waiting, running = excluded.running, completed = excluded.completed, failed = excluded.failed,
        cancelled = excluded.cancelled, gone = 0, for_review = excluded.for_review, cached = excluded.cached,
        created_at = excluded.created_at, started_at = excluded.started_at, ended_at = excluded.ended_at,
        opened = one.opened OR excluded.opened, changed_at = now();
END $$;

-- Delete up to `most` batches that have not changed for `days` days and have no jobs any more. Returns their names.
CREATE OR REPLACE FUNCTION worker.prune_batches(days int, most int) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('worker fold batches')) THEN
        RETURN;
    END IF;
    RETURN QUERY
        DELETE FROM worker.batches WHERE (shop, batch) IN (
            SELECT one.shop, one.batch FROM worker.batches AS one
            WHERE one.changed_at < now() - make_interval(days => days)
              AND NOT EXISTS (SELECT FROM worker.batch_changes AS change WHERE change.shop = one.shop AND change.batch = one.batch)
              AND NOT EXISTS (SELECT FROM public.jobs AS job WHERE job.shop = one.shop AND job.batch = one.batch)
            ORDER BY one.changed_at LIMIT most)
        RETURNING batches.batch;
END $$;

-- The functions for backends set neither search_path nor the rights of their owner, as cancel_job() in jobs.sql, because they
-- change nothing but jobs, of which the app's own triggers hear.
--
-- A lane must not wait for thousands of rows. So the rows that wait come first: a claim passes them over while they are locked.
-- Rows that another session has locked, a claim, a renewal or the end of a job, are taken when it has committed: this function
-- never waits for one while it holds others, because complete_job() locks a running job and then the older ones of its product.

CREATE OR REPLACE FUNCTION public.cancel_batch(shop text, batch text) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    its_state worker.job_state;
    changed int;
    cancelled int := 0;
BEGIN
    FOR n IN 1 .. 100 LOOP
        FOREACH its_state IN ARRAY '{pending,processing}'::worker.job_state[] LOOP
            UPDATE public.jobs SET cancel_requested_at = now()  -- the guard does the rest
            WHERE id = ANY (ARRAY(
                SELECT job.id FROM public.jobs AS job
                WHERE job.shop = shop AND job.batch = batch AND job.status = its_state AND job.cancel_requested_at IS NULL
                FOR UPDATE SKIP LOCKED));
            GET DIAGNOSTICS changed = ROW_COUNT;
            cancelled := cancelled + changed;
        END LOOP;
        IF NOT EXISTS (
            SELECT FROM public.jobs AS job
            WHERE job.shop = shop AND job.batch = batch AND job.status IN ('pending', 'processing')
              AND job.cancel_requested_at IS NULL)
        THEN
            RETURN cancelled;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RAISE lock_not_available USING MESSAGE = 'another session has locked jobs of this batch for 2 s';
END $$;

COMMENT ON FUNCTION public.cancel_batch IS
'Cancel the waiting jobs of a batch and ask its running ones to stop. Returns the number of both.';

CREATE OR REPLACE FUNCTION public.retry_batch(shop text, batch text) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    failed record;
    retried int := 0;
BEGIN
    FOR failed IN
        SELECT job.id, job.dedupe_key FROM public.jobs AS job
        WHERE job.shop = shop AND job.batch = batch AND job.status = 'failed' ORDER BY job.created_at
    LOOP
        IF failed.dedupe_key IS NULL OR NOT EXISTS (
            SELECT FROM public.jobs AS job
            WHERE job.shop = shop AND job.dedupe_key = failed.dedupe_key AND job.completed_at IS NULL)
        THEN
            retried := retried + public.retry_job(failed.id)::int;
        END IF;
    END LOOP;
    RETURN retried;
END $$;

COMMENT ON FUNCTION public.retry_batch IS
'Queue the failed jobs of a batch again, except where another job with the same dedupe_key is unfinished. Returns how many.';

CREATE OR REPLACE FUNCTION public.set_batch_priority(shop text, batch text, priority int) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    changed int;
BEGIN
    UPDATE public.jobs SET priority = set_batch_priority.priority
    WHERE id = ANY (ARRAY(
        SELECT job.id FROM public.jobs AS job
        WHERE job.shop = shop AND job.batch = batch AND job.status IN ('pending', 'processing')
        FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

COMMENT ON FUNCTION public.set_batch_priority IS
'Set the priority of the unfinished jobs of a batch, but for those that another session changes right now. Returns how many.';

-- What the batches are at this moment: the sums, and the changes that are not in them yet. For one shop and batch it reads the
-- indexes of both tables.
CREATE OR REPLACE VIEW public.batch_status WITH (security_invoker = true) AS
SELECT shop, batch, waiting + running + completed + failed + cancelled + gone AS total,
    waiting, running, completed, failed, cancelled, gone, for_review, cached,
    100 * (completed + failed + cancelled + gone) / greatest(1, waiting + running + completed + failed + cancelled + gone)
        AS percent,
    created_at, started_at, CASE WHEN waiting + running = 0 THEN ended_at END AS finished_at,
    CASE WHEN waiting + running > 0 THEN worker.estimated_batch_end(shop, batch) END AS estimated_end
FROM (
    SELECT shop, batch, sum(waiting)::int AS waiting, sum(running)::int AS running, sum(completed)::int AS completed,
        sum(failed)::int AS failed, sum(cancelled)::int AS cancelled, sum(gone)::int AS gone,
        sum(for_review)::int AS for_review, sum(cached)::int AS cached,
        min(created_at) AS created_at, min(started_at) AS started_at, max(ended_at) AS ended_at
    FROM (
        SELECT shop, batch, waiting, running, completed, failed, cancelled, gone, for_review, cached,
            created_at, started_at, ended_at
        FROM worker.batches
        UNION ALL
        SELECT shop, batch, waiting, running, completed, failed, cancelled, gone, for_review, cached,
            changed_at, CASE WHEN running > 0 THEN changed_at END, CASE WHEN waiting + running < 0 THEN changed_at END
        FROM worker.batch_changes
    ) AS parts
    GROUP BY shop, batch
) AS sums;

COMMENT ON VIEW public.batch_status IS
'Each batch: how many of its jobs wait, run and have ended. `gone` were deleted before they ended, `for_review` wait for a person, `cached` were known before. `estimated_end` is null where too little is known.';
