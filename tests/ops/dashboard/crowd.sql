-- 10,000 jobs of 50 shops, of which 200 wait and 10 run, written past the row's guard.
ALTER TABLE public.jobs DISABLE TRIGGER USER;

INSERT INTO public.jobs (shop, product_id, image_urls, status, progress, stage, attempts, model_url, error_code, error_message,
    lease_token, lease_expires_at, claimed_by, created_at, run_after, started_at, completed_at, metadata)
SELECT 'shop-' || n % 50 || '.myshopify.com', n::text, ARRAY['https://cdn.shopify.com/a.jpg'], s::worker.job_state,
    CASE s WHEN 'completed' THEN 100 WHEN 'processing' THEN 50 ELSE 0 END,
    CASE s WHEN 'processing' THEN 'generating' WHEN 'completed' THEN 'completed' END, 1,
    CASE s WHEN 'completed' THEN 'https://store.example/a.glb' END,
    CASE s WHEN 'failed' THEN 'no_object' END, CASE s WHEN 'failed' THEN 'No product.' END,
    CASE s WHEN 'processing' THEN gen_random_uuid() END,
    CASE s WHEN 'processing' THEN now() + interval '1 h' END, CASE s WHEN 'processing' THEN 'gpu-1:7' END,
    t, t, CASE WHEN s <> 'pending' THEN t END,
    CASE WHEN s IN ('completed', 'failed', 'cancelled') THEN t + interval '20 s' END,
    jsonb_build_object('worker', jsonb_build_object('poster_url', 'https://store.example/a.png', 'fill', repeat('x', 1000)))
FROM (SELECT n, now() - n * interval '2 min' AS t,
    CASE WHEN n <= 10 THEN 'processing' WHEN n <= 210 THEN 'pending' WHEN n % 20 = 0 THEN 'failed'
         WHEN n % 40 = 1 THEN 'cancelled' ELSE 'completed' END AS s
    FROM generate_series(1, 10000) AS n) AS made;

ALTER TABLE public.jobs ENABLE TRIGGER USER;

INSERT INTO worker.search (created_at, job_id, product) SELECT created_at, id, product_id FROM public.jobs;

INSERT INTO worker.attempts (lease_token, job_id, attempt, worker, host, started_at, ended_at, outcome)
SELECT gen_random_uuid(), id, 1, 'gpu-1:7', 'gpu-1', started_at, completed_at, 'completed'
FROM public.jobs WHERE completed_at IS NOT NULL;
