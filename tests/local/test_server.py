"""The server of `worker dev`, as programs of this machine meet it, and as pages of other sites in the developer's browser do."""

import http.client
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from worker.local.server import DevServer
from worker.webhooks.sender import PATH

EVENT = {"jobId": "1", "status": "completed"}
EVIL = ("https://evil.example", "http://127.0.0.1.evil.example", "http://localhost.evil.example", "null", "")
HERE = ("http://localhost:3000", "http://127.0.0.1:9292", "http://[::1]:8080")


def ask(
    site: DevServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.server_port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return (
        answer.status,
        {name.lower(): value for name, value in answer.getheaders()},
        answer.read(),
    )


@pytest.fixture(autouse=True)
def files(site: DevServer) -> Path:
    folder = site.journal.parent / "site"
    (folder / "shop").mkdir()
    (folder / "shop" / "1 ä.glb").write_bytes(b"glTF")
    return folder


GLB = "/shop/1%20%C3%A4.glb"


def test_programs_of_this_machine_fetch_files_and_send_and_see_webhooks(site: DevServer) -> None:
    status, headers, body = ask(site, "GET", f"{GLB}?width=10")
    assert (status, headers["content-type"], body) == (200, "model/gltf-binary", b"glTF")
    assert "access-control-allow-origin" not in headers
    status, headers, body = ask(site, "HEAD", GLB)
    assert (status, headers["content-length"], body) == (200, "4", b"")

    assert ask(site, "GET", "/webhooks")[2] == b"[]\n"
    status, headers, _ = ask(site, "HEAD", PATH)
    assert (status, headers["allow"]) == (405, "POST"), "as a backend says that takes POST alone"
    assert ask(site, "POST", PATH, json.dumps(EVENT).encode(), webhook_id="7")[0] == 204
    for host in (f"127.0.0.1:{site.server_port}", f"localhost:{site.server_port}", "[::1]:1"):
        assert json.loads(ask(site, "GET", "/webhooks", host=host)[2]) == [{"id": "7", "body": EVENT}]


@pytest.mark.parametrize("origin", EVIL)
def test_a_page_of_another_site_reads_nothing_and_forges_nothing(site: DevServer, origin: str) -> None:
    assert ask(site, "POST", PATH, b'"secret"')[0] == 204
    for method, path in (("GET", "/webhooks"), ("GET", GLB), ("POST", PATH)):
        status, headers, body = ask(site, method, path, b'"forged"', origin=origin)
        assert status == 403
        assert "access-control-allow-origin" not in headers
        assert b"secret" not in body
        assert b"glTF" not in body
    assert "forged" not in site.journal.read_text()


@pytest.mark.parametrize("origin", HERE)
def test_a_page_of_this_machine_shows_models_and_sees_no_webhooks(site: DevServer, origin: str) -> None:
    status, headers, body = ask(site, "GET", GLB, origin=origin)
    assert (status, headers["access-control-allow-origin"], headers["vary"], body) == (
        200,
        origin,
        "origin",
        b"glTF",
    )
    assert ask(site, "GET", "/webhooks", origin=origin)[0] == 403
    assert ask(site, "POST", PATH, b"{}", origin=origin)[0] == 403
    assert ask(site, "GET", "/webhooks", origin=site.url)[0] == 200
    # A page that embeds it instead of fetching it sends no origin: then the browser itself keeps the answer from the page.
    kept = ask(site, "GET", "/webhooks")[1]
    assert kept["cross-origin-resource-policy"] == "same-origin"
    assert (kept["x-frame-options"], kept["x-content-type-options"]) == ("DENY", "nosniff")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "["])
def test_a_name_that_another_site_has_given_to_this_machine_reaches_nothing(
    site: DevServer, host: str
) -> None:
    host = f"{host}:{site.server_port}" if "." in host else host
    for method, path in (("GET", "/webhooks"), ("GET", GLB), ("HEAD", GLB), ("POST", PATH)):
        assert ask(site, method, path, host=host)[0] == 421
    assert not site.journal.exists()


def test_no_folder_is_listed_and_nothing_but_a_file_of_the_folder_is_read(
    site: DevServer, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "1.glb").write_text("secret")
    (files / "link.glb").symlink_to(tmp_path / "secret")
    (files / "linked").symlink_to(tmp_path / "outside")
    (files / ".1.glb.part").write_text("secret")
    os.mkfifo(files / "pipe.glb")
    for path in (
        "/", "", "/shop", "/shop/", "/link.glb", "/linked/1.glb", "/.1.glb.part", "/pipe.glb", "/../secret",
        "/shop/../../secret", "/%2e%2e/secret", "/shop/..%2f..%2fsecret", f"/{tmp_path}/secret", "//secret", "/a%00b",
        "/none.glb", "/" + "a" * 5000,
    ):  # fmt: skip
        status, _, body = ask(site, "GET", path or "*")
        assert status == 404, path
        assert b"secret" not in body
        assert b"1.glb" not in body


@pytest.mark.parametrize("length", ["-1", "x", "1048577", "9" * 30])
def test_a_webhook_of_a_strange_length_is_refused(site: DevServer, length: str) -> None:
    assert ask(site, "POST", PATH, content_length=length)[0] == 404
    assert ask(site, "POST", PATH, b"no JSON")[0] == 400
    assert ask(site, "POST", "/webhooks", b"{}")[0] == 404
    assert not site.journal.exists()
