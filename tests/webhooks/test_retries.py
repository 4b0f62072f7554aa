from itertools import count

import pytest

from worker.webhooks import retries


def waits(*answers: int | None, terminal: bool = True) -> list[float | None]:
    """What follows each of these answers to one event; the last of them is given for ever."""
    found: list[float | None] = []
    refusals = 0
    for attempt in count(1):
        status = answers[min(attempt, len(answers)) - 1]
        then = retries.next_attempt(status, None, attempts=attempt, refusals=refusals, terminal=terminal)
        refusals = then.refusals
        found.append(then.wait_s)
        if then.wait_s is None:
            return found
    raise AssertionError


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 502, 503, 504, 599])
def test_what_can_succeed_later_is_tried_for_a_day(status: int | None) -> None:
    found = waits(status)
    slept = [wait for wait in found if wait is not None]
    assert found[-1] is None
    assert 16 < sum(slept) / 3600 < 33
    assert slept[0] < 2.1
    assert all(2.0**n / 2 <= wait <= 2.0**n for n, wait in enumerate(slept[:12], 1))
    assert max(slept) <= 7200


def test_the_day_is_about_a_day_and_no_two_events_come_at_the_same_moment() -> None:
    days = [sum(wait or 0 for wait in waits(503)) / 86400 for _ in range(50)]
    assert 0.9 < sum(days) / len(days) < 1.1
    assert len(set(days)) == 50


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 405, 409, 413, 422])
def test_a_refusal_is_tried_five_times_over_a_deploy_s_minutes(status: int) -> None:
    found = waits(status)
    assert len(found) == 5
    assert 600 < sum(wait or 0 for wait in found) < 1300


def test_a_refusal_of_mere_progress_holds_the_job_s_end_up_for_seconds() -> None:
    found = waits(404, terminal=False)
    assert len(found) == 5
    assert sum(wait or 0 for wait in found) <= 30


def test_failures_before_it_do_not_count_as_refusals() -> None:
    assert len(waits(*[503] * 10, 404)) == 15
    assert len(waits(404, 503, 404, 503, 404)) == 7


def test_progress_is_given_up_before_the_job_s_end() -> None:
    assert 1.1 < sum(wait or 0 for wait in waits(None, terminal=False)) / 3600 < 2.3


def test_gone_is_gone() -> None:
    assert waits(410) == [None]


def test_retry_after_is_waited_for_and_does_not_shorten_the_backoff() -> None:
    def wait(retry_after: float, attempts: int) -> float:
        then = retries.next_attempt(429, retry_after, attempts=attempts, refusals=0, terminal=True)
        assert then.wait_s is not None
        return then.wait_s

    assert wait(100, 1) == 100
    assert wait(86_400, 1) == 3600
    assert wait(1, 10) >= 512
