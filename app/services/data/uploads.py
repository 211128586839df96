"""Files that come in pieces, so that a connection that breaks costs one piece and not the whole.

The row says how much has come; a piece is written behind that, flushed, and then counted, in one transaction under the
row's lock. A crash in between leaves bytes that are not counted, and the same piece overwrites them.
"""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from app.db import after_commit
from app.errors import ConflictError, InvalidInputError, NotFoundError, TooLargeError
from app.models import Job, Project, Upload, User
from app.services.data import import_files
from app.settings import get_settings

MOST = 8
KEPT_HOURS = 24


def create(session: Session, project: Project, user: User, size: int) -> Upload:
    """Begin a file of so many bytes; what was begun more than a day ago is forgotten."""
    if not 1 <= size <= import_files.MAX_BYTES:
        raise TooLargeError(f"A file has from 1 byte to {import_files.MAX_BYTES >> 30} GiB; split it.")
    # So that two at once see each other's count. Not the project's row: an import holds that for as long as it takes.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"uploads {project.id}", 0))))
    for old in session.scalars(
        select(Upload).where(Upload.created_at < func.clock_timestamp() - timedelta(hours=KEPT_HOURS), ~_is_wanted())
    ):
        remove(session, old)
    count = session.scalar(select(func.count()).where(Upload.project_id == project.id)) or 0
    if count >= MOST:
        raise ConflictError(f"There are {MOST} unfinished uploads of this project already; finish or delete one first.")
    upload = Upload(project_id=project.id, size=size, created_by=user.id)
    session.add(upload)
    session.flush()
    return upload


def get(session: Session, upload_id: UUID, *, for_update: bool = False) -> Upload:
    """Return an upload, its row locked on request, or raise `NotFoundError`."""
    upload = session.get(Upload, upload_id, with_for_update=for_update or None, populate_existing=for_update)
    if upload is None:
        raise NotFoundError("There is no such upload; it may have been imported, deleted, or be a day old.")
    return upload


def append(session: Session, upload: Upload, offset: int, piece: BinaryIO) -> int:
    """Store the next piece and return how much there is now; raise `ConflictError` when it is not the next."""
    if offset != upload.received:
        raise ConflictError(f"The next byte is number {upload.received}, not {offset}; go on from there.")
    length = piece.seek(0, os.SEEK_END)
    piece.seek(0)
    if offset + length > upload.size:
        raise InvalidInputError(f"This is more than the {upload.size:,} bytes that were announced.")
    path = path_of(upload)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        shutil.copyfileobj(piece, file, 1 << 20)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    upload.received = offset + length
    session.flush()
    return upload.received


def whole(upload: Upload) -> Path:
    """Return where the file lies; raise `ConflictError` while something of it is missing."""
    if upload.received < upload.size:
        raise ConflictError(f"Only {upload.received:,} of {upload.size:,} bytes have come; send the rest first.")
    path = path_of(upload)
    if not path.is_file() or path.stat().st_size != upload.size:
        raise NotFoundError("The file of this upload is not on this machine; send it again.")
    return path


def remove(session: Session, upload: Upload) -> None:
    """Forget an upload, and its file once that is certain; raise `ConflictError` while a worker is to import it."""
    if session.scalar(select(_is_wanted()).where(Upload.id == upload.id)):
        raise ConflictError("This file is being imported; it can be deleted once that is over.")
    path = path_of(upload)
    session.delete(upload)
    session.flush()
    after_commit(session, lambda: path.unlink(missing_ok=True))


def _is_wanted() -> ColumnElement[bool]:
    return exists().where(Job.upload_id == Upload.id, Job.state.in_(("queued", "running")))


def path_of(upload: Upload) -> Path:
    """Return where the pieces of an upload lie."""
    return get_settings().uploads_dir / str(upload.id)
