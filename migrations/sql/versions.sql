-- The versions of a product's model, the one that is published, and the files that must be written or removed for them. Every
-- upgrade applies this file: migrations/env.py. worker/versions/queries.sql calls these functions, each in a transaction of its
-- own. Whoever writes or removes files has taken the row for it, with a token that is valid until next_try_at; when it has
-- passed, the work is due again, and another daemon may take it.
--
-- All functions lock in the same order: a job, versions, what is published at its path.

-- Enter a version before its first file is stored. True: store it. False: its files are being removed, or an erasure of its
-- product is not done; try again later. No row: the lease is lost. The job is entered as the one that made it last,
-- so that an erasure can tell whose it is.
--
-- It does not wait until the disk has it: if the server dies before, complete_job() finds no version, and the job is made again.
CREATE OR REPLACE FUNCTION worker.begin_version(
    its_job uuid, its_token uuid, its_digest text, its_stem text, its_files jsonb, its_key text) RETURNS SETOF boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    key CONSTANT text := set_config('synchronous_commit', 'off', true);
    job record;
BEGIN
    -- An erasure waits for the transactions that have not seen it.
    SELECT of.shop, of.product, of.path, pg_advisory_xact_lock_shared(hashtextextended('worker erasure ' || of.shop, 0)),
            EXISTS (SELECT FROM worker.versions AS known WHERE known.path = of.path AND known.digest = its_digest) AS is_known
        INTO job FROM (
            SELECT shop, worker.last_part(product_id) AS product, worker.storage_path(shop, product_id, variant_id) AS path
            FROM public.jobs WHERE id = its_job AND lease_token = its_token OFFSET 0) AS of;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- One job of a path runs at a time, so nobody else enters the version meanwhile. ON CONFLICT would write more WAL.
    IF job.is_known THEN
        UPDATE worker.versions AS known SET used_at = now(), job_id = its_job, result_key = coalesce(its_key, known.result_key)
        WHERE known.path = job.path AND known.digest = its_digest AND known.doomed_at IS NULL
          AND NOT worker.is_being_erased(job.shop, job.product, job.path);
    ELSE
        INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, result_key, files)
        SELECT job.path, its_digest, its_stem, job.shop, job.product, its_job, its_key, its_files
        WHERE NOT worker.is_being_erased(job.shop, job.product, job.path);
    END IF;
    RETURN NEXT FOUND;
END $$;

-- Return if a product or variant has this version, and its files are not being removed.
CREATE OR REPLACE FUNCTION worker.has_version(its_shop text, its_product text, its_variant text, its_digest text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM worker.versions AS version
        WHERE version.path = worker.storage_path(its_shop, its_product, its_variant) AND version.digest = its_digest
          AND version.doomed_at IS NULL);
END $$;

-- Find the version that a completed job of the shop has made from the same: of the same product, or else of another one. It is
-- kept from then on for as long as a new one. No row: there is none, the row wants a new one, or the lease is lost.
--
-- What was rejected for this product is not served from another one either.
CREATE OR REPLACE FUNCTION worker.find_result(
    its_job uuid, its_token uuid, its_key text,
    OUT job_id uuid, OUT same_product boolean, OUT stem text, OUT digest text, OUT files jsonb, OUT report jsonb)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    job record;
    known record;
BEGIN
    SELECT shop, worker.last_part(product_id) AS product, worker.storage_path(shop, product_id, variant_id) AS path
        INTO job FROM public.jobs WHERE id = its_job AND lease_token = its_token AND NOT refresh;
    IF NOT FOUND OR worker.is_being_erased(job.shop, job.product, job.path) OR EXISTS (
        SELECT FROM worker.versions
        WHERE shop = job.shop AND result_key = its_key AND path = job.path AND rejected_at IS NOT NULL)
    THEN
        RETURN;
    END IF;
    FOR known IN
        SELECT version.path, version.digest, version.stem, version.files, version.job_id, maker.metadata -> 'worker' AS report
        FROM worker.versions AS version JOIN public.jobs AS maker ON maker.id = version.job_id
        WHERE version.shop = job.shop AND version.result_key = its_key
          AND version.rejected_at IS NULL AND version.doomed_at IS NULL
          AND NOT worker.is_being_erased(version.shop, version.product, version.path)
          AND maker.status = 'completed' AND maker.version = version.digest AND maker.shop = job.shop
        ORDER BY version.path = job.path DESC, version.used_at DESC
    LOOP
        UPDATE worker.versions AS version SET used_at = now()
        WHERE version.path = known.path AND version.digest = known.digest
          AND version.rejected_at IS NULL AND version.doomed_at IS NULL;
        IF FOUND THEN
            job_id := known.job_id;
            same_product := known.path = job.path;
            stem := known.stem;
            digest := known.digest;
            files := known.files;
            report := known.report;
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
END $$;

-- Name a job's version as the published one of its path, unless a newer job's is published there; on purpose even then. NULL:
-- there is no such version any more. True: its files must be written there, and `holder` is the token with which the caller has
-- taken that for `hold_s` seconds. Without a holder, or while another publication is being written, a daemon does it.
--
-- The version that is replaced is kept from then on for as long as one that was just used, to the day.
CREATE OR REPLACE FUNCTION worker.publish(
    its_job uuid, its_path text, its_digest text, requested timestamptz, on_purpose boolean,
    holder uuid, hold_s double precision) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
    version worker.versions;
    before worker.published;
    -- Two that publish at the same path come one after the other, even if nothing is published there yet.
    turn CONSTANT text := pg_advisory_xact_lock(hashtextextended('worker publish ' || its_path, 0))::text;
    anew boolean;
    now_holder uuid;
    now_due timestamptz;
BEGIN
    SELECT * INTO version FROM worker.versions AS one WHERE one.path = its_path AND one.digest = its_digest;
    -- One that was just begun is not written again: nobody dooms it today.
    IF version.job_id IS DISTINCT FROM its_job OR version.doomed_at IS NOT NULL OR version.used_at < now() - interval '1 h' THEN
        UPDATE worker.versions AS one SET used_at = now(), job_id = its_job
        WHERE one.path = its_path AND one.digest = its_digest AND one.doomed_at IS NULL;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    SELECT * INTO before FROM worker.published AS one WHERE one.path = its_path;
    IF NOT FOUND THEN
        INSERT INTO worker.published (path, stem, shop, product, digest, job_id, requested_at, token, next_try_at, tries)
        VALUES (its_path, version.stem, version.shop, version.product, its_digest, its_job, requested, holder,
            now() + make_interval(secs => CASE WHEN holder IS NULL THEN 0 ELSE hold_s END),
            CASE WHEN holder IS NULL THEN 0 ELSE 1 END)
        RETURNING token, next_try_at INTO now_holder, now_due;
    ELSIF before.requested_at <= requested OR on_purpose THEN
        -- Who asks on purpose, or has the model made anew, may miss a file at the path that the database thinks is there.
        anew := on_purpose OR EXISTS (SELECT FROM public.jobs AS job WHERE job.id = publish.its_job AND job.refresh);
        UPDATE worker.published AS one
        SET digest = its_digest, job_id = its_job, requested_at = greatest(one.requested_at, requested),
            -- Tries that did not come to their end count on: see end_publication().
            tries = least(one.tries + CASE WHEN holder IS NULL THEN 0 ELSE 1 END, 1000),
            -- Whoever writes now finds the other digest at the end; two must not write at the same time.
            token = CASE WHEN one.token IS NOT NULL AND one.next_try_at > now() THEN one.token
                WHEN anew OR one.written IS DISTINCT FROM its_digest THEN holder END,
            next_try_at = CASE WHEN one.token IS NOT NULL AND one.next_try_at > now() THEN one.next_try_at
                WHEN anew OR one.written IS DISTINCT FROM its_digest
                    THEN now() + make_interval(secs => CASE WHEN holder IS NULL THEN 0 ELSE hold_s END)
                ELSE one.next_try_at END,
            written = CASE WHEN one.written = its_digest AND NOT anew THEN its_digest END
        WHERE one.path = its_path
        RETURNING one.token, one.next_try_at INTO now_holder, now_due;
        UPDATE worker.versions AS one SET used_at = now()
        WHERE one.path = its_path AND one.digest = before.digest AND before.digest <> its_digest AND one.doomed_at IS NULL
          AND one.used_at < now() - interval '1 day';
    ELSE
        RETURN false;
    END IF;
    IF now_due <= now() THEN
        PERFORM pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
    RETURN coalesce(now_holder = holder, false);
END $$;

-- Take the publication that has been due longest, for `hold_s` seconds. What lies at the path is not known from now on.
CREATE OR REPLACE FUNCTION worker.take_publication(
    hold_s double precision,
    OUT path text, OUT stem text, OUT shop text, OUT digest text, OUT job_id uuid, OUT token uuid, OUT files jsonb)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        UPDATE worker.published AS one
        SET token = gen_random_uuid(), next_try_at = now() + make_interval(secs => hold_s), written = NULL,
            tries = least(one.tries + 1, 1000)
        FROM worker.versions AS version
        WHERE version.path = one.path AND version.digest = one.digest AND one.path = (
            SELECT due.path FROM worker.published AS due JOIN worker.versions AS stored USING (path, digest)
            WHERE due.next_try_at <= now() AND NOT worker.is_being_erased(due.shop, due.product, due.path)
            ORDER BY due.next_try_at LIMIT 1 FOR UPDATE OF due SKIP LOCKED)
        RETURNING one.path, one.stem, one.shop, one.digest, one.job_id, one.token, version.files;
END $$;

-- Keep a taken publication for `hold_s` more seconds. False: write nothing more; another daemon has it, another version is
-- to be published, or an erasure has begun.
CREATE OR REPLACE FUNCTION worker.hold_publication(its_path text, its_token uuid, its_digest text, hold_s double precision)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
BEGIN
    UPDATE worker.published AS one SET next_try_at = now() + make_interval(secs => hold_s)
    WHERE one.path = its_path AND one.token = its_token AND one.digest = its_digest
      AND NOT worker.is_being_erased(one.shop, one.product, one.path);
    IF FOUND THEN
        RETURN true;
    END IF;
    PERFORM worker.put_back_publication(its_path, its_token, NULL);
    RETURN false;
END $$;

-- End a taken publication whose files all lie at the path. False as in hold_publication(). If an earlier try did not come to
-- its end, a file of it may still be on its way to the store: so all files are written once more when it has surely arrived.
-- It does not wait until the disk has it: if the server dies before, the files are written once more, too.
CREATE OR REPLACE FUNCTION worker.end_publication(its_path text, its_token uuid, its_digest text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
DECLARE
    key CONSTANT text := set_config('synchronous_commit', 'off', true);
BEGIN
    UPDATE worker.published AS one
    SET written = digest, token = NULL, tries = 0, last_error = NULL,
        next_try_at = CASE WHEN tries > 1 THEN now() + interval '30 s' END
    WHERE one.path = its_path AND one.token = its_token AND one.digest = its_digest;
    IF FOUND THEN
        RETURN true;
    END IF;
    PERFORM worker.put_back_publication(its_path, its_token, NULL);
    RETURN false;
END $$;

-- End a publication as above and claim the next job. Returns what worker.complete_and_claim() does; null if the publication was
-- not the caller's any more.
CREATE OR REPLACE FUNCTION worker.end_publication_and_claim(
    its_path text, its_token uuid, its_digest text,
    claimer text, claimer_host text, pools text[], engine text, lease_s double precision, shop_limit int)
RETURNS record
LANGUAGE plpgsql VOLATILE SET lock_timeout = '100ms' AS $$
DECLARE
    claimed worker.claimed_job;
BEGIN
    IF NOT worker.end_publication(its_path, its_token, its_digest) THEN
        RETURN NULL;
    END IF;
    claimed := worker.take_next(claimer, claimer_host, pools, engine, lease_s, shop_limit, true);
    claimed.to_publish := NULL;  -- a value, even if no job was claimed
    RETURN claimed;
END $$;

-- Put a taken publication back: with an error it is due after the wait of a failed attempt, else at once. Returns when. No row:
-- another daemon has it.
CREATE OR REPLACE FUNCTION worker.put_back_publication(its_path text, its_token uuid, error text) RETURNS SETOF timestamptz
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
        UPDATE worker.published AS one
        SET token = NULL, last_error = error,
            next_try_at = now() + CASE WHEN error IS NULL THEN '0' ELSE worker.retry_wait(least(tries, 20)) END
        WHERE one.path = its_path AND one.token = its_token
        RETURNING one.next_try_at;
    IF FOUND AND error IS NULL THEN
        PERFORM pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
END $$;

-- Have a path written anew, at which a file of another version may lie: whoever calls has lost its publication while it wrote
-- one. A file of the version that is published now does no harm. False: nothing is published there, because the product was erased.
CREATE OR REPLACE FUNCTION worker.doubt_publication(its_path text, its_digest text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
BEGIN
    UPDATE worker.published AS one SET written = NULL, token = NULL, next_try_at = now()
    WHERE one.path = its_path AND one.digest <> its_digest;
    IF FOUND THEN
        PERFORM pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
    RETURN EXISTS (SELECT FROM worker.published AS one WHERE one.path = its_path);
END $$;

-- Doom a version that is not there any more: whoever calls has lost its job while it stored a file, and an erasure may have removed
-- the version before that file arrived. While the row is there, nobody stores under these paths.
CREATE OR REPLACE FUNCTION worker.abandon_version(
    its_job uuid, its_shop text, its_product text, its_variant text, its_digest text, its_stem text, its_files jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, files, doomed_at, next_try_at)
    VALUES (worker.storage_path(its_shop, its_product, its_variant), its_digest, its_stem, its_shop,
        worker.last_part(its_product), its_job, its_files, now(), now())
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
END $$;

-- Doom those of the `batch` versions that were not used for longest, more than `days` days, that are neither published nor
-- wait for a review. The others count as used now, so that they do not stand in the way of the next batch. Returns how many
-- are doomed, and if there may be more.
CREATE OR REPLACE FUNCTION worker.doom_versions(days int, batch int, OUT doomed int, OUT more boolean)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
    seen int;
BEGIN
    WITH old AS MATERIALIZED (
        SELECT one.path, one.digest FROM worker.versions AS one
        WHERE one.doomed_at IS NULL AND one.used_at < now() - make_interval(days => days)
        ORDER BY one.used_at LIMIT batch FOR UPDATE SKIP LOCKED
    ), judged AS MATERIALIZED (
        SELECT old.path, old.digest,
            EXISTS (SELECT FROM worker.published AS one WHERE one.path = old.path AND one.digest = old.digest)
            OR (old.path, old.digest) IN (
                SELECT worker.storage_path(job.shop, job.product_id, job.variant_id), job.version
                FROM public.jobs AS job WHERE job.review = 'wanted') AS is_kept
        FROM old
    ), updated AS (
        UPDATE worker.versions AS one
        SET used_at = CASE WHEN is_kept THEN now() ELSE used_at END,
            doomed_at = CASE WHEN NOT is_kept THEN now() END, next_try_at = CASE WHEN NOT is_kept THEN now() END
        FROM judged WHERE one.path = judged.path AND one.digest = judged.digest
        RETURNING judged.is_kept
    )
    SELECT count(*), count(*) FILTER (WHERE NOT is_kept) INTO seen, doomed FROM updated;
    more := seen = batch;
    IF doomed > 0 THEN
        PERFORM pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
END $$;

-- Take the doomed version that has been due longest, for `hold_s` seconds.
CREATE OR REPLACE FUNCTION worker.take_doomed(
    hold_s double precision, OUT path text, OUT digest text, OUT stem text, OUT shop text, OUT token uuid)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        UPDATE worker.versions AS one
        SET token = gen_random_uuid(), next_try_at = now() + make_interval(secs => hold_s), tries = least(one.tries + 1, 1000)
        WHERE (one.path, one.digest) = (
            SELECT due.path, due.digest FROM worker.versions AS due
            WHERE due.next_try_at <= now() ORDER BY due.next_try_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING one.path, one.digest, one.stem, one.shop, one.token;
END $$;

-- Keep a taken version for `hold_s` more seconds. False: another daemon has it.
CREATE OR REPLACE FUNCTION worker.hold_doomed(its_path text, its_digest text, its_token uuid, hold_s double precision)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
BEGIN
    UPDATE worker.versions AS one SET next_try_at = now() + make_interval(secs => hold_s)
    WHERE one.path = its_path AND one.digest = its_digest AND one.token = its_token;
    RETURN FOUND;
END $$;

-- Delete a taken version whose files are gone. False: another daemon has it.
CREATE OR REPLACE FUNCTION worker.delete_doomed(its_path text, its_digest text, its_token uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM worker.versions AS one
    WHERE one.path = its_path AND one.digest = its_digest AND one.token = its_token;
    RETURN FOUND;
END $$;

-- Put a taken version back, as put_back_publication() does.
CREATE OR REPLACE FUNCTION worker.put_back_doomed(its_path text, its_digest text, its_token uuid, error text)
RETURNS SETOF timestamptz
LANGUAGE plpgsql VOLATILE SET lock_timeout = '4s' SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
        UPDATE worker.versions AS one
        SET token = NULL, last_error = error,
            next_try_at = now() + CASE WHEN error IS NULL THEN '0' ELSE worker.retry_wait(least(tries, 20)) END
        WHERE one.path = its_path AND one.digest = its_digest AND one.token = its_token
        RETURNING one.next_try_at;
    IF FOUND AND error IS NULL THEN
        PERFORM pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
END $$;

-- Return if files must be written or removed now, and else the seconds until they must be.
CREATE OR REPLACE FUNCTION worker.next_files(OUT due boolean, OUT seconds double precision)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    first timestamptz := least(
        (SELECT min(next_try_at) FROM worker.published WHERE next_try_at IS NOT NULL),
        (SELECT min(next_try_at) FROM worker.versions WHERE next_try_at IS NOT NULL),
        (SELECT min(next_try_at) FROM worker.erasures WHERE next_try_at IS NOT NULL));
BEGIN
    due := coalesce(first <= now(), false);
    seconds := CASE WHEN NOT due THEN extract(epoch FROM first - now()) END;
END $$;
