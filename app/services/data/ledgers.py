"""Ledgers: which row of the database each line of a snapshot's files came from, and what the files leave out of it.

    LEDGERS/<sha256 of its lines>.jsonl.zst     a line for each line of a data file, in the same order

They are no part of a snapshot's address: the same answers in another database have other ids and are the same snapshot.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from app.errors import NotFoundError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 1


class Writer:
    """Writes one ledger aside, and gives it its name when it is whole; after an error nothing of it is left."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root, self._aside = root, root / f".{uuid4().hex}.partial"
        self._file, self._compressor = self._aside.open("wb"), zstd.ZstdCompressor(level=_LEVEL)
        self._digest, self._rows = hashlib.sha256(), 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._file.write(self._compressor.flush())
                self._file.flush()
                os.fsync(self._file.fileno())
                self._aside.replace(path_of(self._root, self._digest.hexdigest()))
        finally:
            self._file.close()
            self._aside.unlink(missing_ok=True)

    def write(self, lines: list[bytes]) -> None:
        """Write whole lines."""
        data = b"".join(lines)
        self._digest.update(data)
        self._file.write(self._compressor.compress(data))
        self._rows += len(lines)

    def facts(self) -> dict[str, Any]:
        """Return how the ledger is found again."""
        return {"sha256": self._digest.hexdigest(), "rows": self._rows}


def path_of(root: Path, sha256: str) -> Path:
    """Return where a ledger lies."""
    return root / f"{sha256}.jsonl.zst"


def lines(root: Path, sha256: str) -> Iterator[bytes]:
    """Yield the lines of a ledger; raise `NotFoundError` when it is not on this machine."""
    path = path_of(root, sha256)
    if not path.is_file():
        raise NotFoundError("The ledger of this snapshot is not on this machine; its files alone are left.")
    with zstd.open(path, "rb") as file:
        yield from file
