"""docs/review.md: its SQL, run in order on jobs that end as the page says, prints its outputs."""

from pathlib import Path

from conftest import complete_next
from examples import PAIR, printed, said
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.local.postgres import Postgres

PAGE = (Path(__file__).parents[2] / "docs" / "review.md").read_text()
SHOP = "shop.myshopify.com"


def test_the_page_s_sql_prints_what_the_page_says(
    postgres: Postgres, engine: Engine, database_url: str
) -> None:
    def finish_next(digits: str, *, wants_review: bool) -> None:
        complete_next(engine, digest=(digits * 16)[:32], wants_review=wants_review)

    for _ in range(2):
        photos = ["https://cdn.shopify.com/front.jpg", "https://cdn.shopify.com/back.jpg"]
        queue.enqueue(engine, shop=SHOP, product_id="123", image_urls=photos)
    finish_next("89", wants_review=False)
    finish_next("0123456789abcdef", wants_review=True)

    found = [*PAIR.finditer(PAGE)]
    assert len(found) == PAGE.count("```sql") > 4
    for pair in found:
        if "approve_job(" in pair[2]:  # the page: the second model is better
            finish_next("fedcba9876543210", wants_review=True)
        assert printed(pair, postgres.binaries / "psql", database_url) == said(pair), pair[2]
