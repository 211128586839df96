"""The artifact store, in a folder and in fsspec's memory: both through the same code as s3:// and gs://."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from app.errors import ConflictError, InvalidInputError
from app.services.training import artifacts
from app.services.training.artifacts import StoreError
from app.settings import get_settings
from trainer.jsonl import RecordError
from trainer.manifest import file_sha256, verify_manifest, write_manifest


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"memory://{uuid4().hex}" if request.param == "memory" else f"file://{tmp_path / 'store'}"
    monkeypatch.setenv("PLACKETT_ARTIFACTS", url)
    get_settings.cache_clear()
    return url


def made(folder: Path, text: str = "one\n") -> tuple[Path, str]:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(text)
    write_manifest(folder)
    return folder, file_sha256(folder / "manifest.json")


def on_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """From now on this is a machine that shares nothing but the store."""
    monkeypatch.setenv("PLACKETT_VAR", str(tmp_path / f"var-{uuid4().hex}"))
    get_settings.cache_clear()
    return get_settings().var


def in_store(url: str, uri: str, name: str) -> tuple[Any, str]:
    system, root = fsspec.url_to_fs(url)
    return system, f"{root}/{uri.removeprefix('artifact:')}/{name}"


def test_without_a_store_a_folder_is_its_own_address_and_nothing_is_copied(tmp_path: Path) -> None:
    folder, digest = made(tmp_path / "final")
    assert artifacts.publish(folder, digest) == str(folder)
    assert artifacts.local(str(folder)) == folder
    assert not (get_settings().var / "cache").exists()


def test_what_one_machine_sends_another_gets_whole(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, digest = made(tmp_path / "final")
    uri = artifacts.publish(folder, digest)
    assert uri == f"artifact:{digest}"
    assert artifacts.publish(folder, digest) == uri
    assert artifacts.local(uri).resolve() == folder.resolve(), "who sent it needs no copy"
    on_another_machine(monkeypatch, tmp_path)
    assert artifacts.read_small(uri, "rows.jsonl") == b"one\n"
    assert not (get_settings().var / "cache").exists(), "for one small file nothing is fetched"
    found = artifacts.local(uri)
    assert artifacts.read_small(uri, "rows.jsonl") == b"one\n"
    assert found.resolve() != folder.resolve()
    verify_manifest(found)
    assert (found / "rows.jsonl").read_text() == "one\n"
    assert artifacts.check(uri) == {"rows.jsonl"}
    artifacts.discard(uri)
    artifacts.discard(uri)
    assert artifacts.local(uri) == found, "what was fetched stays"
    on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(RecordError, match="has no"):
        artifacts.local(uri)


def test_a_base_model_is_sent_with_a_manifest_of_its_own(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "base"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "more.json").write_text("[]")
    uri = artifacts.publish_folder(folder)
    assert artifacts.publish_folder(folder) == uri
    on_another_machine(monkeypatch, tmp_path)
    assert (artifacts.local(uri) / "deep" / "more.json").read_text() == "[]"


@pytest.mark.parametrize("damaged", ["rows.jsonl", "manifest.json"])
def test_bytes_that_changed_in_the_store_are_refused_and_leave_nothing_behind(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    folder, digest = made(tmp_path / "final")
    uri = artifacts.publish(folder, digest)
    system, path = in_store(store, uri, damaged)
    kept = system.cat_file(path)
    system.pipe_file(path, kept.replace(b"one", b"two").replace(b"schema", b"scheme"))
    var = on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(RecordError, match="differs from its hash"):
        artifacts.local(uri)
    assert list((var / "cache").iterdir()) == []
    system.pipe_file(path, kept)
    assert artifacts.local(uri).is_dir()


def test_an_upload_that_was_cut_short_is_absent_until_it_is_done_again(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digest = made(tmp_path / "final")
    uri = artifacts.publish(folder, digest)
    system, path = in_store(store, uri, "manifest.json")
    system.rm_file(path)
    with pytest.raises(InvalidInputError, match="cannot be used"):
        artifacts.check(uri)
    assert artifacts.publish(folder, digest) == uri
    assert artifacts.check(uri) == {"rows.jsonl"}


def test_a_manifest_that_names_a_file_outside_is_refused(store: str, tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "final")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("rows.jsonl", "../rows.jsonl"))
    with pytest.raises(RecordError, match="refused"):
        artifacts.publish(folder, file_sha256(manifest))


@pytest.mark.parametrize("uri", ["artifact:", "artifact:../../etc", f"artifact:{'A' * 64}"])
def test_an_address_that_is_no_hash_is_refused(store: str, uri: str) -> None:
    with pytest.raises(RecordError, match="no artifact's address"):
        artifacts.local(uri)


def test_a_store_that_cannot_be_reached_is_an_error_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digest = made(tmp_path / "final")
    monkeypatch.setenv("PLACKETT_ARTIFACTS", "nowhere://bucket/path")
    get_settings.cache_clear()
    with pytest.raises(StoreError, match="refuses"):
        artifacts.publish(folder, digest)


def test_a_request_does_not_wait_for_a_model_to_arrive(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digest = made(tmp_path / "final")
    uri = artifacts.publish(folder, digest)
    assert artifacts.local_or_soon(uri).resolve() == folder.resolve()
    var = on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(ConflictError, match="being fetched"):
        artifacts.local_or_soon(uri)
    while uri in artifacts._fetches:
        pass
    assert artifacts.local_or_soon(uri) == (var / "cache" / digest).resolve()


def test_a_large_file_passes_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACKETT_ARTIFACTS", f"file://{tmp_path / 'store'}")
    get_settings.cache_clear()
    folder, digest = made(tmp_path / "final", "x" * (48 << 20))
    tracemalloc.start()
    uri = artifacts.publish(folder, digest)
    on_another_machine(monkeypatch, tmp_path)
    artifacts.local(uri)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
