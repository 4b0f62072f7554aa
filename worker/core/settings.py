"""All environment variables that the worker reads: name, type, default and description."""

import importlib.util
import os
import re
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
TripoSRViews = Literal["texture", "shape"]


class ConfigError(Exception):
    """A setting is missing, malformed or in conflict with another. The message is one line that names it and the fix."""


class Settings(BaseSettings):
    """The worker's settings. A field without an alias is read from the variable `WORKER_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="WORKER_", extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, object]) -> dict[str, object]:
        # CUDA's own variable is the exception: there, an empty value means "no GPU".
        return {
            name: value for name, value in values.items() if value != "" or name == "CUDA_VISIBLE_DEVICES"
        }

    # The database
    database_url: SecretStr | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="The Postgres that holds `jobs`, as `postgresql://…`. A transaction pooler works.",
    )
    listen_database_url: SecretStr | None = Field(
        None,
        description="A direct or session connection for LISTEN, for use when DATABASE_URL is a transaction pooler. "
        "If unset, the worker listens on DATABASE_URL and polls if no notifications arrive there.",
    )

    # Where the models go: Supabase or a local folder
    supabase_url: str | None = Field(
        None,
        validation_alias="SUPABASE_URL",
        description="URL of the Supabase project, `https://….supabase.co`.",
    )
    supabase_service_role_key: SecretStr | None = Field(
        None,
        validation_alias="SUPABASE_SERVICE_ROLE_KEY",
        description="The project's service key: the legacy `service_role` key or a secret key `sb_secret_…`.",
    )
    supabase_secret_key: SecretStr | None = Field(
        None,
        validation_alias="SUPABASE_SECRET_KEY",
        description="Supabase's newer name for the service key. If both are set, this one is used.",
    )
    supabase_bucket_name: str = Field(
        "3d-models", validation_alias="SUPABASE_BUCKET_NAME", description="Name of the bucket for the models."
    )
    signed_url_s: int | None = Field(
        None,
        ge=60,
        description="For a private bucket: makes `model_url` a signed URL that is valid for this many seconds. See docs/storage.md.",
    )
    storage_timeout_s: float = Field(
        60, gt=0, description="Seconds of silence after which an upload is retried."
    )
    storage_dir: Path | None = Field(None, description="A local folder for the models, instead of Supabase.")
    storage_url: str | None = Field(
        None,
        description="URL under which WORKER_STORAGE_DIR is served. If unset, model URLs are `file://` URLs.",
    )

    # The backend
    backend_url: str | None = Field(
        None,
        validation_alias="BACKEND_URL",
        description="Webhooks are sent to `{BACKEND_URL}/api/models/webhook/update`; the whole URL may be given as well. If unset, no "
        "webhooks are sent.",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        validation_alias="WEBHOOK_SECRET",
        description="Signs webhooks as Standard Webhooks. Base64, with or without the prefix `whsec_`. During a rotation: "
        "two secrets separated by a comma.",
    )
    webhook_bearer_token: SecretStr | None = Field(
        None, description="Sent with every webhook as `Authorization: Bearer …`."
    )
    webhook_events: Annotated[tuple[str, ...], NoDecode] = Field(
        ("job.updated",),
        description="The types of events that are sent, separated by commas. Only `job.updated` has a `jobId`; add others "
        "when the backend handles them.",
    )
    webhook_type_in_body: bool = Field(
        default=False,
        description="Also sends the type of an event as `type` in its body. The header `webhook-type` always has it.",
    )

    # The photos
    photo_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        ("cdn.shopify.com", "*.shopifycdn.com", "*.shopifycdn.net", "*.myshopify.com"),
        description="Hosts from which photos may be downloaded, separated by commas: a name, `*.example.com` for all its "
        "subdomains, or `*` for any public host. The hosts of SUPABASE_URL and WORKER_STORAGE_URL are always allowed.",
    )
    photo_http: bool = Field(
        default=False, description="Also allows photo URLs with `http://`. By default only https is allowed."
    )
    photo_loopback: bool = Field(
        default=False,
        description="Also allows photos from `localhost` and 127.0.0.1, with `http://` and on any port. For development only: "
        "photo URLs are untrusted input.",
    )

    # The work
    engine: str = Field(
        "triposr", description="The engine that makes the shape: `triposr`, or `relief` for previews."
    )
    device: Device = Field(
        "auto",
        description="The device of the engine: `cuda`, `mps` or `cpu`. `auto` uses the first of them that the engine supports and the host has.",
    )
    precision: Precision = Field(
        "auto",
        description="The precision of TripoSR's transformers. `auto` is float16 on CUDA and float32 elsewhere. "
        "bfloat16 is faster on CPUs that support it and has an error of about 1 % in the scene code.",
    )
    triposr_views: TripoSRViews = Field(
        "texture",
        description="What photos from other sides give to TripoSR's models: `texture` their colours; `shape` also the depth: "
        "a photo from the left or the right corrects it height by height. `shape` has not been measured with the official weights.",
    )
    background_model: str = Field(
        "isnet-general-use",
        description="The rembg model that cuts the product out. `worker weights fetch` fetches it.",
    )
    review: Literal["never", "flagged", "always"] = Field(
        "never",
        description="Which models somebody must approve before they are published: `never` any, `flagged` those with a score below "
        "WORKER_REVIEW_SCORE, `always` all. See docs/review.md.",
    )
    review_score: float = Field(
        50,
        ge=0,
        le=100,
        description="A model with a lower score (docs/models.md) is made anew from another photo if there is one, and with "
        "`WORKER_REVIEW=flagged` is not published before somebody approves it.",
    )
    turntable: bool = Field(
        True,
        description="Also makes an animated picture of the model. It takes about a second of a CPU core.",
    )
    usdz: bool = Field(
        False,
        description="Also makes a USDZ for AR Quick Look; needs the extra `usdz`. Shopify makes its own USDZ.",
    )
    weights_dir: Path = Field(
        Path(os.path.expanduser("~/.cache/shop-model-worker")),  # noqa: PTH111 - a service may have no home: no reason to fail
        description="The folder into which `worker weights fetch` stores the models and from which the worker loads them.",
    )
    lanes: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        "auto",
        description="Lanes of each device, at most 64: jobs that it does at the same time. `auto` goes by cores, free memory and the GPU's "
        "memory, and logs its reason; on a CPU it is one lane for two cores.",
    )
    cuda_visible_devices: str | None = Field(
        None,
        validation_alias="CUDA_VISIBLE_DEVICES",
        description="The GPUs to use, as numbers or UUIDs. If unset: all GPUs of the host. If empty: none; the CPU is the device "
        "then.",
    )
    temp_dir: Path = Field(
        Path(tempfile.gettempdir()) / "shop-model-worker",
        description="The folder for the files of running jobs. It is cleaned at the start and is empty between jobs.",
    )
    sandbox: bool = Field(
        default=True,
        description="Takes from the children the files and ports that they do not need, where the kernel has Landlock: `worker doctor` says "
        "what this host can. `false` is for a GPU's driver that needs more.",
    )
    min_free_mb: int = Field(
        1000,
        ge=0,
        description="Megabytes that must be free on the disks of WORKER_TEMP_DIR and WORKER_STORAGE_DIR. With less, no jobs are "
        "claimed.",
    )
    soft_limit_s: float = Field(
        1500, gt=0, allow_inf_nan=False, description="Seconds after which a job is asked to stop."
    )
    hard_limit_s: float = Field(
        1800, gt=0, description="Seconds after which a job that has not stopped is killed."
    )

    # The queue
    name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=200,
        description="The name of this worker in `worker hosts` and in `jobs.claimed_by`. Default: the host's name. A second daemon "
        "on a host needs a name of its own.",
    )
    pools: Annotated[tuple[str, ...], NoDecode] = Field(
        ("default",),
        min_length=1,
        description="The pools whose jobs this worker takes: names of 1 to 100 characters, separated by commas; see `jobs.pool` in docs/jobs.md.",
    )
    lease_s: float = Field(
        30,
        ge=3,
        description="Seconds without a renewal after which a worker loses its job. Leases are renewed at a third of it.",
    )
    poll_s: float = Field(
        5,
        gt=0,
        description="Longest time in seconds between two polls for jobs if notifications do not arrive. While jobs keep coming, "
        "the worker polls every second.",
    )
    shop_concurrency: int | None = Field(
        None,
        ge=1,
        description="Maximum jobs running at once per shop; unlimited by default.",
    )
    grace_s: float = Field(
        120, ge=0, description="Seconds that running jobs may take after SIGTERM before they are requeued."
    )
    keep_jobs_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Days after which the rows of ended jobs are deleted; never by default.",
    )
    keep_versions_days: int = Field(
        30,
        ge=1,
        le=36_500,
        description="Days after which the files of a version that was not used again are deleted. Published versions and those that "
        "wait for a review are kept.",
    )
    keep_history_days: int | None = Field(
        90,
        ge=1,
        le=36_500,
        description="Days after which rows of `worker.attempts` and delivered or dead webhook events are deleted.",
    )

    # The dashboard
    dashboard_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="The token with which people read the dashboard, 16 characters or more. It listens on more than localhost "
        "only with this or the next one. See docs/dashboard.md.",
    )
    dashboard_act_token: SecretStr | None = Field(
        None,
        description="The tokens with which people act on the dashboard, and read it: a token, or `NAME:TOKEN` for each person, "
        "separated by commas. The log names them.",
    )

    # Monitoring
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /healthz, /readyz and /metrics. 0 uses a free port and logs it. If unset, there is no HTTP server. "
        "See docs/monitoring.md.",
    )
    http_host: str = Field(
        "127.0.0.1",
        description="The address on which WORKER_HTTP_PORT listens. It has no authentication: do not expose it to the internet.",
    )

    # The log
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged: `debug`, `info`, `warning` or `error`."
    )

    @field_validator("photo_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        hosts = value.replace(",", " ").lower().split() if isinstance(value, str) else value
        if isinstance(hosts, list) and not all(
            re.fullmatch(r"\*|(\*\.)?[a-z0-9_.:-]+", host) for host in hosts
        ):
            raise ValueError("write hosts as `cdn.example.com`, `*.example.com` or `*`")
        return hosts

    @field_validator("dashboard_act_token")
    @classmethod
    def _actors(cls, value: SecretStr | None) -> SecretStr | None:
        parts = value.get_secret_value().split(",") if value else []
        if not all(re.fullmatch(r"([\w.@-]{1,60}:)?[^\s:]{16,}", part) for part in parts):
            raise ValueError(
                "write a token of 16 characters or more, or NAME:TOKEN,NAME:TOKEN, without spaces and other colons"
            )
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        name = value.strip()
        if not name or re.search(r"[\x00-\x1f\x7f-\x9f]", name):
            raise ValueError("write a name of visible characters")
        return name

    @field_validator("pools", mode="before")
    @classmethod
    def _pools(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = list(dict.fromkeys(name for part in value.split(",") if (name := part.strip())))
        if not names or any(len(name) > 100 or re.search(r"[\x00-\x1f\x7f-\x9f]", name) for name in names):
            raise ValueError("write names of 1 to 100 characters, separated by commas")
        return names

    @field_validator("lanes", mode="before")
    @classmethod
    def _lanes(cls, value: object) -> object:
        text = str(value).strip()
        if text != "auto" and not (text.isdecimal() and 1 <= int(text) <= 64):
            raise ValueError("write auto or a whole number from 1 to 64")
        return text

    @field_validator("webhook_events", mode="before")
    @classmethod
    def _types(cls, value: object) -> object:
        types = value.replace(",", " ").split() if isinstance(value, str) else value
        if isinstance(types, list) and not all(re.fullmatch(r"[a-z]+(\.[a-z]+)+", each) for each in types):
            raise ValueError("write types of events as `job.updated`")
        return types

    def redact(self, text: str) -> str:
        """Replace each secret in a text by `…`: the secret settings, the keys in a list of them, the passwords in URLs."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        found = list(values)
        for value in values:
            found += [key.removeprefix("whsec_") for key in value.replace(",", " ").split()]
            with suppress(ValueError):
                password = urlsplit(value).password or ""
                found += [password, unquote(password)]
        found += [token for _, token in self.dashboard_actors()]
        for secret in found:
            if len(secret) > 3:  # a shorter one could be a part of any word
                text = text.replace(secret, "…")
        return text

    def dashboard_actors(self) -> list[tuple[str, str]]:
        """Return the name and the token of each person who may act on the dashboard; the name is `operator` if none is given."""
        secret = self.dashboard_act_token
        parts = (part.rpartition(":") for part in secret.get_secret_value().split(",")) if secret else ()
        return [(name or "operator", token) for name, _, token in parts]

    def all_photo_hosts(self) -> list[str]:
        """`photo_hosts` and the hosts of the worker's own store, where a backend may keep its photos."""
        own = [urlsplit(url).hostname for url in (self.supabase_url, self.storage_url) if url]
        return [*self.photo_hosts, *filter(None, own)]


def load() -> Settings:
    """Read the environment. Raises ConfigError, which names the malformed variables but not their values."""
    try:
        settings = Settings()
    except ValidationError as error:
        # Values are left out: one of them may be a secret in the wrong variable.
        raise ConfigError(
            "; ".join(
                f"{_variable(e['loc'][0])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
            )
        ) from None
    if settings.hard_limit_s < settings.soft_limit_s:
        raise ConfigError("WORKER_HARD_LIMIT_S must not be less than WORKER_SOFT_LIMIT_S.")
    if settings.usdz and importlib.util.find_spec("pxr") is None:
        raise ConfigError("WORKER_USDZ needs usd-core, which is not installed: pip install usd-core.")
    reading = settings.dashboard_token
    if reading and any(token == reading.get_secret_value() for _, token in settings.dashboard_actors()):
        raise ConfigError("WORKER_DASHBOARD_TOKEN only reads: it must not be in WORKER_DASHBOARD_ACT_TOKEN.")
    if settings.supabase_url and settings.storage_dir:
        raise ConfigError("Set SUPABASE_URL or WORKER_STORAGE_DIR, not both.")
    return settings


def variables() -> dict[str, str]:
    """The name and description of each variable, in the order of this file."""
    return {
        str(field.validation_alias or f"WORKER_{name.upper()}"): field.description or ""
        for name, field in Settings.model_fields.items()
    }


def _variable(field: str | int) -> str:
    return str(field) if str(field).isupper() else f"WORKER_{str(field).upper()}"
