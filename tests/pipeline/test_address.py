# ruff: noqa: RUF001 - characters that look like others are what some of these addresses are about
"""Untrusted addresses: by the name, by the number behind the name, and after a redirect."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import certificates
import httpcore
import pytest

from worker.core.errors import JobError
from worker.pipeline import address
from worker.pipeline.address import Policy, is_public
from worker.pipeline.download import download

# The widest that an operator can open it, so that the numbers alone decide.
ANY = Policy(hosts=("*",), http=True)
PUBLIC = "23.227.38.65"
BAD, HOST = "photo_url_refused", "photo_host_refused"

NAMES = {
    "public.example": [PUBLIC],
    "public6.example": ["2606:4700::6811:1"],
    "cdn.shopify.com": [PUBLIC],
    "loop.example": ["127.0.0.1"],
    "localhost": ["127.0.0.1", "::1"],
    "local6.example": ["::1"],
    "private.example": ["10.1.2.3"],
    "metadata.google.internal": ["169.254.169.254"],
    "mixed.example": [PUBLIC, "192.168.1.1"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "nat64.example": ["64:ff9b::a9fe:a9fe"],
    "ula.example": ["fd00:ec2::254"],
    "zone.example": ["fe80::1%2"],
    "xn--exmple-cua.com": ["10.0.0.1"],
    "10.0.0.1.nip.example": ["10.0.0.1"],
}

HOSTILE = {
    # Numbers that are nobody's public server, with the usual spelling
    "loopback": ("http://127.0.0.1/", HOST),
    "loopback-other": ("http://127.255.255.254/", HOST),
    "this-host": ("http://0.0.0.0/", HOST),
    "private-10": ("https://10.0.0.1/", HOST),
    "private-172": ("https://172.31.255.255/", HOST),
    "private-192": ("https://192.168.0.1/", HOST),
    "metadata": ("http://169.254.169.254/latest/meta-data/", HOST),
    "metadata-alibaba": ("http://100.100.100.200/", HOST),
    "metadata-azure": ("http://168.63.129.16/", HOST),
    "metadata-oracle": ("http://192.0.0.192/", HOST),
    "carrier-nat": ("https://100.64.0.1/", HOST),
    "multicast": ("https://224.0.0.1/", HOST),
    "reserved": ("https://240.0.0.1/", HOST),
    "broadcast": ("https://255.255.255.255/", HOST),
    "documentation": ("https://203.0.113.5/", HOST),
    "benchmarking": ("https://198.19.0.1/", HOST),
    "6to4-relay": ("https://192.88.99.1/", HOST),
    # The same in other spellings
    "decimal": ("http://2130706433/", BAD),
    "decimal-metadata": ("http://2852039166/", BAD),
    "hex": ("http://0x7f000001/", BAD),
    "hex-dotted": ("http://0x7f.0x0.0x0.0x1/", BAD),
    "hex-last-part": ("http://127.0.0.0x1/", BAD),
    "octal": ("http://0177.0.0.1/", BAD),
    "octal-whole": ("http://017700000001/", BAD),
    "leading-zeros": ("http://010.000.000.001/", BAD),
    "short-2": ("http://127.1/", BAD),
    "short-3": ("http://10.0.1/", BAD),
    "zero": ("http://0/", BAD),
    "overflow": ("http://4294967297/", BAD),
    "overflow-part": ("http://256.256.256.256/", BAD),
    "five-parts": ("http://127.0.0.1.1/", BAD),
    "last-dot": ("http://127.0.0.1./", BAD),
    "fullwidth-digits": ("http://１２７.０.０.１/", BAD),
    "circled-digits": ("http://①②⑦.⓪.⓪.①/", BAD),
    "ideographic-dots": ("http://127。0。0。1/", HOST),
    "percent-digits": ("http://%31%32%37.0.0.1/", BAD),
    "percent-dots": ("http://127%2e0%2e0%2e1/", BAD),
    "arabic-digits": ("http://١٢٧.٠.٠.١/", BAD),
    # IPv6
    "v6-loopback": ("http://[::1]/", HOST),
    "v6-loopback-long": ("http://[0:0:0:0:0:0:0:1]/", HOST),
    "v6-unspecified": ("http://[::]/", HOST),
    "v6-mapped": ("http://[::ffff:127.0.0.1]/", HOST),
    "v6-mapped-hex": ("http://[::ffff:7f00:1]/", HOST),
    "v6-mapped-metadata": ("http://[0:0:0:0:0:ffff:169.254.169.254]/", HOST),
    "v6-mapped-public": (f"http://[::ffff:{PUBLIC}]/", HOST),
    "v6-compatible": ("http://[::10.0.0.1]/", HOST),
    "v6-nat64": ("http://[64:ff9b::10.0.0.1]/", HOST),
    "v6-nat64-local": ("http://[64:ff9b:1::a00:1]/", HOST),
    "v6-translated": ("http://[::ffff:0:127.0.0.1]/", HOST),
    "v6-6to4": ("http://[2002:7f00:1::]/", HOST),
    "v6-teredo": ("http://[2001:0:7f00:1::]/", HOST),
    "v6-ula": ("http://[fd00:ec2::254]/", HOST),
    "v6-link-local": ("http://[fe80::1]/", HOST),
    "v6-zone": ("http://[fe80::1%25eth0]/", HOST),
    "v6-zone-public": ("http://[2606:4700::1%25eth0]/", HOST),
    "v6-site-local": ("http://[fec0::1]/", HOST),
    "v6-multicast": ("http://[ff02::1]/", HOST),
    "v6-documentation": ("http://[2001:db8::1]/", HOST),
    "v6-documentation-new": ("http://[3fff::1]/", HOST),
    "v6-benchmarking": ("http://[2001:2::1]/", HOST),
    "v6-discard": ("http://[100::1]/", HOST),
    "v6-segment-routing": ("http://[5f00::1]/", HOST),
    "v6-broken": ("http://[::1/", BAD),
    "v6-future": ("http://[v1.a]/", BAD),
    # Names that lead there
    "name-localhost": ("http://localhost/", HOST),
    "name-localhost-dot": ("http://localhost./", HOST),
    "name-localhost-capitals": ("http://LOCALHOST/", HOST),
    "name-loopback": ("https://loop.example/", HOST),
    "name-loopback-v6": ("https://local6.example/", HOST),
    "name-private": ("https://private.example/", HOST),
    "name-metadata": ("http://metadata.google.internal/computeMetadata/v1/", HOST),
    "name-public-and-private": ("https://mixed.example/", HOST),
    "name-mapped": ("https://mapped.example/", HOST),
    "name-nat64": ("https://nat64.example/", HOST),
    "name-ula": ("https://ula.example/", HOST),
    "name-zone": ("https://zone.example/", HOST),
    "name-like-a-number": ("https://10.0.0.1.nip.example/", HOST),
    "name-idn": ("https://exämple.com/", HOST),
    "name-idn-fullwidth": ("https://ｌｏｃａｌｈｏｓｔ/", BAD),
    "name-idn-direction": ("https://\u202eexample.com/", BAD),
    "name-idn-soft-hyphen": ("https://local\u00adhost/", BAD),
    # Users, ports, schemes, and what is none of the web
    "user": ("https://cdn.shopify.com@127.0.0.1/", BAD),
    "user-and-password": ("https://user:password@public.example/", BAD),
    "user-only-colon": ("https://:@public.example/", BAD),
    "user-backslash": ("https://cdn.shopify.com\\@10.0.0.1/", BAD),
    "user-fragment": ("http://10.0.0.1#@cdn.shopify.com/", HOST),
    "user-question": ("http://10.0.0.1?@cdn.shopify.com/", HOST),
    "user-semicolon": ("http://10.0.0.1;@cdn.shopify.com/", BAD),
    "user-encoded-slash": ("http://cdn.shopify.com%2f@10.0.0.1/", BAD),
    "backslash-host": ("https://10.0.0.1\\.cdn.shopify.com/", BAD),
    "backslashes": ("http:\\\\10.0.0.1/", BAD),
    "port-ssh": ("https://public.example:22/", BAD),
    "port-postgres": ("http://public.example:5432/", BAD),
    "port-8080": ("http://public.example:8080/", BAD),
    "port-0": ("http://public.example:0/", BAD),
    "port-too-high": ("http://public.example:99999/", BAD),
    "port-wraps": ("http://public.example:65616/", BAD),
    "port-negative": ("http://public.example:-80/", BAD),
    "port-twice": ("http://public.example:80:22/", BAD),
    "scheme-file": ("file:///etc/passwd", BAD),
    "scheme-file-host": ("file://localhost/etc/passwd", BAD),
    "scheme-ftp": ("ftp://public.example/photo.jpg", BAD),
    "scheme-gopher": ("gopher://public.example:80/_x", BAD),
    "scheme-data": ("data:image/png;base64,AAAA", BAD),
    "scheme-javascript": ("javascript:alert(1)", BAD),
    "scheme-ws": ("ws://public.example/", BAD),
    "scheme-unix": ("http+unix://%2Fvar%2Frun%2Fdocker.sock/", BAD),
    "scheme-none": ("//public.example/photo.jpg", BAD),
    "path": ("/etc/passwd", BAD),
    "relative": ("photo.jpg", BAD),
    "empty": ("", BAD),
    "no-host": ("http://", BAD),
    "three-slashes": ("https:///photo.jpg", BAD),
    "one-slash": ("http:/127.0.0.1/", BAD),
    "empty-label": ("http://a..b/photo.jpg", BAD),
    "long-label": (f"http://{'a' * 64}.example/photo.jpg", BAD),
    "space": ("http://127.0.0.1 .example/", BAD),
    "nul": ("http://exa\x00mple/", BAD),
    "line-break": ("http://public.example/\r\nHost: 10.0.0.1", BAD),
    "line-break-host": ("http://public.example\r\n.evil/", BAD),
    "surrogate": ("http://\ud800.example/", BAD),
    "endless": ("http://" + "a" * 70_000, BAD),
}


class Dials:
    """Where connections would have gone; they go to a server on loopback instead, if there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.to: list[tuple[str, int]] = []
        self.port: int | None = None
        connect = httpcore.AnyIOBackend.connect_tcp

        async def dial(
            backend: httpcore.AnyIOBackend, host: str, port: int, *args: object
        ) -> httpcore.AsyncNetworkStream:
            self.to.append((host, port))
            if self.port is None:
                raise httpcore.ConnectError
            return await connect(backend, "127.0.0.1", self.port, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", dial)


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Dials:
    return Dials(monkeypatch)


def look_up(host: str) -> list[str]:
    try:
        return NAMES[host.lower().removesuffix(".")]
    except KeyError:
        raise socket.gaierror(socket.EAI_NONAME, "no such name") from None


def refusal(url: str, folder: Path, policy: Policy, resolve: address.Resolve = look_up) -> JobError:
    with pytest.raises(JobError) as caught:
        download(url, folder / "photo", policy, resolve=resolve, pause_s=0.01, connect_s=1, total_s=5)
    assert list(folder.iterdir()) == []
    return caught.value


@pytest.mark.parametrize(("url", "code"), HOSTILE.values(), ids=[f"hostile-url-{name}" for name in HOSTILE])
def test_is_refused_without_a_connection(tmp_path: Path, dials: Dials, url: str, code: str) -> None:
    error = refusal(url, tmp_path, ANY)
    assert (error.code, error.retryable) == (code, False)
    assert dials.to == []


NOT_ALLOWED = {
    "http": ("http://cdn.shopify.com/photo.jpg", BAD),
    "other-host": ("https://public.example/photo.jpg", HOST),
    "public-number": (f"https://{PUBLIC}/photo.jpg", HOST),
    "suffix": ("https://cdn.shopify.com.evil.example/", HOST),
    "prefix": ("https://evilcdn.shopify.com/", HOST),
    "above-the-wildcard": ("https://myshopify.com/", HOST),
    "beside-the-wildcard": ("https://evilmyshopify.com/", HOST),
    "name-in-the-path": ("https://evil.example/cdn.shopify.com", HOST),
    "lookalike": ("https://cdn.shоpify.com/", HOST),  # the o is Cyrillic
    "loopback": ("https://127.0.0.1/", HOST),
}


@pytest.mark.parametrize(
    ("url", "code"), NOT_ALLOWED.values(), ids=[f"hostile-url-not-allowed-{name}" for name in NOT_ALLOWED]
)
def test_a_host_must_be_allowed(tmp_path: Path, dials: Dials, url: str, code: str) -> None:
    def never(host: str) -> list[str]:
        raise AssertionError(host)

    policy = Policy(hosts=("cdn.shopify.com", "*.myshopify.com"))
    assert refusal(url, tmp_path, policy, never).code == code
    assert dials.to == []


LEADS_TO = {
    "metadata": ("http://169.254.169.254/latest/meta-data/", HOST),
    "metadata-without-scheme": ("//169.254.169.254/", HOST),
    "private": ("http://10.0.0.1/", HOST),
    "mapped-loopback": ("http://[::ffff:127.0.0.1]/", HOST),
    "nat64": ("http://[64:ff9b::7f00:1]/", HOST),
    "decimal": ("http://2130706433/", BAD),
    "name-loopback": ("http://loop.example/", HOST),
    "name-private": ("https://private.example/", HOST),
    "not-allowed": ("https://other.example/", HOST),
    "user": ("http://a:b@public.example/", BAD),
    "port": ("http://public.example:22/", BAD),
    "file": ("file:///etc/passwd", BAD),
    "ftp": ("ftp://public.example/", BAD),
    "gopher": ("gopher://public.example:80/_x", BAD),
    "data": ("data:,x", BAD),
    "no-address": ("http://[", BAD),
    "no-text": ("http://\x80\xff/", BAD),
}


@pytest.mark.parametrize(
    ("to", "code"), LEADS_TO.values(), ids=[f"hostile-url-redirect-{name}" for name in LEADS_TO]
)
def test_a_redirect_is_checked_like_the_first_address(
    tmp_path: Path, dials: Dials, site: "Site", to: str, code: str
) -> None:
    site.answers = [
        b"HTTP/1.1 302 Found\r\nLocation: " + to.encode("latin-1") + b"\r\nContent-Length: 0\r\n\r\n"
    ]
    dials.port = site.port
    policy = Policy(hosts=("public.example", "*.0.0.1", *NAMES, "169.254.169.254"), http=True, loopback=True)
    error = refusal("http://public.example/photo.jpg", tmp_path, policy)
    assert (error.code, error.retryable) == (code, False)
    assert dials.to == [(PUBLIC, 80)]


class Site:
    """Answers one connection after the other on loopback; with a certificate by TLS."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.names: list[str | None] = []  # as TLS sent them
        if context:
            context.sni_callback = lambda _connection, name, _context: self.names.append(name)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with suppress(OSError), connection:
                    if self._context:
                        connection = self._context.wrap_socket(connection, server_side=True)
                    self.requests.append(connection.recv(65536))
                    connection.sendall(self.answers.pop(0))
                    connection.close()


PHOTO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nphoto"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def secure_site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    issued = certificates.issue(tmp_path_factory.mktemp("certificates"), "cdn.shopify.com")
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    # A proxy would connect to addresses that nobody has checked: photos use none.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    site = Site(issued.context())
    yield site
    site.close()


def test_the_connection_goes_to_the_number_and_speaks_of_the_name(
    tmp_path: Path, dials: Dials, secure_site: Site
) -> None:
    secure_site.answers, dials.port = [PHOTO], secure_site.port
    policy = Policy(hosts=("cdn.shopify.com",))
    download("https://cdn.shopify.com/photo.jpg?v=1", tmp_path / "photo", policy, resolve=look_up)
    assert (tmp_path / "photo").read_bytes() == b"photo"
    assert dials.to == [(PUBLIC, 443)]
    assert secure_site.names == ["cdn.shopify.com"]
    head = secure_site.requests[0].decode().split("\r\n")
    assert head[:2] == ["GET /photo.jpg?v=1 HTTP/1.1", "Host: cdn.shopify.com"]


def test_a_certificate_of_another_name_is_not_accepted(
    tmp_path: Path, dials: Dials, secure_site: Site
) -> None:
    secure_site.answers, dials.port = [PHOTO], secure_site.port
    assert refusal("https://public.example/", tmp_path, ANY).code == "photo_unreachable"
    assert secure_site.requests == []


@pytest.mark.parametrize("turns", [1, 2], ids=lambda n: f"hostile-url-rebinding-at-look-up-{n + 1}")
def test_a_name_that_changes_its_mind_is_looked_up_once_a_connection(
    tmp_path: Path, dials: Dials, site: Site, turns: int
) -> None:
    """What was checked is what is connected to; the next connection is checked anew."""
    answers = [[PUBLIC]] * turns + [["127.0.0.1"]]
    busy = b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    site.answers, dials.port = [busy] * turns, site.port
    error = refusal("http://rebinding.example/", tmp_path, ANY, lambda _: answers.pop(0))
    assert error.code == HOST
    assert dials.to == [(PUBLIC, 80)] * turns
    assert answers == []


def test_the_next_number_is_tried_where_the_first_does_not_answer(
    tmp_path: Path, dials: Dials, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers, dials.port = [PHOTO], site.port
    dial = httpcore.AnyIOBackend.connect_tcp

    async def one_is_down(backend: httpcore.AnyIOBackend, host: str, *args: object) -> object:
        if host == "23.227.38.1":
            dials.to.append((host, 80))
            raise httpcore.ConnectTimeout
        return await dial(backend, host, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", one_is_down)
    download("http://two.example/", tmp_path / "photo", ANY, resolve=lambda _: ["23.227.38.1", PUBLIC])
    assert dials.to == [("23.227.38.1", 80), (PUBLIC, 80)]


def test_a_slow_look_up_meets_the_limit_to_connect_and_nobody_waits_for_it(tmp_path: Path) -> None:
    released = threading.Event()

    def slow(_host: str) -> list[str]:
        released.wait(60)
        return [PUBLIC]

    began = time.monotonic()
    with pytest.raises(JobError, match="photo_unreachable"):
        download("https://slow.example/", tmp_path / "photo", ANY, resolve=slow, connect_s=0.1, pause_s=0.01)
    assert time.monotonic() - began < 20
    released.set()


def test_development_opens_loopback_by_its_own_names_alone(tmp_path: Path, site: Site) -> None:
    policy = Policy(hosts=(), loopback=True)
    for host in ("127.0.0.1", "localhost", "127.0.0.2"):
        site.answers = [PHOTO] * 2
        if host != "127.0.0.2":  # the server listens on one
            assert download(f"http://{host}:{site.port}/", tmp_path / host, policy) == 5
    assert address.validate_url("http://[::1]:8765/", policy).port == 8765
    (tmp_path / "empty").mkdir()
    for url in ("http://loop.example/", "http://10.0.0.1/", "http://[::ffff:127.0.0.1]/"):
        wide = Policy(hosts=("*",), http=True, loopback=True)
        assert refusal(url, tmp_path / "empty", wide).code == HOST
    assert refusal("http://localhost/", tmp_path / "empty", policy, lambda _: ["10.0.0.1"]).code == HOST


@pytest.mark.parametrize(
    "ip", [PUBLIC, "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1"]
)
def test_public_servers_are_public(ip: str) -> None:
    assert is_public(ip)


def test_no_library_logs_the_address(
    tmp_path: Path, dials: Dials, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.answers, dials.port = [PHOTO], site.port
    with caplog.at_level(logging.INFO):
        download("http://public.example/a.jpg?token=SECRET", tmp_path / "photo", ANY, resolve=look_up)
    assert site.requests[0].startswith(b"GET /a.jpg?token=SECRET ")
    assert "SECRET" not in caplog.text
