from pathlib import Path

import pytest

from worker.errors import JobError
from worker.storage.local import LocalStore


def test_a_file_is_replaced_whole_and_its_address_changes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", "http://models.example/")
    source = tmp_path / "model"
    addresses = []
    for content in (b"first", b"second"):
        source.write_bytes(content)
        addresses.append(store.put("a/1.glb", source, "model/gltf-binary"))
        assert (tmp_path / "store/a/1.glb").read_bytes() == content
    assert all(address.startswith("http://models.example/a/1.glb?v=") for address in addresses)
    assert addresses[0] != addresses[1]
    assert [path.name for path in (tmp_path / "store/a").iterdir()] == ["1.glb"]


def test_without_a_server_the_address_is_the_file_s(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x")
    address = LocalStore(tmp_path / "my store").put("a/1.glb", tmp_path / "model", "model/gltf-binary")
    assert address.startswith("file:///")
    assert "my%20store/a/1.glb?v=" in address


def test_a_store_that_cannot_be_written_is_worth_another_try(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "store" / "a").write_text("a file where a folder should be")
    (tmp_path / "model").write_bytes(b"x")
    with pytest.raises(JobError) as error:
        store.put("a/1.glb", tmp_path / "model", "model/gltf-binary")
    assert (error.value.code, error.value.retryable) == ("storage_unavailable", True)
