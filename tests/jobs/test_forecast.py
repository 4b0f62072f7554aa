"""The queue played forward: lanes, turns, limits, what comes later, and what is not known."""

import pytest

from worker.jobs.forecast import Arrivals, Host, Part, Queue, Served, play

LINE = ("default", "")
HOST = Host(["default"], "relief", 2)


def waiting(shop: str, jobs: int, seconds: float | None = 60, *, priority: int = 0) -> Queue:
    return Queue(LINE, priority, shop, [Part(1, seconds) for _ in range(jobs)])


def starts(queue: Queue) -> list[float | None]:
    return [part.first_start for part in queue.parts]


def test_lanes_take_one_job_after_the_other() -> None:
    only = waiting("a", 4)
    play([HOST], [only])
    assert starts(only) == [0, 0, 60, 60]


def test_a_lane_is_free_when_its_job_ends() -> None:
    only = waiting("a", 4)
    play([Host(["default"], "relief", 3, [(10, "b"), (25, "b")])], [only])
    assert starts(only) == [0, 10, 25, 60]


def test_shops_take_turns_after_the_one_that_was_served_last() -> None:
    a, b, c = waiting("a", 2), waiting("b", 1), waiting("c", 1)
    play([Host(["default"], "relief", 1)], [a, b, c], served={(LINE, 0): Served("a", 5)})
    assert [starts(each) for each in (a, b, c)] == [[120, 180], [0], [60]]


def test_a_higher_priority_comes_first() -> None:
    low, high = waiting("a", 1), waiting("b", 3, priority=1)
    play([HOST], [low, high])
    assert (starts(low), starts(high)) == ([60], [0, 0, 60])


def test_lines_take_turns_among_the_hosts_that_take_them() -> None:
    anyone, special = waiting("a", 2), Queue(("default", "triposr"), 0, "a", [Part(1, 60), Part(1, 60)])
    other = Queue(("other", ""), 0, "a", [Part(1, 60)])
    play([Host(["default"], "relief", 1), Host(["default"], "triposr", 1)], [anyone, special, other])
    assert starts(anyone) == [0, 60]
    assert starts(special) == [0, 60]
    assert starts(other) == [None], "nobody takes it"


def test_a_shop_has_no_more_at_once_than_its_limit() -> None:
    a, b = waiting("a", 3), waiting("b", 2)
    play([Host(["default"], "relief", 4, [(30, "a")])], [a, b], limits={"a": 1}, limit=2)
    assert (starts(a), starts(b)) == ([30, 90, 150], [0, 0])
    never = waiting("a", 1)
    play([HOST], [never], limits={"a": 0})
    assert starts(never) == [None]


def test_nothing_is_known_after_a_job_of_which_nothing_is_known() -> None:
    a, b = waiting("a", 2), waiting("b", 1, None)
    other = Queue(("other", ""), 0, "a", [Part(1, 60), Part(1, 60)])
    hosts = [Host(["default"], "relief", 1), Host(["default"], "relief", 1), Host(["other"], "relief", 1)]
    play(hosts, [a, b, other])
    assert (starts(a), starts(b)) == ([0, None], [0])
    assert starts(other) == [0, 60], "its hosts do nothing else"
    busy = waiting("a", 1)
    play([Host(["default"], "relief", 2, [(None, "b")])], [busy])
    assert starts(busy) == [0]


@pytest.mark.parametrize(("per_s", "share"), [(0.01, 0.3), (0.02, 0.6), (0.5, 0.9)])
def test_jobs_that_go_on_coming_have_their_share_of_the_lanes(per_s: float, share: float) -> None:
    many = Queue(LINE, 0, "a", [Part(1, 60), *(Part(20, 60) for _ in range(100))])
    play([HOST], [many], arrivals=[Arrivals(LINE, 0, per_s, 60)])
    (last,) = [part.last_start for part in many.parts[-1:]]
    assert last == pytest.approx(2000 * 60 / 2 / (1 - share), rel=0.15)


@pytest.mark.parametrize("lanes", [1, 3, 16])
def test_many_jobs_are_played_in_grains_without_an_error_that_shows(lanes: int) -> None:
    sizes = [1] * 20 + [max(1, n // 20) for n in range(20, 2000, 20)]
    big, small = Queue(LINE, 0, "big", [Part(n, 60) for n in sizes]), waiting("small", 20)
    play([Host(["default"], "relief", lanes)], [big, small])
    total = sum(sizes) + 20
    assert big.parts[-1].last_start == pytest.approx(total * 60 / lanes, rel=0.03)
    assert small.parts[-1].last_start == pytest.approx(40 * 60 / lanes, abs=60)
