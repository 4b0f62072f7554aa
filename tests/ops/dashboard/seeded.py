"""A database in which each page of the dashboard has all that it can show, and the files that its rows name."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import trimesh
from PIL import Image, ImageDraw
from psycopg.types.json import Jsonb
from rows import change, insert

PARTS = {
    "preview": 0.95, "roundness": 1, "opening": 1, "coverage": 0.93, "cutout": 0.98, "agreement": 0.88, "left_out": 1,
    "whole": 1, "sharpness": 0.96, "photo_size": 1, "outline": 0.91, "colours": 0.86, "detail": 0.55, "closed": 1,
}  # fmt: skip
QUALITY = {
    "score": 62.4, "parts": PARTS, "coverage": 0.55, "cutout_certainty": 0.975, "views_agreement": 0.66,
    "silhouette_iou": 0.901, "delta_e": 7.1, "detail": 0.24, "photo_px": 471, "photo_blur": 0.41, "triangles": 30000,
    "watertight": True, "components_dropped": 0, "texture_use": 0.71,
    "warnings": ["This is a preview: what the photos do not show is invented.",
                 "Fine details of the photo are missing or out of place."],
}  # fmt: skip
SECONDS = {
    "download": 0.4, "cutout": 1.9, "generate": 2.2, "finish": 3.1, "poster": 0.8, "quality": 0.5, "upload": 0.3
}  # fmt: skip
ENDINGS = {".glb": "model.glb", ".png": "poster.png", ".cutout.png": "cutout.png"}


def picture(color: tuple[int, int, int] = (190, 70, 50), size: int = 96) -> bytes:
    """A square of one colour on a light background."""
    image = Image.new("RGB", (size, size), (240, 240, 240))
    ImageDraw.Draw(image).rectangle((size // 4, size // 4, 3 * size // 4, 3 * size // 4), color)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def glb() -> bytes:
    """A ball of 30 cm with bands of colours, from black to white, standing on the floor."""
    visuals: Any = trimesh.visual  # trimesh has types in part
    gltf: Any = trimesh.exchange.gltf
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 49), np.linspace(0, 1, 25)), axis=-1).reshape(-1, 2)
    turn, lift = grid[:, 0] * 2 * np.pi, (grid[:, 1] - 0.5) * np.pi
    points = np.stack([np.cos(lift) * np.sin(turn), np.sin(lift) + 1, np.cos(lift) * np.cos(turn)], axis=1)
    corner = (np.arange(24)[:, None] * 49 + np.arange(48)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 49], 1), np.stack([corner + 1, corner + 50, corner + 49], 1)]
    )
    bands = [
        (20, 20, 22),
        (200, 40, 30),
        (230, 180, 60),
        (60, 140, 70),
        (40, 90, 170),
        (128, 128, 128),
        (240, 240, 238),
    ]
    texture = Image.new("RGB", (1, len(bands)))
    texture.putdata(bands)
    material = visuals.material.PBRMaterial(
        baseColorTexture=texture.resize((64, 448), Image.Resampling.NEAREST),
        metallicFactor=0.0,
        roughnessFactor=0.85,
    )
    mesh = trimesh.Trimesh(
        points * 0.15, faces, vertex_normals=points - (0, 1, 0), process=False,
        visual=visuals.TextureVisuals(uv=grid, material=material),
    )  # fmt: skip
    return bytes(gltf.export_glb(trimesh.Scene(mesh), include_normals=True))


def seed(sql: psycopg.Connection, url: Callable[[str], str]) -> dict[str, str]:
    """Fill the database. `url` returns the URL of a file. Returns the ids of the jobs by what they show."""
    jobs: dict[str, str] = {}

    def completed(
        name: str, product: str, photos: list[str], views: list[dict[str, Any]], **more: Any
    ) -> str:
        review = more.pop("review", "none")
        report = {
            "engine": "relief", "lane": "gpu-1/cuda:0", "seconds": SECONDS, "quality": QUALITY,
            "model": {"triangles": 30000, "glb_bytes": 1_112_000, "watertight": True}, "photos": views,
            "preset_reason": "The front's photo shows the product 471 pixels long, and sharp.",
            "poster_url": url(f"{name}.png"), "cutout_url": url(f"{name}.cutout.png"),
        }  # fmt: skip
        job = insert(
            sql, shop="aurora-lamps.myshopify.com", product_id=f"gid://shopify/Product/{8_000 + len(jobs)}",
            product_handle=product, image_urls=[url(photo) for photo in photos], status="completed",
            model_url=url(f"{name}.glb"), attempts=1, metadata={"worker": report, "theme": "autumn"},
            **more,
        )  # fmt: skip
        digest = f"{len(jobs) + 10:x}" * 16
        change(sql, job, f"version = '{digest[:32]}', review = '{review}'")
        sql.execute(
            "INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, files, begun_at, rejected_at)"
            " SELECT worker.storage_path(shop, product_id, variant_id), version, 'x', shop, worker.last_part(product_id), id, %s,"
            " completed_at, CASE WHEN review = 'rejected' THEN now() END FROM jobs WHERE id = %s",
            [Jsonb(ENDINGS), job],
        )
        attempt(sql, job, "completed", ago_s=60, took_s=9.2, seconds=SECONDS)
        event(sql, job, "completed", delivered=True)
        return job

    front = {"status": "used", "view": "front"}
    jobs["robot"] = completed(
        "robot", "tin-robot", ["robot.jpg", "robot-side.jpg", "vase.jpg"],
        [front, {"status": "used", "view": "left"},
         {"status": "spare", "reason": "Its colours are another product's, so it is not the back."}],
    )  # fmt: skip
    jobs["older"] = completed(
        "duck", "toy-duck", ["duck.jpg"], [front], created_at="2026-11-20 08:00+00", completed_at="2026-11-20 08:01+00"
    )  # fmt: skip
    jobs["duck"] = completed(
        "duck", "toy-duck", ["duck.jpg", "duck-left.jpg", "duck-back.jpg", "broken.jpg"],
        [front, {"status": "used", "view": "left"}, {"status": "used", "view": "back"},
         {"status": "refused", "error_code": "photo_too_small", "error_message": "The photo is too small."}],
    )  # fmt: skip
    # The same product: its older version is the published one.
    sql.execute("DELETE FROM worker.versions WHERE job_id = %s", [jobs["duck"]])
    sql.execute(
        "UPDATE jobs SET product_id = (SELECT product_id FROM jobs WHERE id = %s) WHERE id = %s",
        [jobs["older"], jobs["duck"]],
    )
    sql.execute(
        "INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, files)"
        " SELECT worker.storage_path(shop, product_id, variant_id), version, 'x', shop, worker.last_part(product_id), id, %s"
        " FROM jobs WHERE id = %s",
        [Jsonb(ENDINGS), jobs["duck"]],
    )
    change(sql, jobs["duck"], "review = 'wanted'")
    for name in ("older", "robot"):
        sql.execute(
            "INSERT INTO worker.published (path, stem, shop, product, digest, job_id, requested_at, written)"
            " SELECT path, stem, shop, product, digest, job_id, now(), digest FROM worker.versions WHERE job_id = %s",
            [jobs[name]],
        )
    attempt(sql, jobs["duck"], "lost", ago_s=900, took_s=140, code="worker_lost", message="The server that was making the model stopped working.")  # fmt: skip
    attempt(sql, jobs["duck"], "released", ago_s=700, took_s=20)
    event(sql, jobs["duck"], "processing", dead="HTTP 500: the backend refused it", tries=12)
    event(sql, jobs["duck"], "completed", again="HTTP 503", tries=3)
    jobs["rejected"] = completed("vase", "blue-vase", ["vase.jpg"], [front], review="rejected")
    jobs["running"] = insert(
        sql, shop="aurora-lamps.myshopify.com", product_id="9001", product_handle="oak-chair", status="processing",
        image_urls=[url("robot.jpg"), url("robot-side.jpg")], metadata={"views": {"front": 0, "left": 1}},
    )  # fmt: skip
    attempt(sql, jobs["running"], None, ago_s=9, took_s=0)
    event(sql, jobs["running"], "processing")
    jobs["retried"] = insert(
        sql, shop="nordic-teas.myshopify.com", product_id="9002", product_handle="green-tea", attempts=1,
        image_urls=[url("vase.jpg")], error_code="photo_unreachable", run_after="2030-01-01",
        error_message="The photo's server could not be reached or did not answer in time.",
    )  # fmt: skip
    attempt(sql, jobs["retried"], "failed", ago_s=20, took_s=8, code="photo_unreachable", message="The photo's server did not answer.")  # fmt: skip
    jobs["waiting"] = insert(
        sql, shop="nordic-teas.myshopify.com", product_id="9003", product_handle="tea-pot", batch="autumn",
        image_urls=[url("vase.jpg")],
    )  # fmt: skip
    jobs["failed"] = insert(
        sql, shop="nordic-teas.myshopify.com", product_id="9004", product_handle="tea-tin", status="failed", attempts=1,
        image_urls=[url("duck.jpg"), url("broken.jpg")], error_code="photo_not_an_image",
        error_message="None of the 2 photos could be used. The file is not a photo. Use JPEG, PNG, WebP or AVIF.",
        metadata={"worker": {"photos": [
            {"status": "refused", "error_code": "no_object", "error_message": "No product could be found in the photo."},
            {"status": "refused", "error_code": "photo_not_an_image", "error_message": "The file is not a photo."},
        ]}},
    )  # fmt: skip
    attempt(sql, jobs["failed"], "failed", ago_s=30, took_s=1.4, code="photo_not_an_image", message="The file is not a photo.")  # fmt: skip
    event(sql, jobs["failed"], "failed", delivered=True)
    jobs["cancelled"] = insert(
        sql, shop="nordic-teas.myshopify.com", product_id="9005", product_handle="tea-cup", status="cancelled",
        error_code="superseded", error_message="A newer request for the same product was finished first.",
    )  # fmt: skip
    for n, job in enumerate(jobs.values()):
        moment = f"{'created_at' if job != jobs['older'] else 'completed_at'} - interval '{20 + n} min'"
        change(sql, job, f"created_at = {moment}, queued_at = {moment}")
    for name, seen, paused in (("gpu-1", "1 s", False), ("gpu-2", "2 s", True), ("gpu-3", "10 min", False)):
        sql.execute(
            "INSERT INTO worker.hosts (name, instance, version, engine, pools, lanes, devices, memory_mb, seen_at, paused_at)"
            " VALUES (%s, gen_random_uuid(), '0.1.0', 'relief', '{default}', 2, '{cuda:0}', 24000, now() - %s::interval, "
            "CASE WHEN %s THEN now() END)",
            [name, seen, paused],
        )
    sql.execute(
        "INSERT INTO worker.shop_limits VALUES ('nordic-teas.myshopify.com', 100, 2, '{fast,balanced}')"
    )
    return jobs


def attempt(
    sql: psycopg.Connection, job: str, outcome: str | None, *, ago_s: float, took_s: float,
    code: str | None = None, message: str | None = None, seconds: dict[str, float] | None = None,
) -> None:  # fmt: skip
    """An attempt that began `ago_s` seconds ago."""
    sql.execute(
        "INSERT INTO worker.attempts (lease_token, job_id, attempt, worker, host, started_at, ended_at, outcome, error_code,"
        " error_message, seconds, lane) VALUES (gen_random_uuid(), %s, 1, 'gpu-1', 'rack-4', now() - make_interval(secs => %s),"
        " CASE WHEN %s::text IS NOT NULL THEN now() - make_interval(secs => %s) END, %s, %s, %s, %s, %s)",
        [
            job,
            ago_s,
            outcome,
            ago_s - took_s,
            outcome,
            code,
            message,
            seconds and Jsonb(seconds),
            seconds and "cuda:0",
        ],
    )


def event(
    sql: psycopg.Connection, job: str, status: str, *, delivered: bool = False, dead: str | None = None,
    again: str | None = None, tries: int = 1,
) -> None:  # fmt: skip
    """A webhook event of a job."""
    sql.execute(
        "INSERT INTO worker.outbox (type, shop, job_id, terminal, body, attempts, delivered_at, dead_at, last_error, next_attempt_at)"
        " SELECT 'job.updated', shop, id, %s, %s, %s, CASE WHEN %s THEN now() END, CASE WHEN %s::text IS NOT NULL THEN now() END,"
        " coalesce(%s, %s), CASE WHEN %s::text IS NOT NULL THEN now() + interval '90 s' END FROM jobs WHERE id = %s",
        [status == "completed", f'{{"jobId": "{job}", "status": "{status}", "seq": 1, "progress": 50}}', tries, delivered,
         dead, dead, again, again, job],
    )  # fmt: skip
