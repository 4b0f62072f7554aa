"""The one field that takes whatever people have at hand, the list that it leads to, and its pages."""

import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import parse_qsl, urlsplit

import httpx
import psycopg
import pytest
from conftest import connected, new_database
from pydantic import SecretStr
from rows import change, insert, served
from sqlalchemy.engine import Engine

from worker.jobs import search as jobs_search
from worker.local.postgres import Postgres
from worker.ops.dashboard import access, pages, search

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def site(engine: Engine) -> Iterator[httpx.Client]:
    with served(engine) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def ids(page: str) -> list[str]:
    return re.findall(r'href="/jobs/([0-9a-f-]{36})"', page)


def link(page: str, name: str) -> str:
    """The address behind the link of this name."""
    found = re.search(rf'<a href="([^"]*)"[^>]*>{name}</a>', page)
    return unescape(found[1]) if found else ""


PRODUCT = "gid://shopify/Product/8123456789012"
VARIANT = "gid://shopify/ProductVariant/4567890123456"


@pytest.mark.parametrize(
    ("typed", "meaning"),
    [
        (PRODUCT, "product=8123456789012"),
        (f"  the product {PRODUCT}, please", "product=8123456789012"),
        (VARIANT, "variant=4567890123456"),
        ("8123456789012", "product=8123456789012"),
        ("What is wrong with 8123456789012?", "product=8123456789012"),
        ("See <https://tea.myshopify.com/admin/products/8123456789012>, it looks odd",
         "shop=tea.myshopify.com&product=8123456789012"),
        ("job 0f3cf1f2-8b1c-4a77-9a9e-0123456789ab failed", "job=0f3cf1f2-8b1c-4a77-9a9e-0123456789ab"),
        ("#8123456789012.", "product=8123456789012"),
        (f"Hello, {'our shop is closed on Sundays. ' * 20}The product is 8123456789012.", "product=8123456789012"),
        ("Blue Tea Pot (https://tea.myshopify.com/products/blue-tea-pot) is wrong",
         "shop=tea.myshopify.com&handle=blue-tea-pot"),
        ("https://blog.example, https://tea.myshopify.com, https://tea.example/products/blue-tea-pot.", "handle=blue-tea-pot"),
        ("Anna <anna@tea.myshopify.com> wrote", "shop=tea.myshopify.com"),
        ("4567890123456", "variant=4567890123456"),
        ("https://admin.shopify.com/store/tea/products/8123456789012", "shop=tea.myshopify.com&product=8123456789012"),
        ("https://admin.shopify.com/store/tea/products/8123456789012/variants/4567890123456?x=1",
         "shop=tea.myshopify.com&product=8123456789012&variant=4567890123456"),
        ("https://tea.myshopify.com/admin/products/8123456789012", "shop=tea.myshopify.com&product=8123456789012"),
        ("https://tea.myshopify.com/products/blue-tea-pot", "shop=tea.myshopify.com&handle=blue-tea-pot"),
        ("https://www.tea.example/en-gb/collections/all/products/blue-tea-pot?variant=4567890123456#x",
         "variant=4567890123456&handle=blue-tea-pot"),
        ("https://x.supabase.co/storage/v1/object/public/3d-models/tea.myshopify.com/8123456789012/4567890123456.glb",
         "shop=tea.myshopify.com&product=8123456789012&variant=4567890123456"),
        ("https://x.supabase.co/3d-models/tea.myshopify.com/8123456789012/v.0123456789abcdef0123456789abcdef.glb",
         "shop=tea.myshopify.com&product=8123456789012"),
        ("https://tea.myshopify.com/", "shop=tea.myshopify.com"),
        ("blue-tea-pot", "handle=blue-tea-pot"),
        ("Blue  Tea Pot!", "handle=blue-tea-pot"),
        ("tea", "shop=tea.myshopify.com"),
        ("TEA.myshopify.com", "shop=TEA.myshopify.com"),
        ("ea.my", "shop=ea.my"),
        ("Spring 26", "batch=Spring+26"),
        ("no_object", "code=no_object"),
        ("failed", "status=failed"),
        ("fast", "preset=fast"),
        ("relief", "engine=relief"),
        ("gpu-7", "host=gpu-7"),
        ("shop:tea code:no_object", "shop=tea&code=no_object"),
        ('batch:"Spring 26" blue-tea-pot', "handle=blue-tea-pot&batch=Spring+26"),
        ("status:failed since:2h", "status=failed&since=2h"),
    ],
)  # fmt: skip
def test_what_is_typed_is_recognized(known: Engine, typed: str, meaning: str) -> None:
    found = search.read(known, typed)
    assert str(found[0]) == meaning, [str(each) for each in found]


@pytest.fixture(scope="module")
def known(postgres: Postgres) -> Iterator[Engine]:
    """One job that has each name."""
    with (
        new_database(postgres) as url,
        connected(url) as engine,
        psycopg.connect(url, autocommit=True) as sql,
    ):
        insert(sql, shop="tea.myshopify.com", product_id=PRODUCT, variant_id=VARIANT, product_handle="blue-tea-pot",
               batch="Spring 26", status="failed", quality="fast", engine="relief")  # fmt: skip
        sql.execute(
            "INSERT INTO worker.hosts (name, instance, version, engine, pools, lanes, devices, memory_mb)"
            " VALUES ('gpu-7', gen_random_uuid(), '1', 'relief', '{default}', 1, '{cpu}', 1)"
        )
        sql.execute(
            "INSERT INTO worker.attempts (job_id, lease_token, attempt, worker, host, started_at, ended_at, outcome)"
            " SELECT id, gen_random_uuid(), 1, 'gpu-7', 'machine', started_at, completed_at, 'failed' FROM jobs"
        )
        yield engine


@pytest.mark.parametrize(
    "typed", ["nobody", "%", "'; DROP TABLE jobs", "0" * 32, "x" * 5000, "https://[", "http://a/products/", "gid://shopify/Shop/1",
              "https://x/" + "a/" * 500, "\ud800".encode("utf-8", "replace").decode(), "🫖", "unknown:thing", HOSTILE]
)  # fmt: skip
def test_what_nobody_knows_finds_nothing(known: Engine, typed: str) -> None:
    assert search.read(known, typed) == []


def test_one_meaning_is_said_by_name_and_of_several_each_is_offered(
    site: httpx.Client, sql: psycopg.Connection
) -> None:
    shop = insert(sql, shop="autumn.myshopify.com")
    batch = insert(sql, shop="tea.myshopify.com", batch="autumn")
    answer = site.get("/", params={"q": batch})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/?job={batch}")
    answer = site.get("/", params={"q": "autumn"})
    assert ids(answer.text) == [shop]
    assert ids(site.get(link(answer.text, "batch autumn")).text) == [batch]
    answer = site.get("/", params={"q": "nobody\0"})
    assert (answer.status_code, ids(answer.text)) == (200, [])
    assert "Nothing is called “nobody”." in answer.text
    answer = site.get("/?shop=tea&batch=&q=&review=&since=")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?shop=tea")
    assert ids(site.get("/?shop=tea&product=1").text) == [batch]


def test_all_pages_of_a_list_are_reached_and_come_back(site: httpx.Client, sql: psycopg.Connection) -> None:
    everything = {insert(sql, status="cancelled", product_id=str(n)) for n in range(2 * pages.PAGE + 3)}
    insert(sql, status="failed")
    shown = [site.get("/?status=cancelled").text]
    while following := link(shown[-1], "Older"):
        shown.append(site.get(following).text)
    parts = [ids(page) for page in shown]
    assert [len(part) for part in parts] == [pages.PAGE, pages.PAGE, 3]
    assert {job for part in parts for job in part} == everything
    insert(sql, status="cancelled")
    assert ids(site.get(link(shown[2], "Newer")).text) == parts[1]
    second = site.get(link(shown[1], "Newer")).text
    assert ids(second) == parts[0]
    first = site.get(link(second, "Newer")).text  # not the one that is newer alone: the beginning, in full
    assert len(ids(first)) == pages.PAGE
    assert ids(first)[1:] == parts[0][:-1]
    assert link(first, "Newer") == ""
    # The whole queue goes on with what has ended.
    overview = site.get("/").text
    assert len(ids(overview)) == pages.PAGE
    assert dict(parse_qsl(urlsplit(link(overview, "Older")).query))["status"] == "ended"
    damaged = site.get("/?older=nonsense")
    assert (damaged.status_code, "damaged" in damaged.text) == (400, True)


def test_a_search_that_gives_up_says_where_and_goes_on(
    site: httpx.Client, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = insert(sql, quality="fast")
    for _ in range(8):
        insert(sql)
    monkeypatch.setattr(jobs_search, "VISITS", 5)
    page = site.get("/?preset=fast").text
    assert "Looked at 5 jobs, back to" in page
    assert ids(page) == []
    assert ids(site.get(link(page, "Look further")).text) == [old]


def test_choices_and_counts_are_shown(site: httpx.Client, sql: psycopg.Connection) -> None:
    for n in range(3):
        insert(sql, shop="tea.myshopify.com", status="failed", quality=("fast", "balanced")[n % 2])
    insert(sql, shop="tea.myshopify.com")
    page = re.sub(r"<span class=\"num\">(.*?)</span>", r"\1", site.get("/?shop=tea.myshopify.com").text)
    assert ">4 jobs, newest first<" in page
    assert ">Failed 3</a>" in page
    assert ">Waiting 1</a>" in page
    assert '<option value="balanced">balanced (2)</option>' in page
    assert '<option value="no_object">no_object (3)</option>' in page
    assert (
        'href="/?status=failed" aria-label="Without shop tea.myshopify.com"'
        in site.get("/?shop=tea.myshopify.com&status=failed").text
    )


def test_jobs_can_be_chosen_by_those_who_act_alone(engine: Engine, sql: psycopg.Connection) -> None:
    job = insert(sql, shop="tea.myshopify.com", status="failed")
    token = "a-token-that-acts-is-long"
    with served(
        engine, dashboard_token=SecretStr("a-token-that-reads-is-long"), dashboard_act_token=SecretStr(token)
    ) as address:
        for bearer, acts in ((token, True), ("a-token-that-reads-is-long", False)):
            with httpx.Client(base_url=address, follow_redirects=True) as client:
                client.get("/", params={"token": bearer})
                page = client.get("/?shop=tea&code=no_object").text
                assert ids(page) == [job]
                assert ('<input type="checkbox" name="id"' in page) == acts
                assert ('name="filter" value="shop=tea&amp;code=no_object"' in page) == acts
                assert ('formaction="/actions/retry"' in page) == acts


def test_a_photo_of_shopify_is_shown_small() -> None:
    url = "https://cdn.shopify.com/s/files/1/a.jpg"
    assert access.small_photo(url) == f"{url}?width=160"
    assert access.small_photo(f"{url}?v=1") == f"{url}?v=1&width=160"
    assert access.small_photo("https://a.example/b.jpg") == "https://a.example/b.jpg"
    assert access.small_photo("javascript:alert(1)") is None


def test_a_hostile_row_is_text_in_the_list_and_in_its_choices(
    site: httpx.Client, sql: psycopg.Connection
) -> None:
    job = insert(
        sql, shop=HOSTILE, product_id=HOSTILE, variant_id=HOSTILE, product_handle=HOSTILE, batch=HOSTILE, status="completed",
        image_urls=["https://a/" + HOSTILE.replace(" ", "")], metadata={"worker": {"engine": HOSTILE}},
    )  # fmt: skip
    change(sql, job, "pool = 'x', error_code = shop, error_message = shop")
    for path in ("/", "/?status=completed", "/?status=ended", f"/?q={HOSTILE}"):
        page = site.get(path, follow_redirects=True)
        assert ids(page.text)[:1] == [job], path
        assert "<script>alert" not in page.text
        assert len(page.content) < 100_000
    for name in ("shop", "product", "variant", "handle", "batch", "code", "engine"):
        assert ids(site.get("/", params={name: HOSTILE}).text) == [job], name
