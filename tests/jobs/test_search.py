"""Jobs are found by each of their names and states, in parts that fit together, as one plain statement over all rows finds them."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.jobs import queue, search
from worker.jobs.filters import STATUSES, BadFilter, Filter
from worker.jobs.search import Search
from worker.jobs.walks import Place

# In all states, some of them at the same moment.
CROWD = """
SET session_replication_role = replica;
INSERT INTO jobs (shop, product_id, variant_id, product_handle, image_urls, quality, pool, engine, batch, status, progress, stage,
    attempts, model_url, error_code, error_message, review, lease_token, lease_expires_at, claimed_by, created_at, run_after,
    started_at, completed_at, metadata)
SELECT 'shop-' || n % 7 || '.myshopify.com', CASE n % 2 WHEN 0 THEN 'gid://shopify/Product/' ELSE '' END || 1000 + n % 11,
    CASE n % 5 WHEN 0 THEN 'gid://shopify/ProductVariant/7' END, CASE n % 3 WHEN 0 THEN 'Tea-Pot' END, '{http://a/b}',
    CASE n % 4 WHEN 0 THEN 'fast' ELSE 'balanced' END, CASE n % 6 WHEN 0 THEN 'x' ELSE 'default' END,
    CASE n % 9 WHEN 0 THEN 'triposr' END, CASE n % 3 WHEN 1 THEN 'spring' END, s::worker.job_state,
    CASE s WHEN 'completed' THEN 100 ELSE 0 END, CASE s WHEN 'completed' THEN 'completed' END, 1,
    CASE s WHEN 'completed' THEN 'x' END, CASE WHEN s = 'failed' OR n % 13 = 0 THEN 'no_object' END, 'No.',
    CASE WHEN s = 'completed' AND n % 4 = 1 THEN 'wanted' ELSE 'none' END,
    CASE s WHEN 'processing' THEN gen_random_uuid() END, CASE s WHEN 'processing' THEN now() + interval '1 h' END,
    CASE s WHEN 'processing' THEN 'gpu-' || n % 2 END, t, t, CASE WHEN s <> 'pending' THEN t + interval '1 s' END,
    CASE WHEN s NOT IN ('pending', 'processing') THEN t + n % 3 * interval '1 min' END,
    CASE s WHEN 'completed' THEN jsonb_build_object('worker', jsonb_build_object('engine', 'relief')) ELSE '{}' END
FROM (SELECT n, (ARRAY['pending', 'processing', 'completed', 'completed', 'failed', 'cancelled'])[1 + n * 7 % 6] AS s,
    now() - n / 3 * interval '30 s' AS t FROM generate_series(1, 300) AS n) AS made;
INSERT INTO worker.search (created_at, job_id, product, variant, handle, batch)
SELECT created_at, id, worker.last_part(product_id), worker.last_part(variant_id), lower(product_handle), batch FROM jobs;
INSERT INTO worker.attempts (job_id, lease_token, attempt, worker, host, started_at, ended_at, outcome)
SELECT id, gen_random_uuid(), 1, 'gpu-2', 'machine', started_at, completed_at, 'completed' FROM jobs WHERE completed_at IS NOT NULL
    AND quality = 'fast';
RESET session_replication_role;
"""

# What a filter means, as a condition on the table.
MEANINGS = {
    "": "true",
    "status=ended": "completed_at IS NOT NULL",
    "status=processing": "status = 'processing'",
    "status=pending": "status = 'pending'",
    "status=completed": "status = 'completed'",
    "status=failed": "status = 'failed'",
    "status=cancelled": "status = 'cancelled'",
    "review=wanted": "review = 'wanted'",
    "review=rejected": "false",
    "code=no_object": "error_code = 'no_object'",
    "code=no_object&status=pending": "error_code = 'no_object' AND status = 'pending'",
    "shop=shop-3.myshopify.com": "shop = 'shop-3.myshopify.com'",
    "shop=SHOP-3": "shop = 'shop-3.myshopify.com'",
    "shop=myshopify": "true",
    "shop=%25": "false",
    "shop=shop-3&status=failed": "shop = 'shop-3.myshopify.com' AND status = 'failed'",
    "product=1004": "product_id IN ('1004', 'gid://shopify/Product/1004')",
    "product=gid://shopify/Product/1004": "product_id IN ('1004', 'gid://shopify/Product/1004')",
    "variant=7": "variant_id IS NOT NULL",
    "handle=tea-POT": "product_handle IS NOT NULL",
    "batch=spring&shop=shop-2.myshopify.com": "batch = 'spring' AND shop = 'shop-2.myshopify.com'",
    "preset=fast&status=completed": "quality = 'fast' AND status = 'completed'",
    "pool=x": "pool = 'x'",
    "engine=triposr": "engine = 'triposr'",
    "engine=relief": "status = 'completed'",
    "host=gpu-1": "claimed_by = 'gpu-1'",
    "host=machine": "completed_at IS NOT NULL AND quality = 'fast'",
    "host=gpu-2&status=failed": "status = 'failed' AND quality = 'fast'",
    "since=30m&until=10m": "created_at >= now() - interval '30 min' AND created_at < now() - interval '10 min'",
    "since=30m&until=10m&status=failed":
        "status = 'failed' AND completed_at >= now() - interval '30 min' AND completed_at < now() - interval '10 min'",
}  # fmt: skip


def parse(query: str) -> Filter:
    return Filter.parse(dict(part.split("=") for part in query.replace("%25", "%").split("&") if part))


def ids(sql: psycopg.Connection, condition: str) -> set[UUID]:
    return {row[0] for row in sql.execute(f"SELECT id FROM jobs WHERE {condition}".encode())}


def walk(asked: Search, most: int, visits: int) -> list[Place]:
    """All jobs, part by part."""
    places: list[Place] = []
    place = None
    while True:
        found = asked.find(most=most, visits=visits, older=place)
        assert len(found.places) <= most
        places += found.places
        place = found.places[-1] if found.more else found.stopped
        if place is None:
            return places


@pytest.mark.parametrize("many_shops", [False, True])
def test_each_filter_finds_its_jobs_in_parts_that_fit_together(
    engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, many_shops: bool
) -> None:
    monkeypatch.setattr(search, "MOST_SHOPS", 0 if many_shops else 40)
    sql.execute(CROWD)
    for query, condition in MEANINGS.items():
        asked = Search(engine, parse(query))
        expected = ids(sql, condition)
        for most, visits in ((300, 400), (40, 25), (25, 40)):
            places = walk(asked, most, visits)
            assert [place.id for place in places] == [place.id for place in sorted(places, reverse=True)], (
                query
            )
            assert len(places) == len(expected), query
            assert {place.id for place in places} == expected, query
        assert asked.count() == (len(expected), True), query
        assert {job for part in asked.batches(50) for job in part} == expected
        if len(places) > 20:  # back again
            found = asked.find(most=5, newer=places[10])
            assert list(found.places) == places[5:10]
            assert found.more
            found = asked.find(most=15, newer=places[10])
            assert (list(found.places), found.more) == (places[:10], False)


def test_choices_are_counted_as_if_their_field_asked_for_nothing(
    engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql.execute(CROWD)
    for query, condition in (("", "true"), ("shop=shop-3.myshopify.com", "shop = 'shop-3.myshopify.com'")):
        found = Search(engine, parse(f"status=completed&preset=fast&{query}")).choices()
        for status in STATUSES:
            expected = len(ids(sql, f"{condition} AND quality = 'fast' AND status = '{status}'"))
            assert found["status"].get(status, (0, True)) == (expected, True)
        for preset in ("fast", "balanced"):
            expected = len(ids(sql, f"{condition} AND quality = '{preset}' AND status = 'completed'"))
            assert found["preset"][preset] == (expected, True)
        assert found["engine"] == {"relief": found["status"]["completed"]}
    monkeypatch.setattr(search, "COUNT_VISITS", 20)
    monkeypatch.setattr(search, "COUNTED", 10)
    monkeypatch.setattr(search, "CHOICE_VISITS", 12)
    asked = Search(engine, Filter(status="failed"))
    assert asked.count() == (10, False)
    assert asked.choices()["status"]["failed"] == (10, False)
    assert asked.choices()["code"] == {"no_object": (10, False)}
    assert Search(engine, Filter(handle="tea-pot", preset="fast")).count() == (5, False)


def test_the_names_of_a_job_follow_it(engine: Engine, sql: psycopg.Connection) -> None:
    made = {
        name: queue.enqueue(engine, shop="a", product_id=f"gid://shopify/Product/{name}", image_urls=["http://a/b"])
        for name in ("1", "2", "3")
    }  # fmt: skip

    def find(**values: str) -> Sequence[UUID]:
        return Search(engine, Filter(**values)).find(most=9).ids

    assert find(product="2") == [made["2"]]
    sql.execute("SET ROLE worker")
    sql.execute(
        "UPDATE jobs SET product_id = '5', product_handle = 'Cup', variant_id = 'x' WHERE id = %s",
        [made["2"]],
    )
    sql.execute("RESET ROLE")
    assert find(product="2") == []
    assert (
        find(product="5")
        == find(handle="CUP")
        == find(variant="gid://shopify/ProductVariant/x")
        == [made["2"]]
    )
    sql.execute("DELETE FROM jobs WHERE id <> %s", [made["2"]])
    assert sql.execute("SELECT job_id FROM worker.search").fetchall() == [(made["2"],)]
    sql.execute("TRUNCATE jobs")
    assert sql.execute("SELECT count(*) FROM worker.search").fetchone() == (0,)


@pytest.mark.parametrize(
    "query", ["status=faild", "review=yes", "job=12", "job=xyzxyz", "since=soon", "until=99999d", "shop=" + "x" * 256, "code=a\0b"]
)  # fmt: skip
def test_a_value_that_a_field_cannot_have_is_refused_and_not_left_out(query: str) -> None:
    with pytest.raises(BadFilter, match=query.split("=", maxsplit=1)[0]):
        parse(query)


def test_a_filter_is_its_query_string() -> None:
    wanted = Filter(shop="a & b", job="abcd-ef", since="7d", until="2026-01-31T15:00", status="ended")
    assert str(wanted) == "shop=a+%26+b&job=abcd-ef&status=ended&since=7d&until=2026-01-31T15%3A00"
    assert Filter.parse(wanted.values) == wanted
    place = Place(datetime(2026, 1, 31, 15, 0, 0, 12, tzinfo=UTC), UUID(int=7))
    assert Place.parse(str(place)) == place
    for damaged in ("", "x", "2026-01-31_1", str(place)[:-1], f"0001-01-01T00:00+09:00_{UUID(int=7)}"):
        with pytest.raises(BadFilter):
            Place.parse(damaged)


def test_a_change_between_two_parts_disturbs_none(engine: Engine, sql: psycopg.Connection) -> None:
    sql.execute(CROWD)
    waiting = ids(sql, "status = 'pending'")
    cancelled: list[UUID] = []
    for part in itertools.islice(Search(engine, Filter(status="pending")).batches(8), 100):
        for job in part:
            assert queue.request_cancel(engine, job)
        cancelled += part
    assert (len(cancelled), set(cancelled)) == (len(waiting), waiting)
