"""The artifact store on a real server that speaks S3: complete or absent, and nothing that differs from its hash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.services.training import artifacts
from app.settings import get_settings
from trainer.jsonl import RecordError
from trainer.manifest import MANIFEST_SCHEMA, file_sha256, verify_manifest

moto_server = pytest.importorskip("moto.server", reason="a server that speaks S3: pip install 'moto[s3,server]'")
pytest.importorskip("s3fs", reason="S3 is an optional part: pip install 'plackett[s3]'")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # its libraries have warnings


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket on a server of this machine, which the settings name; what is in it, as s3fs sees it."""
    import s3fs

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "PLACKETT_ARTIFACTS": "s3://plackett/store",
    }.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    httpx.post(
        f"http://127.0.0.1:{port}/moto-api/reset"
    ).raise_for_status()  # servers of one process share their buckets
    files = s3fs.S3FileSystem()
    files.mkdir("plackett")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    """A finished folder, and the hash of its manifest."""
    folder = tmp_path / "made"
    (folder / "part").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 20_000)
    (folder / "part" / "note.txt").write_text("ünïcode")
    names = ("weights.bin", "part/note.txt")
    listed = {name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    (folder / "manifest.json").write_text(json.dumps({"schema": MANIFEST_SCHEMA, "files": listed}))
    return folder, file_sha256(folder / "manifest.json")


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as another machine, whose data folder is empty."""
    monkeypatch.setenv("PLACKETT_VAR", str(folder))
    get_settings.cache_clear()


def test_a_folder_is_sent_before_it_has_an_address_and_comes_back_the_same(
    bucket: Any, made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digest = made
    uri = artifacts.publish(folder, digest)
    assert uri == f"artifact:{digest}"
    sent = {name.removeprefix(f"plackett/store/{digest}/") for name in bucket.find(f"plackett/store/{digest}")}
    assert sent == {"manifest.json", "weights.bin", "part/note.txt"}
    assert artifacts.publish(folder, digest) == uri, "what is there is not sent again"
    elsewhere(tmp_path / "other", monkeypatch)
    assert artifacts.check(uri) == {"weights.bin", "part/note.txt"}
    assert artifacts.read_small(uri, "part/note.txt").decode() == "ünïcode"
    found = artifacts.local(uri)
    assert found.is_relative_to(tmp_path / "other")
    verify_manifest(found)
    assert file_sha256(found / "manifest.json") == digest
    artifacts.discard(uri)
    assert bucket.find("plackett/store") == []


def test_an_upload_that_breaks_off_leaves_no_address_behind(
    bucket: Any, made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digest = made
    kept = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").unlink()
    with pytest.raises(OSError, match=r"weights\.bin"):
        artifacts.publish(folder, digest)
    assert not bucket.exists(f"plackett/store/{digest}/manifest.json"), "the manifest is sent last"
    elsewhere(tmp_path / "other", monkeypatch)
    with pytest.raises(RecordError, match="has no"):
        artifacts.local(f"artifact:{digest}")
    (folder / "weights.bin").write_bytes(kept)
    verify_manifest(artifacts.local(artifacts.publish(folder, digest)))


@pytest.mark.parametrize("name", ["weights.bin", "part/note.txt", "manifest.json"])
def test_an_object_that_was_changed_is_refused_and_leaves_nothing_here(
    bucket: Any, made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, digest = made
    uri = artifacts.publish(folder, digest)
    object_name = f"plackett/store/{digest}/{name}"
    right = bucket.cat_file(object_name)
    bucket.pipe_file(object_name, right[:-1] + bytes([right[-1] ^ 1]))
    elsewhere(tmp_path / "other", monkeypatch)
    with pytest.raises(RecordError, match="differs from its hash"):
        artifacts.local(uri)
    assert [path for path in (tmp_path / "other").rglob("*") if path.is_file()] == []
    bucket.pipe_file(object_name, right)
    verify_manifest(artifacts.local(uri))


def test_a_bucket_that_there_is_not_is_an_error_and_is_not_made(
    bucket: Any, made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACKETT_ARTIFACTS", "s3://no-such-bucket/store")
    get_settings.cache_clear()
    with pytest.raises(OSError, match="bucket"):
        artifacts.publish(*made)
    bucket.invalidate_cache()
    assert bucket.ls("") == ["plackett"]
