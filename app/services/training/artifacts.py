"""The artifact store: folders that never change, for machines that share nothing else.

    STORE/<sha256 of manifest.json>/<files>, manifest.json        manifest.json is sent last: complete or absent

Without a store (`PLACKETT_ARTIFACTS` unset) an artifact stays in the folder where it was made, and nothing is copied.
With one, a URL that fsspec knows (a folder, `s3://…`, `gs://…`), it is sent before the database names it, and its
address is `artifact:<sha256>` on every machine. What comes back is hashed while it is written, and kept in VAR/cache,
which may be emptied whenever nothing runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from threading import Lock, Thread
from typing import IO, Any
from uuid import uuid4

import fsspec

from app.errors import ConflictError, InvalidInputError
from app.settings import get_settings
from trainer.config import ARTIFACT
from trainer.jsonl import RecordError
from trainer.manifest import MANIFEST_SCHEMA, file_sha256

MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 20
BUCKETS = frozenset({"s3", "s3a", "gs", "gcs"})
"""Stores without folders, where to ask for one would make a bucket of whatever name the settings have."""
SHA256_LENGTH = 64

logger = logging.getLogger(__name__)

_fetches: dict[str, Thread] = {}
_lock = Lock()


class StoreError(OSError):
    """The store cannot be reached or refuses us. The same again later may go through."""


def publish(folder: Path, manifest_sha256: str) -> str:
    """Send a finished folder to the store and return its address; without a store the address is the folder's path.

    What is there already is not sent again. Raises `StoreError`; a file that vanishes meanwhile is a plain `OSError`.
    """
    if get_settings().artifacts is None:
        return str(folder)
    manifest = (folder / MANIFEST).read_bytes()
    _send(folder, manifest, manifest_sha256)
    _link(folder, manifest_sha256)
    return ARTIFACT + manifest_sha256


def publish_folder(folder: Path) -> str:
    """Send any folder, such as a base model, to the store under a manifest made now; return its address."""
    if get_settings().artifacts is None:
        raise InvalidInputError("There is no artifact store: set PLACKETT_ARTIFACTS to its URL first.")
    return publish_files(folder, [path for path in folder.rglob("*") if path != folder / MANIFEST])


def publish_files(folder: Path, paths: Iterable[Path]) -> str:
    """Send some of a folder's files to the store under a manifest made now; return the address. Folders are left out.

    Raises `StoreError`; a file that vanishes or changes meanwhile is a plain `OSError`.
    """
    files = sorted(path for path in paths if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in files
    }
    manifest = json.dumps({"schema": MANIFEST_SCHEMA, "files": listed}, indent=1, sort_keys=True) + "\n"
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    _send(folder, manifest.encode(), digest)
    return ARTIFACT + digest


def is_stored(uri: str) -> bool:
    """Return whether an address is one of the store's."""
    return uri.startswith(ARTIFACT)


def local(uri: str) -> Path:
    """Return the folder of an artifact on this machine; bring it from the store, hash by hash, if it is not here.

    Raises `RecordError` when the store lacks it or holds other bytes, `StoreError` when the store does not answer.
    """
    if not is_stored(uri):
        return Path(uri)
    digest = _digest(uri)
    kept = _cache() / digest
    if not (kept / MANIFEST).is_file():
        if kept.is_symlink():
            kept.unlink()  # it led to a folder that is gone
        bring(uri, kept)
    return kept


def local_or_soon(uri: str) -> Path:
    """As `local`, for a request that must not wait: what is not here is fetched in the background.

    Raises `ConflictError` until it is here.
    """
    if not is_stored(uri) or (_cache() / _digest(uri) / MANIFEST).is_file():
        return local(uri)
    local_within(uri, 0)
    raise ConflictError("The model is being fetched from the artifact store. Try again in a few minutes.")


def local_within(uri: str, seconds: float) -> Path | None:
    """As `local`, for a page: wait at most so long, and return None when it is not here then or cannot be had.

    The fetching goes on, so the page has it later.
    """
    if is_stored(uri) and not (_cache() / _digest(uri) / MANIFEST).is_file():
        with _lock:
            running = _fetches.get(uri)
            if running is None:
                running = _fetches[uri] = Thread(target=_fetch, args=(uri,), daemon=True)
                running.start()
        running.join(seconds)
        if not (_cache() / _digest(uri) / MANIFEST).is_file():
            return None
    return local(uri)


def bring(uri: str, target: Path) -> None:
    """Download an artifact to `target`, complete or not at all. Raises as `local` does."""
    digest = _digest(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    aside.mkdir()
    try:
        with _reaching():
            system, root = _store()
            _download(system, f"{root}/{digest}/{MANIFEST}", aside / MANIFEST, digest)
            for name, facts in _files((aside / MANIFEST).read_bytes()):
                _download(system, f"{root}/{digest}/{name}", aside / name, facts["sha256"])
        try:
            aside.rename(target)
        except OSError:
            if not (target / MANIFEST).is_file():  # else another process was as quick, with the same bytes
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check(uri: str) -> set[str]:
    """Return the names of an artifact's files; raise `InvalidInputError` unless the store holds all of them whole."""
    digest = _digest(uri)
    try:
        with _reaching():
            system, root = _store()
            manifest = system.cat_file(f"{root}/{digest}/{MANIFEST}")
            _require(hashlib.sha256(manifest).hexdigest() == digest, f"{uri} holds other bytes than its name says.")
            files = dict(_files(manifest))
            for name, facts in files.items():
                size = system.size(f"{root}/{digest}/{name}")
                _require(size == facts["bytes"], f"{name} of {uri} is not complete in the store.")
    except (RecordError, OSError) as error:
        raise InvalidInputError(f"The artifact cannot be used: {error}") from None
    return set(files)


def read_small(uri: str, name: str) -> bytes:
    """Return one small file of an artifact, from here if it is here. Raises `OSError` when it cannot be had."""
    here = Path(uri) if not is_stored(uri) else _cache() / _digest(uri)
    if not is_stored(uri) or (here / MANIFEST).is_file():
        return (here / name).read_bytes()
    with _reaching():
        system, root = _store()
        found: bytes = system.cat_file(f"{root}/{_digest(uri)}/{name}")
    return found


def discard(uri: str) -> None:
    """Remove an artifact from the store, the manifest first, so that it is never half there."""
    with _reaching():
        system, root = _store()
        folder = f"{root}/{_digest(uri)}"
        if system.exists(f"{folder}/{MANIFEST}"):
            system.rm_file(f"{folder}/{MANIFEST}")
            system.rm(folder, recursive=True)


def _send(folder: Path, manifest: bytes, digest: str) -> None:
    with _reaching():
        system, root = _store()
        if system.exists(f"{root}/{digest}/{MANIFEST}"):
            return
        for name, facts in _files(manifest):
            _upload(system, folder / name, f"{root}/{digest}/{name}", int(facts["bytes"]))
        system.pipe_file(f"{root}/{digest}/{MANIFEST}", manifest)


def _upload(system: Any, source: Path, target: str, size: int) -> None:
    names = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if not names & BUCKETS:
        system.makedirs(target.rpartition("/")[0], exist_ok=True)
    system.put_file(str(source), target)
    if system.size(target) != size:
        raise StoreError(f"{target} did not arrive whole")


def _download(system: Any, source: str, target: Path, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with system.open(source, "rb") as incoming, target.open("wb") as file:
            _copy(incoming, file, digest)
    except FileNotFoundError:
        raise RecordError(f"The artifact store has no {source}.") from None
    if digest.hexdigest() != sha256:
        raise RecordError(f"{source} in the artifact store differs from its hash.")


def _copy(incoming: IO[bytes], file: IO[bytes], digest: Any) -> None:
    while chunk := incoming.read(CHUNK_BYTES):
        digest.update(chunk)
        file.write(chunk)


def _files(manifest: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files of a manifest. A name that leads out of the folder is refused, whoever wrote it."""
    for name, facts in json.loads(manifest)["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or str(path) == MANIFEST:
            raise RecordError(f"A manifest in the artifact store names the file {name!r}, which is refused.")
        yield name, facts


def _link(folder: Path, digest: str) -> None:
    """Spare this machine the way back: its cache leads to the folder that was sent."""
    kept = _cache() / digest
    if not (kept / MANIFEST).is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        kept.symlink_to(folder.resolve())


def _fetch(uri: str) -> None:
    try:
        local(uri)
    except (RecordError, OSError) as error:
        logger.warning("%s could not be fetched: %s", uri, error)
    finally:
        with _lock:
            _fetches.pop(uri, None)


def _digest(uri: str) -> str:
    digest = uri.removeprefix(ARTIFACT)
    if len(digest) != SHA256_LENGTH or set(digest) - set("0123456789abcdef"):
        raise RecordError(f"{uri!r} is no artifact's address.")
    return digest


def _cache() -> Path:
    return (get_settings().var / "cache").resolve()


def _store() -> tuple[Any, str]:
    url = get_settings().artifacts
    if url is None:
        raise StoreError("PLACKETT_ARTIFACTS is not set here, and this artifact is in the store")
    system, root = fsspec.url_to_fs(url)
    return system, str(root).rstrip("/")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise RecordError(sentence)


class _reaching:  # noqa: N801  (a context, read as a word)
    """Turn whatever a storage library raises into `StoreError`; what it means for the run is for the caller to say."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (OSError, RecordError)):
            raise StoreError(f"The artifact store refuses: {type(error).__name__}: {error}") from error
