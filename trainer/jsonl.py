"""Files of one JSON object a line: how they are spelled, written and read. Standard library only.

What the lines of a run directory hold is in `trainer.records`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any


class RecordError(ValueError):
    """A line of a data file is not what the contract says; the text names file, line and reason."""


def canonical(value: Any) -> bytes:
    """Return the one JSON spelling of `value` that hashes are taken of: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def write_jsonl(path: Path, rows: Iterator[Any] | list[Any]) -> int:
    """Write dataclasses (or plain objects) one a line and return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(canonical(row if isinstance(row, dict) else asdict(row)) + b"\n")
            count += 1
    return count


def append_jsonl(path: Path, rows: list[Any]) -> None:
    """Append dataclasses (or plain objects) in one write, so that a crash leaves whole lines but for the last."""
    with path.open("ab") as file:
        file.write(b"".join(canonical(row if isinstance(row, dict) else asdict(row)) + b"\n" for row in rows))


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of each line that is not blank; raise `RecordError` on a bad one."""
    return ((number, value) for number, _, value in scan_jsonl(path))


def scan_jsonl(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (line number, byte at which the line begins, object) as `read_jsonl` does."""
    if not path.exists():
        raise RecordError(f"{path} does not exist.")
    with path.open("rb") as file:
        end = 0
        for number, line in enumerate(file, start=1):
            offset, end = end, end + len(line)
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise RecordError(f"{path.name} line {number} is not valid JSON: {error}.") from None
            if not isinstance(value, dict):
                raise RecordError(f"{path.name} line {number} is not a JSON object.")
            yield number, offset, value


def line_at(path: Path, offset: int) -> dict[str, Any]:
    """Return the object whose line begins at this byte, as `scan_jsonl` has told."""
    with path.open("rb") as file:
        file.seek(offset)
        found: dict[str, Any] = json.loads(file.readline())
    return found
