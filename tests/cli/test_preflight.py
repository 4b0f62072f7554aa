"""Photos that `worker enqueue` uploads, against the faithful bucket."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import bucket_server
import numpy as np
import pytest
from bucket_server import BucketServer
from PIL import Image, ImageChops
from typer import Exit

from worker.cli import preflight
from worker.core.finding import Level, ok
from worker.core.settings import ConfigError, Settings
from worker.local import samples
from worker.local.server import DevServer
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


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", b"no photo", "The file is not a photo"),
        ("notes.jpg", b"no photo", "The file is not a photo"),
        ("broken.jpg", DUCK.read_bytes()[:9000], "damaged or incomplete"),
        ("empty.png", b"", "damaged or incomplete"),
        ("huge.jpg", bytes(20_000_001), "it has more than 20.0 MB"),
    ],
)
def test_a_file_is_opened_before_it_is_uploaded(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        preflight.open_file(str(tmp_path / name))


def test_a_photo_is_good_only_after_it_was_looked_at(
    tmp_path: Path, site: DevServer, photos: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_PHOTO_LOOPBACK", "true")
    configured = Settings()
    good = photos("duck.jpg", DUCK.read_bytes())
    found = preflight.fetch_and_open(f"{good}?token=planted", tmp_path / "photo", configured)
    assert found == ok("photo", f"{good}: JPEG, 840 by 840 pixels, 139 kB")
    for url, level, words in (
        (f"{site.url}/none.jpg", Level.FAIL, "no photo at this URL"),
        (photos("notes.jpg", b"<html>"), Level.FAIL, "not a photo"),
        (photos("cut.jpg", DUCK.read_bytes()[:9000]), Level.FAIL, "damaged or incomplete"),
        ("https://elsewhere.example/a.jpg?key=planted", Level.FAIL, "not allowed"),
        ("http://cdn.shopify.com/a.jpg", Level.FAIL, "must begin with https://"),
    ):
        found = preflight.fetch_and_open(url, tmp_path / "photo", configured)
        assert (found.level, words in found.text, "planted" in str(found)) == (level, True, False), found


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "192.168.0.7:443", "[fd00::1]", "169.254.169.254", "127.0.0.1", "localhost"]
)
def test_a_private_address_is_called_one(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_PHOTO_HOSTS", "*")
    for hosts in ("*", "cdn.shopify.com"):
        monkeypatch.setenv("WORKER_PHOTO_HOSTS", hosts)
        found = preflight.fetch_and_open(f"https://{host}/a.jpg", tmp_path / "photo", Settings())
        assert found.level is Level.FAIL
        assert "private address" in found.text
        assert "WORKER_PHOTO_HOSTS" not in found.fix, "to allow it would not help"


def test_a_sample_is_one_photo_or_a_set_of_views() -> None:
    for name in samples.NAMES:
        files, sides = preflight.sample(name)
        assert all(Path(file).is_file() for file in files)
        assert sides == (["front", "left", "back", "right"] if name == "duck-views" else [])
        assert len(files) == (len(sides) or 1)
    (coffee,), _ = preflight.sample("coffee")
    assert preflight.open_file(coffee) == ok("photo", f"{coffee}: PNG, 600 by 400 pixels, 467 kB")
