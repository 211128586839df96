"""`manifest.json`: the hashes of a folder's files, and the check that they still hold. Standard library only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.jsonl import RecordError

MANIFEST_SCHEMA = 1


def write_manifest(data_dir: Path, files: dict[str, dict[str, Any]] | None = None, **facts: Any) -> dict[str, Any]:
    """Write `manifest.json`: rows, bytes and sha256 of every JSONL file in the folder, and the given facts.

    Whoever has counted and hashed while writing passes `files`; else they are read once more.
    """
    if files is None:
        files = {
            path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size, "rows": _count_lines(path)}
            for path in sorted(data_dir.glob("*.jsonl"))
        }
    manifest = {"schema": MANIFEST_SCHEMA, "files": files, **facts}
    (data_dir / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return manifest


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def verify_manifest(data_dir: Path) -> dict[str, Any]:
    """Read `manifest.json` and check each file's hash; raise `RecordError` when one is missing or differs."""
    try:
        manifest: dict[str, Any] = json.loads((data_dir / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{data_dir} has no manifest.json.") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise RecordError(f"{data_dir / 'manifest.json'} is not valid JSON.") from None
    for name, facts in manifest.get("files", {}).items():
        path = data_dir / name
        if not path.is_file():
            raise RecordError(f"{path} is in the manifest but not there.")
        if file_sha256(path) != facts["sha256"]:
            raise RecordError(f"{path} differs from its hash in the manifest.")
    return manifest


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
