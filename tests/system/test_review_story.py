"""The story of docs/review.md with the real daemon, as a backend sees it: rows by SQL, files and webhooks by HTTP."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bucket_server
import httpx
import psycopg
import pytest
from conftest import StartDaemon, until
from PIL import Image, ImageOps

from worker.local.server import DevServer

SHOP = "shop.myshopify.com"


@pytest.fixture(params=["folder", "bucket"])
def store(
    request: pytest.FixtureRequest, site: DevServer, tmp_path: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the URL at which the store's files are served, and the daemon's settings for it."""
    if request.param == "folder":
        url = f"{site.url}/store"
        yield url, {"WORKER_STORAGE_DIR": str(tmp_path / "site" / "store"), "WORKER_STORAGE_URL": url}
        return
    with bucket_server.serve() as bucket:
        url = f"{bucket.url}/storage/v1/object/public/{bucket_server.BUCKET}"
        variables = {"SUPABASE_URL": bucket.url, "SUPABASE_SERVICE_ROLE_KEY": bucket_server.KEY}
        yield url, variables | {"WORKER_STORAGE_DIR": ""}


def changed(photo: bytes, *, size: tuple[int, int] = (400, 400), mirror: bool = False) -> bytes:
    image = Image.open(io.BytesIO(photo)).resize(size)
    buffer = io.BytesIO()
    (ImageOps.mirror(image) if mirror else image).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_model_is_seen_by_a_person_before_the_shop_shows_it(
    start_daemon: StartDaemon,
    sql: psycopg.Connection,
    site: DevServer,
    photos: Callable[[str, bytes], str],
    mug: bytes,
    store: tuple[str, dict[str, str]],
) -> None:
    place, variables = store
    published = f"{place}/{SHOP}/123.glb"
    # The smallest models have no score, so all of them are reviewed there; a preview from one photo has one below 50.
    real = "WORKER_STORAGE_URL" in variables
    start_daemon(real_models=real, WORKER_REVIEW="flagged" if real else "always", **variables)

    def one(statement: str, *values: object) -> Any:
        row = sql.execute(statement.encode(), values).fetchone()
        assert row
        return row[0] if len(row) == 1 else row

    def made(job: str) -> tuple[str, bytes]:
        """Wait until the job has a model that waits for review. Return its URL and bytes."""
        until(lambda: one("SELECT completed_at FROM jobs WHERE id = %s", job), what="the job")
        status, review, model_url = one("SELECT status, review, model_url FROM jobs WHERE id = %s", job)
        assert (status, review) == ("completed", "wanted")
        return model_url, httpx.get(model_url).raise_for_status().content

    def insert(*image_urls: str) -> str:
        return str(
            one(
                "INSERT INTO jobs (shop, product_id, image_urls, quality, metadata)"
                """ VALUES (%s, '123', %s, 'fast', '{"views": {"front": 0}}') RETURNING id::text""",
                SHOP,
                list(image_urls),
            )
        )

    def is_published(content: bytes) -> bool:
        answer = httpx.get(published)
        return answer.status_code == 200 and answer.content == content

    def last_event(job: str) -> dict[str, Any]:
        until(
            lambda: not one("SELECT count(*) FROM worker.outbox WHERE delivered_at IS NULL"),
            what="the webhooks",
        )
        events = [
            each["body"] for each in httpx.get(f"{site.url}/webhooks").json() if each["body"]["jobId"] == job
        ]
        assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
        return dict(events[-1])

    first = insert(photos("mug.png", mug))
    first_url, first_bytes = made(first)
    assert httpx.get(published).status_code in {400, 404}, "nobody has seen it"
    event = last_event(first)
    assert (event["status"], event["review"]) == ("completed", "wanted")
    assert "modelUrl" not in event

    assert one("SELECT approve_job(%s)", first)
    until(lambda: is_published(first_bytes), what="the approved model to be published")
    event = last_event(first)
    assert (event["status"], event["review"], event["modelUrl"]) == ("completed", "approved", first_url)

    second = insert(
        photos("small.png", changed(mug, size=(99, 99))), photos("mirrored.png", changed(mug, mirror=True))
    )
    second_url, second_bytes = made(second)
    assert second_bytes != first_bytes
    assert is_published(first_bytes), "a model that nobody has seen replaces none"
    assert one("SELECT reject_job(%s, 'The handle is missing.')", second)
    assert (last_event(second)["review"], "modelUrl" in last_event(second)) == ("rejected", False)

    assert one("SELECT retry_job(%s, without_photo => 0)", second)
    third_url, third_bytes = made(second)
    assert one("SELECT cardinality(image_urls), excluded_photos FROM jobs WHERE id = %s", second) == (2, [0])
    assert len({first_url, second_url, third_url}) == 3
    assert one("SELECT approve_job(%s)", second)
    until(lambda: is_published(third_bytes), what="the new version to be published")

    assert one("SELECT publish_version(%s)", first)
    until(lambda: is_published(first_bytes), what="the first version again")
    assert last_event(first)["modelUrl"] == first_url
    assert one("SELECT published FROM job_status WHERE id = %s", first)
    for model_url, content in (
        (first_url, first_bytes),
        (second_url, second_bytes),
        (third_url, third_bytes),
    ):
        answer = httpx.get(model_url)
        assert answer.content == content, "every URL keeps its bytes"
