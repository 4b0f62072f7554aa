"""What the environment says about certificates and proxies, and a real server behind each of them."""

import asyncio
import hashlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import certificates
import forward_proxy
import httpx
import pytest
import receiver
from certificates import Issued
from receiver import Backend

from worker.core.settings import ConfigError
from worker.http import clients
from worker.weights import transfer
from worker.weights.transfer import Expected

NAME = "backend.test"  # no such host: only a proxy can know where it is


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return certificates.issue(tmp_path_factory.mktemp("certificates"), NAME)


@pytest.fixture
def backend() -> Iterator[Backend]:
    with receiver.serve() as server:
        yield server


@pytest.fixture
def secure_backend(backend: Backend, issued: Issued) -> Backend:
    backend.socket = issued.context().wrap_socket(backend.socket, server_side=True)
    return backend


def post(url: str) -> int:
    with clients.client(url, timeout=5) as client:
        return client.post(url, content=b"{}", headers={"webhook-id": "1"}).status_code


def post_async(url: str) -> int:
    async def go() -> int:
        async with clients.async_client(url, timeout=5) as client:
            return (await client.post(url, content=b"{}", headers={"webhook-id": "1"})).status_code

    return asyncio.run(go())


@pytest.mark.parametrize("send", [post, post_async])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_with_a_password_is_used_for_both_schemes_and_checks_no_certificate_for_us(
    send: Callable[[str], int],
    scheme: str,
    request: pytest.FixtureRequest,
    issued: Issued,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server: Backend = request.getfixturevalue("secure_backend" if scheme == "https" else "backend")
    url = f"{scheme}://{NAME}/hook"
    with forward_proxy.serve(server.server_port, "us", "p@ss planted") as proxy:
        address = f"127.0.0.1:{proxy.server_port}"
        monkeypatch.setenv(f"{scheme}_proxy".upper(), f"http://us:p%40ss%20planted@{address}")
        monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
        assert send(url) == 200
        assert proxy.asked == [f"CONNECT {NAME}:443" if scheme == "https" else f"POST {url}"]
        assert server.seen[0].path == "/hook"
        assert "proxy-authorization" not in server.seen[0].headers

        if scheme == "https":
            monkeypatch.delenv("SSL_CERT_FILE")
            monkeypatch.delenv("SSL_CERT_DIR", raising=False)
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                send(url)
        monkeypatch.setenv(f"{scheme}_proxy".upper(), f"http://us:planted@{address}")
        if scheme == "https":
            with pytest.raises(httpx.ProxyError, match="407") as error:
                send(url)
            assert "planted" not in str(error.value)
        else:
            assert send(url) == 407


def test_a_mirror_of_weights_is_reached_in_the_same_way(
    secure_backend: Backend, issued: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Expected(digest=f"sha256:{hashlib.sha256(b'').hexdigest()}", size=0)
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    with forward_proxy.serve(secure_backend.server_port, "us", "planted") as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://us:planted@127.0.0.1:{proxy.server_port}")
        transfer.download(f"https://{NAME}/model.onnx", tmp_path / "model.onnx", expected)
        assert proxy.asked == [f"CONNECT {NAME}:443"]
    assert [request.path for request in secure_backend.seen] == ["/model.onnx"]


def test_authorities_of_the_environment_replace_the_usual_ones(
    issued: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> set[str]:
        return {str(found["subject"]) for found in clients.authorities().get_ca_certs()}

    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    usual = names()
    assert len(usual) > 100
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    (own,) = names()
    assert "An authority of our own" in own
    assert own not in usual

    # A folder as `openssl rehash` leaves it is read when a certificate is checked.
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert names() == set()
    assert clients.authorities().verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("send", [post, post_async])
def test_a_header_line_that_breaks_the_rules_spoils_no_answer(
    send: Callable[[str], int], backend: Backend
) -> None:
    backend.reply = lambda _, __: (204, {"X Cache Status": "HIT", "X-Good": "1"})
    assert send(f"{backend.url}/hook") == 204


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere/planted.pem"),
        ("SSL_CERT_FILE", __file__),
        ("SSL_CERT_DIR", "/nowhere/planted"),
        ("HTTPS_PROXY", "socks5://us:planted@127.0.0.1:1080"),
        ("HTTPS_PROXY", "http://us:planted@[::1"),
        ("ALL_PROXY", "http://us:planted@:3128"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line_without_its_password(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}.*[.T]$") as error:
        clients.validate(f"https://{NAME}")
    assert "planted" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        ("https://backend.example/x", True),
        ("https://a.backend.example", True),
        ("https://notbackend.example", False),
        ("https://10.200.3.4:8443", True),
        ("https://11.0.0.1", False),
        ("https://[fd00::1]", True),
        ("https://192.168.7.7", True),
        ("https://elsewhere.example", False),
        ("http://elsewhere.example", True),  # HTTPS_PROXY is for https
    ],
)
def test_no_proxy_names_hosts_domains_addresses_and_networks(
    url: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "localhost, .backend.example,10.0.0.0/8,192.168.7.7,fd00::/8,nonsense/99")
    found = clients.proxy(url)
    assert (found is None) is direct
    assert found is None or found.url == "http://proxy.example:3128"
    monkeypatch.setenv("NO_PROXY", "*")
    assert clients.proxy(url) is None
