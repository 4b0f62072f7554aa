-- A large queue, written past the row's guard and triggers: jobs that have ended, of many shops; jobs that wait, in many batches;
-- 20 that run on 8 hosts. One in 20 has failed, one in 40 was cancelled, one in 50 waits for a review. dashboard.py writes the
-- numbers into it.
SET session_replication_role = replica;

INSERT INTO public.jobs (shop, product_id, variant_id, product_handle, image_urls, quality, status, progress, stage, attempts,
    model_url, error_code, error_message, review, batch, created_at, queued_at, updated_at, run_after, started_at, completed_at,
    metadata)
SELECT 'shop-' || n % :shops || '.myshopify.com', 'gid://shopify/Product/' || (8000000000000 + n),
    CASE n % 3 WHEN 0 THEN 'gid://shopify/ProductVariant/' || (9000000000000 + n) END, 'thing-' || n,
    ARRAY['https://cdn.shopify.com/s/files/' || n || '.jpg'], (ARRAY['fast', 'balanced', 'balanced', 'quality'])[1 + n % 4],
    s::worker.job_state, CASE s WHEN 'completed' THEN 100 ELSE 0 END, CASE s WHEN 'completed' THEN 'completed' END, 1,
    CASE s WHEN 'completed' THEN 'https://store.example/' || n || '.glb' END,
    CASE s WHEN 'failed' THEN CASE WHEN n % 1000 = 0 THEN 'storage_refused' ELSE 'no_object' END END,
    CASE s WHEN 'failed' THEN 'No product could be found in the photo.' END,
    CASE WHEN s = 'completed' AND n % 50 = 3 THEN 'wanted' ELSE 'none' END,
    CASE n % 10 WHEN 5 THEN 'old-' || n % :batches END, t, t, t, t, t + interval '2 s', t + interval '20 s',
    jsonb_build_object('worker', jsonb_build_object('engine', CASE n % 10 WHEN 0 THEN 'relief' ELSE 'triposr' END,
        'poster_url', 'https://store.example/' || n || '.png', 'fill', repeat(md5(n::text), 30)))
FROM (SELECT n, now() - interval '1 h' - n * interval '20 s' AS t,
    CASE WHEN n % 20 = 0 THEN 'failed' WHEN n % 40 = 1 THEN 'cancelled' ELSE 'completed' END AS s
    FROM generate_series(:history, 1, -1) AS n) AS made;

INSERT INTO public.jobs (shop, product_id, product_handle, image_urls, batch, engine, priority, run_after, created_at, queued_at)
SELECT 'shop-' || n % :shops || '.myshopify.com', 'gid://shopify/Product/' || (7000000000000 + n), 'new-' || n,
    ARRAY['https://cdn.shopify.com/s/files/' || n || '.jpg'], 'new-' || n % :batches, CASE n % 50 WHEN 0 THEN 'triposr' END, n % 2, t, t, t
FROM (SELECT n, now() - n * interval '30 ms' AS t FROM generate_series(:waiting, 1, -1) AS n) AS made;

INSERT INTO public.jobs (shop, product_id, product_handle, image_urls, status, progress, stage, attempts, lease_token,
    lease_expires_at, claimed_by, created_at, started_at)
SELECT 'shop-' || n || '.myshopify.com', n::text, 'runs-' || n, ARRAY['https://cdn.shopify.com/s/files/' || n || '.jpg'],
    'processing', 50, 'generating', 1, gen_random_uuid(), now() + interval '1 day', 'gpu-' || n % 8, now() - interval '5 min', now()
FROM generate_series(1, 20) AS n;

INSERT INTO worker.search (created_at, job_id, product, variant, handle, batch)
SELECT created_at, id, worker.last_part(product_id), worker.last_part(variant_id), lower(product_handle), batch FROM public.jobs;

INSERT INTO worker.attempts (lease_token, job_id, attempt, worker, host, started_at, ended_at, outcome, error_code)
SELECT gen_random_uuid(), id, 1, 'gpu-' || row_number() OVER (ORDER BY created_at) % 8, 'gpu-' || row_number() OVER (ORDER BY created_at) % 8,
    started_at, completed_at, CASE status WHEN 'completed' THEN 'completed' ELSE 'failed' END::worker.outcome, error_code
FROM public.jobs WHERE completed_at IS NOT NULL ORDER BY created_at;

INSERT INTO worker.hosts (name, instance, version, engine, pools, lanes, devices, memory_mb, seen_at)
SELECT 'gpu-' || n, gen_random_uuid(), '0.1.0', 'triposr', '{default}', 3, '{cuda:0}', 40960, now() + interval '1 day'
FROM generate_series(0, 7) AS n;

INSERT INTO worker.outbox (type, shop, job_id, terminal, body, created_at, delivered_at, attempts)
SELECT 'job.completed', shop, id, true, '{}', completed_at, completed_at, 1 FROM public.jobs
WHERE completed_at IS NOT NULL AND product_id LIKE '%0';
INSERT INTO worker.outbox (type, shop, job_id, terminal, body, created_at, dead_at, attempts, last_error)
SELECT 'job.failed', shop, id, true, '{}', completed_at, completed_at + interval '1 h', 10, '503 Service Unavailable' FROM public.jobs
WHERE status = 'failed' ORDER BY completed_at DESC LIMIT 2000;

INSERT INTO worker.shop_limits (shop, jobs_a_day, jobs_at_once)
SELECT 'shop-' || n || '.myshopify.com', 1000, 5 FROM generate_series(0, :shops - 1, 2) AS n;
INSERT INTO worker.shop_days (shop, day, quality, inserted, completed, failed, device_seconds)
SELECT 'shop-' || n || '.myshopify.com', current_date - day, quality, 10, 9, 1, 100
FROM generate_series(0, :shops - 1) AS n, generate_series(0, 29) AS day, unnest(ARRAY['', 'balanced', 'quality']) AS quality;

-- Two days in parts of five minutes, and a month by hours.
INSERT INTO worker.history (part, at, measure, pool, host, key, count, total)
SELECT part, at, measure, 'default', CASE measure WHEN 'level' THEN '' ELSE 'gpu-' || host END, key, 10, 300
FROM (
    SELECT interval '5 min' AS part, generate_series(date_bin('1 h', now(), 'epoch') - interval '2 days', now(), interval '5 min') AS at
    UNION ALL
    SELECT interval '1 h', generate_series(date_bin('1 h', now(), 'epoch') - interval '30 days', now(), interval '1 h')
) AS parts CROSS JOIN (
    SELECT 'ended' AS measure, unnest(ARRAY['completed', 'cached', 'failed', 'cancelled']) AS key
    UNION ALL SELECT 'failed', unnest(ARRAY['no_object', 'storage_refused', 'photo_not_found'])
    UNION ALL SELECT one, generate_series(4, 24)::text FROM unnest(ARRAY['start', 'finish']) AS one
    UNION ALL SELECT 'step', unnest(ARRAY['download', 'cutout', 'generate', 'finish', 'poster', 'quality', 'upload'])
    UNION ALL SELECT 'level', unnest(ARRAY['waiting', 'running'])
) AS keys CROSS JOIN generate_series(0, 7) AS host
ON CONFLICT DO NOTHING;

RESET session_replication_role;

SELECT worker.recount_batches('shop-' || n || '.myshopify.com') FROM generate_series(0, :shops - 1) AS n;

VACUUM (ANALYZE) public.jobs, worker.attempts, worker.search, worker.batches, worker.batch_changes, worker.hosts, worker.outbox,
    worker.shop_limits, worker.shop_days, worker.history;
