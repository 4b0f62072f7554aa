-- Every statement that the worker runs on worker.versions, worker.published and worker.erasures. Each is one transaction. The
-- rules are in migrations/sql/versions.sql and erasure.sql.

-- name: begin
-- Enter a version before its first file is stored. True: store it; false: try again later. No row: the lease is lost.
SELECT begun FROM worker.begin_version(
    :id, CAST(:token AS uuid), :digest, :stem, CAST(:files AS jsonb), :result_key) AS begun;

-- name: find_result
-- Find a version that was made from the same.
SELECT job_id, same_product, stem, digest, files, report::text AS report
FROM worker.find_result(:id, CAST(:token AS uuid), :result_key);

-- name: take_publication
-- Take a publication that is due.
SELECT path, stem, shop, digest, job_id, token, files FROM worker.take_publication(:lease_s);

-- name: renew_publication
-- Keep a publication that was taken. False: write nothing more.
SELECT worker.hold_publication(:path, CAST(:token AS uuid), :digest, :lease_s);

-- name: finish_publication
-- End a publication whose files all lie at its path. False: it is not ours any more.
SELECT worker.end_publication(:path, CAST(:token AS uuid), :digest);

-- name: finish_publication_and_claim
-- The same, and take the next job. Null: it is not ours any more.
SELECT worker.end_publication_and_claim(
    :path, :token, :digest, :worker, :host, :pools, :runs, :lease_s, :shop_limit);

-- name: put_back_publication
-- Put a publication back. Return when it is due.
SELECT due_at FROM worker.put_back_publication(:path, CAST(:token AS uuid), :error) AS due_at;

-- name: doubt_publication
-- Have a path written anew, at which a file of this version may lie though another one is published. False: the product is erased.
SELECT worker.doubt_publication(:path, :digest);

-- name: abandon_version
-- Doom a version that an erased job has stored in part.
SELECT worker.abandon_version(:job_id, :shop, :product_id, :variant_id, :digest, :stem, CAST(:files AS jsonb));

-- name: doom
-- Doom a batch of versions that were not used for a long time.
SELECT doomed, more FROM worker.doom_versions(:days, :batch);

-- name: take_doomed
-- Take a doomed version whose removal is due.
SELECT path, digest, stem, shop, token FROM worker.take_doomed(:lease_s);

-- name: renew_removal
-- Keep a doomed version that was taken. False: another daemon has it.
SELECT worker.hold_doomed(:path, :digest, CAST(:token AS uuid), :lease_s);

-- name: finish_removal
-- Delete a doomed version whose files are gone. False: another daemon has it.
SELECT worker.delete_doomed(:path, :digest, CAST(:token AS uuid));

-- name: put_back_removal
-- Put a doomed version back. Return when it is due.
SELECT due_at FROM worker.put_back_doomed(:path, :digest, CAST(:token AS uuid), :error) AS due_at;

-- name: begin_erasure
-- Begin to forget a shop, a product with its variants, or one variant.
SELECT worker.begin_erasure(:shop, :product, :variant);

-- name: take_erasure
-- Take the erasure that has been due longest, or this one if it is due.
UPDATE worker.erasures AS erasure
SET token = gen_random_uuid(), next_try_at = now() + make_interval(secs => :lease_s), tries = least(tries + 1, 30000)
WHERE id = (
    SELECT id FROM worker.erasures
    WHERE next_try_at <= now() AND id = coalesce(CAST(:id AS uuid), id)
    ORDER BY next_try_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, token, shop, product, variant, tries;

-- name: hold_erasure
-- Extend the lease of an erasure. No row: it is lost.
SELECT id FROM worker.hold_erasure(:id, CAST(:token AS uuid), :lease_s);

-- name: stop_erased_jobs
-- Ask the running jobs to stop. Return how many jobs and publications still run, and for how many seconds the store may still
-- receive files of theirs. No row: the lease is lost.
SELECT running, publishing, wait_s FROM worker.stop_erased_jobs(:id, CAST(:token AS uuid), :lease_s, :quiet_s);

-- name: delete_erased_jobs
-- Delete the jobs that wait, or all, of the next rows of the shop. Return where the rows after them begin. No row: the lease is lost.
SELECT last_time, last_id, more FROM worker.delete_erased_jobs(
    :id, CAST(:token AS uuid), :lease_s, CAST(:after_time AS timestamptz), CAST(:after_id AS uuid), :batch, :ended);

-- name: list_kept_versions
-- List the versions that later jobs have made.
SELECT stem, digest, endings, published FROM worker.list_kept_versions(:id);

-- name: count_erased_files
-- Note how many files the erasure removes. No row: the lease is lost.
SELECT true AS held WHERE worker.count_erased_files(:id, CAST(:token AS uuid), :lease_s, :found);

-- name: delete_erased_versions
-- Delete a batch of versions and what is published of them. Return if there is more. No row: the lease is lost.
SELECT more FROM worker.delete_erased_versions(:id, CAST(:token AS uuid), :lease_s, :batch) AS more;

-- name: delete_erased_events
-- Delete what is left of the shop among the next events. Return the last of these; null at the end. No row: the lease is lost.
SELECT last_seq FROM worker.delete_erased_events(:id, CAST(:token AS uuid), :lease_s, :after_seq, :batch) AS last_seq;

-- name: finish_erasure
-- Forget the names, write the events, and return the counts. No row: something is left, or the lease is lost.
SELECT id, jobs, versions, files, events FROM worker.finish_erasure(:id, CAST(:token AS uuid), :lease_s);

-- name: postpone_erasure
-- Give an erasure back: due in :wait_s seconds; after an error in a tenth of its age, and within 10 min. No row: the lease is lost.
UPDATE worker.erasures
SET token = NULL, last_error = :error,
    next_try_at = now() + CASE WHEN CAST(:error AS text) IS NULL THEN make_interval(secs => :wait_s)
        ELSE least(greatest((now() - requested_at) / 10, interval '2 s'), interval '10 min') END
WHERE id = :id AND token = CAST(:token AS uuid) AND done_at IS NULL
RETURNING next_try_at;

-- name: doubt_publications
-- Have all published paths of a shop written anew.
UPDATE worker.published SET written = NULL, token = NULL, next_try_at = now() WHERE shop = :shop RETURNING path;

-- name: get_erasure
-- Read an erasure, and if a daemon has it now.
SELECT done_at IS NOT NULL AS done, token IS NOT NULL AND next_try_at >= now() AS taken, last_error, jobs, versions, files, events
FROM worker.erasures WHERE id = :id;

-- name: count_covered
-- Count the rows that an erasure would cover now.
SELECT count(*) FROM public.jobs AS job
WHERE job.shop = :shop AND worker.is_covered(
    jsonb_populate_record(NULL::worker.erasures, jsonb_build_object(
        'shop', CAST(:shop AS text), 'product', CAST(:product AS text), 'variant', CAST(:variant AS text))),
    job.shop, job.product_id, job.variant_id);

-- name: list_running
-- List the running jobs that an erasure covers.
SELECT job.id, job.claimed_by FROM worker.erasures AS erasure JOIN public.jobs AS job
    ON job.status = 'processing' AND job.created_at < erasure.requested_at
        AND worker.is_covered(erasure, job.shop, job.product_id, job.variant_id)
WHERE erasure.id = :id;
