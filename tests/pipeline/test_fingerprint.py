"""Jobs have the same key if their results are the same, and only then."""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

import worker
from worker.core.stages import Stage
from worker.engines.relief import Relief
from worker.pipeline import fingerprint
from worker.pipeline.address import Policy
from worker.pipeline.cutout import Cutter
from worker.pipeline.run import Request, run

PACKAGE = Path(worker.__file__).parent
ELSEWHERE = {"httpcore", "httpx", "tenacity"}  # libraries of the download, whose bytes are hashed themselves


@pytest.fixture
def fresh() -> Iterator[None]:
    fingerprint.code.cache_clear()
    yield
    fingerprint.code.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_every_source_file_and_every_library_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (*fingerprint.ROOMS, "daemon"):
        (tmp_path / room / "deep").mkdir(parents=True)
        (tmp_path / room / "deep" / "a.py").write_text("1")
    monkeypatch.setattr(fingerprint, "worker", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    seen = {fingerprint.code()}

    def changed() -> bool:
        fingerprint.code.cache_clear()
        before = len(seen)
        seen.add(fingerprint.code())
        return len(seen) > before

    assert not changed()
    (tmp_path / "daemon" / "deep" / "a.py").write_text("2")
    assert not changed()
    for room in fingerprint.ROOMS:
        (tmp_path / room / "deep" / "a.py").write_text("2")
        assert changed(), room
    (tmp_path / "mesh" / "deep" / "a.py").rename(tmp_path / "mesh" / "deep" / "b.py")
    assert changed()
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version(name) + ("x" if name == "numpy" else ""))
    assert changed()


def test_no_library_that_the_rooms_import_is_missing() -> None:
    imported = set()
    for room in fingerprint.ROOMS:
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Import():
                        imported |= {alias.name.partition(".")[0] for alias in node.names}
                    case ast.ImportFrom(level=0, module=str(module)):
                        imported.add(module.partition(".")[0])
    packages = metadata.packages_distributions()
    names = {
        name.lower().replace("_", "-")
        for module in imported - set(sys.stdlib_module_names) - {"worker"}
        for name in packages.get(module, [module])
    }
    assert names - ELSEWHERE == set(fingerprint.LIBRARIES)


@pytest.mark.integration  # the weights of the background model
def test_each_input_counts_and_neither_the_url_nor_the_folder_does(
    photos: Callable[[str, bytes], str], mug: bytes, u2netp: Path, tmp_path: Path
) -> None:
    urls = [photos("a.png", mug), photos("b.png", mug + b"1")]
    request = Request(
        image_urls=urls,
        quality="fast",
        folder=tmp_path,
        policy=Policy(hosts=(), http=True, loopback=True),
    )
    cutter = Cutter("u2netp", u2netp)

    def key(request: Request, engine: Relief | None = None, cutter: Any = cutter) -> str:
        keys: list[str] = []
        stages: list[Stage] = []

        def is_known(key: str) -> bool:
            keys.append(key)
            return True

        assert not run(request, engine or Relief(), cutter, {}, stages.append, is_known)
        assert stages == [Stage.DOWNLOADING]
        return keys[0]

    known = key(request)
    other = tmp_path / "other"
    other.mkdir()
    same = replace(request, image_urls=[photos("c.png", mug), photos("d.png", mug + b"1")], folder=other)
    assert key(same) == known, "the same photos at other URLs"
    assert key(replace(request, views={"front": 0, "back": 1})) == key(
        replace(request, views={"back": 1, "front": 0})
    )

    engine, details = Relief(), Relief()
    engine.version = "next"
    details.details = MappingProxyType({"device": "cpu", "weights_sha256": "another"})
    keys = [
        known,
        key(replace(request, image_urls=urls[::-1])),
        key(replace(request, image_urls=[urls[0], photos("e.png", mug + b"2")])),
        key(replace(request, image_urls=[urls[0], photos("e.png", mug + b"2"), urls[1]])),
        key(replace(request, image_urls=[urls[0], urls[1] + "/missing"])),
        key(replace(request, excluded=[1])),
        key(replace(request, excluded=[0])),
        key(replace(request, quality="auto")),
        key(replace(request, views={"front": 0})),
        key(replace(request, views={"front": 1})),
        key(replace(request, subject={"box": [0, 0, 1, 1]})),
        key(replace(request, dimensions={"height": 1, "unit": "m"})),
        key(replace(request, review_score=50.0)),
        key(replace(request, turntable=False)),
        key(replace(request, usdz=True)),
        key(request, engine),
        key(request, details),
        key(request, cutter=SimpleNamespace(digest="another")),
    ]
    assert len(set(keys)) == len(keys)
