"""Every environment variable that the worker reads, typed, with its default and its reason."""

import importlib.util
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class ConfigError(Exception):
    """The configuration is missing something or contradicts itself; one line that names it and says what to do."""


class Settings(BaseSettings):
    """Names and defaults; `WORKER_` stands before every name that has no alias."""

    model_config = SettingsConfigDict(env_prefix="WORKER_", extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, object]) -> dict[str, object]:
        # But for CUDA's own variable, where empty means: no GPU.
        return {
            name: value for name, value in values.items() if value != "" or name == "CUDA_VISIBLE_DEVICES"
        }

    # The database
    database_url: SecretStr | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="The Postgres that holds `jobs`, as `postgresql://…`; a transaction pooler will do.",
    )
    listen_database_url: SecretStr | None = Field(
        None,
        description="A direct or session connection for LISTEN, where DATABASE_URL is a transaction pooler. "
        "Without one, DATABASE_URL is tried and polling covers what it does not deliver.",
    )

    # Where the models go: Supabase or a local folder
    supabase_url: str | None = Field(
        None, validation_alias="SUPABASE_URL", description="The Supabase project, `https://….supabase.co`."
    )
    supabase_service_role_key: SecretStr | None = Field(
        None,
        validation_alias="SUPABASE_SERVICE_ROLE_KEY",
        description="Its service key, legacy or `sb_secret_…`.",
    )
    supabase_secret_key: SecretStr | None = Field(
        None,
        validation_alias="SUPABASE_SECRET_KEY",
        description="Supabase's newer name for it; where both are set this one is used.",
    )
    supabase_bucket_name: str = Field(
        "3d-models", validation_alias="SUPABASE_BUCKET_NAME", description="The bucket for the models."
    )
    signed_url_s: int | None = Field(
        None,
        ge=60,
        description="For a private bucket: `model_url` is then a signed address, valid for so many seconds.",
    )
    storage_timeout_s: float = Field(
        60, gt=0, description="An upload that nothing is heard of for so long is tried again."
    )
    storage_dir: Path | None = Field(None, description="A folder for the models, instead of Supabase.")
    storage_url: str | None = Field(
        None,
        description="The address under which WORKER_STORAGE_DIR is served; a file:// address without one.",
    )

    # The backend that is told
    backend_url: str | None = Field(
        None,
        validation_alias="BACKEND_URL",
        description="Webhooks go to `{BACKEND_URL}/api/models/webhook/update`; nobody is told without one.",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        validation_alias="WEBHOOK_SECRET",
        description="Signs webhooks as Standard Webhooks; base64, `whsec_` before it or not. Two, with a comma between "
        "them, while one takes the other's place.",
    )
    webhook_bearer_token: SecretStr | None = Field(
        None, description="Goes with every webhook as `Authorization: Bearer …`, where the backend wants one."
    )

    # The photos
    photo_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        ("cdn.shopify.com", "*.shopifycdn.com", "*.shopifycdn.net", "*.myshopify.com"),
        description="The hosts that photos may come from, with commas between: names, `*.example.com` for all below one, "
        "or `*` for any public host. Those of SUPABASE_URL and WORKER_STORAGE_URL always may.",
    )
    photo_http: bool = Field(
        default=False, description="Takes photos by http too; without it https alone will do."
    )
    photo_loopback: bool = Field(
        default=False,
        description="Takes photos from `localhost` and 127.0.0.1, by http and at any port. For development: never set it "
        "where strangers name the addresses.",
    )

    # The work
    engine: Literal["triposr", "relief"] = Field(
        "triposr", description="What makes the shape: `triposr`, or `relief` for previews."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        "auto", description="What TripoSR runs on; `auto` takes the first of these that is there."
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="Of TripoSR's transformers; `auto` is float16 on CUDA and float32 elsewhere. "
        "bfloat16 is faster on CPUs that have it, with about 1 % of error in the scene code.",
    )
    background_model: str = Field(
        "isnet-general-use", description="The rembg model that cuts the product out; fetched beforehand."
    )
    review_score: float = Field(
        50,
        ge=0,
        le=100,
        description="A model whose score (docs/models.md) is below is completed with `metadata.worker.needs_review`.",
    )
    turntable: bool = Field(
        True,
        description="Whether an animated picture of the model is made as well; some 4 s of two CPU cores.",
    )
    usdz: bool = Field(
        False,
        description="Whether a USDZ for AR Quick Look is made as well; needs the extra `usdz`. Shopify makes its own.",
    )
    weights_dir: Path = Field(
        Path(os.path.expanduser("~/.cache/shop-model-worker")),  # noqa: PTH111 - a service may have no home: no reason to fail
        description="Where `worker weights fetch` puts the models and the worker finds them.",
    )
    cuda_visible_devices: str | None = Field(
        None,
        validation_alias="CUDA_VISIBLE_DEVICES",
        description="The GPUs to use, one lane each: all of the host's if unset, none if empty. Without one, a lane runs on the CPU.",
    )
    temp_dir: Path = Field(
        Path(tempfile.gettempdir()) / "shop-model-worker",
        description="Files of running jobs; swept at start, empty between jobs.",
    )
    min_free_mb: int = Field(
        1000,
        ge=0,
        description="No job is claimed while the disk of WORKER_TEMP_DIR or WORKER_STORAGE_DIR has less free than so "
        "many megabytes.",
    )
    soft_limit_s: float = Field(1500, gt=0, description="A job is asked to stop after so many seconds.")
    hard_limit_s: float = Field(1800, gt=0, description="A job that has not stopped by then is killed.")

    # The queue
    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}",
        description="Who we are in `jobs.claimed_by`; host and process id without it.",
    )
    lease_s: float = Field(
        30, ge=3, description="A worker not heard of for so long has lost its job; renewed at a third of it."
    )
    poll_s: float = Field(
        5,
        gt=0,
        description="Where notifications do not arrive, jobs are looked for every second, and after a while without one "
        "at least so often.",
    )
    shop_concurrency: int | None = Field(
        None,
        ge=1,
        description="So many jobs of one shop run at the same time at the most; any number without it.",
    )
    grace_s: float = Field(
        120, ge=0, description="After SIGTERM a running job may take so long before it is given back."
    )
    keep_jobs_days: int | None = Field(
        None,
        ge=1,
        description="Rows of jobs that ended so long ago are deleted; they are kept for ever without it.",
    )
    keep_history_days: int | None = Field(
        90,
        ge=1,
        description="Lines in worker.attempts, and webhooks that were delivered or given up, are deleted after so long.",
    )

    # The dashboard
    dashboard_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="What a person must know to see `worker dashboard`; required where it is bound to more than localhost.",
    )

    # Who looks after it
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="A port for /healthz, /readyz and /metrics; 0 takes a free one and says it in the log, none without it.",
    )
    http_host: str = Field(
        "127.0.0.1",
        description="The address that WORKER_HTTP_PORT listens on. It asks for no password: keep it inside.",
    )

    # The log
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` is readable on a terminal and JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least that is logged."
    )

    @field_validator("photo_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        hosts = value.replace(",", " ").lower().split() if isinstance(value, str) else value
        if isinstance(hosts, list) and not all(
            re.fullmatch(r"\*|(\*\.)?[a-z0-9_.:-]+", host) for host in hosts
        ):
            raise ValueError("hosts are written as `cdn.example.com`, `*.example.com` or `*`")
        return hosts

    def all_photo_hosts(self) -> list[str]:
        """`photo_hosts`, and those of our own store, where a backend may keep its photos."""
        own = [urlsplit(url).hostname for url in (self.supabase_url, self.storage_url) if url]
        return [*self.photo_hosts, *filter(None, own)]


def load() -> Settings:
    """Reads the environment. Raises: ConfigError, which names what is malformed."""
    try:
        settings = Settings()
    except ValidationError as error:
        # The values themselves are left out: one of them may be a secret in the wrong place.
        raise ConfigError(
            "; ".join(f"{_variable(e['loc'][0])}: {e['msg']}" for e in error.errors())
        ) from None
    if settings.hard_limit_s < settings.soft_limit_s:
        raise ConfigError("WORKER_HARD_LIMIT_S must not be below WORKER_SOFT_LIMIT_S.")
    if settings.usdz and importlib.util.find_spec("pxr") is None:
        raise ConfigError("WORKER_USDZ needs usd-core, which is not installed: pip install usd-core.")
    if settings.supabase_url and settings.storage_dir:
        raise ConfigError("Set SUPABASE_URL or WORKER_STORAGE_DIR, not both: a model has one place.")
    return settings


def variables() -> dict[str, str]:
    """The name of each variable and what it is for, in the order of this file."""
    return {
        str(field.validation_alias or f"WORKER_{name.upper()}"): field.description or ""
        for name, field in Settings.model_fields.items()
    }


def _variable(field: str | int) -> str:
    return str(field) if str(field).isupper() else f"WORKER_{str(field).upper()}"
