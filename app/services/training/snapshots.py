"""Snapshots: a project's counted answers, frozen as the data files of a run directory and addressed by their content.

    SNAPSHOTS/<sha256 of manifest.json>/{prompts,demonstrations,comparisons}.jsonl, manifest.json

Nothing in the files comes from a clock, a random id or the order of insertion: the same answers give the same bytes
in any database. A snapshot is never changed; freezing the same data again returns the one that is there.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import reading
from app.errors import InvalidInputError, NotFoundError
from app.models import (
    Completion,
    Demonstration,
    GuidelineVersion,
    Project,
    Prompt,
    Ranking,
    Snapshot,
    Task,
    TaskCompletion,
    User,
)
from app.services.accounts import audit
from app.services.data import pseudonyms
from app.services.labeling import standing
from app.services.projects.guidelines import IMPORTED_VERSION
from app.settings import get_settings
from trainer import records

SPLIT_RULE = "held_out when the first 8 bytes of sha256(canonical JSON of messages), as a fraction, are below the limit"


@dataclass(frozen=True)
class Content:
    """What goes into a snapshot, in its final order."""

    prompts: list[records.Prompt]
    demonstrations: list[records.Demonstration]
    comparisons: list[records.Comparison]
    facts: dict[str, Any]


def create(session: Session, project: Project, user: User) -> Snapshot:
    """Freeze what is counted and committed now, and return the snapshot; the existing one if nothing has changed."""
    with reading() as moment:
        content = _read(moment, project)
    if not content.comparisons and not content.demonstrations:
        raise InvalidInputError(
            "There is nothing to freeze yet: the project has no counted ranking and no demonstration."
        )
    folder, manifest = _write(content, get_settings().snapshots_dir)
    # Numbers have no gaps and no doubles, because whoever makes one holds the project's row.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    existing = session.scalar(select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.sha256 == folder.name))
    if existing is not None:
        return existing
    number = session.scalar(
        select(func.coalesce(func.max(Snapshot.number), 0)).where(Snapshot.project_id == project.id)
    )
    snapshot = Snapshot(
        project_id=project.id,
        number=(number or 0) + 1,
        sha256=folder.name,
        uri=str(folder),
        manifest=manifest,
        created_by=user.id,
    )
    session.add(snapshot)
    session.flush()
    audit.record(session, user, "snapshot.created", "snapshot", snapshot.id)
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


def of_project(session: Session, project_id: UUID) -> Sequence[Snapshot]:
    """Return a project's snapshots, the newest first."""
    return session.scalars(
        select(Snapshot).where(Snapshot.project_id == project_id).order_by(Snapshot.number.desc())
    ).all()


def file_of(snapshot: Snapshot, name: str) -> Path:
    """Return the path of one of the snapshot's files. Only names that its manifest lists exist."""
    path = Path(snapshot.uri) / name
    if name not in {*snapshot.manifest["files"], "manifest.json"} or not path.is_file():
        raise NotFoundError("This snapshot has no such file.")
    return path


def _read(session: Session, project: Project) -> Content:
    prompts: dict[UUID, tuple[int, records.Prompt]] = {}
    for row in session.execute(
        select(Prompt.id, Prompt.position, Prompt.messages, Prompt.content_sha256, Prompt.split)
        .where(Prompt.project_id == project.id)
        .order_by(Prompt.position)
    ):
        prompts[row.id] = (row.position, prompt_record(row.content_sha256, row.messages, row.split))
    versions: dict[UUID, int] = {
        row.id: row.version
        for row in session.execute(
            select(GuidelineVersion.id, GuidelineVersion.version).where(GuidelineVersion.project_id == project.id)
        )
    }
    tally = _Tally()
    demonstrations = _demonstrations(session, project, prompts, versions, tally)
    comparisons = _comparisons(session, project, prompts, versions, tally)
    ordered = [prompt for _, prompt in prompts.values()]
    splits = {
        name: dict(Counter(row.split for row in rows))
        for name, rows in (("prompts", ordered), ("demonstrations", demonstrations), ("comparisons", comparisons))
    }
    return Content(
        ordered,
        demonstrations,
        comparisons,
        {
            "splits": splits | _acceptable(comparisons),
            "split_rule": SPLIT_RULE,
            "held_out_fraction": project.held_out_fraction,
            **tally.facts(),
            **tally.imported(),
            "adjudicated": standing.adjudicated(session, project.id),
        },
    )


def _acceptable(comparisons: list[records.Comparison]) -> dict[str, Any]:
    """Return by split how many comparisons draw the line to what is not acceptable; nothing where none does.

    A manifest without such a line stays as it was before this was counted, and with it the snapshot's address.
    """
    counts = Counter(row.split for row in comparisons if row.acceptable is not None)
    return {"acceptable": dict(counts)} if counts else {}


class _Tally:
    """Counts who answered, under which guidelines, and how much of it was simulated."""

    def __init__(self) -> None:
        self._labelers: dict[str, Counter[str]] = defaultdict(Counter)
        self._versions: Counter[str] = Counter()
        self._simulated: Counter[str] = Counter()

    def add(self, kind: str, labeler: str, version: int, *, simulated: bool) -> None:
        self._labelers[labeler][kind] += 1
        self._versions[str(version)] += 1
        self._simulated[kind] += simulated

    def imported(self) -> dict[str, Any]:
        """Return how many comparisons were made elsewhere, if any: they name a version that no project's own has."""
        count = self._versions[str(IMPORTED_VERSION)]
        return {"imported": {"comparisons": count}} if count else {}

    def facts(self) -> dict[str, Any]:
        return {
            "labelers": {name: dict(counts) for name, counts in sorted(self._labelers.items())},
            "guideline_versions": dict(self._versions),
            "simulated": dict(self._simulated),
        }


def _demonstrations(
    session: Session,
    project: Project,
    prompts: dict[UUID, tuple[int, records.Prompt]],
    versions: dict[UUID, int],
    tally: _Tally,
) -> list[records.Demonstration]:
    rows = []
    for demonstration, prompt_id, email in session.execute(
        select(Demonstration, Task.prompt_id, User.email)
        .join(Task, Task.id == Demonstration.task_id)
        .join(User, User.id == Demonstration.user_id)
        .where(Demonstration.project_id == project.id, *standing.demonstrations())
    ):
        labeler, version = pseudonyms.of_labeler(email), versions[demonstration.guideline_version_id]
        tally.add("demonstrations", labeler, version, simulated=demonstration.is_simulated)
        rows.append((prompts[prompt_id], demonstration.text, labeler))
    rows.sort(key=lambda row: (row[0][0], row[1], row[2]))
    return [
        records.Demonstration(f"d{number:06d}", prompt.messages, text, split=prompt.split)
        for number, ((_, prompt), text, _) in enumerate(rows, start=1)
    ]


def _comparisons(
    session: Session,
    project: Project,
    prompts: dict[UUID, tuple[int, records.Prompt]],
    versions: dict[UUID, int],
    tally: _Tally,
) -> list[records.Comparison]:
    answers: dict[UUID, list[tuple[UUID, str]]] = defaultdict(list)
    for row in session.execute(
        select(TaskCompletion.task_id, Completion.id, Completion.text)
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .join(Task, Task.id == TaskCompletion.task_id)
        .where(Task.project_id == project.id)
        .order_by(TaskCompletion.task_id, TaskCompletion.position)
    ):
        answers[row.task_id].append((row.id, row.text))
    rows = []
    for ranking, prompt_id, email in session.execute(
        select(Ranking, Task.prompt_id, User.email)
        .join(Task, Task.id == Ranking.task_id)
        .join(User, User.id == Ranking.user_id)
        .where(Ranking.project_id == project.id, *standing.rankings())
    ):
        labeler, version = pseudonyms.of_labeler(email), versions[ranking.guideline_version_id]
        tally.add("comparisons", labeler, version, simulated=ranking.is_simulated)
        index = {str(completion_id): place for place, (completion_id, _) in enumerate(answers[ranking.task_id])}
        # Inside a tie no answer comes first, so the order there is no information and must not change the bytes.
        groups = tuple(tuple(sorted(index[item] for item in group)) for group in ranking.groups)
        texts = tuple(text for _, text in answers[ranking.task_id])
        strengths = tuple(ranking.strengths) if ranking.strengths is not None else None
        rows.append((prompts[prompt_id], texts, labeler, groups, strengths, ranking.acceptable))
    rows.sort(key=lambda row: (row[0][0], *row[1:4], repr(row[4:])))
    return [
        records.Comparison(
            f"c{number:06d}",
            prompt.messages,
            texts,
            groups,
            labeler=labeler,
            split=prompt.split,
            strengths=strengths,
            acceptable=acceptable,
        )
        for number, ((_, prompt), texts, labeler, groups, strengths, acceptable) in enumerate(rows, start=1)
    ]


def _write(content: Content, root: Path) -> tuple[Path, dict[str, Any]]:
    """Write the files aside, flush them, and rename the folder to its hash; keep the one that is there already."""
    root.mkdir(parents=True, exist_ok=True)
    aside = root / f".{uuid4().hex}.partial"
    aside.mkdir()
    try:
        records.write_jsonl(aside / "prompts.jsonl", content.prompts)
        records.write_jsonl(aside / "demonstrations.jsonl", content.demonstrations)
        records.write_jsonl(aside / "comparisons.jsonl", content.comparisons)
        manifest = records.write_manifest(aside, **content.facts)
        folder = root / records.file_sha256(aside / "manifest.json")
        if _is_complete(folder):
            return folder, manifest
        shutil.rmtree(folder, ignore_errors=True)
        for path in (*aside.iterdir(), aside):
            _flush(path)
        aside.rename(folder)
        return folder, manifest
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    try:
        records.verify_manifest(folder)
    except records.RecordError:
        return False
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
