"""Snapshots: a project's counted answers, frozen as the data files of a run directory and addressed by their content.

    SNAPSHOTS/<sha256 of manifest.json>/{prompts,demonstrations,comparisons}.jsonl, manifest.json, card.md

Nothing in the files comes from a clock, a random id or the order of insertion: the same answers give the same bytes
in any database. A snapshot is never changed; freezing the same data again returns the one that is there.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from app.db import reading
from app.errors import InvalidInputError, NotFoundError, UnavailableError
from app.models import Demonstration, Project, Prompt, Ranking, Snapshot, Task, User
from app.services.accounts import audit
from app.services.data import ledgers
from app.services.hooks import outbox
from app.services.labeling import standing
from app.services.training import artifacts, data_cards, snapshot_files
from app.services.training.snapshot_files import Written
from app.settings import get_settings
from trainer import jsonl, records
from trainer.manifest import file_sha256, verify_manifest, write_manifest

CARD = "card.md"
_BEAT_SECONDS = 15

Told = Callable[[float], None]
"""Hears which part of a piece of work is done, from 0 to 1."""


def create(session: Session, project: Project, user: User, told: Told = lambda _part: None) -> Snapshot:
    """Freeze what is counted and committed now, and return the snapshot; the existing one if nothing has changed.

    `told` hears again and again which part of the work is done, from 0 to 1.
    """
    settings = get_settings()
    with reading() as moment:
        if not _has_answers(moment, project):
            raise InvalidInputError(
                "There is nothing to freeze yet: the project has no counted ranking and no demonstration."
            )
        beat, most = _beat(session), max(1, rows_in(moment, project))

        def wrote(lines: int) -> None:
            beat()
            told(min(1.0, lines / most))

        folder, manifest, written = _write(moment, project, settings.snapshots_dir, settings.ledgers_dir, wrote)
    try:
        uri = artifacts.publish(folder, folder.name)
    except artifacts.StoreError as error:
        raise UnavailableError(f"The snapshot is made, but the artifact store does not take it: {error}.") from None
    # Numbers have no gaps and no doubles, because whoever makes one holds the project's row.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    existing = session.scalar(select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.sha256 == folder.name))
    if existing is not None:
        if existing.ledger is None:  # It was made when there were none.
            existing.ledger = written.ledgers
            session.flush()
        _discard_ledgers(session, project, written)
        return existing
    number = session.scalar(
        select(func.coalesce(func.max(Snapshot.number), 0)).where(Snapshot.project_id == project.id)
    )
    snapshot = Snapshot(
        project_id=project.id,
        number=(number or 0) + 1,
        sha256=folder.name,
        uri=uri,
        manifest=manifest,
        ledger=written.ledgers,
        created_by=user.id,
    )
    session.add(snapshot)
    session.flush()
    audit.record(session, user, "snapshot.created", "snapshot", snapshot.id)
    outbox.announce(
        session, "snapshot.ready", project.id, snapshot_id=snapshot.id, number=snapshot.number, sha256=snapshot.sha256
    )
    return snapshot


def prompt_record(content_sha256: str, messages: list[dict[str, str]], split: records.Split) -> records.Prompt:
    """Return a prompt as data files hold it: its id there comes from its content, so it is the same everywhere."""
    turns = tuple(records.Message(item["role"], item["content"]) for item in messages)
    return records.Prompt(f"p{content_sha256[:16]}", turns, split)


def get(session: Session, snapshot_id: UUID) -> Snapshot:
    """Return a snapshot, or raise `NotFoundError`."""
    snapshot = session.get(Snapshot, snapshot_id)
    if snapshot is None:
        raise NotFoundError("There is no such snapshot.")
    return snapshot


def numbered(session: Session, project: Project, number: int) -> Snapshot:
    """Return a project's snapshot by its number, or raise `NotFoundError`."""
    found = session.scalar(select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.number == number))
    if found is None:
        raise NotFoundError(f"The project {project.name} has no snapshot {number}.")
    return found


def of_project(session: Session, project_id: UUID) -> Sequence[Snapshot]:
    """Return a project's snapshots, the newest first."""
    return session.scalars(
        select(Snapshot).where(Snapshot.project_id == project_id).order_by(Snapshot.number.desc())
    ).all()


def file_of(snapshot: Snapshot, name: str) -> Path:
    """Return the path of one of the snapshot's files. Only those that its manifest lists, itself and the card exist."""
    known = name in {*snapshot.manifest["files"], "manifest.json", CARD}
    path = artifacts.local(snapshot.uri) / name
    if not known or not path.is_file():
        raise NotFoundError("This snapshot has no such file.")
    return path


def rows_in(session: Session, project: Project, limit: int | None = None) -> int:
    """Return how many prompts and answers a project has, or `limit` where it has as many: what freezing must read."""
    counted = 0
    for table in (Prompt, Ranking, Demonstration):
        rows = select(table.id).where(table.project_id == project.id)
        rows = rows if limit is None else rows.limit(limit - counted)
        counted += session.scalar(select(func.count()).select_from(rows.subquery())) or 0
    return counted


def _has_answers(moment: Session, project: Project) -> bool:
    ranked = (
        exists()
        .where(Ranking.project_id == project.id, Task.id == Ranking.task_id, *standing.rankings())
        .select_from(Ranking, Task)
    )
    shown = exists().where(Demonstration.project_id == project.id, *standing.demonstrations())
    return bool(moment.scalar(select(or_(ranked, shown))))


def _beat(session: Session) -> Callable[[], None]:
    """Return what keeps the waiting transaction from being taken for a forgotten one while files are written."""
    asked_at = time.monotonic()

    def beat() -> None:
        nonlocal asked_at
        if time.monotonic() - asked_at > _BEAT_SECONDS:
            session.execute(select(1))
            asked_at = time.monotonic()

    return beat


def _write(
    moment: Session, project: Project, root: Path, ledger_root: Path, wrote: Callable[[int], None]
) -> tuple[Path, dict[str, Any], Written]:
    """Write the files aside, flush them, and rename the folder to its hash; keep the one that is there already."""
    root.mkdir(parents=True, exist_ok=True)
    aside = root / f".{uuid4().hex}.partial"
    aside.mkdir()
    try:
        written = snapshot_files.write(moment, project, aside, ledger_root, wrote)
        manifest = write_manifest(aside, written.files, **written.facts)
        sha256 = file_sha256(aside / "manifest.json")
        (aside / CARD).write_text(data_cards.markdown(manifest, sha256), encoding="utf-8")
        folder = root / sha256
        if _is_complete(folder):
            return folder, manifest, written
        shutil.rmtree(folder, ignore_errors=True)
        for path in (aside / "manifest.json", aside / CARD, aside):
            _flush(path)
        aside.rename(folder)
        return folder, manifest, written
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _discard_ledgers(session: Session, project: Project, written: Written) -> None:
    """Remove ledgers that no snapshot names: the data is frozen already, under the ids of its first time."""
    named = {
        facts["sha256"]
        for ledger in session.scalars(select(Snapshot.ledger).where(Snapshot.project_id == project.id))
        for facts in (ledger or {}).values()
    }
    for facts in written.ledgers.values():
        if facts["sha256"] not in named:
            ledgers.path_of(get_settings().ledgers_dir, facts["sha256"]).unlink(missing_ok=True)


def _is_complete(folder: Path) -> bool:
    try:
        verify_manifest(folder)
    except jsonl.RecordError:
        return False
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
