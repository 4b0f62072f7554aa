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
from worker.compute.report import MAX_TEXT, Photo
from worker.core.errors import ERRORS
from worker.core.stages import STEPS, Stage

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.integers(1 - 2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FINITE = st.floats(-1e15, 1e15) | st.none()
COUNTS = st.integers(0, 2**53)
WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
WARNINGS = st.lists(TEXT, max_size=3)
ROLES = st.sampled_from(["front", "back", "left", "right"])
DETAILS: dict[str, st.SearchStrategy[Any]] = {"device": TEXT, "precision": WORDS}
PHOTO = st.fixed_dictionaries(
    {"url": TEXT, "status": st.sampled_from(["used", "spare", "refused"]), "view": ROLES | st.none()},
    optional={
        "reason": TEXT,
        "score": st.dictionaries(WORDS, FINITE),
        "error_code": st.sampled_from(sorted(ERRORS)),
    },
)
REPORT = st.fixed_dictionaries(
    {},
    optional={
        **DETAILS,
        "engine": TEXT,
        "photos": st.lists(PHOTO, max_size=2),
        "surface": st.dictionaries(
            WORDS, FINITE | st.booleans() | TEXT | st.lists(FINITE, max_size=3), max_size=2
        ),
        "model": st.fixed_dictionaries(
            {}, optional={"triangles": COUNTS, "size_m": st.lists(FINITE, max_size=3), "warnings": WARNINGS}
        ),
        "quality": st.fixed_dictionaries(
            {},
            optional={
                "score": FINITE,
                "parts": st.dictionaries(WORDS, FINITE, max_size=2),
                "warnings": WARNINGS,
            },
        ),
        "tried": st.lists(st.fixed_dictionaries({"photo": st.integers(0, 15), "score": FINITE}), max_size=2),
        "seconds": st.dictionaries(st.sampled_from([step.value for step in STEPS]), FINITE, max_size=2),
    },
)
PATHS = TEXT.map(lambda name: Path("/", *name.split("/")))

TO_CHILD: st.SearchStrategy[ToChild] = (
    st.builds(
        Start,
        kind=st.just("start"),
        background_model=TEXT,
        weights_dir=PATHS,
        folder=PATHS,
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
        details=st.fixed_dictionaries({}, optional=DETAILS),
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
        {"report": {"unknown": 1}},
        {"report": {"\0": 1}},
        {"report": {"engine": "a\0b"}},
        {"report": {"engine": 7}},
        {"report": {"engine": "x" * 1001}},
        {"report": {"photos": {}}},
        {"report": {"photos": [{}] * 17}},
        {"report": {"photos": [{"url": "x" * 65_537}]}},
        {"report": {"photos": [{"status": "planted"}]}},
        {"report": {"photos": [{"error_code": "planted"}]}},
        {"report": {"photos": [{"html": "<script>"}]}},
        {"report": {"photos": [{"score": {"total": float("nan")}}]}},
        {"report": {"model": [1]}},
        {"report": {"model": {"triangles": -1}}},
        {"report": {"model": {"triangles": 1.5}}},
        {"report": {"model": {"triangles": 2**63}}},
        {"report": {"model": {"triangles": 10**4000}}},
        {"report": {"model": {"watertight": "yes"}}},
        {"report": {"model": {"size_m": [1.0] * 4}}},
        {"report": {"model": {"glb_sha256": "a"}}},
        {"report": {"quality": [1]}},
        {"report": {"quality": {"score": "99"}}},
        {"report": {"quality": {"score": float("inf")}}},
        {"report": {"quality": {"score": 1e300}}},
        {"report": {"quality": {"score": 10**400}}},
        {"report": {"quality": {"warnings": ["x"] * 101}}},
        {"report": {"quality": {"warnings": [["x"]]}}},
        {"report": {"surface": 3}},
        {"report": {"surface": {"Not a word": 1}}},
        {"report": {"surface": {"a": {"b": {"c": 1}}}}},
        {"report": {"surface": {f"figure_{n}": 1 for n in range(33)}}},
        {"report": {"seconds": "planted"}},
        {"report": {"seconds": {"planted": 1}}},
        {"report": {"tried": [{"photo": 16}]}},
        {"report": {"bytes": {"../model.glb": 1}}},
        {"report": {"model_url": "https://planted.example/model.glb"}},
        {"report": {"review": {}}},
        {"report": {"cached": "planted"}},
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
    line = encode(Done(job_id=JOB, report={"engine": "here"})).decode().replace('"here"', value)
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
    text = "\x1b\x7f\uffff\U0010ffff" * (MAX_TEXT // 4)
    done = Done(
        job_id=JOB,
        report={
            "engine": text,
            "model": {"triangles": 2**53, "size_m": [1e15, -5e-324, None], "warnings": [text] * 100},
            "photos": [Photo(url="x" * 60_000, view=None), *[Photo(url="x" * 300)] * 15],
        },
    )
    line = encode(done)
    assert len(line) < protocol.MAX_LINE
    assert decode_from_child(line) == done
    assert sql.execute("SELECT %s", [Jsonb(dict(done.report))]).fetchone() == (done.report,)


def test_the_most_that_a_child_may_say_of_a_bug_is_read() -> None:
    failed = Failed(
        job_id=JOB, report={}, code="internal_error", message="x" * 1000, traceback="\x1b" * 100_000
    )
    assert len(encode(failed)) < protocol.MAX_LINE
    assert decode_from_child(encode(failed)) == failed
