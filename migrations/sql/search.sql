-- The names by which people look for a job: worker.search. Every upgrade applies this file: migrations/env.py.
--
-- Rows are written when a job is inserted, and when a backend changes one of the names later; worker.forget_jobs() deletes
-- them with the job. The daemon's own statements name none of these columns, so they never come here.

-- Write down the names of new jobs. SECURITY DEFINER: who may insert a job needs no right on the table.
CREATE OR REPLACE FUNCTION worker.add_to_search() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    INSERT INTO worker.search (created_at, job_id, product, variant, handle, batch)
    SELECT created_at, id, worker.last_part(product_id), worker.last_part(variant_id), lower(product_handle), batch FROM fresh;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER add_to_search AFTER INSERT ON public.jobs REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION worker.add_to_search();

-- Write down the new names of a job.
CREATE OR REPLACE FUNCTION worker.rename_in_search() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
BEGIN
    UPDATE worker.search
    SET product = worker.last_part(NEW.product_id), variant = worker.last_part(NEW.variant_id),
        handle = lower(NEW.product_handle)
    WHERE created_at = NEW.created_at AND job_id = NEW.id;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER rename_in_search AFTER UPDATE OF product_id, variant_id, product_handle ON public.jobs
FOR EACH ROW WHEN ((OLD.product_id, OLD.variant_id, OLD.product_handle)
    IS DISTINCT FROM (NEW.product_id, NEW.variant_id, NEW.product_handle))
EXECUTE FUNCTION worker.rename_in_search();
