"""Photos that `worker enqueue` uploads, against the faithful bucket."""

import io
from collections.abc import Iterator
from pathlib import Path

import bucket_server
import numpy as np
import pytest
from bucket_server import BucketServer
from PIL import Image, ImageChops
from typer import Exit

from worker.cli import preflight
from worker.core.settings import Settings
from worker.local import samples
from worker.storage import CONTENT_TYPES, Store, open_store
from worker.storage.supabase import SupabaseStore

WORKERS_OWN = [CONTENT_TYPES[".glb"], CONTENT_TYPES[".png"]]


@pytest.fixture
def bucket() -> Iterator[BucketServer]:
    with bucket_server.serve() as server:
        yield server


@pytest.fixture
def configured(bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    opened: list[Store] = []

    def open_and_keep(settings: Settings) -> Store:
        opened.append(open_store(settings))
        return opened[-1]

    monkeypatch.setattr(preflight, "open_store", open_and_keep)
    monkeypatch.delenv("WORKER_STORAGE_DIR", raising=False)
    monkeypatch.setenv("SUPABASE_URL", bucket.url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", bucket.key)
    yield Settings()
    for store in opened:
        assert isinstance(store, SupabaseStore)
        store.storage.session.close()


DUCK = samples.path("duck.jpg")


def test_a_photo_is_uploaded_as_it_is(bucket: BucketServer, configured: Settings) -> None:
    url = preflight.photo_url(str(DUCK), configured)
    (path,) = bucket.bucket.objects
    assert path in url
    assert path.endswith(".jpg")
    stored = bucket.bucket.objects[path]
    assert (stored.content, stored.content_type) == (DUCK.read_bytes(), "image/jpeg")


def test_a_bucket_for_the_worker_s_files_alone_gets_the_same_picture_as_png(
    bucket: BucketServer, configured: Settings
) -> None:
    bucket.bucket.allowed_mime_types = WORKERS_OWN
    url = preflight.photo_url(str(DUCK), configured)
    (path,) = bucket.bucket.objects
    assert path in url
    assert path.endswith(".png")
    stored = bucket.bucket.objects[path]
    assert stored.content_type == "image/png"
    with Image.open(io.BytesIO(stored.content)) as png, Image.open(DUCK) as jpeg:
        assert png.size == jpeg.size
        difference = ImageChops.difference(png.convert("RGB"), jpeg.convert("RGB"))
        assert np.asarray(difference).max() <= 8


@pytest.mark.parametrize(
    ("allowed", "limit", "says"),
    [
        ([CONTENT_TYPES[".glb"]], None, "neither the photo's type nor PNG"),
        (None, 1000, "larger than it allows"),
    ],
)
def test_a_photo_that_the_store_does_not_take_is_not_called_a_model(
    bucket: BucketServer,
    configured: Settings,
    capsys: pytest.CaptureFixture[str],
    allowed: list[str] | None,
    limit: int | None,
    says: str,
) -> None:
    bucket.bucket.allowed_mime_types, bucket.bucket.file_size_limit = allowed, limit
    with pytest.raises(Exit) as ended:
        preflight.photo_url(str(DUCK), configured)
    assert ended.value.exit_code == 78
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "duck.jpg" in said
    assert "model" not in said


def test_a_file_that_is_no_photo_is_named_where_it_would_be_converted(
    bucket: BucketServer, configured: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.bucket.allowed_mime_types = WORKERS_OWN
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(Exit):
        preflight.photo_url(str(tmp_path / "notes.txt"), configured)
    assert "The file is not a photo" in " ".join(capsys.readouterr().err.split())
