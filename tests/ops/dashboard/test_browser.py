"""The dashboard as people see it: a real browser, one for the whole file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import trimesh
from browser import MISSING, Tab, chromium
from PIL import Image
from pydantic import SecretStr
from rows import change, insert, served
from sqlalchemy.engine import Engine

from worker.local.postgres import Postgres
from worker.local.server import DevServer

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "")

BAR = "document.querySelector('progress')?.value"


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, chromium(Path(folder)) as tab:
        yield tab


@pytest.fixture(scope="module")
def glb() -> bytes:
    visuals: Any = trimesh.visual  # trimesh has types in part
    gltf: Any = trimesh.exchange.gltf
    ball: Any = trimesh.creation.icosphere(subdivisions=2)
    material = visuals.material.PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), (200, 30, 20)))
    visual = visuals.TextureVisuals(uv=ball.vertices[:, :2], material=material)
    mesh = trimesh.Trimesh(ball.vertices, ball.faces, visual=visual, process=False)
    return bytes(gltf.export_glb(trimesh.Scene(mesh), include_normals=True))


@pytest.fixture
def tab(browser: Tab) -> Tab:
    browser.says.clear()
    browser.call("Network.clearBrowserCookies")
    return browser


def test_a_job_s_progress_moves_without_a_reload(tab: Tab, engine: Engine, sql: psycopg.Connection) -> None:
    job = insert(sql, status="processing", progress=10, stage="downloading")
    with served(engine) as address:
        for path in ("", f"/jobs/{job}"):
            change(sql, job, "progress = 10, stage = 'downloading'")
            tab.open(address + path)
            tab.ask("window.loadedOnce = true; window.bar = document.querySelector('progress'); 0")
            assert tab.ask(BAR) == 10
            change(sql, job, "progress = 50, stage = 'generating'")
            tab.wait_for(f"{BAR} === 50 && document.querySelector('.pill').textContent === 'generating'")
            # The same bar, so that it glides and does not jump; the same page.
            assert tab.ask("window.loadedOnce && window.bar === document.querySelector('progress')")
        tab.open(address)
        tab.ask("window.loadedOnce = true")
        other = insert(sql, product_handle="new-arrival")
        tab.wait_for(f"document.querySelector('[data-key=\"{other}\"]') !== null")
        change(
            sql, job, "status = 'completed', progress = 100, model_url = 'https://s.example/a.glb', completed_at = now(),"
            " lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL",
        )  # fmt: skip
        tab.wait_for(f"document.querySelector('[data-key=\"{job}\"] .completed') !== null")
        assert tab.ask("window.loadedOnce")
    assert [said for said in tab.says if "/a.jpg" not in said] == []  # the photo's server is none


def test_a_script_is_shown_as_text_and_never_runs(tab: Tab, engine: Engine, sql: psycopg.Connection) -> None:
    script = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
    job = insert(sql, shop=script, status="failed", error_code="no_object", error_message=script)
    with served(engine) as address:
        for path in ("", f"/jobs/{job}"):
            tab.open(address + path)
            # Once as it is served, once as the page puts it in by itself.
            for again in range(2):
                assert tab.ask("document.body.innerText").count(script) >= 2, path
                assert tab.ask("document.querySelectorAll('img[src=x]').length") == 0
                assert tab.ask("document.title") != "owned"
                if not again:
                    change(sql, job, f"error_message = error_message || ' {path}again'")
                    tab.wait_for(f"document.body.innerText.includes(' {path}again')")


def test_the_page_asks_for_the_token_and_forgets_it(
    tab: Tab, engine: Engine, sql: psycopg.Connection
) -> None:
    insert(sql, product_handle="teapot")
    token = "correct-horse-battery"
    with served(engine, dashboard_token=SecretStr(token)) as address:
        tab.open(address)
        assert "Token needed" in tab.ask("document.body.innerText")
        tab.ask(f"document.querySelector('input').value = '{token}'; document.querySelector('form').submit()")
        tab.wait_for("document.body?.innerText.includes('teapot')")
        tab.call("Network.clearBrowserCookies")
        tab.open(f"{address}/?status=pending&token={token}")
        tab.wait_for("document.body?.innerText.includes('teapot')")
        assert tab.ask("location.search") == "?status=pending"
        assert token not in tab.ask("document.cookie + document.documentElement.outerHTML")


def test_the_model_turns_beside_its_photos_and_survives_a_refresh(
    tab: Tab, engine: Engine, sql: psycopg.Connection, site: DevServer, glb: bytes
) -> None:
    (Path(site.journal).parent / "site" / "ball.glb").write_bytes(glb)
    job = insert(sql, status="completed", model_url=f"{site.url}/ball.glb")
    with served(engine, storage_url=site.url, photo_loopback=True) as address:
        tab.open(f"{address}/jobs/{job}")
        tab.wait_for("document.querySelector('[data-state=live] canvas') !== null", 60)
        tab.ask("window.canvas = document.querySelector('canvas'); 0")
        change(sql, job, "metadata = jsonb_build_object('worker', jsonb_build_object('engine', 'marker'))")
        tab.wait_for("document.body.innerText.includes('marker')")
        assert tab.ask("window.canvas === document.querySelector('canvas') && window.canvas.isConnected")
        assert not [said for said in tab.says if "Content Security Policy" in said]


def test_jobs_are_found_selected_and_retried(tab: Tab, engine: Engine, sql: psycopg.Connection) -> None:
    ours = [insert(sql, status="failed", product_id="gid://shopify/Product/8123456789012") for _ in range(2)]
    insert(sql, status="failed", product_id="gid://shopify/Product/8123456789013")
    with served(engine, dashboard_act_token=SecretStr("correct-horse-battery")) as address:
        tab.open(f"{address}/?token=correct-horse-battery")
        tab.wait_for("document.querySelector('.finder') !== null")
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="/", text="/" if kind == "keyDown" else "")
        assert tab.ask("[document.activeElement.name, document.activeElement.value]") == ["q", ""]
        tab.call("Input.insertText", text="Why has gid://shopify/Product/8123456789012 no model?")
        tab.ask("document.activeElement.form.requestSubmit()")
        tab.wait_for("location.search === '?product=8123456789012'")
        tab.wait_for("document.querySelectorAll('.job').length === 2")
        assert tab.ask("getComputedStyle(document.querySelector('.selection')).display") == "none"
        tab.ask("document.querySelector('.pick input').click()")
        assert tab.ask("document.querySelector('[data-selected]').textContent") == "1 selected"
        change(sql, ours[0], "error_message = 'Another message.'")
        tab.wait_for("document.body.innerText.includes('Another message.')")
        assert tab.ask("document.querySelector('[data-selected]').textContent") == "1 selected"
        tab.ask("document.querySelector('[data-select]').click()")
        assert tab.ask("document.querySelector('[data-selected]').textContent") == "2 selected"
        tab.ask("document.querySelector('[formaction=\"/actions/retry\"]').click()")
        tab.wait_for("document.querySelector('.notice')?.textContent.includes('2 jobs')")
        assert tab.ask("location.search") == "?product=8123456789012"
    found = sql.execute("SELECT id::text FROM jobs WHERE status = 'pending'").fetchall()
    assert {job for (job,) in found} == set(ours)


def test_the_page_outlives_the_database(
    tab: Tab, engine: Engine, sql: psycopg.Connection, postgres: Postgres, database_url: str
) -> None:
    insert(sql, product_handle="teapot")
    name = sa.make_url(database_url).database
    with psycopg.connect(postgres.url(), autocommit=True) as admin, served(engine) as address:
        tab.open(address)
        tab.ask("window.loadedOnce = true")
        sql.close()
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false'.encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        tab.wait_for("document.getElementById('pulse').dataset.state === 'away'")
        assert "teapot" in tab.ask("document.body.innerText")  # what was seen last stays
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true'.encode())
        tab.wait_for("document.getElementById('pulse').dataset.state === 'live'")
        assert tab.ask("window.loadedOnce")


def test_the_page_fits_a_phone(tab: Tab, engine: Engine, sql: psycopg.Connection, tmp_path: Path) -> None:
    long = "x" * 200
    job = insert(
        sql, status="failed", shop=long, product_handle=long, error_message=f"{long} {long}", error_code=long
    )
    insert(sql, status="processing", shop=long, product_id=long, claimed_by=long)
    with served(engine) as address:
        for path in ("", f"/jobs/{job}"):
            tab.open(address + path)
            tab.shot(tmp_path / "phone.png", width=400)
            assert tab.ask("document.documentElement.scrollWidth") <= 400, path
