"""Prompts of a project: stored from an import all or nothing, and read a page at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import AuditEvent, Completion, Project, Prompt, User
from app.services.data import imports
from app.services.projects import projects, tags
from trainer.jsonl import canonical
from trainer.records import Message, split_of

PAGE_SIZE = 50
_BATCH = 1_000
CHATS_FROM = 1 << 30
"""Where the places of prompts begin that chats bring: so a labeler who chats need not wait for an import, which holds
the project's row, and with it the places below, for as long as it stores."""

UNLESS_KNOWN = upsert(Prompt).on_conflict_do_nothing(index_elements=["project_id", "content_sha256"])
"""Stores a prompt, and nothing where the project has it by now: chats do not wait, so they may have been faster."""


@dataclass(frozen=True)
class ImportReport:
    """What became of an imported file. Duplicates are prompts that stood in it, or in the project, before."""

    added: int
    train: int
    held_out: int
    duplicates_in_file: int
    duplicates_in_project: int
    ignored_keys: tuple[str, ...]


@dataclass(frozen=True)
class PromptRow:
    """A prompt as lists show it; `position` counts from 0."""

    position: int
    messages: list[Any]
    split: str
    completions: int
    tags: list[str]


@dataclass(frozen=True)
class PromptPage:
    """One page of a project's prompts; `number` counts from 1."""

    rows: Sequence[PromptRow]
    number: int
    pages: int
    total: int


def import_file(
    session: Session, project: Project, user: User, file: BinaryIO, file_format: str, tags_for_all: str = ""
) -> UUID:
    """Read a file of prompts, store the new ones, and return the id of the report.

    `tags_for_all` are added to the tags that a line gives. Raises `InvalidInputError` with one line per problem, and
    stores nothing, when any line cannot be taken.
    """
    if file_format not in imports.FORMATS:
        raise InvalidInputError("Choose the format: detect it, JSON lines or plain text.")
    shared = tags.from_text(tags_for_all)
    reading = imports.read_prompts(file, file_format)
    if reading.problem_count:
        raise InvalidInputError(_refusal(reading), details=tuple(reading.problems))
    return _store(session, project, user, reading, shared)


def report(session: Session, project_id: UUID, report_id: UUID) -> ImportReport:
    """Return the report of an import into this project."""
    detail = session.scalar(
        select(AuditEvent.detail).where(
            AuditEvent.id == report_id,
            AuditEvent.action == "prompts.imported",
            AuditEvent.object_id == str(project_id),
        )
    )
    if detail is None:
        raise NotFoundError("There is no such import.")
    return ImportReport(**{**detail, "ignored_keys": tuple(detail["ignored_keys"])})


def page(session: Session, project_id: UUID, number: int = 1) -> PromptPage:
    """Return one page of the prompts in their order; a number past the end gives the last page."""
    total = session.scalar(select(func.count()).where(Prompt.project_id == project_id)) or 0
    pages = max(1, -(-total // PAGE_SIZE))
    number = min(max(1, number), pages)
    completions = select(func.count()).where(Completion.prompt_id == Prompt.id).correlate(Prompt).scalar_subquery()
    first = (number - 1) * PAGE_SIZE
    rows = session.execute(
        select(Prompt.messages, Prompt.split, completions, Prompt.tags)
        .where(Prompt.project_id == project_id)
        .order_by(Prompt.position)
        .offset(first)
        .limit(PAGE_SIZE)
    )
    return PromptPage([PromptRow(place, *row) for place, row in enumerate(rows, start=first)], number, pages, total)


def content_sha256(messages: Sequence[Message]) -> str:
    """Return the hash that makes two equal conversations one prompt."""
    return hashlib.sha256(spelled(messages)).hexdigest()


def spelled(messages: Sequence[Message]) -> bytes:
    """Return a conversation in the one spelling that its hash is taken of."""
    return canonical([{"role": message.role, "content": message.content} for message in messages])


def next_place(session: Session, project_id: UUID) -> int:
    """Return the first free place of prompts that come by a file or the API. The caller holds the project's row."""
    last = select(func.max(Prompt.position)).where(Prompt.project_id == project_id, Prompt.position < CHATS_FROM)
    found = session.scalar(last)
    return 0 if found is None else found + 1


def place_of_chats(session: Session, project_id: UUID) -> int:
    """Return the first free place of prompts that chats bring, and hold it until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"prompts of chats {project_id}", 0))))
    last = select(func.max(Prompt.position)).where(Prompt.project_id == project_id, Prompt.position >= CHATS_FROM)
    found = session.scalar(last)
    return CHATS_FROM if found is None else found + 1


def _store(session: Session, project: Project, user: User, reading: imports.Reading, shared: Sequence[str]) -> UUID:
    # The project's row is the lock that gives each prompt its place: two imports at once come one after the other.
    projects.lock(session, project.id)
    unique: dict[str, tuple[Message, ...]] = {}
    tagged: dict[str, set[str]] = {}
    for messages, own in zip(reading.conversations, reading.tags, strict=True):
        sha256 = content_sha256(messages)
        unique.setdefault(sha256, messages)
        tagged.setdefault(sha256, set(shared)).update(own)
    known: set[str] = set()
    hashes = list(unique)
    for start in range(0, len(hashes), _BATCH):
        known.update(
            session.scalars(
                select(Prompt.content_sha256).where(
                    Prompt.project_id == project.id, Prompt.content_sha256.in_(hashes[start : start + _BATCH])
                )
            )
        )
    first = next_place(session, project.id)
    rows = [
        {
            "project_id": project.id,
            "position": first + offset,
            "messages": [asdict(message) for message in unique[sha256]],
            "content_sha256": sha256,
            "split": split_of(unique[sha256], project.held_out_fraction),
            "tags": tags.normal(tagged[sha256]),
        }
        for offset, sha256 in enumerate(sha256 for sha256 in hashes if sha256 not in known)
    ]
    for start in range(0, len(rows), _BATCH):
        session.execute(UNLESS_KNOWN, rows[start : start + _BATCH])
    held_out = sum(row["split"] == "held_out" for row in rows)
    summary = ImportReport(
        added=len(rows),
        train=len(rows) - held_out,
        held_out=held_out,
        duplicates_in_file=len(reading.conversations) - len(unique),
        duplicates_in_project=len(known),
        ignored_keys=tuple(sorted(reading.ignored_keys)),
    )
    event = AuditEvent(
        actor_id=user.id,
        action="prompts.imported",
        object_type="project",
        object_id=str(project.id),
        detail=asdict(summary),
    )
    session.add(event)
    session.flush()
    return event.id


def _refusal(reading: imports.Reading) -> str:
    count = reading.problem_count
    shown = f" The first {len(reading.problems)} are listed." if count > len(reading.problems) else ""
    what = "One problem was found" if count == 1 else f"{count:,} problems were found"
    return f"Nothing was imported: {what}.{shown} Mend the file and import it again."
