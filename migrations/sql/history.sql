-- The queue over time, for the dashboard: worker.history. Every upgrade applies this file: migrations/env.py.
--
-- A daemon computes the last parts of five minutes anew from the jobs, again and again, and the hours from these parts. So
-- nothing is counted twice, nothing that commits late is missed, and no job's own statement costs more.
--
-- | measure | key                                    | count           | total             |
-- | ended   | completed, cached, failed or cancelled | jobs            | 0                 |
-- | failed  | the error code                         | jobs            | 0                 |
-- | start   | floor(4 log2(seconds)), at least -17   | jobs            | their seconds     |
-- | finish  | the same                               | completed jobs  | their seconds     |
-- | step    | the step, as in metadata.worker        | jobs            | their seconds     |
-- | level   | waiting or running                     | samples         | sum of the samples|
-- | folded  | empty                                  | 1               | 0                 |
--
-- `start` is from when a job was due to its last start, `finish` from when it was due to its end. `folded` marks a part that was
-- computed, though nothing ended in it.

-- Return the step of the scale on which durations are counted: four for each doubling, so that a percentile is known within
-- 9 per cent.
CREATE OR REPLACE FUNCTION worker.duration_step(seconds double precision) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT floor(4 * log(2, least(greatest(seconds, 0.053), 1e9)::numeric))::int::text
$$;

-- Sample what waits and runs, and compute up to `most` parts of five minutes. Returns how many; 0 while another daemon does it.
CREATE OR REPLACE FUNCTION worker.fold_history(most int, keep_days int) RETURNS int
LANGUAGE plpgsql VOLATILE SET search_path = '' SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    five CONSTANT interval := '5 min';
    hour CONSTANT interval := '1 h';
    current CONSTANT timestamptz := date_bin(five, now(), 'epoch');
    at timestamptz;
    first_hour timestamptz;
    folded int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('worker fold history')) THEN
        RETURN 0;
    END IF;
    SELECT max(one.at) INTO at FROM worker.history AS one WHERE one.part = five AND one.measure = 'folded';
    -- The last part but one as well, for what committed late. Jobs that ended before the last day are left alone.
    at := greatest(at - five, date_bin(hour, now() - interval '1 day', 'epoch'));
    first_hour := date_bin(hour, at, 'epoch');
    WHILE at <= current AND folded < most LOOP
        DELETE FROM worker.history AS one WHERE one.part = five AND one.at = at AND one.measure <> 'level';
        INSERT INTO worker.history (part, at, measure, pool, host, key, count, total)
        SELECT five, at, 'folded', '', '', '', 1, 0
        UNION ALL
        SELECT * FROM worker.history_of(at, at + five);
        folded := folded + 1;
        at := at + five;
    END LOOP;
    INSERT INTO worker.history AS one (part, at, measure, pool, host, key, count, total)
    SELECT five, current, 'level', line.pool, '', line.key, 1, line.jobs
    FROM (
        SELECT pool, 'waiting' AS key, due AS jobs FROM worker.demand
        UNION ALL
        SELECT pool, 'running', running FROM worker.demand) AS line
    ON CONFLICT ON CONSTRAINT history_pkey DO UPDATE SET count = one.count + 1, total = one.total + excluded.total;
    DELETE FROM worker.history AS one WHERE one.part = hour AND one.at >= first_hour AND one.at < at;
    INSERT INTO worker.history (part, at, measure, pool, host, key, count, total)
    SELECT hour, date_bin(hour, one.at, 'epoch'), one.measure, one.pool, one.host, one.key, sum(one.count), sum(one.total)
    FROM worker.history AS one
    WHERE one.part = five AND one.at >= first_hour AND one.at < date_bin(hour, at - five, 'epoch') + hour
    GROUP BY 2, 3, 4, 5, 6;
    DELETE FROM worker.history AS one WHERE one.part = five AND one.at < now() - interval '2 days';
    DELETE FROM worker.history AS one WHERE one.part = hour AND one.at < now() - make_interval(days => keep_days);
    RETURN folded;
END $$;

-- Return the lines of a part of time, but for levels.
CREATE OR REPLACE FUNCTION worker.history_of(since timestamptz, until timestamptz)
RETURNS TABLE (part interval, at timestamptz, measure text, pool text, host text, key text, count bigint, total double precision)
LANGUAGE sql STABLE SET search_path = '' SET enable_seqscan = off AS $$
    WITH ended AS MATERIALIZED (
        SELECT job.pool, coalesce(last.host, '') AS host, job.error_code, job.started_at, job.completed_at,
            CASE WHEN worker.is_cached(job.status, job.metadata) THEN 'cached' ELSE job.status::text END AS status,
            -- What was planned for later is not late. A retry moves run_after, and waits because of what failed before.
            CASE WHEN job.attempts > 1 THEN job.queued_at ELSE greatest(job.queued_at, job.run_after) END AS due,
            CASE WHEN jsonb_typeof(job.metadata #> '{worker,seconds}') = 'object' THEN job.metadata #> '{worker,seconds}' ELSE '{}' END AS seconds
        FROM public.jobs AS job LEFT JOIN LATERAL (
            SELECT attempt.host FROM worker.attempts AS attempt WHERE attempt.job_id = job.id ORDER BY attempt.id DESC LIMIT 1
        ) AS last ON true
        WHERE job.completed_at >= since AND job.completed_at < until
    ), lines AS (
        SELECT 'ended' AS measure, pool, host, status AS key, 0::float8 AS seconds FROM ended
        UNION ALL
        SELECT 'failed', pool, host, left(coalesce(error_code, ''), 100), 0 FROM ended WHERE status = 'failed'
        UNION ALL
        SELECT 'start', pool, host, worker.duration_step(took), took
        FROM ended CROSS JOIN LATERAL (SELECT extract(epoch FROM started_at - due)::float8) AS wait (took)
        WHERE started_at >= due
        UNION ALL
        SELECT 'finish', pool, host, worker.duration_step(took), took
        FROM ended CROSS JOIN LATERAL (SELECT extract(epoch FROM completed_at - due)::float8) AS whole (took)
        WHERE status IN ('completed', 'cached') AND completed_at >= due
        UNION ALL
        SELECT 'step', pool, host, left(step.key, 40), least(step.value::text::numeric, 86400)::float8
        FROM ended CROSS JOIN LATERAL (SELECT * FROM jsonb_each(seconds) LIMIT 40) AS step
        WHERE status = 'completed' AND jsonb_typeof(step.value) = 'number' AND step.value::text::numeric >= 0
    )
    SELECT interval '5 min', since, measure, pool, host, key, count(*), sum(seconds) FROM lines GROUP BY measure, pool, host, key
$$;
