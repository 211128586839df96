"""Work that is answered the moment it is made: an edit beside its original, a turn of a live chat.

Both become what every other comparison is: a prompt, its completions, a task, an assignment and a ranking, so that
snapshots, exports and statistics need not know where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import cache
from typing import Literal
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, exists, func, insert, select
from sqlalchemy.orm import Session, aliased

from app.errors import ConflictError
from app.models import Assignment, Demonstration, Project, Prompt, Ranking, Task, TaskCompletion, User
from app.services.labeling.judgements import Judgement
from app.services.projects import prompts
from app.services.projects.prompts import content_sha256
from trainer.records import Message, Split

TOO_LATE = "It is too late to take this back. You can still change it."
TAKEN_BACK = "The labeler took it back."


def next_submit_id(stored_id: UUID) -> UUID:
    """Return the submit id of whatever follows a stored answer, so that two tabs that change it find each other."""
    return uuid5(stored_id, "next")


@cache
def is_latest(table: type[Ranking] | type[Demonstration]) -> ColumnElement[bool]:
    """Return the condition that no later row supersedes this one."""
    later = aliased(table)
    return ~exists().where(later.supersedes == table.id)


def last_words(table: type[Ranking] | type[Demonstration]) -> list[ColumnElement[bool]]:
    """Return the conditions of answers that are a labeler's last word: not replaced, not taken back, no mere part.

    An edit is a part of the ranking it came with, and an adjudication the word of a reviewer about others' answers.
    """
    own = Ranking.origin.in_(("task", "chat")) if table is Ranking else Demonstration.completion_id.is_(None)
    return [~table.retracts, is_latest(table), own]


def add_prompt(session: Session, project: Project, messages: Sequence[Message], split: Split) -> UUID:
    """Return the prompt of a chat's conversation so far, stored if the project does not have it yet.

    Its side of the split is the chat's, not its own hash's: turns of one chat must not stand on both sides.
    """
    sha256 = content_sha256(messages)
    known = select(Prompt.id).where(Prompt.project_id == project.id, Prompt.content_sha256 == sha256)
    found = session.scalar(known)
    if found is None:
        values = {
            "project_id": project.id,
            "position": prompts.place_of_chats(session, project.id),
            "messages": [asdict(message) for message in messages],
            "content_sha256": sha256,
            "split": split,
            "source": "chat",
        }
        found = session.scalar(prompts.UNLESS_KNOWN.values(values).returning(Prompt.id)) or session.scalars(known).one()
    return found


def record(
    session: Session,
    user: User,
    *,
    kind: Literal["edit", "chat"],
    project_id: UUID,
    prompt_id: UUID,
    shown_order: Sequence[UUID],
    judgement: Judgement,
    submit_id: UUID,
    guideline_version_id: UUID,
    seconds: float,
    not_counted_reason: str | None = None,
) -> Ranking:
    """Store a judgement of completions that exist already, with the task and assignment it belongs to.

    `shown_order` holds the completions' ids as they were shown; `seconds` is the time the labeler took. The caller has
    looked the `submit_id` up: a second row of it is refused by the database.
    """
    counted = not_counted_reason is None
    task_id = session.scalars(
        insert(Task)
        .values(
            project_id=project_id,
            prompt_id=prompt_id,
            kind=kind,
            state="closed",
            sort_key=0,
            target_overlap=1,
            done_count=int(counted),
        )
        .returning(Task.id)
    ).one()
    session.execute(
        insert(TaskCompletion),
        [
            {"task_id": task_id, "completion_id": completion, "position": position}
            for position, completion in enumerate(sorted(shown_order))
        ],
    )
    assignment_id = session.scalars(
        insert(Assignment)
        .values(
            task_id=task_id,
            user_id=user.id,
            state="done",
            shown_order=list(shown_order),
            guideline_version_id=guideline_version_id,
            expires_at=func.clock_timestamp(),
            shown_at=func.clock_timestamp(),
            finished_at=func.clock_timestamp(),
        )
        .returning(Assignment.id)
    ).one()
    return session.scalars(
        insert(Ranking)
        .values(
            submit_id=submit_id,
            body_sha256=judgement.sha256(),
            project_id=project_id,
            task_id=task_id,
            assignment_id=assignment_id,
            user_id=user.id,
            guideline_version_id=guideline_version_id,
            origin=kind,
            groups=judgement.groups,
            strengths=judgement.strengths,
            acceptable=judgement.acceptable,
            judgements=judgement.answers,
            reason=judgement.reason,
            shown_order=list(shown_order),
            is_simulated=user.is_simulated,
            counted=counted,
            not_counted_reason=not_counted_reason,
            seconds=seconds,
        )
        .returning(Ranking)
    ).one()


def check_undo_in_time(session: Session, stored: Ranking | Demonstration, seconds: int) -> None:
    """Raise `ConflictError` when an answer is older than so many seconds, by the database's clock."""
    if session.execute(select(func.clock_timestamp() - stored.created_at > timedelta(seconds=seconds))).scalar_one():
        raise ConflictError(TOO_LATE)


def retract(session: Session, stored: Ranking | Demonstration) -> UUID:
    """Store that an answer is taken back, as a row that supersedes it, and return that row's id."""
    same = ("project_id", "task_id", "assignment_id", "user_id", "guideline_version_id", "is_simulated")
    values = {
        **{name: getattr(stored, name) for name in same},
        "submit_id": next_submit_id(stored.id),
        "body_sha256": "",
        "counted": False,
        "not_counted_reason": TAKEN_BACK,
        "seconds": 0.0,
        "retracts": True,
        "supersedes": stored.id,
    }
    if isinstance(stored, Ranking):
        values |= {"origin": stored.origin, "groups": [], "shown_order": stored.shown_order}
        return session.scalars(insert(Ranking).values(values).returning(Ranking.id)).one()
    values |= {"text": "", "completion_id": stored.completion_id}
    return session.scalars(insert(Demonstration).values(values).returning(Demonstration.id)).one()
