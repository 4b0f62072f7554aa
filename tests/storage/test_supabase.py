"""The real supabase client against a server that answers as Supabase Storage does."""

import hashlib
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import bucket_server
import certificates
import forward_proxy
import pytest
from bucket_server import BUCKET, FAULTS, KEY, BucketServer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from worker.core.errors import JobError
from worker.core.finding import Level
from worker.core.settings import ConfigError, Settings
from worker.storage import NotStored, StoreUnreachable
from worker.storage import open_store as open_configured
from worker.storage.supabase import TRIES, SupabaseStore

PATH = "a.myshopify.com/123.glb"
GLB = "model/gltf-binary"


OPENED: list[SupabaseStore] = []


@pytest.fixture
def bucket() -> Iterator[BucketServer]:
    with bucket_server.serve() as server:
        yield server
    while OPENED:
        OPENED.pop().storage.session.close()


def open_store(
    bucket: BucketServer, *, key: str = KEY, signed_url_s: int | None = None, timeout_s: float = 5
) -> SupabaseStore:
    store = SupabaseStore(
        bucket.url, key, BUCKET, signed_url_s=signed_url_s, timeout_s=timeout_s, wait_s=0.001
    )
    OPENED.append(store)
    return store


@pytest.fixture
def store(bucket: BucketServer) -> SupabaseStore:
    return open_store(bucket)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.glb"
    file.write_bytes(b"glTF model")
    return file


def test_the_model_gets_there_with_its_type_its_hash_and_how_long_it_may_be_cached(
    bucket: BucketServer, store: SupabaseStore, model: Path
) -> None:
    address = store.put(PATH, model, GLB)
    digest = hashlib.sha256(b"glTF model").hexdigest()
    stored = bucket.bucket.objects[PATH]
    assert (stored.content, stored.content_type) == (b"glTF model", GLB)
    assert stored.metadata == {"sha256": digest}
    assert address == f"{bucket.url}/storage/v1/object/public/{BUCKET}/{PATH}"
    with urlopen(address) as answer:
        assert answer.read() == b"glTF model"
        assert answer.headers["cache-control"] == "max-age=31536000"
    model.write_bytes(b"another")
    assert store.put(PATH, model, GLB, cache_s=60) == address
    with urlopen(address) as answer:
        assert (answer.read(), answer.headers["cache-control"]) == (b"another", "max-age=60")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_is_fetched_whole_whatever_happens_to_an_answer(
    bucket: BucketServer, model: Path, tmp_path: Path, fault: str
) -> None:
    store = open_store(bucket, timeout_s=0.3)
    store.put(PATH, model, GLB)
    bucket.fail_once_each(FAULTS[fault], FAULTS[fault], method="GET")
    store.fetch(PATH, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"glTF model"


def test_a_file_that_cannot_be_fetched_leaves_none(
    bucket: BucketServer, store: SupabaseStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy" / "model.glb"
    copy.parent.mkdir()

    def fetch() -> str:
        with pytest.raises(JobError) as error:
            store.fetch(PATH, copy)
        assert list(copy.parent.iterdir()) == []
        return f"{type(error.value).__name__} {error.value.code}"

    assert fetch() == "NotStored storage_unavailable"
    store.put(PATH, model, GLB)
    monkeypatch.setattr("worker.storage.supabase.TRIES", 2)
    bucket.fault = lambda _method, path: bucket_server.says([]) if "/info/" not in path else None
    assert fetch() == "JobError storage_unavailable", "other bytes than those that were stored"
    for status, code in (
        ("403", "storage_denied"),
        ("404", "storage_denied"),
        ("503", "storage_unavailable"),
    ):
        bucket.fault = lambda _method, _path, status=status: bucket_server.html(int(status))  # type: ignore[misc]
        assert fetch() == f"JobError {code}"
    bucket.fault = lambda _method, _path: None
    monkeypatch.setattr("worker.storage.supabase.MAX_BYTES", 5)
    assert fetch() == "JobError storage_too_large"
    monkeypatch.setattr("worker.storage.supabase.MAX_BYTES", 500)
    shutil.rmtree(copy.parent)
    with pytest.raises(JobError, match="temp_unavailable"):
        store.fetch(PATH, copy)


def test_a_stored_file_is_located_by_its_hash_without_its_bytes(bucket: BucketServer, model: Path) -> None:
    digest = hashlib.sha256(b"glTF model").hexdigest()
    for store in (open_store(bucket), open_store(bucket, signed_url_s=60)):
        with pytest.raises(NotStored):
            store.locate("a.myshopify.com/124.glb", digest)
        store.put(PATH, model, GLB)
        seen = len(bucket.requests)
        with urlopen(store.locate(PATH, digest)) as answer:
            assert answer.read() == b"glTF model"
        assert ["/info/" in path or "/sign/" in path for _, path in bucket.requests[seen:-1]].count(
            False
        ) == 0
        with pytest.raises(NotStored):
            store.locate(PATH, "0" * 64)
    bucket.fault = lambda _method, _path: bucket_server.html(403)
    with pytest.raises(JobError, match="storage_denied"):
        store.locate(PATH, digest)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_tried_again(bucket: BucketServer, model: Path, fault: str) -> None:
    bucket.fail_once_each(FAULTS[fault], FAULTS[fault])
    open_store(bucket, timeout_s=0.3).put(PATH, model, GLB)
    assert bucket.bucket.objects[PATH].content == b"glTF model"
    assert bucket.bucket.objects[PATH].content_type == GLB
    done_at_once = fault in {"502 after it was done", "lost answer", "hang after it was done", "slow"}
    assert len(bucket.uploads()) == (1 if done_at_once else 3)


def test_what_lies_there_with_another_hash_is_replaced(
    bucket: BucketServer, store: SupabaseStore, model: Path
) -> None:
    store.put(PATH, model, GLB)
    model.write_bytes(b"glTF newer")
    bucket.fail_once_each(FAULTS["502 of a gateway"])
    store.put(PATH, model, GLB)
    assert bucket.bucket.objects[PATH].content == b"glTF newer"


def test_where_nobody_can_tell_what_lies_there_it_is_sent_again(
    bucket: BucketServer, store: SupabaseStore, model: Path
) -> None:
    faults = [FAULTS["lost answer"], None]
    bucket.fault = lambda method, path: (
        FAULTS["503 of a gateway"] if "/info/" in path else faults.pop(0) if method == "POST" else None
    )
    store.put(PATH, model, GLB)
    assert len(bucket.uploads()) == 2


def test_what_does_not_pass_is_a_retryable_failure_within_a_bound(
    bucket: BucketServer, store: SupabaseStore, model: Path
) -> None:
    bucket.fault = lambda _method, _path: FAULTS["503 of a gateway"]
    with pytest.raises(JobError) as error:
        store.put(PATH, model, GLB)
    assert (error.value.code, error.value.retryable) == ("storage_unavailable", True)
    assert len(bucket.uploads()) == TRIES


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("400", "storage_refused"),
        ("401", "storage_denied"),
        ("402", "storage_denied"),
        ("403", "storage_denied"),
        ("404", "storage_denied"),
        ("415", "storage_refused"),
        ("413", "storage_too_large"),
    ],
)
def test_a_refusal_is_not_tried_again_at_once(
    bucket: BucketServer, store: SupabaseStore, model: Path, status: str, code: str
) -> None:
    for fault in (bucket_server.refusal(status, "no"), bucket_server.html(int(status))):
        bucket.requests.clear()
        bucket.fail_once_each(fault)
        with pytest.raises(JobError) as error:
            store.put(PATH, model, GLB)
        assert (error.value.code, error.value.retryable) == (code, code == "storage_denied")
        assert len(bucket.uploads()) == 1


def test_files_are_checked_together_and_again_once_the_bucket_is_changed(
    bucket: BucketServer, store: SupabaseStore, model: Path
) -> None:
    poster = model.with_name("poster.png")
    poster.write_bytes(b"PNG")
    files = [(poster, "image/png"), (model, GLB)]
    store.check_files(files)
    bucket.bucket.file_size_limit = 5
    with pytest.raises(JobError, match=r"0\.00 MB") as error:
        store.check_files(files)
    assert (error.value.code, error.value.retryable) == ("storage_too_large", False)
    bucket.bucket.file_size_limit = 500
    bucket.bucket.allowed_mime_types = ["image/*"]
    with pytest.raises(JobError, match=f"of the type {GLB}. ") as error:
        store.check_files(files)
    assert error.value.code == "storage_refused"
    bucket.bucket.allowed_mime_types = ["image/png", GLB]
    store.check_files(files)
    bucket.fault = lambda _method, _path: FAULTS["503 of a gateway"]
    store.check_files(files)  # an upload has more tries
    assert bucket.uploads() == []


def test_nothing_is_tried_once_the_job_is_lost(
    bucket: BucketServer, store: SupabaseStore, model: Path
) -> None:
    class Lost(Exception):
        pass

    lost = threading.Event()

    def check() -> None:
        if lost.is_set():
            raise Lost

    def fault(method: str, _path: str) -> bucket_server.Fault | None:
        if method == "POST":
            lost.set()
        return FAULTS["503 of a gateway"]

    bucket.fault = fault
    with pytest.raises(Lost):
        store.put(PATH, model, GLB, check)
    assert len(bucket.uploads()) == 1
    with pytest.raises(Lost):
        store.put(PATH, model, GLB, check)
    assert len(bucket.uploads()) == 1


def test_a_wait_between_tries_ends_with_the_job(bucket: BucketServer, model: Path) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, wait_s=3600)
    OPENED.append(store)
    bucket.fault = lambda _method, _path: FAULTS["503 of a gateway"]

    def check() -> None:
        if bucket.uploads():
            raise InterruptedError

    def put() -> None:
        with pytest.raises(InterruptedError):
            store.put(PATH, model, GLB, check)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(bucket.uploads()) == 1


def test_many_threads_and_every_fault(bucket: BucketServer, tmp_path: Path) -> None:
    """One store, eight threads, 120 files, and one request in three goes wrong in one of all ways."""
    dice = random.Random(3)
    bucket.fault = lambda _method, path: (
        FAULTS[dice.choice(list(FAULTS))] if dice.random() < 1 / 3 and "/object/" in path else None
    )
    store = open_store(bucket, timeout_s=0.3)
    names = [f"shop/{n}.glb" for n in range(120)]
    failed: list[str] = []

    def upload(some: list[str]) -> None:
        for name in some:
            file = tmp_path / name.replace("/", "-")
            file.write_bytes(name.encode() * 1000)
            try:
                store.put(name, file, GLB)
            except JobError as error:
                failed.append(f"{error.code} {name}")

    threads = [threading.Thread(target=upload, args=(names[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) <= 2  # (1/3)^6 of 120 is a sixth of one
    assert all(failure.startswith("storage_unavailable ") for failure in failed)
    for name in set(names) - {failure.partition(" ")[2] for failure in failed}:
        assert bucket.bucket.objects[name].content == name.encode() * 1000
    assert set(bucket.bucket.objects) <= set(names)


def test_a_private_bucket_s_addresses_are_signed_and_run_out(bucket: BucketServer, model: Path) -> None:
    bucket.bucket.public = False
    store = open_store(bucket, signed_url_s=60)
    bucket.fail_once_each(FAULTS["lost answer"], FAULTS["502 of a gateway"])
    address = store.put(PATH, model, GLB)
    assert "/object/sign/" in address
    with urlopen(address) as answer:
        assert answer.read() == b"glTF model"
    expired = open_store(bucket, signed_url_s=-1).put(PATH, model, GLB)
    with pytest.raises(HTTPError) as error, urlopen(expired):
        pass
    error.value.close()
    assert error.value.code == 400


def test_find_and_remove_know_a_product_from_its_neighbours_over_many_pages(
    bucket: BucketServer, store: SupabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.storage.supabase.PAGE", 7)
    monkeypatch.setattr("worker.storage.supabase.BATCH", 5)
    thing = bucket_server.Object(b"", GLB, "", {})
    ours = [f"s/1{ending}" for ending in (".glb", ".png", ".cutout.png", ".webp", ".usdz")] + [
        f"s/1/{variant}.glb" for variant in range(30)
    ]
    version = f"s/1/v.{'0' * 32}"
    ours += [f"{version}.glb", f"{version}.cutout.png", "s/1/v.glb", "s/1/v/5.glb"]
    others = ["s/12.glb", "s/11/1.glb", "s/2/1.glb", "s2/1.glb", "S/1.glb", "s/x_y.glb", "s/xzy.glb"]
    bucket.bucket.objects = dict.fromkeys(ours + others, thing)
    assert sorted(store.find("s/1")) == sorted(ours)
    assert store.find("s/1/3") == ["s/1/3.glb"]
    assert store.find("s/1/v") == ["s/1/v.glb", "s/1/v/5.glb"], "a variant of this name, and no version"
    assert sorted(store.find(version)) == [f"{version}.cutout.png", f"{version}.glb"]
    assert store.find("s/x_y") == ["s/x_y.glb"]
    assert sorted(store.find("s")) == sorted(p for p in ours + others if p.startswith("s/"))
    assert store.find("nobody") == []
    bucket.fail_once_each(FAULTS["lost answer"], FAULTS["503 of a gateway"], method="DELETE")
    store.remove([*ours, "s/missing.glb"])
    assert set(bucket.bucket.objects) == set(others)


def test_a_bucket_as_it_should_be_is_left_as_it_was(bucket: BucketServer, store: SupabaseStore) -> None:
    assert store.check() == []
    bucket.bucket.allowed_mime_types = [GLB, "image/*", "model/vnd.usdz+zip"]
    bucket.bucket.file_size_limit = 50_000_000
    assert store.check() == []
    assert bucket.bucket.objects == {}
    assert len(bucket.uploads()) == 2
    bucket.fail_once_each(FAULTS["lost answer"])
    with pytest.raises(StoreUnreachable):
        store.check()
    assert store.check() == []
    assert bucket.bucket.objects == {}
    bucket.bucket.public = False
    assert open_store(bucket, signed_url_s=60).check() == []


DENIED = bucket_server.refusal("403", "new row violates row-level security policy")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"public": False}, "is private"),
        ({"file_size_limit": 2_000_000}, "up to 2.0 MB"),
        ({"allowed_mime_types": ["image/*", "model/vnd.usdz+zip"]}, f"does not allow {GLB}."),
        ({"key": "sb_secret_of_another_project"}, "SUPABASE_SERVICE_ROLE_KEY"),
        ({"missing": True}, 'There is no bucket "3d-models"'),
        ({"fault": lambda _method, _path: bucket_server.html(404)}, "SUPABASE_URL does not answer as"),
        ({"fault": lambda _method, _path: bucket_server.not_json}, "SUPABASE_URL does not answer as"),
        ({"fault": lambda method, _path: DENIED if method == "POST" else None}, "row-level security"),
    ],
    ids=["private", "small", "types", "key", "missing", "page 404", "page 200", "read-only"],
)
def test_a_bucket_that_is_not_as_it_should_be_is_told_with_a_way_out(
    bucket: BucketServer, wrong: dict[str, object], says: str
) -> None:
    wrong = dict(wrong)
    key = str(wrong.pop("key", KEY))
    if wrong.pop("missing", False):
        bucket.buckets.clear()
    if fault := wrong.pop("fault", None):
        bucket.fault = fault  # type: ignore[assignment]
    for name, value in wrong.items():
        setattr(bucket.bucket, name, value)
    [finding] = open_store(bucket, key=key).check()
    assert says in str(finding)
    assert finding.level == (Level.ADVICE if "file_size_limit" in wrong else Level.FAIL)
    assert "sb_secret_of_another_project" not in str(finding)


def test_a_public_bucket_does_not_go_with_signed_addresses(bucket: BucketServer) -> None:
    [finding] = open_store(bucket, signed_url_s=60).check()
    assert "is public" in finding.text


@pytest.mark.parametrize("fault", ["503 of a gateway", "reset", "hang", "544 in the body"])
def test_a_bucket_that_cannot_be_reached_now_is_no_finding(bucket: BucketServer, fault: str) -> None:
    bucket.fault = lambda _method, _path: FAULTS[fault]
    with pytest.raises(StoreUnreachable):
        open_store(bucket, timeout_s=0.3).check()


ANON = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("not an address", KEY, "SUPABASE_URL"),
        ("http://[::1", KEY, "SUPABASE_URL"),
        ("https://a.supabase.co", ANON, "public key"),
        ("https://a.supabase.co", "sb_publishable_abc", "public key"),
        ("https://a.supabase.co", "sb_secret_planted\nmore", "a character that no key has"),
        ("https://a.supabase.co", "sb_secret_plantéd", "a character that no key has"),
        ("https://a.supabase.co", " ", "SUPABASE_SERVICE_ROLE_KEY"),
    ],
)
def test_what_cannot_be_right_is_a_matter_of_configuration(url: str, key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        SupabaseStore(url, key, BUCKET)
    assert "planted" not in str(error.value)


@pytest.mark.parametrize("key", [KEY, "sb_secret_N7UND0UgjKTVK", f"  {KEY}\r\n", "opaque"])
def test_keys_of_every_form_are_sent_as_they_are(bucket: BucketServer, model: Path, key: str) -> None:
    bucket.key = key.strip()
    open_store(bucket, key=key).put(PATH, model, GLB)
    assert PATH in bucket.bucket.objects


def test_no_log_and_no_error_shows_the_key_or_a_token(bucket: BucketServer, model: Path) -> None:
    bucket.bucket.public = False
    bucket.key = "sb_secret_planted"
    store = open_store(bucket, key=bucket.key, signed_url_s=60, timeout_s=0.3)
    with capture_logs() as lines:
        for fault in FAULTS.values():
            bucket.fail_once_each(fault, fault)
            store.put(PATH, model, GLB)
        bucket.key = "another"
        with pytest.raises(JobError) as error:
            store.put(PATH, model, GLB)
    shown = repr(lines) + repr(error.value) + repr(error.value.__cause__) + repr(store.check())
    assert len(lines) > len(FAULTS)
    assert "planted" not in shown
    assert "token" not in shown


def test_types_that_this_worker_does_not_store_need_not_be_allowed(bucket: BucketServer) -> None:
    base = {"SUPABASE_URL": bucket.url, "SUPABASE_SERVICE_ROLE_KEY": KEY, "storage_dir": None}

    def says(**settings: object) -> list[str]:
        store = open_configured(Settings(**base, **settings))  # type: ignore[arg-type]
        assert isinstance(store, SupabaseStore)
        OPENED.append(store)
        return [finding.text for finding in store.check()]

    bucket.bucket.allowed_mime_types = [GLB, "image/png"]
    assert says(turntable=False) == []
    assert says(turntable=True) == ['The bucket "3d-models" does not allow image/webp']
    bucket.bucket.allowed_mime_types = [GLB, "image/png", "image/webp"]
    assert says(turntable=True) == []
    assert says(turntable=True, usdz=True) == ['The bucket "3d-models" does not allow model/vnd.usdz+zip']


@pytest.mark.parametrize(
    ("status", "header", "waits"), [(429, "1", True), (503, "1", True), (503, "soon", False)]
)
def test_a_wait_that_the_storage_asks_for_is_respected(
    bucket: BucketServer, store: SupabaseStore, model: Path, status: int, header: str, waits: bool
) -> None:
    bucket.fail_once_each(bucket_server.busy(status, header))
    began = time.monotonic()
    store.put(PATH, model, GLB)
    assert (time.monotonic() - began >= 1) is waits


def test_it_is_respected_up_to_a_minute(
    bucket: BucketServer, store: SupabaseStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.storage.supabase.RETRY_AFTER_S", 0.2)
    bucket.fail_once_each(bucket_server.busy(429, "3600"))
    store.put(PATH, model, GLB)
    assert PATH in bucket.bucket.objects


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "Key",
                    "signedURL",
                    "name",
                    "id",
                    "size",
                    "metadata",
                    "sha256",
                    "message",
                    "error",
                    "statusCode",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)
PROPERTIES = [
    "id",
    "name",
    "owner",
    "public",
    "created_at",
    "updated_at",
    "file_size_limit",
    "allowed_mime_types",
]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    answer=JSON | st.fixed_dictionaries(dict.fromkeys(PROPERTIES, JSON)),
    status=st.sampled_from([200, 400, 500]),
)
@example(answer=None, status=200)
@example(answer=[], status=200)
@example(answer=[{"name": "a", "id": None}], status=200)  # a folder in each folder
@example(answer={"signedURL": ""}, status=200)
@example(answer={"message": {}, "error": [], "statusCode": "²"}, status=400)
@example(answer={"message": "", "error": "", "statusCode": "9" * 5000}, status=400)
def test_whatever_the_storage_answers_is_an_answer_a_refusal_or_tried_again(
    bucket: BucketServer, model: Path, monkeypatch: pytest.MonkeyPatch, answer: object, status: int
) -> None:
    monkeypatch.setattr("worker.storage.supabase.TRIES", 1)
    store = fuzzed(bucket)
    bucket.fault = lambda _method, _path: lambda handler, _: handler.answer(status, answer)
    for act in (
        lambda: store.put(PATH, model, GLB),
        lambda: store.check_files([(model, GLB)]),
        lambda: store.fetch(PATH, model.with_name("copy")),
        lambda: store.find("a/1"),
        lambda: store.remove(["a/1.glb"]),
    ):
        with suppress(JobError):
            act()
    try:
        found = store.check()
    except StoreUnreachable as error:
        lines = [str(error)]
    else:
        lines = [str(finding) for finding in found]
    assert all("\n" not in line and len(line) < 1000 for line in lines)


@cache
def fuzzed(bucket: BucketServer) -> SupabaseStore:
    """One store for all examples: making one takes longer than a request."""
    return open_store(bucket, signed_url_s=60)


@pytest.mark.parametrize("answer", [None, [], "deleted", {"signedURL": "x"}])
def test_a_success_of_something_else_is_tried_again_and_stores_nothing(
    bucket: BucketServer, model: Path, answer: object
) -> None:
    bucket.bucket.public = False
    store = open_store(bucket, signed_url_s=60)
    bucket.fail_once_each(bucket_server.says(answer), bucket_server.says(answer))
    assert "token=" in store.put(PATH, model, GLB)
    assert bucket.bucket.objects[PATH].content == b"glTF model"
    if not isinstance(answer, list):  # which is how a removal is answered
        bucket.fail_once_each(bucket_server.says(answer), method="DELETE")
    store.remove([PATH])
    assert bucket.bucket.objects == {}


def test_a_store_behind_its_own_authority_and_a_proxy(
    bucket: BucketServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = certificates.issue(tmp_path, "storage.test")
    bucket.socket = issued.context().wrap_socket(bucket.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    with forward_proxy.serve(bucket.server_port, "us", "planted") as proxy, capture_logs() as lines:
        monkeypatch.setenv("HTTPS_PROXY", f"http://us:planted@127.0.0.1:{proxy.server_port}")
        store = SupabaseStore("https://storage.test", KEY, BUCKET, wait_s=0.001)
        OPENED.append(store)
        url = store.put(PATH, model, GLB)
        assert url.startswith("https://storage.test/storage/v1/object/public/")
        assert set(proxy.asked) == {"CONNECT storage.test:443"}
        proxy.credentials = "changed"
        store.storage.session.close()
        store = SupabaseStore("https://storage.test", KEY, BUCKET, wait_s=0.001)
        OPENED.append(store)
        with pytest.raises(StoreUnreachable, match="407") as error:
            store.check()
    assert "planted" not in f"{lines} {error.value}"
