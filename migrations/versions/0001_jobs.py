"""The jobs table, the rules that a row can state, and the triggers that keep them."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TYPE public.job_status AS ENUM ('pending', 'processing', 'completed', 'failed', 'cancelled')"
    )
    op.execute(r"""
        CREATE TABLE public.jobs (
            -- what the backend says
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            shop text NOT NULL,
            product_id text NOT NULL,
            variant_id text,
            product_handle text,
            image_urls text[] NOT NULL,
            quality text NOT NULL DEFAULT 'balanced',
            priority smallint NOT NULL DEFAULT 0,
            run_after timestamptz NOT NULL DEFAULT now(),
            max_attempts smallint NOT NULL DEFAULT 3,
            metadata jsonb NOT NULL DEFAULT '{}',
            -- what the worker says
            status public.job_status NOT NULL DEFAULT 'pending',
            progress smallint NOT NULL DEFAULT 0,
            stage text,
            attempts smallint NOT NULL DEFAULT 0,
            model_url text,
            error_code text,
            error_message text,
            lease_token uuid,
            lease_expires_at timestamptz,
            claimed_by text,
            cancel_requested_at timestamptz,
            -- what the database's clock says
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            started_at timestamptz,
            completed_at timestamptz,

            CONSTRAINT shop_is_1_to_255_characters
                CHECK (btrim(shop) <> '' AND length(shop) <= 255),
            CONSTRAINT product_id_is_1_to_255_characters
                CHECK (btrim(product_id) <> '' AND length(product_id) <= 255),
            CONSTRAINT variant_id_is_1_to_255_characters
                CHECK (btrim(variant_id) <> '' AND length(variant_id) <= 255),
            CONSTRAINT image_urls_are_1_to_16
                CHECK (cardinality(image_urls) BETWEEN 1 AND 16),
            CONSTRAINT image_urls_are_http_or_https
                CHECK (array_to_string(image_urls, E'\n', '')
                       ~* '^https?://[^[:space:]]+(\nhttps?://[^[:space:]]+)*$'),
            CONSTRAINT quality_is_fast_balanced_or_quality
                CHECK (quality IN ('fast', 'balanced', 'quality')),
            CONSTRAINT max_attempts_is_1_to_25
                CHECK (max_attempts BETWEEN 1 AND 25),
            CONSTRAINT metadata_is_an_object
                CHECK (jsonb_typeof(metadata) = 'object'),
            CONSTRAINT progress_is_0_to_100
                CHECK (progress BETWEEN 0 AND 100),
            CONSTRAINT attempts_are_0_to_max_attempts
                CHECK (attempts BETWEEN 0 AND max_attempts),
            CONSTRAINT pending_has_no_progress
                CHECK (status <> 'pending' OR (progress = 0 AND stage IS NULL)),
            CONSTRAINT processing_has_a_lease_and_nothing_else_has
                CHECK ((status = 'processing') = (lease_token IS NOT NULL)
                       AND (status = 'processing') = (lease_expires_at IS NOT NULL)
                       AND (status = 'processing') = (claimed_by IS NOT NULL)
                       AND (status <> 'processing' OR started_at IS NOT NULL)),
            CONSTRAINT ended_has_completed_at_and_nothing_else_has
                CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)),
            CONSTRAINT completed_has_model_url_and_100
                CHECK (CASE WHEN status = 'completed' THEN progress = 100 AND model_url IS NOT NULL
                            ELSE progress <> 100 END),
            CONSTRAINT failed_has_error_code_and_message
                CHECK (status <> 'failed' OR (error_code IS NOT NULL AND error_message IS NOT NULL))
        )
        WITH (
            -- Progress and renewals rewrite a row a dozen times: room on the page keeps those updates off the indexes,
            -- and vacuum comes after thousands of dead rows, not after a fifth of the history.
            fillfactor = 75,
            autovacuum_vacuum_scale_factor = 0.01,
            autovacuum_vacuum_threshold = 200,
            autovacuum_analyze_scale_factor = 0.02
        )
    """)
    # The claim's order. Only waiting rows are in it, so it stays small whatever the history.
    op.execute(
        "CREATE INDEX jobs_pending ON public.jobs (priority DESC, created_at) WHERE status = 'pending'"
    )
    # The rescue's few rows. lease_expires_at is left out on purpose: indexed, every renewal would touch the index.
    op.execute("CREATE INDEX jobs_processing ON public.jobs (claimed_by) WHERE status = 'processing'")
    op.execute("CREATE INDEX jobs_ended ON public.jobs (completed_at) WHERE completed_at IS NOT NULL")
    op.execute("CREATE INDEX jobs_product ON public.jobs (shop, product_id, created_at)")
    op.execute("""
        COMMENT ON TABLE public.jobs IS
        'Product photos to be made into 3D models. Insert shop, product_id and image_urls; read status, progress, '
        'model_url and error_message. The worker owns the rest.'
    """)

    op.execute("""
        CREATE FUNCTION worker.receive_job() RETURNS trigger
        LANGUAGE plpgsql SET search_path = '' AS $$
        BEGIN
            IF NEW.image_urls IS NULL AND jsonb_typeof(NEW.metadata -> 'image_urls') = 'array' THEN
                NEW.image_urls := ARRAY(SELECT jsonb_array_elements_text(NEW.metadata -> 'image_urls'));
            END IF;
            -- clock_timestamp, not now: rows of one transaction keep the order in which they came.
            NEW.created_at := clock_timestamp();
            NEW.updated_at := NEW.created_at;
            RETURN NEW;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER receive_job BEFORE INSERT ON public.jobs
        FOR EACH ROW EXECUTE FUNCTION worker.receive_job()
    """)

    # Who may move a row forward shows a key, valid for one transaction: the setting `worker.lease` holds the row's
    # lease token, or the word 'queue' in the queue's own statements (claim, rescue, retry), whose WHERE is their rule.
    # Everybody else's update is reduced to what is theirs. This stops mistakes, such as a backend's late webhook
    # handler that writes an old status back; it is no protection against a role that is allowed to do harm.
    op.execute("""
        CREATE FUNCTION worker.guard_job() RETURNS trigger
        LANGUAGE plpgsql SET search_path = '' AS $$
        DECLARE
            guarded CONSTANT text[] := ARRAY[
                'id', 'status', 'progress', 'stage', 'attempts', 'model_url', 'error_code', 'error_message',
                'lease_token', 'lease_expires_at', 'claimed_by', 'created_at', 'started_at', 'completed_at'];
            before jsonb;
            wanted jsonb;
            refused text;
        BEGIN
            IF current_setting('worker.lease', true) IN ('queue', OLD.lease_token::text) THEN
                NEW.updated_at := clock_timestamp();
                RETURN NEW;
            END IF;

            before := to_jsonb(OLD);
            wanted := to_jsonb(NEW);
            SELECT string_agg(name, ', ' ORDER BY name) INTO refused
                FROM unnest(guarded) AS name WHERE before -> name IS DISTINCT FROM wanted -> name;
            IF refused IS NOT NULL THEN
                RAISE WARNING 'job %: % not changed, because only the worker that holds the lease may do so', OLD.id, refused
                    USING HINT = 'To run a finished job again: SELECT retry_job(id). To stop one: SELECT cancel_job(id).';
                NEW := jsonb_populate_record(NEW, (
                    SELECT jsonb_object_agg(key, value) FROM jsonb_each(before) WHERE key = ANY (guarded)));
            END IF;

            -- The backend's keys are merged, ours are kept.
            NEW.metadata := CASE WHEN jsonb_typeof(NEW.metadata) = 'object'
                THEN OLD.metadata || (NEW.metadata - 'worker') ELSE OLD.metadata END;

            IF NEW.cancel_requested_at IS DISTINCT FROM OLD.cancel_requested_at THEN
                NEW.cancel_requested_at := CASE
                    WHEN OLD.completed_at IS NOT NULL THEN OLD.cancel_requested_at
                    WHEN NEW.cancel_requested_at IS NOT NULL THEN clock_timestamp() END;
                IF OLD.status = 'pending' AND NEW.cancel_requested_at IS NOT NULL THEN
                    NEW.status := 'cancelled';
                    NEW.completed_at := NEW.cancel_requested_at;
                END IF;
            END IF;

            NEW.updated_at := OLD.updated_at;
            IF NEW IS DISTINCT FROM OLD THEN
                NEW.updated_at := clock_timestamp();
            END IF;
            RETURN NEW;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER guard_job BEFORE UPDATE ON public.jobs
        FOR EACH ROW EXECUTE FUNCTION worker.guard_job()
    """)

    # Waiting lanes are woken once a statement, however many rows it inserts.
    op.execute("""
        CREATE FUNCTION worker.wake() RETURNS trigger
        LANGUAGE plpgsql SET search_path = '' AS $$
        BEGIN
            PERFORM pg_notify('worker_jobs', '');
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER wake_on_insert AFTER INSERT ON public.jobs
        FOR EACH STATEMENT EXECUTE FUNCTION worker.wake()
    """)

    op.execute("""
        CREATE FUNCTION public.cancel_job(job_id uuid) RETURNS boolean
        LANGUAGE sql SET search_path = '' AS $$
            WITH asked AS (
                UPDATE public.jobs SET cancel_requested_at = now()
                WHERE id = job_id AND status IN ('pending', 'processing') RETURNING 1)
            SELECT EXISTS (SELECT FROM asked)
        $$
    """)
    op.execute(
        "COMMENT ON FUNCTION public.cancel_job IS 'Ends a job that has not ended; false where there is none.'"
    )
    # set_config and not a SET clause of the function: that would need a superuser, which Supabase's postgres is not.
    op.execute("""
        CREATE FUNCTION public.retry_job(job_id uuid) RETURNS boolean
        LANGUAGE plpgsql SET search_path = '' AS $$
        DECLARE
            key text := coalesce(current_setting('worker.lease', true), '');
            again boolean;
        BEGIN
            PERFORM set_config('worker.lease', 'queue', true);
            UPDATE public.jobs
            SET status = 'pending', progress = 0, stage = NULL, attempts = 0, run_after = now(), model_url = NULL,
                error_code = NULL, error_message = NULL, cancel_requested_at = NULL, completed_at = NULL
            WHERE id = job_id AND completed_at IS NOT NULL;
            again := FOUND;
            PERFORM set_config('worker.lease', key, true);
            IF again THEN
                PERFORM pg_notify('worker_jobs', '');
            END IF;
            RETURN again;
        END $$
    """)
    op.execute(
        "COMMENT ON FUNCTION public.retry_job IS 'Runs a job that has ended once more; false where there is none.'"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION public.retry_job, public.cancel_job")
    op.execute("DROP TABLE public.jobs")
    op.execute("DROP FUNCTION worker.wake, worker.guard_job, worker.receive_job")
    op.execute("DROP TYPE public.job_status")
