import itertools

import psycopg
import pytest

from worker.storage.paths import stem


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


def test_different_ids_never_share_a_path() -> None:
    names = ["a", "a/b", "a=2Fb", "a.b", "A", "a b", "a\\b", ".", "..", "é", "e\u0301", "a%2Fb", "a\x00b"]
    paths = [stem(*ids) for ids in itertools.product(names, names)] + [
        stem(*ids) for ids in itertools.product(names, repeat=3)
    ]
    assert len(set(paths)) == len(paths)
    assert all(part not in {"", ".", ".."} for path in paths for part in path.split("/"))


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
