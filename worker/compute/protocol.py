"""The messages between the daemon and its child: one frozen dataclass for each, sent as one line of JSON.

The daemon trusts no line of a child, since a photo may have taken it over: only a line that is exactly one of these
messages is decoded. Every message about a job carries the job's id; `worker.compute.process` compares it with the job
at hand.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from worker.compute.report import Code, Details, Hash, Report, Text
from worker.core.settings import Device, Precision, TripoSRViews
from worker.core.stages import Stage

M = TypeVar("M")

MAX_LINE = 1 << 20  # bytes of a message from the child, with its line end
MAX_DEPTH = 20  # of nested objects and lists in what the backend wrote
MAX_TRACEBACK = 100_000


class ProtocolError(Exception):
    """A line is not a message of this protocol. The text is pydantic's word for why; it repeats nothing of the line."""


def _shallow(value: JsonValue) -> JsonValue:
    return value if _depth(value) <= MAX_DEPTH else "nested too deeply"


def _depth(value: JsonValue, left: int = MAX_DEPTH + 1) -> int:
    if left == 0 or not isinstance(value, dict | list):
        return 0
    items = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(item, left - 1) for item in items), default=0)


def _reported_by_the_child(stage: Stage) -> Stage:
    if not Stage.CLAIMED < stage < Stage.UPLOADING:
        raise ValueError("a stage that the daemon reports")
    return stage


Input = Annotated[JsonValue, BeforeValidator(_shallow)]
"""A value of the row's metadata, as the backend wrote it. What is nested more deeply than a decoder may go is replaced."""

_exact = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True, config=_exact)
class Start:
    """Daemon to child, first and once: load these models. The child answers with Ready or Unavailable."""

    kind: Literal["start"] = "start"
    engine: str
    background_model: str
    weights_dir: Path
    folder: Path  # holds the folders of the lane's jobs
    sandbox: bool  # the child gives up what it does not need
    device: Device
    precision: Precision
    triposr_views: TripoSRViews
    gate: tuple[int, int] | None  # of the device: a file descriptor that the child inherits, and its lanes
    photo_hosts: list[str]
    photo_http: bool
    photo_loopback: bool


@dataclass(frozen=True, kw_only=True, config=_exact)
class Work:
    """Daemon to child: make the model of this job. The child answers with Progress and Downloaded, then with Done, Failed or Stopped."""

    kind: Literal["work"] = "work"
    job_id: UUID
    image_urls: list[str]
    quality: str
    excluded: list[Annotated[int, Field(ge=0)]]
    folder: Path
    dimensions: Input
    views: Input
    subject: Input
    review_score: float
    limit_s: float
    turntable: bool
    usdz: bool


@dataclass(frozen=True, kw_only=True, config=_exact)
class Answer:
    """Daemon to child, after Downloaded: go on, or the result is `known` and there is nothing to do. Then the child says Stopped."""

    kind: Literal["answer"] = "answer"
    job_id: UUID
    known: bool


@dataclass(frozen=True, kw_only=True, config=_exact)
class Ready:
    """The models are loaded. `details` says how, `weights` lists the files or folders that they came from."""

    kind: Literal["ready"] = "ready"
    engine: Text
    engine_version: Text
    details: Details
    weights: list[Path]


@dataclass(frozen=True, kw_only=True, config=_exact)
class Unavailable:
    """The models cannot be loaded on this machine, or cannot now and may `later`. `message` is one line for the operator; the
    child ends.
    """

    kind: Literal["unavailable"] = "unavailable"
    message: Text
    later: bool = False


@dataclass(frozen=True, kw_only=True, config=_exact)
class Progress:
    """The job has reached this stage. Stages rise."""

    kind: Literal["progress"] = "progress"
    job_id: UUID
    stage: Annotated[Stage, AfterValidator(_reported_by_the_child)]


@dataclass(frozen=True, kw_only=True, config=_exact)
class Downloaded:
    """The photos are there. `key` is a hash of all that the result depends on. The child waits for an Answer."""

    kind: Literal["downloaded"] = "downloaded"
    job_id: UUID
    key: Hash


@dataclass(frozen=True, kw_only=True, config=_exact)
class Done:
    """The model's files lie in the job's folder."""

    kind: Literal["done"] = "done"
    job_id: UUID
    report: Report


@dataclass(frozen=True, kw_only=True, config=_exact)
class Failed:
    """The job failed with a code of `worker.core.errors`. `traceback` is for the log and mostly empty."""

    kind: Literal["failed"] = "failed"
    job_id: UUID
    report: Report
    code: Code
    message: Text
    traceback: Annotated[str, StringConstraints(max_length=MAX_TRACEBACK)] = ""


@dataclass(frozen=True, kw_only=True, config=_exact)
class Stopped:
    """The job stopped because the daemon sent SIGUSR1, or knows the result."""

    kind: Literal["stopped"] = "stopped"
    job_id: UUID
    report: Report


ToChild = Start | Work | Answer
Result = Done | Failed | Stopped
FromChild = Ready | Unavailable | Progress | Downloaded | Result

_to_child: TypeAdapter[ToChild] = TypeAdapter(Annotated[ToChild, Field(discriminator="kind")])
_from_child: TypeAdapter[FromChild] = TypeAdapter(Annotated[FromChild, Field(discriminator="kind")])


def encode(message: ToChild | FromChild) -> bytes:
    """Return the message as one line, its line end included."""
    line = _to_child.dump_json(message) if isinstance(message, ToChild) else _from_child.dump_json(message)
    return line + b"\n"


def decode_to_child(line: bytes) -> ToChild:
    """Parse what the daemon says. Raises: ProtocolError."""
    return _decode(_to_child, line)


def decode_from_child(line: bytes) -> FromChild:
    """Parse what a child says; nothing else about it is trusted. Raises: ProtocolError."""
    return _decode(_from_child, line)


def _decode(adapter: TypeAdapter[M], line: bytes) -> M:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        raise ProtocolError(error.errors(include_url=False, include_input=False)[0]["type"]) from None
