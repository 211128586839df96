"""Prompts and answers that a program adds one request at a time; whole files come in through `prompts` and imports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.models import Completion, Project, Prompt, User
from app.services.accounts import audit
from app.services.projects import projects, tags
from app.services.projects.prompts import UNLESS_KNOWN, content_sha256, next_place
from trainer.records import Message, split_of


@dataclass(frozen=True)
class NewCompletion:
    """An answer from elsewhere. `model` names what gave it; without one, a person wrote it."""

    text: str
    model: str | None


@dataclass(frozen=True)
class NewPrompt:
    """A conversation that ends on the user's turn, with what it asks of a labeler, and answers to it."""

    messages: tuple[Message, ...]
    tags: tuple[str, ...]
    completions: tuple[NewCompletion, ...]


@dataclass(frozen=True)
class Added:
    """What became of a prompt; `added` is false when the project had it before."""

    prompt_id: UUID
    added: bool
    completion_ids: tuple[UUID, ...]


def prompts(session: Session, project: Project, user: User, new: Sequence[NewPrompt]) -> list[Added]:
    """Add prompts and their answers, and return what became of each, in their order."""
    # The project's row is the lock that gives each prompt its place.
    projects.lock(session, project.id)
    hashes = [content_sha256(item.messages) for item in new]
    known = {
        row.content_sha256: row.id
        for row in session.execute(
            select(Prompt.content_sha256, Prompt.id).where(
                Prompt.project_id == project.id, Prompt.content_sha256.in_(hashes)
            )
        )
    }
    position = next_place(session, project.id)
    made = []
    for item, sha256 in zip(new, hashes, strict=True):
        is_new = False
        if sha256 not in known:
            values = {
                "project_id": project.id,
                "position": position,
                "messages": [asdict(message) for message in item.messages],
                "content_sha256": sha256,
                "split": split_of(item.messages, project.held_out_fraction),
                "tags": tags.normal(item.tags),
            }
            stored = session.scalar(UNLESS_KNOWN.values(values).returning(Prompt.id))
            is_new = stored is not None
            known[sha256] = (
                stored
                or session.scalars(
                    select(Prompt.id).where(Prompt.project_id == project.id, Prompt.content_sha256 == sha256)
                ).one()
            )
            position += 1
        ids = _completions(session, known[sha256], user, item.completions)
        made.append(Added(known[sha256], is_new, ids))
    audit.record(
        session,
        user,
        "prompts.added",
        "project",
        project.id,
        added=sum(item.added for item in made),
        completions=sum(len(item.completion_ids) for item in made),
    )
    return made


def completion(session: Session, prompt_id: UUID, user: User, new: NewCompletion) -> UUID:
    """Add an answer to a prompt that exists, and return its id."""
    (made,) = _completions(session, prompt_id, user, (new,))
    audit.record(session, user, "completion.added", "completion", made)
    return made


def _completions(session: Session, prompt_id: UUID, user: User, new: Sequence[NewCompletion]) -> tuple[UUID, ...]:
    rows = [
        {
            "prompt_id": prompt_id,
            "text": item.text,
            "source": "human" if item.model is None else "model",
            "sampling": {} if item.model is None else {"model": item.model},
            "created_by": user.id,
        }
        for item in new
    ]
    if not rows:
        return ()
    return tuple(session.scalars(insert(Completion).returning(Completion.id, sort_by_parameter_order=True), rows))
