import itertools
import re
from pathlib import Path

import psycopg
import pytest

from worker.storage.local import LocalStore
from worker.storage.paths import is_named, stem, version_digest, version_stem


@pytest.mark.parametrize(
    ("ids", "path"),
    [
        (("a.myshopify.com", "123"), "a.myshopify.com/123"),
        (("a.myshopify.com", "gid://shopify/Product/123"), "a.myshopify.com/123"),
        (("a.myshopify.com", "123", "gid://shopify/ProductVariant/4"), "a.myshopify.com/123/4"),
        (("a.myshopify.com", "blue_mug-2", None), "a.myshopify.com/blue_mug-2"),
        (("..", ".."), "=2E./=2E=2E"),
        (("a/../b", "../c", "/d"), "a=2F..=2Fb/=2E=2E=2Fc/=2Fd"),
        (("a", "gid://"), "a/gid=3A=2F=2F"),
        (("a", "é"), "a/=C3=A9"),
        (("a", "=C3=A9"), "a/=3DC3=3DA9"),
        (("a", "x.cutout"), "a/x=2Ecutout"),
    ],
)
def test_the_path(ids: tuple[str, ...], path: str) -> None:
    assert stem(*ids) == path


def test_a_version_s_digest_is_that_of_its_files() -> None:
    files = {".png": "b" * 64, ".glb": "a" * 64}
    digest = version_digest(files)
    assert re.fullmatch("[0-9a-f]{32}", digest)
    assert version_digest(dict(reversed(files.items()))) == digest
    others: list[dict[str, str]] = [
        files | {".png": "c" * 64},
        {".glb": "a" * 64},
        files | {".webp": "b" * 64},
    ]
    assert len({version_digest(other) for other in [files, *others]}) == 4


def test_no_id_has_the_path_of_a_version() -> None:
    version = version_stem(stem("a", "1"), "0" * 32)
    assert version == f"a/1/v.{'0' * 32}"
    name = version.rpartition("/")[2]
    assert stem("a", "1", name) != version
    assert is_named(f"{name}.cutout.png", name)
    assert is_named("v.png", "v")
    assert not is_named(f"{name}.glb", "v")
    assert not is_named("4.glb", "v")


def test_different_ids_never_share_a_path() -> None:
    names = ["a", "a/b", "a=2Fb", "a.b", "A", "a b", "a\\b", ".", "..", "é", "e\u0301", "a%2Fb", "a\x00b"]
    paths = [stem(*ids) for ids in itertools.product(names, names)] + [
        stem(*ids) for ids in itertools.product(names, repeat=3)
    ]
    assert len(set(paths)) == len(paths)
    assert all(part not in {"", ".", ".."} for path in paths for part in path.split("/"))


@pytest.mark.parametrize(
    "ids",
    [
        ("a.myshopify.com", "商" * 30),
        ("a.myshopify.com", "x" * 250),
        ("a.myshopify.com", "ü" * 200, "ü" * 255),
        ("店" * 255, "😀" * 255, "😀" * 255),
        ("." + "😀" * 254, "1"),
    ],
    ids=[
        "30 Chinese characters",
        "250 letters",
        "200 umlauts",
        "all as long as a row may hold",
        "a leading dot",
    ],
)
def test_every_name_that_a_row_may_hold_can_be_stored(
    sql: psycopg.Connection, tmp_path: Path, ids: tuple[str, ...]
) -> None:
    """In a folder, in a bucket, whose keys have 1,024 bytes at most, and in the indexes of the queue."""
    path = stem(*ids)
    assert len(path) + len(".cutout.png") < 1024
    store = LocalStore(tmp_path / "store", "http://store")
    file = tmp_path / "model"
    file.write_bytes(b"x")
    store.put(f"{path}.cutout.png", file, "image/png")
    assert store.find(path) == [f"{path}.cutout.png"]
    names = dict(zip(("shop", "product_id", "variant_id"), ids, strict=False))
    sql.execute(
        "INSERT INTO jobs (shop, product_id, variant_id, image_urls) VALUES (%s, %s, %s, '{http://a/b}')",
        [names["shop"], names["product_id"], names.get("variant_id")],
    )
    assert sql.execute("SELECT shop FROM worker.claim_job('w', 'h', '{default}', '', 30, 1)").fetchall() == [
        (ids[0],)
    ]


def test_long_names_that_differ_at_their_end_have_paths_of_their_own() -> None:
    names = ["x" * length for length in (179, 180, 181, 182, 250)]
    names += ["x" * 250 + end for end in "ab"] + ["ü" * 60 + end for end in ("", "ü", "u")]
    names += [stem("a", name).partition("/")[2] for name in names]  # a path as another product's name
    assert len({stem("a", name) for name in names}) == len(set(names))


def test_the_database_tells_paths_apart_as_we_do(sql: psycopg.Connection) -> None:
    """Two jobs with the same files never run at once, which the database sees to by its own idea of the path."""
    ids = [
        "1",
        "gid://shopify/Product/1",
        "gid://1",
        "gid:///",
        "gid://",
        "gid:/1",
        "a/1",
        "gid://shopify/Product/",
        "x gid://y/1",
        "1\n",
        "1\n/1",
        "\\n1",
        "\\001",
        "x" * 250,
        "gid://shopify/Product/" + "x" * 200,
    ]
    products: list[tuple[str, str | None]] = [(p, v) for p in ids for v in (*ids, None)]
    ours: dict[str, set[int]] = {}
    theirs: dict[str, set[int]] = {}
    for n, (product, variant) in enumerate(products):
        ours.setdefault(stem("a", product, variant), set()).add(n)
        found = sql.execute("SELECT worker.storage_path('a', %s, %s)", [product, variant]).fetchone()
        assert found
        theirs.setdefault(found[0], set()).add(n)
    assert sorted(map(sorted, ours.values())) == sorted(map(sorted, theirs.values()))
