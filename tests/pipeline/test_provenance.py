"""What the files of a model say of their making, read by other programs after the files were in a bucket."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import bucket_server
import pytest
import rdflib
from PIL import Image

from worker import __version__
from worker.engines.presets import PRESETS
from worker.engines.relief import Relief
from worker.pipeline import preview, provenance
from worker.pipeline.address import Policy
from worker.pipeline.cutout import Cutter
from worker.pipeline.run import Request, run
from worker.storage import CONTENT_TYPES
from worker.storage.supabase import SupabaseStore

pytestmark = pytest.mark.integration  # a whole model

pxr: Any = pytest.importorskip("pxr", reason="the extra `usdz` is not installed")

IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
XMP = "http://ns.adobe.com/xap/1.0/"
DC = "http://purl.org/dc/elements/1.1/"
TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.fixture
def files(
    mug: bytes,
    photos: Callable[[str, bytes], str],
    u2netp: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Path]:
    """Make a model of one of two photos, put its files into a bucket, and download them."""
    monkeypatch.setitem(PRESETS, "fast", replace(PRESETS["fast"], grid=48, triangles=800, texture=128))
    monkeypatch.setattr(preview, "TRIES", ((64, 60),))
    made, got = tmp_path / "made", tmp_path / "got"
    made.mkdir()
    got.mkdir()
    request = Request(
        image_urls=[photos("front.png", mug), photos("side.png", mug[:-1] + b"\0")],
        views={"front": 0},
        quality="fast",
        folder=made,
        policy=Policy(hosts=(), http=True, loopback=True),
        usdz=True,
    )
    run(request, Relief(), Cutter("u2netp", u2netp), {}, lambda _: None)
    files = [path for path in made.iterdir() if path.suffix in CONTENT_TYPES]
    with bucket_server.serve() as server:
        store = SupabaseStore(
            server.url, bucket_server.KEY, bucket_server.BUCKET, timeout_s=5, signed_url_s=None
        )
        for file in files:
            with urlopen(store.put(f"a/{file.name}", file, CONTENT_TYPES[file.suffix])) as answer:
                (got / file.name).write_bytes(answer.read())
        store.storage.session.close()
    assert {file.name for file in files} == {
        "model.glb",
        "model.usdz",
        "poster.png",
        "cutout.png",
        "turntable.webp",
    }
    return {file.name: got / file.name for file in files}


def xmp(file: Path) -> dict[str, str]:
    """Find the packet as XMP's packet scanners do, whatever the format, and read its properties as RDF."""
    (packet,) = re.findall(rb"<rdf:RDF.*?</rdf:RDF>", file.read_bytes(), re.DOTALL)
    with Image.open(file) as image:
        assert packet in (image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()), "in its chunk"
    graph = rdflib.Graph().parse(data=packet, format="xml")
    return {str(name): str(value) for _, name, value in graph}


def test_every_file_says_what_it_was_made_from_and_by_what(files: dict[str, Path], mug: bytes) -> None:
    digest = hashlib.sha256(mug).hexdigest()
    made_by = {
        "digital_source_type": f"{TERMS}algorithmicMedia",
        "worker_version": __version__,
        "engine": "relief",
        "engine_version": Relief.version,
        "preset": "fast",
        "photos": {"front": digest},
    }
    glb = files["model.glb"].read_bytes()
    document = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    assert document["asset"]["extras"] == {**made_by, "scale_source": "default"}
    assert {document[key][0]["name"] for key in ("nodes", "meshes", "materials")} == {"model"}

    from pxr import Sdf

    assert Sdf.Layer.FindOrOpen(str(files["model.usdz"])).customLayerData == made_by

    for name, term in (
        ("poster.png", "algorithmicMedia"),
        ("turntable.webp", "algorithmicMedia"),
        ("cutout.png", "algorithmicallyEnhanced"),
    ):
        assert xmp(files[name]) == {
            f"{IPTC}DigitalSourceType": TERMS + term,
            f"{XMP}CreatorTool": f"shop-model-worker {__version__}",
            f"{DC}source": f"front=sha256:{digest}",
        }
    with Image.open(files["turntable.webp"]) as turntable:
        assert turntable.n_frames == preview.FRAMES  # type: ignore[attr-defined]


class Network:
    name = "triposr"
    version = "1"
    details = {"device": "NVIDIA L4", "precision": "float16", "weights_sha256": "c0ffee"}  # noqa: RUF012


def test_a_networks_model_is_marked_as_made_by_generative_ai(tmp_path: Path) -> None:
    made_by = provenance.describe(Network(), PRESETS["fast"], {"front": "aa", "left": "bb"})  # type: ignore[arg-type]
    assert made_by["digital_source_type"] == f"{TERMS}trainedAlgorithmicMedia"
    assert (made_by["weights_sha256"], made_by["precision"]) == ("c0ffee", "float16")
    assert "device" not in made_by, "where it ran changes no byte"
    Image.new("RGBA", (8, 8)).save(tmp_path / "a.png", pnginfo=provenance.png_info(made_by))
    said = xmp(tmp_path / "a.png")
    assert said[f"{IPTC}DigitalSourceType"] == f"{TERMS}trainedAlgorithmicMedia"
    assert said[f"{DC}source"] == "front=sha256:aa left=sha256:bb"
    assert said[f"{IPTC}AISystemUsed"] == "triposr"
    assert said[f"{IPTC}AISystemVersionUsed"] == "c0ffee"
