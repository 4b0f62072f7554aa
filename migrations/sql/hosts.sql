-- The register of hosts: which daemons run, what each can do, and which are paused. Every upgrade applies this file:
-- migrations/env.py. A daemon writes its row in the statement with which it looks for due jobs anyway.

-- True if a host has written its row within three beats.
CREATE OR REPLACE FUNCTION worker.is_live(seen_at timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT is_live.seen_at > now() - interval '30 s'
$$;

-- Return the pools and engines whose jobs are taken: those of the hosts that are live and not paused. SECURITY DEFINER: who
-- may read a view of the queue needs no right on the table.
CREATE OR REPLACE FUNCTION worker.served_lines() RETURNS TABLE (pool text, engine text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT DISTINCT unnest(host.pools), host.engine FROM worker.hosts AS host
    WHERE worker.is_live(host.seen_at) AND host.paused_at IS NULL
$$;

-- Write this daemon's row, and return what there is to do: see next_due() and, for `files_due`, next_files(). `batches_due`:
-- there are changes of batches to fold, see fold_batches(). `paused`: the host may claim nothing. `shared`: another daemon of
-- this name has written the row within three beats. A beat is left out while another session has the row locked.
CREATE OR REPLACE FUNCTION worker.check_in(
    host_name text, host_instance uuid, host_version text, host_engine text, host_pools text[], host_lanes int,
    host_devices text[], host_memory_mb int,
    OUT due boolean, OUT expired boolean, OUT late boolean, OUT files_due boolean, OUT batches_due boolean, OUT seconds double precision,
    OUT paused boolean, OUT shared boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known worker.hosts;
BEGIN
    SELECT * INTO known FROM worker.hosts WHERE name = host_name;
    IF NOT FOUND THEN
        INSERT INTO worker.hosts (name, instance, version, engine, pools, lanes, devices, memory_mb)
        VALUES (host_name, host_instance, host_version, host_engine, host_pools, host_lanes, host_devices, host_memory_mb)
        ON CONFLICT DO NOTHING;
    ELSIF known.instance <> host_instance OR known.lanes <> host_lanes OR known.seen_at < now() - interval '4 s' THEN
        UPDATE worker.hosts
        SET instance = host_instance, version = host_version, engine = host_engine, pools = host_pools,
            lanes = host_lanes, devices = host_devices, memory_mb = host_memory_mb, seen_at = now(), stopped_at = NULL,
            started_at = CASE WHEN instance = host_instance THEN started_at ELSE now() END
        WHERE name = (SELECT name FROM worker.hosts WHERE name = host_name FOR UPDATE SKIP LOCKED);
    END IF;
    paused := known.paused_at IS NOT NULL;
    shared := coalesce(
        known.instance <> host_instance AND worker.is_live(known.seen_at) AND known.stopped_at IS NULL, false);
    SELECT next.due, next.expired, next.late, files.due, least(next.seconds, files.seconds)
        INTO due, expired, late, files_due, seconds
        FROM worker.next_due(host_pools, host_engine) AS next CROSS JOIN worker.next_files() AS files;
    batches_due := EXISTS (SELECT FROM worker.batch_changes);
END $$;

-- Take a daemon that has stopped out of the register. A paused host stays, so that it is paused when it starts again; its row
-- says that it has stopped.
CREATE OR REPLACE FUNCTION worker.check_out(host_name text, host_instance uuid) RETURNS void
LANGUAGE sql VOLATILE SET search_path = '' AS $$
    DELETE FROM worker.hosts WHERE name = host_name AND instance = host_instance AND paused_at IS NULL;
    UPDATE worker.hosts SET seen_at = now(), stopped_at = now() WHERE name = host_name AND instance = host_instance
$$;

-- SECURITY DEFINER: a backend that may pause a host needs no right on the table.
CREATE OR REPLACE FUNCTION public.pause_host(name text) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
    WITH updated AS (
        UPDATE worker.hosts SET paused_at = coalesce(paused_at, now()) WHERE hosts.name = pause_host.name RETURNING 1)
    SELECT EXISTS (SELECT FROM updated)
$$;

COMMENT ON FUNCTION public.pause_host IS
'Let a host claim no more jobs, until resume_host. What it runs is finished. False if no host has this name.';

CREATE OR REPLACE FUNCTION public.resume_host(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    -- Of a host that is gone nothing is left to keep. It enters itself anew when it starts.
    DELETE FROM worker.hosts
    WHERE hosts.name = resume_host.name AND (hosts.stopped_at IS NOT NULL OR NOT worker.is_live(hosts.seen_at));
    IF FOUND THEN
        RETURN true;
    END IF;
    UPDATE worker.hosts SET paused_at = NULL WHERE hosts.name = resume_host.name;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM pg_notify('worker_jobs', '') WHERE pg_notification_queue_usage() < 0.9;
    RETURN true;
END $$;

COMMENT ON FUNCTION public.resume_host IS
'Let a paused host claim jobs again, or forget a host that is gone. False if no host has this name.';
