"""What a snapshot holds as the lossless lines of an export: its files put together with their ledgers.

Both never change, so the same question gets the same bytes whenever it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Snapshot
from app.services.data import ledgers
from app.services.data.copying import CHUNK_BYTES
from app.services.data.exports import Filters, Source
from app.services.training import artifacts
from app.settings import get_settings

KINDS: dict[Source, str] = {"rankings": "comparisons", "prompts": "prompts", "demonstrations": "demonstrations"}


def chunks(snapshot: Snapshot, source: Source, filters: Filters, limit: int | None) -> Generator[bytes, None, None]:
    """Return the lines that the filters choose, many in a chunk; raise on filters that will not do."""
    start = _start(snapshot, source, filters)
    return _chunks(snapshot, source, filters, start, limit)


def last_of_page(snapshot: Snapshot, source: Source, filters: Filters, limit: int) -> UUID | None:
    """Return the id of the last of the first so many lines, by which the next page begins; None if no more follow."""
    with closing(_lines(snapshot, source, filters, _start(snapshot, source, filters))) as found:
        ids = [line["id"] for line in islice(found, limit - 1, limit + 1)]
    return UUID(ids[0]) if len(ids) > 1 else None


def ledger_lines(snapshot: Snapshot, kind: str) -> Iterator[bytes]:
    """Yield the ledger of one of the snapshot's files; raise `ConflictError` for a snapshot that has none."""
    if snapshot.ledger is None:
        raise ConflictError(
            f"Snapshot {snapshot.number} was frozen before ledgers were kept, so its answers cannot be told apart. "
            "Freeze a new one and export that."
        )
    return ledgers.lines(get_settings().ledgers_dir, snapshot.ledger[kind]["sha256"])


def _start(snapshot: Snapshot, source: Source, filters: Filters) -> int:
    """Return the number of lines that the caller has."""
    if filters.state is not None or filters.counted is not None:
        raise InvalidInputError("A snapshot holds what counted when it was frozen; leave out “state” and “counted”.")
    lines = ledger_lines(snapshot, KINDS[source])
    if filters.after is None:
        return 0
    wanted = str(filters.after)
    needle = f'"id":"{wanted}"'.encode()
    for number, line in enumerate(lines, start=1):
        if needle in line and json.loads(line)["id"] == wanted:
            return number
    raise InvalidInputError("“after” is no id of a line of this snapshot.")


def _chunks(
    snapshot: Snapshot, source: Source, filters: Filters, start: int, limit: int | None
) -> Generator[bytes, None, None]:
    chunk, size = [], 0
    with closing(_lines(snapshot, source, filters, start)) as found:
        for line in islice(found, limit):
            spelled = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            chunk.append(spelled)
            size += len(spelled)
            if size >= CHUNK_BYTES:
                yield b"".join(chunk)
                chunk, size = [], 0
    if chunk:
        yield b"".join(chunk)


def _lines(snapshot: Snapshot, source: Source, filters: Filters, start: int) -> Generator[dict[str, Any], None, None]:
    kind = KINDS[source]
    path = artifacts.local(snapshot.uri) / f"{kind}.jsonl"
    if not path.is_file():
        raise NotFoundError("The files of this snapshot are not on this machine.")
    with path.open("rb") as file:
        for entry, line in islice(zip(ledger_lines(snapshot, kind), file, strict=True), start, None):
            known, frozen = json.loads(entry), json.loads(line)
            if _passes(filters, known):
                yield _whole(source, known, frozen)


def _passes(filters: Filters, entry: dict[str, Any]) -> bool:
    for name in ("labeler", "guideline_version", "judge", "origin", "split"):
        wanted = getattr(filters, name)
        if wanted is not None and name in entry and entry[name] != wanted:
            return False
    if (filters.since is not None or filters.until is not None) and "created_at" in entry:
        created = datetime.fromisoformat(entry["created_at"])
        return (filters.since is None or created >= filters.since) and (
            filters.until is None or created < filters.until
        )
    return True


def _whole(source: Source, entry: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": item["role"], "content": item["content"]} for item in frozen["messages"]]
    if source == "prompts":
        return {"id": entry["id"], "prompt_id": entry["id"], "split": frozen["split"], "messages": messages}
    if source == "demonstrations":
        return {
            "id": entry["id"],
            "prompt_id": entry["prompt_id"],
            "split": frozen["split"],
            "messages": messages,
            "completion": frozen["completion"],
            "labeler": entry["labeler"],
            "judge": entry["judge"],
            "created_at": entry["created_at"],
        }
    return {
        "schema_version": 1,
        "id": entry["id"],
        "project_id": entry["project_id"],
        "task_id": entry["task_id"],
        "prompt": {"id": entry["prompt_id"], "split": frozen["split"], "messages": messages},
        "completions": [
            {
                "id": item["id"],
                "text": text,
                "source": item["source"],
                "parent_id": item["parent_id"],
                "model_version_id": item["model_version_id"],
                "model_version": item["model_version"],
                "finish_reason": item["finish_reason"],
            }
            for item, text in zip(entry["completions"], frozen["completions"], strict=True)
        ],
        "origin": entry["origin"],
        "purpose": "collect",
        "ranking": entry["ranking"],
        "strengths": frozen["strengths"],
        "acceptable": frozen["acceptable"],
        "judgements": entry["judgements"],
        "reason": entry["reason"],
        "shown_order": entry["shown_order"],
        "labeler": entry["labeler"],
        "judge": entry["judge"],
        "guideline_version": entry["guideline_version"],
        "seconds": entry["seconds"],
        "simulated": entry["judge"] == "simulated",
        "counted": True,
        "not_counted_reason": None,
        "quarantined": False,
        "dataset": entry["dataset"],
        "supersedes": entry["supersedes"],
        "superseded": False,
        "retracts": False,
        "created_at": entry["created_at"],
    }
