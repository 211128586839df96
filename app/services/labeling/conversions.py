"""An export in any format: the lines that the database writes in another shape, and a manifest of what they hold."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Snapshot
from app.services.data import copying, exports, frozen
from app.services.data.exports import Filters
from app.services.data.formats import lossless, spreadsheet
from app.services.data.formats.catalog import Format, write
from app.services.data.formats.records import Loss, Row, Ties
from app.services.data.parquet import files as parquet_files


@dataclass(frozen=True)
class Export:
    """What is asked for: a project's data in a format, as far as the filters let them through, at most `limit`.

    With a `snapshot` it is the data that was frozen, else that of this moment.
    """

    project_id: UUID
    format: Format
    filters: Filters
    ties: Ties = "drop"
    limit: int | None = None
    snapshot: Snapshot | None = None
    parquet: bool = False

    @property
    def media_type(self) -> str:
        """The type of the file."""
        return parquet_files.MEDIA_TYPE if self.parquet else self.format.media_type

    def narrowed(self) -> Filters:
        """Return the filters; a format that drops the flags of a ranking holds only what counts now, unless asked."""
        if self.filters.state is not None or self.format.name == "plackett" or self.snapshot is not None:
            return self.filters
        return self.filters.model_copy(update={"state": "current"})


def chunks(session: Session, export: Export, loss: Loss) -> Generator[bytes, None, None]:
    """Return the file in pieces, and count in `loss` what it does not hold. Memory holds one piece.

    Raises `InvalidInputError` for filters that will not do, before the first piece.
    """
    if export.parquet:
        parquet_files.require(export.format.name)
    if export.snapshot is not None:
        lines = frozen.chunks(export.snapshot, export.format.of, export.filters, export.limit)
    else:
        statement = exports.selected(session, export.format.of, export.project_id, export.narrowed())
        lines = copying.copied(session, exports.as_json(statement, export.limit))
    pieces = _pieces(export, lines, loss)
    return parquet_files.written(export.format.name, pieces) if export.parquet else pieces


def _pieces(export: Export, lines: Generator[bytes, None, None], loss: Loss) -> Generator[bytes, None, None]:
    of = export.format
    try:
        if of.table and export.filters.after is None:
            yield _table([dict(zip(spreadsheet.COLUMNS, spreadsheet.COLUMNS, strict=True))])
        for chunk in lines:
            if of.name == "plackett":
                loss.rankings += chunk.count(b"\n")
                loss.rows = loss.rankings
                yield chunk
                continue
            rows = [row for line in chunk.splitlines() for row in _rows(of, json.loads(line), loss, export.ties)]
            if rows:
                yield _table(rows) if of.table else b"".join(map(_line, rows))
    finally:
        lines.close()


def next_after(session: Session, export: Export) -> UUID | None:
    """Return the id after which the next page begins, or None when this one is the last or has no limit."""
    if export.limit is None:
        return None
    if export.snapshot is not None:
        return frozen.last_of_page(export.snapshot, export.format.of, export.filters, export.limit)
    statement = exports.selected(session, export.format.of, export.project_id, export.narrowed())
    return exports.last_of_page(session, statement, export.limit)


def manifest(session: Session, export: Export) -> dict[str, Any]:
    """Return what the export of this moment holds: its filters, counts, size and hash, and what it loses."""
    loss, digest, size = Loss(), hashlib.sha256(), 0
    moment = session.execute(select(func.now())).scalar_one()
    for chunk in chunks(session, export, loss):
        digest.update(chunk)
        size += len(chunk)
    return {
        "format": export.format.name,
        "file": "parquet" if export.parquet else "lines",
        "project_id": export.project_id,
        "filters": export.narrowed().model_dump(mode="json", exclude_none=True),
        "snapshot": export.snapshot and export.snapshot.sha256,
        "ties": export.ties,
        "limit": export.limit,
        "moment": moment,
        "of": export.format.of,
        "records": loss.rankings,
        "rows": loss.rows,
        "bytes": size,
        "sha256": digest.hexdigest(),
        "loss": loss.as_dict(),
    }


def _rows(of: Format, line: dict[str, Any], loss: Loss, ties: Ties) -> Iterator[Row]:
    if of.conversation is not None:
        loss.rankings += 1
        loss.rows += 1
        yield of.conversation(lossless.conversation_of(line))
    else:
        yield from write(of, lossless.record_of(line), loss, ties)


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _table(rows: list[Row]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(row.values() for row in rows)
    return text.getvalue().encode()
