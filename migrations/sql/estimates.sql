-- Estimates: how long jobs take, and when the waiting ones will start. Every upgrade applies this file: migrations/env.py.
--
-- One daemon at a time measures what has ended, and plays the queue forward (worker/jobs/estimates.py). It does so every few
-- seconds, and more rarely the longer that takes. Readers look the result up, at the same cost whatever waits. The claim and the
-- end of a job do nothing for it.

-- Add the jobs that have ended since the last call, the latest `most` of them, to what is measured of their pool, engine and
-- preset. Returns how many. A job counts once: those are taken that ended after the last one that was measured. Cancelled jobs
-- say nothing. A job that ended in the last second waits for the next call: one that ended before it may not be committed yet.
CREATE OR REPLACE FUNCTION worker.fold_seconds(most int) RETURNS int
LANGUAGE sql VOLATILE SET enable_seqscan = off AS $$
    WITH latest AS (
        SELECT job.id, job.pool, coalesce(job.engine, '') AS engine, job.quality, job.queued_at, job.completed_at
        FROM public.jobs AS job
        WHERE job.completed_at > (SELECT coalesce(max(measured_at), '-infinity') FROM worker.measured_seconds)
          AND job.completed_at < now() - interval '1 s' AND job.status IN ('completed', 'failed')
        ORDER BY job.completed_at DESC LIMIT most
    ), job AS (
        SELECT latest.*, attempts.busy_seconds, attempts.seconds
        FROM latest CROSS JOIN LATERAL (
            -- Since it was queued last. A lane gives a job half an hour.
            SELECT sum(took) AS busy_seconds, max(took) FILTER (WHERE outcome = 'completed') AS seconds FROM (
                SELECT one.outcome, least(greatest(extract(epoch FROM one.ended_at - one.started_at), 0), 3600)::float8 AS took
                FROM worker.attempts AS one
                WHERE one.job_id = latest.id AND one.ended_at IS NOT NULL
                  AND one.started_at > latest.queued_at - interval '1 min') AS each) AS attempts
        WHERE attempts.busy_seconds IS NOT NULL
    ), added AS (
        INSERT INTO worker.measured_seconds AS known (pool, engine, quality, seconds, ended, busy_seconds, measured_at)
        SELECT pool, engine, quality,
            (coalesce(array_agg(seconds ORDER BY completed_at DESC) FILTER (WHERE seconds IS NOT NULL), '{}'))[:50],
            count(*), avg(busy_seconds), max(completed_at)
        FROM job GROUP BY pool, engine, quality
        -- The mean so far weighs as much as the jobs that it is of, at most as 50.
        ON CONFLICT (pool, engine, quality) DO UPDATE
        SET seconds = (excluded.seconds || known.seconds)[:50],
            busy_seconds = (least(known.ended, 50) * known.busy_seconds + excluded.ended * excluded.busy_seconds)
                / (least(known.ended, 50) + excluded.ended),
            ended = least(known.ended, 50) + excluded.ended, measured_at = excluded.measured_at
    )
    SELECT count(*)::int FROM job
$$;

-- Return what is known of the seconds of jobs: of at least three, the last of which ended within a month.
CREATE OR REPLACE FUNCTION worker.known_seconds()
RETURNS TABLE (pool text, engine text, quality text, seconds double precision[], busy_seconds double precision)
LANGUAGE sql STABLE AS $$
    SELECT one.pool, one.engine, one.quality, one.seconds, one.busy_seconds FROM worker.measured_seconds AS one
    WHERE one.ended >= 3 AND one.measured_at > now() - interval '30 d'
$$;

-- Return how many seconds a job still takes that has run for `elapsed_s`: half of the measured ones that took longer had ended by
-- then. One that takes longer than all of them takes a tenth more, at any moment. Null if fewer than three are measured.
CREATE OR REPLACE FUNCTION worker.seconds_left(measured double precision[], elapsed_s double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN cardinality(measured) >= 3 THEN coalesce(
        percentile_cont(0.5) WITHIN GROUP (ORDER BY one) FILTER (WHERE one > elapsed_s) - elapsed_s, elapsed_s / 10) END
    FROM unnest(measured) AS one
$$;

-- Return the seconds that a running job still takes, for people to read: null unless that is known well enough. Three measured jobs
-- at least took longer than it has run, and the middle half of what they took from there on is no wider than half of the median.
CREATE OR REPLACE FUNCTION worker.known_seconds_left(measured double precision[], elapsed_s double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN longer.jobs >= 3 AND longer.quartiles[3] - longer.quartiles[1] <= longer.quartiles[2] / 2
        THEN longer.quartiles[2] END
    FROM (
        SELECT count(*) AS jobs, percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY one - elapsed_s) AS quartiles
        FROM unnest(measured) AS one WHERE one > elapsed_s) AS longer
$$;

-- Return the waiting jobs in parts: jobs of one shop in a line at a priority that stand next to each other. The first twenty
-- are parts of their own, later parts are a twentieth of what stands before them. `last` holds run_after and created_at of the
-- part's last job. A job that is not due within ten minutes is in part 0: by then other jobs will wait.
CREATE OR REPLACE FUNCTION worker.waiting_parts()
RETURNS TABLE (pool text, engine text, priority smallint, shop text, part int, quality text, batch text, jobs int, last timestamptz[])
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT pool, engine, priority, shop,
        CASE WHEN run_after > now() + interval '10 min' THEN 0 WHEN n <= 20 THEN n ELSE 20 + floor(20 * ln(n / 20.0))::int END
            AS part,
        quality, batch, count(*)::int, max(ARRAY[run_after, created_at])
    FROM (
        SELECT job.pool, coalesce(job.engine, '') AS engine, job.priority, job.shop, job.quality, job.batch, job.run_after,
            job.created_at, row_number() OVER (
                PARTITION BY job.pool, coalesce(job.engine, ''), job.priority, job.shop ORDER BY job.run_after, job.created_at
            )::int AS n
        FROM public.jobs AS job WHERE job.status = 'pending') AS line
    GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5
$$;

-- Return what started lately: the first attempts of the last two hours, the latest 1,000 of them, by line, priority, shop and
-- preset. `prompt` are those that began soon after they came; `within` is the time in seconds that all of it is of.
CREATE OR REPLACE FUNCTION worker.recent_starts()
RETURNS TABLE (pool text, engine text, priority smallint, shop text, quality text, prompt int, within double precision)
LANGUAGE sql STABLE SET enable_seqscan = off AS $$
    WITH latest AS (
        SELECT job_id, started_at FROM (
            SELECT one.job_id, one.started_at, one.attempt FROM worker.attempts AS one ORDER BY one.id DESC LIMIT 1000) AS last
        WHERE attempt = 1 AND started_at > now() - interval '2 h'
    )
    SELECT job.pool, coalesce(job.engine, ''), job.priority, job.shop, job.quality,
        count(*) FILTER (WHERE latest.started_at - greatest(job.queued_at, least(job.run_after, latest.started_at))
            < make_interval(secs => 60 + 5 * known.busy_seconds))::int,
        (SELECT extract(epoch FROM now() - min(started_at)) FROM latest)::float8
    FROM latest JOIN public.jobs AS job ON job.id = latest.job_id
        JOIN worker.known_seconds() AS known
            ON known.pool = job.pool AND known.engine = coalesce(job.engine, '') AND known.quality = job.quality
    GROUP BY 1, 2, 3, 4, 5
$$;

-- Return when a waiting job will start by the last forecast. Null if that is not known: no lane can take it, too few jobs like
-- those before it were measured, it came after the forecast, or is not due within ten minutes. SECURITY DEFINER: who reads
-- job_status needs no right on the table.
CREATE OR REPLACE FUNCTION worker.estimated_start(
    its_pool text, its_engine text, its_priority smallint, its_shop text, its_run_after timestamptz, its_created_at timestamptz)
RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT greatest(now(), its_run_after, one.starts_at[part.n])
    FROM worker.forecasts AS one CROSS JOIN LATERAL (
        SELECT n FROM generate_subscripts(one.starts_at, 1) AS n
        WHERE (one.last_in_part[2 * n - 1], one.last_in_part[2 * n]) >= (its_run_after, its_created_at)
        ORDER BY n LIMIT 1) AS part
    WHERE one.pool = its_pool AND one.engine = coalesce(its_engine, '') AND one.priority = its_priority AND one.shop = its_shop
      AND one.valid_until > now() AND one.starts_at[part.n] IS NOT NULL
$$;

-- Return how many seconds a job takes that has run for `elapsed_s`; null if too few like it were measured.
CREATE OR REPLACE FUNCTION worker.estimated_seconds(
    its_pool text, its_engine text, its_quality text, elapsed_s double precision) RETURNS double precision
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT worker.seconds_left(known.seconds, greatest(elapsed_s, 0)) FROM worker.known_seconds() AS known
    WHERE known.pool = its_pool AND known.engine = coalesce(its_engine, '') AND known.quality = its_quality
$$;

-- Return when a job will end that has started at `its_start`, or waits if that is null; null if it is not known, or of a running one
-- not well enough.
CREATE OR REPLACE FUNCTION worker.estimated_end(
    its_pool text, its_engine text, its_priority smallint, its_shop text, its_quality text, its_run_after timestamptz,
    its_created_at timestamptz, its_start timestamptz)
RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT CASE WHEN its_start IS NULL
        THEN worker.estimated_start(its_pool, its_engine, its_priority, its_shop, its_run_after, its_created_at)
            + make_interval(secs => worker.estimated_seconds(its_pool, its_engine, its_quality, 0))
        ELSE now() + make_interval(secs => (
            SELECT worker.known_seconds_left(known.seconds, greatest(extract(epoch FROM now() - its_start)::float8, 0))
            FROM worker.known_seconds() AS known
            WHERE known.pool = its_pool AND known.engine = coalesce(its_engine, '') AND known.quality = its_quality)) END
$$;

-- Return when the last job of a batch will end; null if that is not known of each of its jobs.
CREATE OR REPLACE FUNCTION worker.estimated_batch_end(its_shop text, its_batch text) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT greatest(now(), one.ends_at) FROM worker.batch_forecasts AS one
    WHERE one.shop = its_shop AND one.batch = its_batch AND one.valid_until > now()
$$;

-- True if it is time for a forecast, there is something to say or to take back, and no other daemon makes one.
CREATE OR REPLACE FUNCTION worker.begin_forecast() RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
BEGIN
    RETURN pg_try_advisory_xact_lock(hashtext('worker forecast'))
        AND NOT EXISTS (SELECT FROM worker.forecasts WHERE next_at > now())
        AND (EXISTS (SELECT FROM public.jobs WHERE status = 'pending')
            OR EXISTS (SELECT FROM public.jobs WHERE status = 'processing')
            OR EXISTS (SELECT FROM worker.forecasts) OR EXISTS (SELECT FROM worker.batch_forecasts));
END $$;

-- Write a forecast in place of the last one. The times are those of the parts, in seconds from now.
CREATE OR REPLACE FUNCTION worker.write_forecast(lines jsonb, batches jsonb, next_s double precision, valid_s double precision)
RETURNS void
LANGUAGE sql VOLATILE SET enable_seqscan = off AS $$
    INSERT INTO worker.forecasts AS one (pool, engine, priority, shop, last_in_part, starts_at, next_at, valid_until)
    SELECT pool, engine, priority, shop, last_in_part,
        ARRAY(SELECT now() + make_interval(secs => s) FROM unnest(starts_s) WITH ORDINALITY AS each (s, n) ORDER BY n),
        now() + make_interval(secs => next_s), now() + make_interval(secs => valid_s)
    FROM jsonb_to_recordset(lines) AS line (
        pool text, engine text, priority smallint, shop text, last_in_part timestamptz[], starts_s double precision[])
    ON CONFLICT (pool, engine, priority, shop) DO UPDATE
    SET last_in_part = excluded.last_in_part, starts_at = excluded.starts_at, next_at = excluded.next_at,
        valid_until = excluded.valid_until;
    DELETE FROM worker.forecasts WHERE valid_until <> now() + make_interval(secs => valid_s);
    INSERT INTO worker.batch_forecasts AS one (shop, batch, ends_at, valid_until)
    SELECT shop, batch, now() + make_interval(secs => ends_s), now() + make_interval(secs => valid_s)
    FROM jsonb_to_recordset(batches) AS line (shop text, batch text, ends_s double precision)
    ON CONFLICT (shop, batch) DO UPDATE SET ends_at = excluded.ends_at, valid_until = excluded.valid_until;
    DELETE FROM worker.batch_forecasts WHERE valid_until <> now() + make_interval(secs => valid_s);
$$;

-- Return the shop of each of these lines and priorities whose job was claimed last, and how long ago: whose turn it was.
CREATE OR REPLACE FUNCTION worker.served_last(lines jsonb)
RETURNS TABLE (pool text, engine text, priority smallint, shop text, ago_s double precision)
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off AS $$
    SELECT line.pool, line.engine, line.priority, served.shop, extract(epoch FROM now() - served.started_at)::float8
    FROM jsonb_to_recordset(lines) AS line (pool text, engine text, priority smallint) CROSS JOIN LATERAL (
        SELECT job.shop, job.started_at FROM public.jobs AS job
        WHERE job.pool = line.pool AND coalesce(job.engine, '') = line.engine AND job.priority = line.priority
          AND job.started_at IS NOT NULL
        ORDER BY job.pool DESC, coalesce(job.engine, '') DESC, job.priority DESC, job.started_at DESC LIMIT 1) AS served
$$;
