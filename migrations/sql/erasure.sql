-- Erasures: what a shop, a product or a variant has here is forgotten, files first, rows after them. Every upgrade applies
-- this file: migrations/env.py. worker/versions/erase.py carries an erasure out, step by step, each in a transaction of its
-- own; any daemon may go on with it after another one has died.
--
-- An erasure covers what was there when it was called: rows that were inserted before `requested_at`, and the versions that
-- only such rows have made. While it is not done, no job of what it covers begins a version, and nothing of it is published.
-- So files that appear meanwhile cannot be taken for old ones.

-- True if the erasure is of this product or variant, or of its shop. A gid and its last part are the same.
CREATE OR REPLACE FUNCTION worker.is_covered(erasure worker.erasures, its_shop text, its_product text, its_variant text)
RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT its_shop = erasure.shop AND (erasure.product IS NULL
        OR worker.storage_path(its_shop, its_product, CASE WHEN erasure.variant IS NOT NULL THEN its_variant END)
            = worker.storage_path(erasure.shop, erasure.product, erasure.variant))
$$;

-- The same for a row of worker.versions or worker.published: `its_product` is the last part of the product's id.
CREATE OR REPLACE FUNCTION worker.covers_path(erasure worker.erasures, its_shop text, its_product text, its_path text)
RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT its_shop = erasure.shop AND (erasure.product IS NULL OR its_product = erasure.product
        AND (erasure.variant IS NULL OR its_path = worker.storage_path(erasure.shop, erasure.product, erasure.variant)))
$$;

-- True while an erasure of this path is not done: nothing may be stored or published there, and no known result is served.
CREATE OR REPLACE FUNCTION worker.is_being_erased(its_shop text, its_product text, its_path text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM worker.erasures AS erasure
        WHERE erasure.next_try_at IS NOT NULL AND worker.covers_path(erasure, its_shop, its_product, its_path))
$$;

-- Return the part of an id that people know, as last_part() in worker/storage/paths.py does.
CREATE OR REPLACE FUNCTION worker.last_part(gid text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(regexp_replace(last_part.gid, '^gid:/(/.*)?/', ''), ''), last_part.gid)
$$;

-- Begin an erasure and wake the daemons. The shop's limits and its name in the counts by day go at once, because nobody
-- could tell later if they were there before. It touches no job, so that the call is quick however many there are, and so that none of the app's
-- triggers runs with this function's rights.
CREATE OR REPLACE FUNCTION worker.begin_erasure(its_shop text, its_product text, its_variant text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
#variable_conflict use_variable
DECLARE
    erasure uuid;
BEGIN
    IF btrim(coalesce(its_shop, '')) = '' OR length(its_shop) > 255 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'shop must have 1 to 255 characters';
    ELSIF btrim(its_product) = '' OR length(its_product) > 255 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'product_id must have 1 to 255 characters';
    ELSIF btrim(its_variant) = '' OR length(its_variant) > 255 OR its_variant IS NOT NULL AND its_product IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'variant_id must have 1 to 255 characters and needs a product_id';
    END IF;
    -- clock_timestamp, as for created_at: what the same transaction inserts after this call stays.
    INSERT INTO worker.erasures (shop, product, variant, requested_at)
    VALUES (its_shop, worker.last_part(its_product), worker.last_part(its_variant), clock_timestamp())
    RETURNING id INTO erasure;
    IF its_product IS NULL THEN
        DELETE FROM worker.shop_limits WHERE shop = its_shop;
        PERFORM worker.forget_usage(its_shop);
        -- The next forecast knows what is left of the shop.
        DELETE FROM worker.forecasts WHERE shop = its_shop;
        DELETE FROM worker.batch_forecasts WHERE shop = its_shop;
    END IF;
    PERFORM pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
    RETURN erasure;
END $$;

-- SECURITY DEFINER: a backend that may have a shop forgotten needs no right on the tables.
CREATE OR REPLACE FUNCTION public.forget_shop(shop text) RETURNS uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
    SELECT worker.begin_erasure(forget_shop.shop, NULL, NULL)
$$;

COMMENT ON FUNCTION public.forget_shop IS
'Forget all files and rows that a shop has now. A daemon does it. Returns the id of the erasure, which shop.erased names.';

CREATE OR REPLACE FUNCTION public.forget_product(shop text, product_id text) RETURNS uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
    SELECT worker.begin_erasure(forget_product.shop, coalesce(forget_product.product_id, ''), NULL)
$$;

COMMENT ON FUNCTION public.forget_product IS
'Forget all files and rows that a product has now, with its variants. A daemon does it. Returns the id of the erasure.';

-- Keep a taken erasure for `lease_s` more seconds. No row: another daemon has it, or it is done.
CREATE OR REPLACE FUNCTION worker.hold_erasure(erasure uuid, its_token uuid, lease_s double precision)
RETURNS SETOF worker.erasures
LANGUAGE sql VOLATILE AS $$
    UPDATE worker.erasures SET next_try_at = now() + make_interval(secs => lease_s)
    WHERE id = erasure AND token = its_token AND done_at IS NULL
    RETURNING *
$$;

-- Ask the running jobs that an erasure covers to stop. Returns how many of them run, and how many publications are being
-- written. A job or a publication whose lease has expired does not count: whoever had it writes nothing more to the
-- database, and removes what it stores in vain. `wait_s`: the store may still receive a file that one of these has sent, until
-- `quiet_s` seconds after the end of its lease. No row: another daemon has the erasure.
CREATE OR REPLACE FUNCTION worker.stop_erased_jobs(
    erasure uuid, its_token uuid, lease_s double precision, quiet_s double precision,
    OUT running int, OUT publishing int, OUT wait_s double precision) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    mine worker.erasures;
    seen int;
BEGIN
    SELECT * INTO mine FROM worker.hold_erasure(erasure, its_token, lease_s);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- A transaction that has not seen the erasure may be about to begin a version. Every later one sees it.
    PERFORM pg_advisory_xact_lock(hashtextextended('worker erasure ' || mine.shop, 0));
    UPDATE public.jobs SET cancel_requested_at = now()
    WHERE id = ANY (ARRAY(
        SELECT job.id FROM public.jobs AS job
        WHERE job.status = 'processing' AND job.cancel_requested_at IS NULL AND job.created_at < mine.requested_at
          AND worker.is_covered(mine, job.shop, job.product_id, job.variant_id)
        FOR UPDATE SKIP LOCKED));
    SELECT count(*) FILTER (WHERE job.lease_expires_at >= now()), count(*) INTO running, seen FROM public.jobs AS job
    WHERE job.status = 'processing' AND job.created_at < mine.requested_at
      AND job.lease_expires_at >= now() - make_interval(secs => quiet_s)
      AND worker.is_covered(mine, job.shop, job.product_id, job.variant_id);
    SELECT count(*) FILTER (WHERE one.next_try_at >= now()), count(*) + seen INTO publishing, seen FROM worker.published AS one
    WHERE one.token IS NOT NULL AND one.next_try_at >= now() - make_interval(secs => quiet_s)
      AND worker.covers_path(mine, one.shop, one.product, one.path);
    IF seen > 0 THEN
        mine.quiet_at := now() + make_interval(secs => quiet_s);
        UPDATE worker.erasures AS one SET quiet_at = mine.quiet_at WHERE one.id = erasure;
    END IF;
    wait_s := greatest(extract(epoch FROM mine.quiet_at - now()), 0);
    RETURN NEXT;
END $$;

-- Delete the jobs that wait, and with `ended` also those that have ended, among the next `batch` rows of the shop after the
-- last one that was looked at; with their events and attempts. Jobs of lost workers count as waiting. A row that another
-- session has locked stays for a later round. Returns the last row, if there are more after it.
CREATE OR REPLACE FUNCTION worker.delete_erased_jobs(
    erasure uuid, its_token uuid, lease_s double precision, after_time timestamptz, after_id uuid, batch int, ended boolean,
    OUT last_time timestamptz, OUT last_id uuid, OUT more boolean) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    mine worker.erasures;
    seen uuid[];
    doomed uuid[];
    doomed_paths text[];
    gone_events int;
    gone_jobs int;
BEGIN
    SELECT * INTO mine FROM worker.hold_erasure(erasure, its_token, lease_s);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT array_agg(row.id ORDER BY row.created_at, row.id), max(row.created_at) INTO seen, last_time FROM (
        SELECT job.id, job.created_at FROM public.jobs AS job
        WHERE job.shop = mine.shop AND job.created_at < mine.requested_at
          AND job.created_at >= after_time AND (job.created_at, job.id) > (after_time, after_id)
        ORDER BY job.created_at, job.id LIMIT batch) AS row;
    SELECT array_agg(row.id), array_agg(DISTINCT row.path) INTO doomed, doomed_paths FROM (
        SELECT job.id, worker.storage_path(job.shop, job.product_id, job.variant_id) AS path FROM public.jobs AS job
        WHERE job.id = ANY (seen) AND worker.is_covered(mine, job.shop, job.product_id, job.variant_id)
          AND (job.status = 'pending' OR job.status = 'processing' AND job.lease_expires_at < now()
               OR ended AND job.completed_at IS NOT NULL)
        FOR UPDATE SKIP LOCKED) AS row;
    DELETE FROM worker.outbox WHERE job_id = ANY (doomed);
    GET DIAGNOSTICS gone_events = ROW_COUNT;
    DELETE FROM public.jobs WHERE id = ANY (doomed);
    GET DIAGNOSTICS gone_jobs = ROW_COUNT;
    DELETE FROM worker.superseded WHERE path = ANY (doomed_paths);
    UPDATE worker.erasures AS one SET jobs = one.jobs + gone_jobs, events = one.events + gone_events WHERE one.id = erasure;
    more := coalesce(cardinality(seen), 0) = batch;
    last_id := seen[cardinality(seen)];
    RETURN NEXT;
END $$;

-- True if a job that is there and that the erasure does not cover, because it was inserted later, has made this version last.
CREATE OR REPLACE FUNCTION worker.came_later(erasure worker.erasures, maker uuid) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM public.jobs AS job
        WHERE job.id = came_later.maker AND job.created_at >= (came_later.erasure).requested_at)
$$;

-- Return the versions that stay, because later jobs have made them: their files must not be removed. `published`: their files
-- lie at the published path too, all of them.
CREATE OR REPLACE FUNCTION worker.list_kept_versions(erasure uuid)
RETURNS TABLE (stem text, digest text, endings text[], published boolean)
LANGUAGE sql STABLE AS $$
    SELECT version.stem, version.digest, ARRAY(SELECT jsonb_object_keys(version.files)),
        EXISTS (SELECT FROM worker.published AS one WHERE one.path = version.path AND one.written = version.digest
                AND one.digest = version.digest AND worker.came_later(mine, one.job_id))
    FROM worker.erasures AS mine JOIN worker.versions AS version
        ON worker.covers_path(mine, version.shop, version.product, version.path)
    WHERE mine.id = list_kept_versions.erasure AND worker.came_later(mine, version.job_id)
$$;

-- Count files whose removal has begun. `listed` are all that were found since the first of them was removed; a daemon that goes
-- on for another one finds fewer, and the greater number is right.
CREATE OR REPLACE FUNCTION worker.count_erased_files(
    erasure uuid, its_token uuid, lease_s double precision, listed int) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM worker.hold_erasure(erasure, its_token, lease_s);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE worker.erasures AS one SET files = greatest(one.files, listed) WHERE one.id = erasure;
    RETURN true;
END $$;

-- Delete up to `batch` of the versions whose files are removed, and what is published of them. Returns if there may be more. No
-- row: another daemon has the erasure.
CREATE OR REPLACE FUNCTION worker.delete_erased_versions(
    erasure uuid, its_token uuid, lease_s double precision, batch int) RETURNS SETOF boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    mine worker.erasures;
    gone int;
BEGIN
    SELECT * INTO mine FROM worker.hold_erasure(erasure, its_token, lease_s);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM worker.versions AS version USING (
        SELECT each.path, each.digest FROM worker.versions AS each
        WHERE each.shop = mine.shop AND worker.covers_path(mine, each.shop, each.product, each.path)
          AND NOT worker.came_later(mine, each.job_id)
        LIMIT batch FOR UPDATE) AS doomed
    WHERE version.path = doomed.path AND version.digest = doomed.digest;
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM worker.published WHERE path = ANY (ARRAY(
        SELECT each.path FROM worker.published AS each
        WHERE each.shop = mine.shop AND worker.covers_path(mine, each.shop, each.product, each.path)
          AND NOT worker.came_later(mine, each.job_id)
        LIMIT batch FOR UPDATE));
    UPDATE worker.erasures AS one SET versions = one.versions + gone WHERE one.id = erasure;
    RETURN NEXT gone = batch OR EXISTS (
        SELECT FROM worker.published AS each
        WHERE each.shop = mine.shop AND worker.covers_path(mine, each.shop, each.product, each.path)
          AND NOT worker.came_later(mine, each.job_id));
END $$;

-- True if an event of the shop is not of a later job, nor of a batch that has one.
CREATE OR REPLACE FUNCTION worker.is_erased_event(erasure worker.erasures, event worker.outbox) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN event.job_id IS NULL
        THEN event.created_at < erasure.requested_at OR NOT EXISTS (
            SELECT FROM public.jobs AS job
            WHERE job.shop = event.shop AND job.batch = (is_erased_event.event).body::jsonb ->> 'batch')
        ELSE event.created_at < erasure.requested_at AND NOT worker.came_later(erasure, event.job_id) END
$$;

-- Delete what the next `batch` events after `after_seq` hold of a shop that is forgotten: events of the shop as a whole, and
-- those of rows that were the shop's once. Returns the last event, null at the end. No row: another daemon has the erasure.
CREATE OR REPLACE FUNCTION worker.delete_erased_events(
    erasure uuid, its_token uuid, lease_s double precision, after_seq bigint, batch int) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    mine worker.erasures;
    last_seq bigint;
    gone int := 0;
    event worker.outbox;
BEGIN
    SELECT * INTO mine FROM worker.hold_erasure(erasure, its_token, lease_s);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    last_seq := (
        SELECT max(few.seq) FROM (
            SELECT one.seq FROM worker.outbox AS one WHERE one.seq > after_seq ORDER BY one.seq LIMIT batch) AS few);
    FOR event IN
        DELETE FROM worker.outbox AS one
        WHERE one.seq > after_seq AND one.seq <= last_seq AND one.shop = mine.shop AND worker.is_erased_event(mine, one)
        RETURNING *
    LOOP
        gone := gone + 1;
        PERFORM worker.release_events(event.shop, event.job_id);
    END LOOP;
    UPDATE worker.erasures AS one SET events = one.events + gone WHERE one.id = erasure AND gone > 0;
    RETURN NEXT last_seq;
END $$;

-- End an erasure of which nothing is left, and those before it that it contains: forget their names and write `shop.erased`.
-- The event names no shop. Returns the erasures that have ended; none if something is left, or another daemon has it.
CREATE OR REPLACE FUNCTION worker.finish_erasure(erasure uuid, its_token uuid, lease_s double precision)
RETURNS SETOF worker.erasures
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    mine worker.erasures;
    done worker.erasures;
    next_seq bigint;
BEGIN
    SELECT * INTO mine FROM worker.hold_erasure(erasure, its_token, lease_s);
    IF NOT FOUND
        OR EXISTS (
            SELECT FROM public.jobs AS job
            WHERE job.shop = mine.shop AND job.created_at < mine.requested_at
              AND worker.is_covered(mine, job.shop, job.product_id, job.variant_id))
        OR EXISTS (
            SELECT FROM worker.versions AS version
            WHERE version.shop = mine.shop AND worker.covers_path(mine, version.shop, version.product, version.path)
              AND NOT worker.came_later(mine, version.job_id))
    THEN
        RETURN;
    END IF;
    IF mine.product IS NULL THEN
        PERFORM worker.recount_batches(mine.shop);
        -- The end of a batch that its last jobs have brought about.
        DELETE FROM worker.outbox AS event
        WHERE event.shop = mine.shop AND event.job_id IS NULL AND event.delivered_at IS NULL AND event.dead_at IS NULL
          AND worker.is_erased_event(mine, event);
        -- What the last of its jobs have added after the call, unless the shop has come back.
        PERFORM worker.forget_usage(mine.shop) WHERE NOT EXISTS (SELECT FROM public.jobs AS job WHERE job.shop = mine.shop);
    END IF;
    FOR done IN
        UPDATE worker.erasures AS one
        SET shop = NULL, product = NULL, variant = NULL, done_at = now(), quiet_at = NULL, token = NULL,
            next_try_at = NULL, last_error = NULL
        WHERE one.next_try_at IS NOT NULL AND one.requested_at <= mine.requested_at
          AND worker.is_covered(mine, one.shop, one.product, one.variant)
        RETURNING *
    LOOP
        next_seq := nextval('worker.outbox_seq_seq');
        INSERT INTO worker.outbox (seq, type, shop, terminal, next_attempt_at, body)
        VALUES (next_seq, 'shop.erased', '', true, now(), jsonb_build_object(
            'erasureId', done.id, 'seq', next_seq, 'jobs', done.jobs, 'versions', done.versions, 'files', done.files,
            'events', done.events)::text);
        RETURN NEXT done;
    END LOOP;
    -- Publications of later jobs have waited for this.
    PERFORM pg_notify('worker_webhooks', ''), pg_notify('worker_files', '') WHERE pg_notification_queue_usage() < 0.9;
END $$;
