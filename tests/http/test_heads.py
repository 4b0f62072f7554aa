import asyncio
from itertools import pairwise

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.http.heads import MAX_HEAD, TolerantNetwork, drop_bad_lines


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nA B: 1\r\nC: 2\r\n\r\n", b"HTTP/1.1 200 OK\r\nC: 2\r\n\r\n"),
        (b"HTTP/1.1 200 OK\nA B: 1\nC: 2\n\n", b"HTTP/1.1 200 OK\nC: 2\n\n"),
        (
            b"HTTP/1.1 200 OK\r\nA B: 1\r\n of it\r\nC: 2\r\n\tof it\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nC: 2\r\n\tof it\r\n\r\n",
        ),
        (b"HTTP/1.1 200 OK\r\nA : 1\r\n: 2\r\nnothing\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_lines_whose_name_is_no_token_go_with_their_continuation(head: bytes, kept: bytes) -> None:
    assert drop_bad_lines(head) == kept


async def answer(*pieces: bytes) -> bytes:
    """What is read after a request, to the end."""
    network = TolerantNetwork(httpcore.AsyncMockBackend(list(pieces)))
    stream = await network.connect_tcp("a.example", 80)
    await stream.write(b"GET / HTTP/1.1\r\n\r\n")
    got = b""
    while more := await stream.read(4096):
        got += more
    return got


def run(*pieces: bytes) -> bytes:

    return asyncio.run(answer(*pieces))


ANSWER = b"HTTP/1.1 200 OK\r\nX Y: Z\r\nA: 1\r\n\r\nbody\r\nX Y: Z\r\n\r\nmore"
READ = b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\nbody\r\nX Y: Z\r\n\r\nmore"


@given(st.lists(st.integers(1, len(ANSWER) - 1), max_size=6))
def test_the_head_is_read_the_same_in_whatever_pieces_it_comes(cuts: list[int]) -> None:
    at = [0, *sorted(set(cuts)), len(ANSWER)]
    assert run(*(ANSWER[a:b] for a, b in pairwise(at))) == READ


def test_interim_answers_are_passed_over_and_a_body_is_not_changed() -> None:
    assert run(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nL: 1\r\n\r\n" + ANSWER) == READ


def test_a_head_that_does_not_end_is_left_to_h11() -> None:
    endless = b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * (MAX_HEAD // 6)
    assert run(endless, b"A: 1\r\n") == endless + b"A: 1\r\n"
    assert run(b"HTTP/1.1 200 OK\r\nA: 1") == b"HTTP/1.1 200 OK\r\nA: 1"
