"""Against a real server on loopback that answers byte by byte as each test says."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from worker.core.errors import JobError
from worker.engines.relief import Relief
from worker.pipeline.address import Policy
from worker.pipeline.cutout import Cutter
from worker.pipeline.download import download
from worker.pipeline.run import Request, run

OPEN = Policy(hosts=("*",), http=True, loopback=True)

Answer = bytes | Callable[[socket.socket], None]


class Server:
    """Answers the n-th request for a path with the n-th of its answers, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.heads: list[str] = []  # of the requests, as received
        self.times: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(4096)
            self.heads.append(head.decode())
            self.times.append(time.monotonic())
            answers = self.answers[head.split()[1].decode()]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)


def http(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(to: str) -> bytes:
    return http(status="302 Found", Location=to)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def fetch(url: str, target: Path, policy: Policy = OPEN, **limits: Any) -> int:
    return download(url, target, policy, **{"pause_s": 0.01, **limits})


def fails(url: str, target: Path, policy: Policy = OPEN, **limits: Any) -> JobError:
    """The error of a download; nothing may be left behind by it."""
    with pytest.raises(JobError) as caught:
        fetch(url, target, policy, **limits)
    assert list(target.parent.iterdir()) == []
    return caught.value


def test_writes_the_bytes_of_the_photo(server: Server, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    assert fetch(server.url("/photo.jpg", http(content)), tmp_path / "photo") == len(content)
    assert (tmp_path / "photo").read_bytes() == content
    assert "accept-encoding: identity" in server.heads[0].lower()


def test_a_body_without_a_length_ends_with_its_connection(server: Server, tmp_path: Path) -> None:
    fetch(server.url("/", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nphoto"), tmp_path / "photo")
    assert (tmp_path / "photo").read_bytes() == b"photo"


def test_follows_three_redirects_also_relative_ones(server: Server, tmp_path: Path) -> None:
    server.url("/photo", http(b"photo"))
    server.url("/3", redirect("photo"))
    server.url("/2", redirect(f"http://localhost:{server.port}/3"))
    fetch(server.url("/1", redirect("/2")), tmp_path / "photo")
    assert (tmp_path / "photo").read_bytes() == b"photo"


def test_a_redirect_loop_ends_after_three(server: Server, tmp_path: Path) -> None:
    assert fails(server.url("/", redirect("/")), tmp_path / "photo").code == "photo_url_refused"
    assert len(server.heads) == 4


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("404 Not Found", "photo_not_found"),
        ("410 Gone", "photo_not_found"),
        ("400 Bad Request", "photo_not_found"),
        ("204 No Content", "photo_not_found"),
        ("304 Not Modified", "photo_not_found"),
        ("401 Unauthorized", "photo_forbidden"),
        ("403 Forbidden", "photo_forbidden"),
    ],
)
def test_what_cannot_mend_itself_is_asked_for_once(
    server: Server, tmp_path: Path, status: str, code: str
) -> None:
    error = fails(server.url("/", http(status=status)), tmp_path / "photo")
    assert (error.code, error.retryable) == (code, False)
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    "status", ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests"]
)
def test_gives_up_after_three_tries(server: Server, tmp_path: Path, status: str) -> None:
    error = fails(server.url("/", http(status=status)), tmp_path / "photo")
    assert (error.code, error.retryable) == ("photo_unreachable", True)
    assert len(server.heads) == 3


def test_a_server_that_recovers_is_asked_again(server: Server, tmp_path: Path) -> None:
    broken_off = http(b"pho", Content_Length="5")
    url = server.url("/", http(status="500 Oops"), broken_off, http(b"photo"))
    assert fetch(url, tmp_path / "photo", pause_s=0.01) == 5
    assert len(server.heads) == 3


def test_waits_as_long_as_it_is_asked_to(server: Server, tmp_path: Path) -> None:
    url = server.url("/", http(status="429 Slow down", Retry_After="1"), http(b"photo"))
    fetch(url, tmp_path / "photo", pause_s=0.01)
    assert server.times[1] - server.times[0] >= 1


@pytest.mark.parametrize("asked", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_waits_no_longer_than_the_cap(server: Server, tmp_path: Path, asked: str) -> None:
    url = server.url("/", http(status="503 Later", Retry_After=asked), http(b"photo"))
    fetch(url, tmp_path / "photo", pause_s=0.01, longest_retry_after_s=0.3)
    assert 0.3 <= server.times[1] - server.times[0] < 1


@pytest.mark.parametrize("asked", ["-5", "soon", "nan", "inf", "", "Wed, 21 Oct 2015 07:28:00"])
def test_a_senseless_wish_to_wait_does_no_harm(server: Server, tmp_path: Path, asked: str) -> None:
    url = server.url("/", http(status="503 Later", Retry_After=asked), http(b"photo"))
    fetch(url, tmp_path / "photo", pause_s=0.01, longest_retry_after_s=0.1)


def test_the_largest_photo_is_accepted_and_one_byte_more_is_not(server: Server, tmp_path: Path) -> None:
    assert fetch(server.url("/", http(bytes(1000))), tmp_path / "photo", max_bytes=1000) == 1000
    (tmp_path / "photo").unlink()
    unannounced = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001)
    assert fails(server.url("/", unannounced), tmp_path / "photo", max_bytes=1000).code == "photo_too_large"


def drip(first: bytes, each: bytes, pause_s: float = 0.05) -> Callable[[socket.socket], None]:
    """Sends something for ever."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(each)
            time.sleep(pause_s)

    return answer


def announces(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20000001\r\n\r\n")
    connection.recv(1)  # until the client hangs up


ENDLESS: dict[str, tuple[Answer, str]] = {
    "endless": (drip(b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536), 0), "photo_too_large"),
    "endless-chunks": (
        drip(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"ffff\r\n" + bytes(0xFFFF) + b"\r\n",
            0,
        ),
        "photo_too_large",
    ),
    "announced-too-large": (announces, "photo_too_large"),
    "announced-absurdly-large": (
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n",
        "photo_too_large",
    ),
    "body-byte-by-byte": (
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", b"x"),
        "photo_too_slow",
    ),
    "headers-byte-by-byte": (drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"), "photo_too_slow"),
    "tiny-chunks": (
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        "photo_too_slow",
    ),
    "endless-early-hints": (drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), "photo_too_slow"),
    "endless-early-hints-fast": (
        drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50, 0.001),
        "photo_too_slow",
    ),
    "endless-headers-fast": (
        drip(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n", 0),
        "photo_unreachable",
    ),
    "endless-trailers": (
        drip(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"x" * 1000 + b"\r\n", 0
        ),
        "photo_unreachable",
    ),
    "gzip": (http(gzip.compress(bytes(1_000_000)), Content_Encoding="gzip"), "photo_url_refused"),
    "brotli-twice": (http(b"x", Content_Encoding="br, br"), "photo_url_refused"),
    "transfer-gzip": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        "photo_unreachable",
    ),
    "two-lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nphoto",
        "photo_unreachable",
    ),
}


PLAIN = {
    "encoding-none": http(b"photo", Content_Encoding="none"),
    "encoding-empty": http(b"photo", Content_Encoding=""),
    "encoding-charset": http(b"photo", Content_Encoding="utf-8"),
    "encoding-of-s3": http(b"photo", Content_Encoding="aws-chunked"),
    "by-a-transforming-proxy": http(b"photo", "203 Non-Authoritative Information"),
    "space-in-a-name": b"HTTP/1.1 200 OK\r\nX Cache Status: HIT\r\n\tfolded\r\nContent-Length: 5\r\n\r\nphoto",
    "no-name": b"HTTP/1.1 200 OK\r\n: HIT\r\nno colon at all\r\nContent-Length: 5\r\n\r\nphoto",
    "early-hints": b"HTTP/1.1 103 Early Hints\r\nX Y: Z\r\n\r\nHTTP/1.1 200 OK\r\nX Y: Z\r\nContent-Length: 5\r\n\r\nphoto",
    "until-the-end": b"HTTP/1.1 200 OK\r\nX Y: Z\r\n\r\nphoto",
}


@pytest.mark.parametrize("answer", PLAIN.values(), ids=list(PLAIN))
def test_what_a_browser_shows_is_a_photo(server: Server, tmp_path: Path, answer: bytes) -> None:
    assert fetch(server.url("/", answer), tmp_path / "photo") == 5
    assert (tmp_path / "photo").read_bytes() == b"photo"


@pytest.mark.parametrize(
    ("answer", "code"), ENDLESS.values(), ids=[f"hostile-file-sent-{name}" for name in ENDLESS]
)
def test_a_server_cannot_stretch_the_limits(
    server: Server, tmp_path: Path, answer: Answer, code: str
) -> None:
    began = time.monotonic()
    error = fails(server.url("/", answer), tmp_path / "photo", total_s=1.0, read_s=0.8)
    assert error.code == code
    assert (
        time.monotonic() - began < 30
    )  # 1 s and what a busy machine adds; without the limits it is for ever


def test_a_silent_server_meets_the_read_limit_in_each_try(server: Server, tmp_path: Path) -> None:
    url = server.url("/", lambda _: time.sleep(1))
    assert fails(url, tmp_path / "photo", read_s=0.1).code == "photo_unreachable"
    assert len(server.heads) == 3


def test_a_server_that_is_not_there_or_speaks_no_http(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (
        f"http://127.0.0.1:{port}/",
        "http://no-such-host.invalid/photo.jpg",
        f"https://127.0.0.1:{server.port}/",
        server.url("/", b"SSH-2.0-OpenSSH_9.6\r\n"),
    ):
        error = fails(url, tmp_path / "photo", connect_s=0.2)
        assert (error.code, error.retryable) == ("photo_unreachable", True)


def test_a_proxy_of_this_machine_is_not_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert fetch(server.url("/", http(b"photo")), tmp_path / "photo") == 5


def test_a_full_disk_is_told_and_leaves_no_part_of_a_photo(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photo").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetch(server.url("/", http(b"photo")), tmp_path / "photo")
    assert list(tmp_path.iterdir()) == []


TARPIT = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", b"x", 0.2)


def run_with(urls: list[str], folder: Path, is_known: Callable[[str], bool]) -> dict[str, Any]:
    """Run a job as far as its downloads. Return its report."""
    report: dict[str, Any] = {}
    request = Request(image_urls=urls, quality="fast", folder=folder, policy=OPEN)
    with suppress(JobError):
        run(request, Relief(), cast("Cutter", SimpleNamespace(digest="")), report, lambda _: None, is_known)
    return report


def test_sixteen_tarpits_keep_a_lane_no_longer_than_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.run.DOWNLOADS_S", 1.0)
    urls = [server.url(f"/{n}", TARPIT) for n in range(16)]
    began = time.monotonic()
    report = run_with(urls, tmp_path, lambda _: pytest.fail("there is no photo"))
    assert time.monotonic() - began < 20  # 1 s and what a busy machine adds; without the limit it is 60 s
    assert {photo["error_code"] for photo in report["photos"]} == {"photo_too_slow"}
    assert len(server.heads) == 8, "the others were not asked for any more"
    assert {photo["error_message"] for photo in report["photos"]} == {
        "The photo did not arrive within 1 seconds.",
        "The photos did not arrive within 1 seconds in all.",
    }


def test_a_good_photo_behind_fifteen_tarpits_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.run.TOTAL_S", 0.5)
    monkeypatch.setattr("worker.pipeline.run.DOWNLOADS_S", 30.0)
    urls = [*(server.url(f"/{n}", TARPIT) for n in range(15)), server.url("/good", http(b"photo"))]
    keys: list[str] = []

    def is_known(key: str) -> bool:
        keys.append(key)
        return True

    run_with(urls, tmp_path, is_known)
    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo-15"]
