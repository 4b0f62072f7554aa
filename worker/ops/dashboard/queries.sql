-- What the dashboard's pages show. Some statements select ids, and walk an index no further than the page needs; `cards` and
-- `job` read the jobs of these ids. None of them writes. What a filter finds: worker/jobs/walks.py.

-- name: running
SELECT id FROM public.jobs WHERE status = 'processing' ORDER BY started_at DESC LIMIT :limit;

-- name: waiting
-- In the order of the index: that of the claims, except that shops take turns there.
SELECT id FROM public.jobs WHERE status = 'pending'
ORDER BY pool, coalesce(engine, ''), priority DESC, shop, run_after, created_at LIMIT :limit;

-- name: cards
-- What a line of a list shows, in the order of the ids.
SELECT id, shop, product_id, variant_id, product_handle, quality, status::text AS status, progress, left(stage, 200) AS stage, attempts,
    max_attempts, left(error_code, 200) AS error_code, left(error_message, 500) AS error_message, left(claimed_by, 200) AS claimed_by,
    CASE WHEN status = 'completed' THEN left(metadata #>> '{worker,poster_url}', 4000) END AS poster_url,
    (SELECT left(url, 4000) FROM unnest(image_urls) AS url LIMIT 1) AS photo_url, cardinality(image_urls) AS photos, batch,
    review, lease_expires_at < now() AS overdue, cancel_requested_at, created_at, run_after, started_at, completed_at, now() AS now
FROM public.jobs JOIN unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS named (id, place) USING (id)
ORDER BY named.place;

-- name: job
-- Our columns, but not the lease's token, which is a secret. The app's own columns may be of any type and size. JSON comes as
-- text, without what is too long for a page.
SELECT id, shop, product_id, variant_id, product_handle, image_urls, quality, priority, run_after, max_attempts, dedupe_key,
    status::text AS status, progress, left(stage, 200) AS stage, attempts, left(model_url, 8000) AS model_url,
    left(version, 200) AS version, worker.is_published(worker.storage_path(shop, product_id, variant_id), version) AS published, review, refresh, excluded_photos, left(error_code, 200) AS error_code, left(error_message, 2000) AS error_message, lease_expires_at,
    left(claimed_by, 200) AS claimed_by, cancel_requested_at, created_at, queued_at, updated_at, started_at, completed_at,
    CASE WHEN octet_length(metadata::text) <= 200000 THEN metadata::text END AS metadata,
    CASE WHEN octet_length((metadata -> 'worker')::text) <= 200000 THEN (metadata -> 'worker')::text END AS report
FROM public.jobs WHERE id = :id;

-- name: attempts
-- List the latest attempts at a job.
SELECT attempt, left(worker, 200) AS worker, left(host, 200) AS host, lane, started_at, ended_at, outcome::text AS outcome,
    left(error_code, 200) AS error_code, left(error_message, 2000) AS error_message,
    CASE WHEN octet_length(seconds::text) <= 20000 THEN seconds END AS seconds, now() AS now
FROM worker.attempts WHERE job_id = :id ORDER BY started_at DESC LIMIT 50;

-- name: versions
-- List the versions of the model of a job's product, the latest first. `is_jobs`: the job that made it names no later one.
SELECT version.digest, version.job_id, version.begun_at, version.rejected_at, version.doomed_at IS NOT NULL AS removed,
    published.digest IS NOT NULL AS published, published.next_try_at IS NOT NULL AS being_published,
    left(published.last_error, 500) AS publish_error,
    ARRAY(SELECT jsonb_object_keys(version.files)) AS endings,
    maker.version = version.digest AS is_jobs, left(maker.model_url, 8000) AS model_url,
    left(maker.metadata #>> '{worker,poster_url}', 4000) AS poster_url, maker.review,
    left(maker.metadata #>> '{worker,engine}', 100) AS engine, maker.quality,
    left(maker.metadata #>> '{worker,quality,score}', 40) AS score,
    now() AS now
FROM public.jobs AS job
JOIN worker.versions AS version ON version.path = worker.storage_path(job.shop, job.product_id, job.variant_id)
LEFT JOIN worker.published ON published.path = version.path AND published.digest = version.digest
LEFT JOIN public.jobs AS maker ON maker.id = version.job_id
WHERE job.id = :id ORDER BY version.begun_at DESC LIMIT 12;

-- name: events
-- List the latest webhook events of a job. A body begins with jobId, status, seq and progress.
SELECT event.id, event.seq, event.type, substring(left(event.body, 200) FROM '"status": "([a-z]+)"') AS status,
    substring(left(event.body, 200) FROM '"progress": ([0-9]+)') AS progress, event.terminal, event.attempts, event.refusals,
    event.next_attempt_at, event.sending_token IS NOT NULL AND event.next_attempt_at > now() AS being_sent, event.delivered_at,
    event.dead_at, left(event.last_error, 500) AS last_error, event.created_at, now() AS now
FROM worker.outbox AS event WHERE event.job_id = :id ORDER BY event.job_id DESC, event.seq DESC LIMIT 30;

-- name: failed_of_batch
-- List jobs of a batch that have failed, of the first thousand in the index those that ended last.
SELECT id, shop, product_id, variant_id, product_handle, left(error_code, 200) AS error_code,
    left(error_message, 500) AS error_message, completed_at, now() AS now
FROM (SELECT * FROM public.jobs WHERE shop = :shop AND batch = :batch AND status = 'failed' LIMIT 1000) AS failed
ORDER BY completed_at DESC LIMIT :limit;

-- name: history
-- The history in bars, for one pool or host or all. Levels are of pools alone. Part by part, which is how the index is read.
SELECT date_bin(CAST(:width AS interval), one.at, 'epoch') AS at, measure, key, sum(count)::bigint AS count, sum(total) AS total
FROM generate_series(CAST(:since AS timestamptz), now(), CAST(:part AS interval)) AS parts (at) CROSS JOIN LATERAL (
    SELECT * FROM worker.history WHERE history.part = CAST(:part AS interval) AND history.at = parts.at OFFSET 0
) AS one
WHERE measure <> 'folded' AND :pool IN ('', pool) AND (:host IN ('', host) OR measure = 'level')
GROUP BY 1, 2, 3;

-- name: history_groups
-- The same for all of the time, by pool and host.
SELECT pool, host, measure, key, sum(count)::bigint AS count
FROM generate_series(CAST(:since AS timestamptz), now(), CAST(:part AS interval)) AS parts (at) CROSS JOIN LATERAL (
    SELECT * FROM worker.history
    WHERE history.part = CAST(:part AS interval) AND history.at = parts.at AND measure IN ('ended', 'start', 'finish') OFFSET 0
) AS one
WHERE :pool IN ('', pool) AND :host IN ('', host)
GROUP BY 1, 2, 3, 4;

-- name: is_published
-- True if the version of a job is the published one of its product.
SELECT worker.is_published(worker.storage_path(shop, product_id, variant_id), version) FROM public.jobs WHERE id = :id;
