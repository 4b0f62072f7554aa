-- What the dashboard's pages show. Some statements select ids, and walk an index no further than the page needs; `cards` and
-- `job` read the jobs of these ids. None of them writes.

-- name: running
SELECT id FROM public.jobs WHERE status = 'processing' ORDER BY started_at LIMIT :limit OFFSET :offset;

-- name: waiting
-- In the order of the index: that of the claims, except that shops take turns there.
SELECT id FROM public.jobs WHERE status = 'pending'
ORDER BY pool, coalesce(engine, ''), priority DESC, shop, run_after, created_at LIMIT :limit OFFSET :offset;

-- name: ended
SELECT id FROM public.jobs WHERE completed_at IS NOT NULL
ORDER BY completed_at DESC LIMIT :limit OFFSET :offset;

-- name: to_review
SELECT id FROM public.jobs WHERE review = 'wanted' ORDER BY completed_at LIMIT :limit OFFSET :offset;

-- name: ended_as
-- Only of the jobs that ended last: no index holds how a job ended.
SELECT id FROM (
    SELECT id, status::text AS status, completed_at FROM public.jobs WHERE completed_at IS NOT NULL
    ORDER BY completed_at DESC LIMIT :within
) AS latest
WHERE status = :status ORDER BY completed_at DESC LIMIT :limit OFFSET :offset;

-- name: of_shop
-- With a status, only of the shop's latest jobs.
SELECT id FROM (
    SELECT id, status::text AS status, review, created_at FROM public.jobs WHERE shop = :shop
    ORDER BY created_at DESC LIMIT CASE WHEN :status = '' THEN CAST(:limit AS int) + CAST(:offset AS int) ELSE CAST(:within AS int) END
) AS latest
WHERE :status IN ('', status) OR (:status, review) = ('review', 'wanted')
ORDER BY created_at DESC LIMIT :limit OFFSET :offset;

-- name: of_id
-- The beginning of an id is a range of ids.
SELECT id FROM public.jobs
WHERE id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid) 
    AND (:status IN ('', status::text) OR (:status, review) = ('review', 'wanted'))
ORDER BY id LIMIT :limit OFFSET :offset;

-- name: cards
-- What a line of a list shows, in the order of the ids.
SELECT id, shop, product_id, variant_id, product_handle, quality, status::text AS status, progress, left(stage, 200) AS stage, attempts,
    max_attempts, left(error_code, 200) AS error_code, left(error_message, 500) AS error_message, left(claimed_by, 200) AS claimed_by,
    CASE WHEN status = 'completed' THEN left(metadata #>> '{worker,poster_url}', 4000) END AS poster_url,
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
SELECT attempt, worker, started_at, ended_at, outcome, error_code, error_message, seconds, now() AS now
FROM worker.attempts WHERE job_id = :id ORDER BY started_at DESC LIMIT 50;
