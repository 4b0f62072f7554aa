-- Every statement that the worker runs on worker.versions and worker.published. Each is one transaction. The rules are in
-- migrations/sql/versions.sql.

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

-- name: put_back_publication
-- Put a publication back. Return when it is due.
SELECT due_at FROM worker.put_back_publication(:path, CAST(:token AS uuid), :error) AS due_at;

-- name: doubt_publication
-- Have a path written anew, at which a file of this version may lie though another one is published.
SELECT worker.doubt_publication(:path, :digest);

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
