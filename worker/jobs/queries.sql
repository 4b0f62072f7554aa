-- Every statement that the worker runs on public.jobs and worker.hosts. Each is one transaction. The functions that move a running job are in
-- migrations/sql/claim.sql, because they set the key of the row's guard (migrations/sql/jobs.sql); they are called here. All
-- times come from the database's clock.

-- name: claim
-- Take the next job. Returns only what the worker reads, of the metadata as text: see worker/database/values.py.
SELECT * FROM worker.claim_job(:worker, :host, :pools, :runs, :lease_s, :shop_limit) WHERE id IS NOT NULL;

-- name: renew
-- Extend the lease. True if a cancel was requested. No row: the lease is lost.
SELECT cancelled FROM worker.renew_lease(:id, CAST(:token AS uuid), :lease_s) AS cancelled;

-- name: report
-- Write the progress and extend the lease. True if a cancel was requested. No row: the lease is lost.
SELECT cancelled FROM worker.report_progress(:id, CAST(:token AS uuid), :progress, :stage, :lease_s) AS cancelled;

-- name: lock_holder
-- Find the session that has locked a job's row: the row holds the id of its transaction. No row if several share the lock.
SELECT activity.pid, activity.usename AS role, activity.application_name AS application,
    CAST(extract(epoch FROM now() - activity.xact_start) AS double precision) AS open_s
FROM public.jobs AS job
JOIN pg_catalog.pg_locks AS held ON held.locktype = 'transactionid' AND held.granted AND held.transactionid = job.xmax
JOIN pg_catalog.pg_stat_activity AS activity USING (pid)
WHERE job.id = :id;

-- name: complete
-- Complete a job. Return the path that its worker must now publish to, if any. No row: the lease is lost.
SELECT to_publish
FROM worker.complete_job(
    :id, CAST(:token AS uuid), :model_url, CAST(:report AS jsonb), :digest, :wants_review, :publishing_s)
WHERE completed;

-- name: complete_and_claim
-- Complete a job. Return the path that its worker must now publish to, or the next job if there is none. Null: the lease is lost.
-- As one value, because the server needs longer to parse, plan and send a statement of many columns.
SELECT worker.complete_and_claim(
    :id, :token, :model_url, :report, :digest, :wants_review, :publishing_s, :worker, :host, :pools, :runs, :lease_s, :shop_limit);

-- name: fail
-- Settle a failed attempt: schedule a retry, or end the job. No row: the lease is lost.
SELECT status, run_after
FROM worker.fail_job(:id, CAST(:token AS uuid), :code, :message, :retryable, CAST(:report AS jsonb));

-- name: cancel
-- Cancel a running job on request. No row: the lease is lost.
SELECT status FROM worker.stop_job(:id, CAST(:token AS uuid));

-- name: release
-- Requeue a running job without using up an attempt. No row: the lease is lost.
SELECT status FROM worker.release_job(:id, CAST(:token AS uuid));

-- name: rescue
-- Take the jobs whose leases have expired from their workers.
SELECT id, shop, status, attempts FROM worker.rescue_jobs(:message);

-- name: expire
-- Cancel the jobs that have not begun by their start_by.
SELECT id, shop FROM worker.expire_jobs(:message, :most);

-- name: check_in
-- Write this daemon's entry in the register of hosts. Return if a job is due that it can take, any lease has expired, a job has
-- not begun by its start_by, or files must be written or removed, and the seconds until the first of these that is not. Return
-- if changes of batches are to fold.
SELECT due, expired, late, files_due, batches_due, seconds, paused, shared
FROM worker.check_in(
    :name, CAST(:instance AS uuid), :version, :runs, CAST(:pools AS text[]), :lanes, CAST(:devices AS text[]), :memory_mb);

-- name: check_out
-- Remove the entry of a daemon that stops.
SELECT worker.check_out(:name, CAST(:instance AS uuid));

-- name: forget_hosts
-- Delete the entries of hosts that have been gone for a day. A pause outlives its host.
DELETE FROM worker.hosts WHERE seen_at < now() - interval '1 day' AND paused_at IS NULL RETURNING name AS id;

-- name: pause_host
-- Let a host claim no more jobs.
SELECT public.pause_host(:name);

-- name: resume_host
-- Let a paused host claim jobs again, or forget one that is gone.
SELECT public.resume_host(:name);

-- name: notify
-- Send an empty notification.
SELECT pg_notify(:channel, '') WHERE pg_notification_queue_usage() < 0.9;

-- name: gauges
-- Count the whole queue for one daemon's scrape, by the partial indexes. A notification gives the figures to the others.
WITH taken AS MATERIALIZED (
    SELECT pool, engine FROM worker.served_lines()
), hosts AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE live AND paused_at IS NULL) AS live, count(*) FILTER (WHERE paused_at IS NOT NULL) AS paused,
        count(*) FILTER (WHERE NOT live AND paused_at IS NULL) AS gone
    FROM (SELECT paused_at, worker.is_live(seen_at) AS live FROM worker.hosts) AS known
), figures AS MATERIALIZED (
    SELECT json_build_object(
        'due', count(*) FILTER (WHERE status = 'pending' AND run_after <= now()),
        'scheduled', count(*) FILTER (WHERE status = 'pending' AND run_after > now()),
        'running', count(*) FILTER (WHERE status = 'processing'),
        'stuck', count(*) FILTER (WHERE status = 'processing' AND lease_expires_at < now() - interval '5 s'),
        'unserved', count(*) FILTER (WHERE status = 'pending' AND run_after <= now() AND NOT EXISTS (
            SELECT FROM taken
            WHERE taken.pool = unfinished.pool AND coalesce(unfinished.engine, taken.engine) = taken.engine)),
        'oldest', coalesce(extract(epoch FROM now() - min(greatest(queued_at, run_after))
            FILTER (WHERE status = 'pending' AND run_after <= now())), 0),
        'to_review', (SELECT count(*) FROM public.jobs WHERE review = 'wanted'),
        'events', (SELECT count(*) FROM worker.outbox WHERE delivered_at IS NULL AND dead_at IS NULL),
        'lag', (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM worker.outbox
                WHERE delivered_at IS NULL AND dead_at IS NULL),
        'dead', (SELECT count(*) FROM worker.outbox WHERE dead_at IS NOT NULL),
        'publish', (SELECT count(*) FROM worker.published WHERE next_try_at IS NOT NULL),
        'remove', (SELECT count(*) FROM worker.versions WHERE next_try_at IS NOT NULL),
        'erase', (SELECT count(*) FROM worker.erasures WHERE next_try_at IS NOT NULL),
        'hosts_live', (SELECT live FROM hosts), 'hosts_paused', (SELECT paused FROM hosts),
        'hosts_gone', (SELECT gone FROM hosts)) AS found
    FROM (
        SELECT status, pool, engine, queued_at, run_after, lease_expires_at FROM public.jobs WHERE status = 'pending'
        UNION ALL
        SELECT status, pool, engine, queued_at, run_after, lease_expires_at FROM public.jobs WHERE status = 'processing'
    ) AS unfinished
)
SELECT found, CASE WHEN pg_notification_queue_usage() < 0.9 THEN pg_notify(:channel, found::text) END FROM figures;

-- name: prune_jobs
-- Delete jobs that ended long ago, with their history, unless webhooks for them or they for a review are still waiting: one
-- batch at a time, by one daemon at a time.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtext('worker prune jobs')) AS ours
), old AS (
    SELECT job.id FROM turn CROSS JOIN public.jobs AS job
    WHERE turn.ours AND job.completed_at < now() - make_interval(days => :days) AND job.review <> 'wanted'
      AND NOT EXISTS (SELECT FROM worker.outbox AS event
                      WHERE event.job_id = job.id AND event.delivered_at IS NULL AND event.dead_at IS NULL)
    ORDER BY job.completed_at LIMIT :batch
    FOR UPDATE OF job SKIP LOCKED
)
DELETE FROM public.jobs AS job USING old WHERE job.id = old.id
RETURNING job.id;

-- name: prune_attempts
-- Delete the rows of attempts that ended long ago.
DELETE FROM worker.attempts
WHERE id IN (SELECT id FROM worker.attempts ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    AND ended_at < now() - make_interval(days => :days)
RETURNING id;

-- name: prune_events
-- Delete old webhook events that were delivered or are dead.
DELETE FROM worker.outbox WHERE seq IN (
    SELECT seq FROM worker.outbox
    WHERE (delivered_at IS NOT NULL OR dead_at IS NOT NULL) AND created_at < now() - make_interval(days => :days)
    ORDER BY created_at LIMIT :batch FOR UPDATE SKIP LOCKED)
RETURNING id;

-- name: prune_unsendable
-- Delete old webhook events that no daemon has sent, because none of them has a BACKEND_URL.
SELECT id FROM worker.prune_unsendable_events(:days, :batch) AS id;

-- name: enqueue
-- Insert a job as a backend does, for `worker enqueue` and the demo.
INSERT INTO public.jobs (
    shop, product_id, variant_id, product_handle, image_urls, quality, pool, engine, priority, refresh, metadata,
    dedupe_key, batch, start_by)
VALUES (:shop, :product_id, :variant_id, :product_handle, :image_urls, :quality, :pool, :runs, :priority, :refresh,
    CAST(:metadata AS jsonb), :dedupe_key, :batch, now() + make_interval(secs => CAST(:start_by_s AS double precision)))
RETURNING id;

-- name: enqueue_all
-- Insert jobs in their order, given as a JSON array; a column that one does not name gets its default. Returns the ids of those
-- that are inserted: not of those whose dedupe_key another unfinished job has.
INSERT INTO public.jobs (id, shop, product_id, variant_id, product_handle, image_urls, quality, pool, engine, batch, refresh,
    start_by, priority, run_after, max_attempts, dedupe_key, metadata)
SELECT id, shop, product_id, variant_id, product_handle, image_urls, coalesce(quality, 'balanced'), coalesce(pool, 'default'),
    engine, batch, coalesce(refresh, false), start_by, coalesce(priority, 0), coalesce(run_after, now()),
    coalesce(max_attempts, 3), dedupe_key, coalesce(metadata, '{}')
FROM jsonb_to_recordset(CAST(:jobs AS jsonb)) AS line (id uuid, shop text, product_id text, variant_id text,
    product_handle text, image_urls text[], quality text, pool text, engine text, batch text, refresh boolean,
    start_by timestamptz, priority smallint, run_after timestamptz, max_attempts smallint, dedupe_key text, metadata jsonb)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: health
-- Summarize the queue. Waiting jobs are counted by an index that holds all that is asked of them.
WITH line AS MATERIALIZED (
    SELECT * FROM worker.waiting_lines()
), waiting AS MATERIALIZED (
    SELECT count(*) AS pending, count(*) FILTER (WHERE run_after <= now()) AS due FROM public.jobs WHERE status = 'pending'
), running AS MATERIALIZED (
    SELECT count(*) AS running, count(*) FILTER (WHERE lease_expires_at < now() - interval '5 s') AS stuck
    FROM public.jobs WHERE status = 'processing'
), ended AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE status = 'completed') AS completed_last_hour,
        count(*) FILTER (WHERE status = 'failed') AS failed_last_hour
    FROM public.jobs WHERE completed_at > now() - interval '1 h'
)
SELECT pending, due,
    (SELECT CAST(extract(epoch FROM now() - min(waits_since)) AS double precision) FROM line WHERE waits_since <= now())
        AS oldest_has_waited_s,
    running, stuck,
    (SELECT coalesce(sum(jobs), 0)::bigint FROM worker.unserved_lines()) AS unserved,
    completed_last_hour, failed_last_hour,
    (SELECT count(*) FROM public.jobs WHERE review = 'wanted') AS to_review
FROM waiting CROSS JOIN running CROSS JOIN ended;

-- name: unserved
-- Count the due jobs that no running host can take, by pool and engine.
SELECT pool, engine, jobs FROM worker.unserved_lines() ORDER BY jobs DESC LIMIT 50;

-- name: list_hosts
-- List the hosts of the register, with the number of jobs that each has and has ended in the last hour, from at most the last
-- thousand attempts.
WITH running AS (
    SELECT claimed_by AS name, count(*)::int AS jobs FROM public.jobs
    WHERE status = 'processing' AND lease_expires_at > now() GROUP BY claimed_by
), ended AS (
    SELECT worker AS name, count(*)::int AS jobs FROM (
        SELECT worker, ended_at FROM worker.attempts ORDER BY id DESC LIMIT 1000
    ) AS latest WHERE ended_at > now() - interval '1 h' GROUP BY worker
)
SELECT host.name, CASE WHEN host.paused_at IS NOT NULL THEN 'paused' WHEN NOT worker.is_live(host.seen_at) THEN 'gone' ELSE 'live' END AS state,
    worker.is_live(host.seen_at) AND host.stopped_at IS NULL AS up, host.stopped_at,
    coalesce(running.jobs, 0) AS running, coalesce(ended.jobs, 0) AS ended,
    host.version, host.engine, host.pools, host.lanes, host.devices, host.memory_mb, host.started_at,
    CAST(extract(epoch FROM now() - host.seen_at) AS double precision) AS seen_s, host.paused_at
FROM worker.hosts AS host LEFT JOIN running USING (name)
    LEFT JOIN ended USING (name)
ORDER BY NOT worker.is_live(host.seen_at), running DESC, host.name LIMIT 200;

-- name: failures
-- Count the error codes of jobs that failed in the last day, among the last thousand that ended.
SELECT error_code, count(*) AS jobs,
    CAST(extract(epoch FROM now() - max(completed_at)) AS double precision) AS latest_s
FROM (
    SELECT status, error_code, completed_at FROM public.jobs
    WHERE completed_at > now() - interval '1 day' ORDER BY completed_at DESC LIMIT 1000
) AS latest
WHERE status = 'failed' GROUP BY error_code ORDER BY jobs DESC, error_code;

-- name: file_failures
-- Count the work on stored files that has failed and will be tried again, by kind, with the reason of the one that is due first.
SELECT kind, count(*) AS count, (array_agg(last_error ORDER BY next_try_at))[1] AS reason
FROM (
    SELECT 'publish' AS kind, last_error, next_try_at FROM worker.published WHERE next_try_at IS NOT NULL
    UNION ALL
    SELECT 'remove', last_error, next_try_at FROM worker.versions WHERE next_try_at IS NOT NULL
    UNION ALL
    SELECT 'erase', last_error, next_try_at FROM worker.erasures WHERE next_try_at IS NOT NULL
) AS due
WHERE last_error IS NOT NULL GROUP BY kind ORDER BY kind;

-- name: queue_position
-- Return the position of a waiting job in the queue, and about how long it will wait.
SELECT position, CAST(extract(epoch FROM estimated_wait) AS double precision) AS estimated_wait_s
FROM public.job_status WHERE id = :id;

-- name: recent
-- List the jobs that run, that wait next, and that ended last.
SELECT id FROM (
    (SELECT id, 1 AS part, extract(epoch FROM started_at) AS place FROM public.jobs WHERE status = 'processing')
    UNION ALL
    (SELECT job_id, 2, place FROM worker.first_in_line(:limit) ORDER BY place LIMIT :limit)
    UNION ALL
    (SELECT id, 3, extract(epoch FROM completed_at) FROM public.jobs WHERE completed_at IS NOT NULL
     ORDER BY completed_at DESC LIMIT :limit)
) AS listed ORDER BY part, place;

-- name: to_review
-- List the jobs whose models wait for review, the oldest first.
SELECT id FROM public.jobs WHERE review = 'wanted' ORDER BY completed_at LIMIT :limit;

-- name: get_jobs
-- Read these jobs, in the order of the ids. Texts are cut, because a backend may insert any length.
SELECT id, shop, product_id, variant_id, quality, pool, engine, status::text AS status, progress, left(stage, 200) AS stage, attempts,
    max_attempts, left(model_url, 8000) AS model_url, left(error_code, 200) AS error_code,
    left(error_message, 2000) AS error_message, left(claimed_by, 200) AS claimed_by, created_at, started_at, completed_at,
    run_after, cancel_requested_at, image_urls, review, left(version, 200) AS version,
    worker.is_published(worker.storage_path(shop, product_id, variant_id), version) AS published,
    (SELECT other.id FROM public.jobs AS other WHERE other.id < jobs.id ORDER BY other.id DESC LIMIT 1) AS id_before,
    (SELECT other.id FROM public.jobs AS other WHERE other.id > jobs.id ORDER BY other.id LIMIT 1) AS id_after,
    CASE WHEN status = 'pending' THEN worker.estimated_start(pool, engine, priority, shop, run_after, created_at)
        END AS estimated_start,
    CASE WHEN completed_at IS NULL THEN worker.estimated_end(
        pool, engine, priority, shop, quality, run_after, created_at, CASE WHEN status = 'processing' THEN started_at END)
        END AS estimated_end,
    CASE WHEN octet_length((metadata -> 'worker')::text) <= 200000 THEN (metadata -> 'worker')::text END AS report
FROM public.jobs JOIN unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS named (id, place) USING (id)
ORDER BY named.place;

-- name: find_ids
-- List up to :most jobs whose ids begin alike, given as the first and the last id that do.
SELECT id FROM public.jobs WHERE id BETWEEN :first AND :last ORDER BY id LIMIT :most;

-- name: request_cancel
-- Cancel a waiting job, or ask a running one to stop.
SELECT public.cancel_job(:id);

-- name: retry
-- Queue a job that has ended again.
SELECT public.retry_job(:id, CAST(:without_photo AS int));

-- name: cancel_jobs
-- Cancel those of some jobs that have not ended. `was` is null for one that another session has locked, which is left: like
-- cancel_batch(), this never waits for a row while it holds others.
WITH unfinished AS MATERIALIZED (
    SELECT id FROM public.jobs
    WHERE id = ANY (CAST(:ids AS uuid[])) AND status IN ('pending', 'processing') AND cancel_requested_at IS NULL
), free AS MATERIALIZED (
    SELECT id, status::text AS was FROM public.jobs
    WHERE id = ANY (CAST(:ids AS uuid[])) AND status IN ('pending', 'processing') AND cancel_requested_at IS NULL
    FOR UPDATE SKIP LOCKED
)
SELECT id, was, CASE WHEN was IS NOT NULL THEN public.cancel_job(id) END AS done FROM unfinished LEFT JOIN free USING (id);

-- name: retry_jobs
-- Queue those of some jobs again that have ended.
WITH ended AS MATERIALIZED (
    SELECT id FROM public.jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND completed_at IS NOT NULL
    ORDER BY id FOR NO KEY UPDATE
)
SELECT id FROM ended WHERE public.retry_job(id);

-- name: count_states
-- Count some jobs by their status.
SELECT status::text AS status, count(*) AS jobs FROM public.jobs WHERE id = ANY (CAST(:ids AS uuid[])) GROUP BY status;

-- name: approve
-- Approve the model of a job that waits for it.
SELECT public.approve_job(:id);

-- name: reject
-- Reject the model of a job that waits for approval.
SELECT public.reject_job(:id, :reason);

-- name: publish_version
-- Publish the model of a completed job, even in place of a newer one.
SELECT public.publish_version(:id);

-- name: failed_since
-- List the jobs that failed in the last :seconds seconds, oldest first.
SELECT id FROM public.jobs
WHERE status = 'failed' AND completed_at > now() - make_interval(secs => :seconds)
ORDER BY completed_at;

-- name: fold_batches
-- Add the changes of some batches to their sums. Returns the last one, null at the end, and if it has finished.
SELECT last_shop, last_batch, finished FROM worker.fold_batches(:shop, :batch, :most);

-- name: batch_status
-- Read the sums of batches.
SELECT * FROM public.batch_status
WHERE (CAST(:shop AS text) IS NULL OR shop = :shop) AND (CAST(:batch AS text) IS NULL OR batch = :batch)
ORDER BY created_at DESC, shop, batch;

-- name: batch_results
-- Read what became of the jobs of a batch, in the order in which they were inserted.
SELECT id, shop, product_id, variant_id, product_handle, status::text AS status, model_url, review, version, error_code,
    error_message, attempts, created_at, completed_at
FROM public.jobs WHERE shop = :shop AND batch = :batch ORDER BY created_at, id;

-- name: cancel_batch
-- Cancel the waiting jobs of a batch, and ask its running ones to stop.
SELECT public.cancel_batch(:shop, :batch);

-- name: retry_batch
-- Queue the failed jobs of a batch again.
SELECT public.retry_batch(:shop, :batch);

-- name: set_batch_priority
-- Set the priority of the unfinished jobs of a batch.
SELECT public.set_batch_priority(:shop, :batch, :priority);

-- name: fold_history
-- Sample the queue, and add what has ended to the history.
SELECT worker.fold_history(:most, :days) AS folded;

-- name: fold_usage
-- Add what jobs have used to the days of their shops. Returns how many changes were added.
SELECT worker.fold_usage(:most) AS folded;

-- name: prune_batches
-- Delete the sums of old batches that have no jobs any more.
SELECT batch AS id FROM worker.prune_batches(:days, :batch) AS batch;

-- name: batch_page
-- Read the sums of batches, the newest first, from a place in the list: all, or those whose shop or name has a part.
SELECT *, now() AS now FROM public.batch_status
WHERE (position(lower(:part) IN lower(shop)) > 0 OR position(lower(:part) IN lower(batch)) > 0)
    AND (CAST(:before AS timestamptz) IS NULL OR (created_at, shop, batch) < (:before, :shop, :batch))
ORDER BY created_at DESC, shop DESC, batch DESC LIMIT :limit;

-- name: plans
-- List plans with what their shops have used today.
SELECT plan.*, used.completed, used.failed, used.cancelled, used.device_seconds,
    coalesce(
        (SELECT inserted FROM worker.shop_days AS one
         WHERE one.shop = plan.shop AND one.day = CAST(now() AT TIME ZONE 'UTC' AS date) AND one.quality = ''),
        -- The next insert begins to count, with what is there already.
        CASE WHEN plan.jobs_a_day IS NOT NULL THEN
            (SELECT count(*) FROM public.jobs AS job
             WHERE job.shop = plan.shop AND job.created_at >= date_trunc('day', now(), 'UTC')) END) AS inserted,
    (SELECT count(*) FROM public.jobs AS job WHERE job.status = 'processing' AND job.shop = plan.shop) AS running
FROM (
    SELECT shop, jobs_a_day, jobs_at_once, presets FROM worker.shop_limits
    WHERE shop > :after AND position(lower(:part) IN lower(shop)) > 0 ORDER BY shop LIMIT :limit
) AS plan CROSS JOIN LATERAL (
    SELECT coalesce(sum(completed), 0) AS completed, coalesce(sum(failed), 0) AS failed,
        coalesce(sum(cancelled), 0) AS cancelled, coalesce(sum(device_seconds), 0) AS device_seconds
    FROM public.shop_usage AS one WHERE one.shop = plan.shop AND one.day = CAST(now() AT TIME ZONE 'UTC' AS date)
) AS used
ORDER BY plan.shop;

-- name: busiest_shops
-- List the shops in which most jobs ended today.
SELECT shop, sum(completed) AS completed, sum(failed) AS failed, sum(cancelled) AS cancelled, sum(cached) AS cached,
    sum(device_seconds) AS device_seconds, CAST(sum(bytes) AS bigint) AS bytes
FROM public.shop_usage WHERE day = CAST(now() AT TIME ZONE 'UTC' AS date) AND shop <> ''
GROUP BY shop ORDER BY sum(completed) + sum(failed) + sum(cancelled) DESC, shop LIMIT :limit;

-- name: usage
-- Read what shops have used on the last days.
SELECT * FROM public.shop_usage
WHERE day > CAST(now() AT TIME ZONE 'UTC' AS date) - CAST(:days AS int) AND (CAST(:shop AS text) IS NULL OR shop = :shop)
ORDER BY day DESC, shop, quality;

-- name: set_plan
-- Give a shop a plan.
INSERT INTO worker.shop_limits (shop, jobs_a_day, jobs_at_once, presets)
VALUES (:shop, :jobs_a_day, :jobs_at_once, CAST(:presets AS text[]))
ON CONFLICT (shop) DO UPDATE
SET jobs_a_day = excluded.jobs_a_day, jobs_at_once = excluded.jobs_at_once, presets = excluded.presets;

-- name: remove_plan
-- Take a shop's plan away.
WITH deleted AS (DELETE FROM worker.shop_limits WHERE shop = :shop RETURNING 1) SELECT EXISTS (SELECT FROM deleted);

-- name: has_shop
-- Return if there is a job of this shop.
SELECT EXISTS (SELECT FROM public.jobs WHERE shop = :shop);

-- name: shops_with
-- List the shops whose name has this part, from shop to shop along the index jobs_shop. Nothing is listed after `read` shops:
-- the last one says so.
WITH RECURSIVE each AS (
    (SELECT shop, 1 AS n FROM public.jobs ORDER BY shop LIMIT 1)
    UNION ALL
    SELECT next.shop, each.n + 1 FROM each CROSS JOIN LATERAL (
        SELECT jobs.shop FROM public.jobs WHERE jobs.shop > each.shop ORDER BY jobs.shop LIMIT 1) AS next
    WHERE each.n < :read
)
SELECT shop, n = :read AS all_read FROM each
WHERE position(lower(:part) IN lower(shop)) > 0 OR n = :read
ORDER BY n LIMIT :most;

-- name: begin_forecast
-- True if a forecast is to be made now, by this daemon.
SELECT worker.begin_forecast() AS begun;

-- name: fold_seconds
-- Add the jobs that have ended to the measured seconds.
SELECT worker.fold_seconds(:most);

-- name: known_seconds
-- Read how long jobs take, from the claim to the end, and how long they keep a lane busy.
SELECT pool, engine, quality, worker.seconds_left(seconds, 0) AS seconds, busy_seconds FROM worker.known_seconds();

-- name: waiting_parts
-- Read the waiting jobs in parts, in their order.
SELECT pool, engine, priority, shop, part, quality, batch, jobs, last[1] AS run_after, last[2] AS created_at
FROM worker.waiting_parts();

-- name: running_jobs
-- Read who runs what, and for how many seconds more.
SELECT claimed_by, shop, batch, worker.estimated_seconds(
    pool, engine, quality, CAST(extract(epoch FROM now() - started_at) AS double precision)) AS left_s
FROM public.jobs WHERE status = 'processing' ORDER BY started_at;

-- name: claiming_hosts
-- List the hosts that claim.
SELECT name, pools, engine, lanes FROM worker.hosts WHERE worker.is_live(seen_at) AND paused_at IS NULL ORDER BY name;

-- name: served_last
-- Read whose turn it was last.
SELECT pool, engine, priority, shop, ago_s FROM worker.served_last(CAST(:lines AS jsonb));

-- name: recent_starts
-- Count what started lately, soon after it came.
SELECT pool, engine, priority, shop, quality, prompt, within FROM worker.recent_starts() WHERE prompt > 0;

-- name: jobs_at_once
-- List the shops whose plans limit how many of their jobs run at once.
SELECT shop, jobs_at_once FROM worker.shop_limits WHERE jobs_at_once IS NOT NULL;

-- name: write_forecast
-- Write a forecast in place of the last one.
SELECT worker.write_forecast(CAST(:lines AS jsonb), CAST(:batches AS jsonb), :next_s, :valid_s);
