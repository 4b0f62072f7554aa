from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from worker.core.errors import (
    first_line,
    is_retryable_status,
    one_line,
    parse_retry_after,
    redact_text,
    redact_url,
)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("86400", 86_400),
        ("-5", None),
        ("1.5", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds


@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            ["Mon,", "01", "Jan", "2026", "9999", "00:00:00", "GMT", "+2359", "-", ":", "9" * 20]
        ),
        max_size=8,
    ).map(" ".join)
)
def test_no_retry_after_raises(header: str) -> None:
    found = parse_retry_after(header)
    assert found is None or found >= 0


def test_retry_after_as_a_date_counts_from_now() -> None:
    found = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert found is not None
    assert 85 < found <= 90


def test_a_status_that_may_change_by_itself_is_retryable() -> None:
    assert [status for status in range(200, 600) if is_retryable_status(status)] == [
        408,
        425,
        429,
        *range(500, 600),
    ]


def test_an_error_is_told_on_one_line_without_the_statement() -> None:
    driver = psycopg.OperationalError("connection failed:\n\tIs the server running?\n")
    error = OperationalError("SELECT secret", {}, driver)
    assert one_line(error) == one_line(driver) == "connection failed: Is the server running?"
    assert first_line(error) == "connection failed:"
    assert first_line(ValueError()) == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://cdn.shopify.com/a.jpg?token=SECRET", "https://cdn.shopify.com/a.jpg"),
        ("https://cdn.shopify.com/a.jpg#SECRET?", "https://cdn.shopify.com/a.jpg"),
        ("https://me:SECRET@a.example/logo@2x.png", "https://a.example/logo@2x.png"),
        ("https://cdn.shopify.com:443/logo@2x.png", "https://cdn.shopify.com:443/logo@2x.png"),
        ("https://[2606:4700::1]/logo@2x.png", "https://[2606:4700::1]/logo@2x.png"),
        ("https://me:SEC@RET@a.example/", "https://a.example/"),
        ("https://me:SEC/RET@a.example/", "https://a.example/"),
        ("https://me:SECRET\\@a.example/", "https://a.example/"),
        ("photo.jpg?SECRET", "photo.jpg"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_secret(url: str, expected: str) -> None:
    assert redact_url(url) == expected
    if "://" in url:
        assert redact_text(f"error at '{url}', line 1?") == f"error at '{expected}', line 1?"
