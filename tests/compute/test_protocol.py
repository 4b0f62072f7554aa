"""The messages between the daemon and its child: what is written is read, and nothing else is."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from worker.compute import protocol
from worker.compute.protocol import (
    Answer,
    Done,
    Downloaded,
    Failed,
    FromChild,
    Progress,
    ProtocolError,
    Ready,
    Start,
    Stopped,
    ToChild,
    Unavailable,
    Work,
    decode_from_child,
    decode_to_child,
    encode,
)
from worker.core.errors import ERRORS
from worker.core.stages import Stage

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.integers(1 - 2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
REPORT = st.dictionaries(TEXT, JSON, max_size=3)
PATHS = TEXT.map(lambda name: Path("/", *name.split("/")))

TO_CHILD: st.SearchStrategy[ToChild] = (
    st.builds(
        Start,
        kind=st.just("start"),
        background_model=TEXT,
        weights_dir=PATHS,
        photo_hosts=st.lists(TEXT, max_size=3),
    )
    | st.builds(
        Work,
        kind=st.just("work"),
        image_urls=st.lists(TEXT, max_size=3),
        excluded=st.lists(st.integers(0, 15), max_size=3),
        quality=TEXT,
        folder=PATHS,
        dimensions=JSON,
        views=JSON,
        subject=JSON,
        review_score=st.floats(0, 100),
        limit_s=st.floats(0, 1e9),  # a setting, which is finite
    )
    | st.builds(Answer, kind=st.just("answer"))
)
STAGES = st.sampled_from([stage for stage in Stage if Stage.CLAIMED < stage < Stage.UPLOADING])
FROM_CHILD: st.SearchStrategy[FromChild] = st.one_of(
    st.builds(
        Ready,
        kind=st.just("ready"),
        engine=TEXT,
        engine_version=TEXT,
        details=REPORT,
        weights=st.lists(PATHS, max_size=3),
    ),
    st.builds(Unavailable, kind=st.just("unavailable"), message=TEXT),
    st.builds(Progress, kind=st.just("progress"), stage=STAGES),
    st.builds(Downloaded, kind=st.just("downloaded"), key=st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
    st.builds(Done, kind=st.just("done"), report=REPORT),
    st.builds(
        Failed,
        kind=st.just("failed"),
        report=REPORT,
        code=st.sampled_from(sorted(ERRORS)),
        message=TEXT,
        traceback=TEXT,
    ),
    st.builds(Stopped, kind=st.just("stopped"), report=REPORT),
)


@given(TO_CHILD)
def test_what_the_daemon_says_is_read_as_it_was(message: ToChild) -> None:
    line = encode(message)
    assert line.find(b"\n") == len(line) - 1, "one line"
    assert decode_to_child(line) == message


@given(FROM_CHILD)
def test_what_a_child_says_is_read_as_it_was(message: FromChild) -> None:
    line = encode(message)
    assert line.find(b"\n") == len(line) - 1, "one line"
    assert decode_from_child(line) == message


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_refused_and_raises_nothing_else(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_from_child(line)


JOB = UUID(int=1)
FAILED = json.loads(encode(Failed(job_id=JOB, report={}, code="no_object", message="None.")))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "work"},
        {"kind": None},
        {"kind": ["failed"]},
        {"extra": 1},
        {"job_id": "1"},
        {"job_id": 1},
        {"job_id": None},
        {"code": "planted"},
        {"code": 7},
        {"message": 7},
        {"message": "x" * 1001},
        {"message": "a\0b"},
        {"traceback": "x" * 100_001},
        {"traceback": None},
        {"report": []},
        {"report": {"a": "\0"}},
        {"report": {"\0": 1}},
        {"report": {"a": [{"b": float("nan")}]}},
        {"report": {"a": float("inf")}},
        {"report": {"a": 2**63}},
        {"report": {"a": 10**4000}},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_message_that_is_not_exactly_one_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_from_child(json.dumps(FAILED | changes).encode())


@pytest.mark.parametrize("missing", ["kind", "job_id", "report", "code", "message"])
def test_a_missing_field_is_refused(missing: str) -> None:
    kept = {name: value for name, value in FAILED.items() if name != missing}
    with pytest.raises(ProtocolError):
        decode_from_child(json.dumps(kept).encode())


@pytest.mark.parametrize(
    "value", ['"\\ud800"', '"\\u0000"', "1e999", "9" * 5000, "[" * 100 + "]" * 100, "[" * 9000 + "]" * 9000]
)
def test_what_postgres_or_python_could_not_take_is_refused(value: str) -> None:
    line = encode(Done(job_id=JOB, report={"a": "here"})).decode().replace('"here"', value)
    with pytest.raises(ProtocolError):
        decode_from_child(line.encode())


@pytest.mark.parametrize("stage", [5, 85, 95, 100, 11, True, "framed", None])
def test_a_child_reports_no_stage_but_its_own(stage: object) -> None:
    line = json.dumps({"kind": "progress", "job_id": str(JOB), "stage": stage})
    with pytest.raises(ProtocolError):
        decode_from_child(line.encode())


@pytest.mark.parametrize("key", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", 7, None])
def test_a_key_is_a_hash_and_nothing_else(key: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_from_child(json.dumps({"kind": "downloaded", "job_id": str(JOB), "key": key}).encode())


def test_a_refusal_repeats_nothing_of_the_line() -> None:
    with pytest.raises(ProtocolError) as refusal:
        decode_from_child(json.dumps(FAILED | {"planted": "planted"}).encode())
    assert "planted" not in str(refusal.value)


def test_metadata_that_no_decoder_goes_through_does_not_stop_a_job() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    cases: list[tuple[Any, Any]] = [(deep, "nested too deeply"), (float("inf"), None), ([[1]], [[1]])]
    for value, read in cases:
        work = Work(
            job_id=uuid4(),
            image_urls=[],
            excluded=[],
            quality="fast",
            folder=Path("/a"),
            dimensions=value,
            views=value,
            subject=value,
            review_score=50,
            limit_s=1500,
            turntable=False,
            usdz=False,
        )
        decoded = decode_to_child(encode(work))
        assert isinstance(decoded, Work)
        assert [decoded.dimensions, decoded.views, decoded.subject] == [read] * 3


def test_postgres_stores_the_most_that_a_report_may_hold(sql: psycopg.Connection) -> None:
    deep: Any = [2**63 - 1, 1.5e-300]
    for _ in range(protocol.MAX_DEPTH - 2):
        deep = [deep]
    done = Done(job_id=JOB, report={"a": deep, "\x1b\x7f\uffff": "\U0010ffff"})
    assert decode_from_child(encode(done)) == done
    assert sql.execute("SELECT %s", [Jsonb(dict(done.report))]).fetchone() == (done.report,)
