"""Adjudication: where labelers disagree most, a reviewer gives the ranking that stands for the task.

The reviewer sees neither the models nor the labelers, and the answers in an order of their own. The verdict is a
ranking like any other, with the origin `adjudication`: append-only, and a later one supersedes it. It takes no place of
the task's overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import exists, func, insert, or_, select, true
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.models import (
    Assignment,
    Completion,
    Dismissal,
    Project,
    Prompt,
    Ranking,
    Task,
    TaskCompletion,
    User,
)
from app.services.accounts import audit
from app.services.labeling import answered, judgements, standing
from app.services.labeling.judgements import LETTERS, Fields
from app.services.projects import guidelines
from app.services.projects.guidelines import Guideline
from app.services.quality import quality

LONGEST_QUEUE = 50
OWN = "You have ranked this task yourself, so another reviewer settles it."


@dataclass(frozen=True)
class Entry:
    """A task in the queue: how far its rankings part, from 0 to 1, and how many there are."""

    task_id: UUID
    score: float
    question: str
    rankings: int


@dataclass(frozen=True)
class ShownAnswer:
    """An answer as it is shown: a letter and a text."""

    letter: str
    text: str


@dataclass(frozen=True)
class Opinion:
    """One labeler's ranking, without their name: the rank by letter (None: not named), and what they said of it."""

    name: str
    ranks: Mapping[str, int | None]
    acceptable: int | None
    reason: str


@dataclass(frozen=True)
class Case:
    """A task before a reviewer. `verdict` is set once it is adjudicated; `fields` are the board's, as filled in.

    `order` holds the completions' ids as they are shown.
    """

    task_id: UUID
    submit_id: UUID
    order: Sequence[UUID]
    messages: Sequence[Mapping[str, Any]]
    answers: tuple[ShownAnswer, ...]
    opinions: tuple[Opinion, ...]
    guidelines: Guideline
    fields: Fields
    verdict: UUID | None
    is_dismissed: bool


def queue(session: Session, project: Project, user: User) -> list[Entry]:
    """Return what waits for this reviewer, the greatest disagreement first, as the newest quality report has it."""
    body = quality.report(session, project.id).body or {}
    scores = {UUID(entry["task"]): float(entry["score"]) for entry in body.get("disagreements", ())}
    counts = (
        select(Ranking.task_id, func.count().label("rankings"))
        .join(Task, Task.id == Ranking.task_id)
        .where(Ranking.task_id.in_(scores), *standing.rankings(), Ranking.origin != "adjudication")
        .group_by(Ranking.task_id)
        .having(func.count() >= 2)
        .subquery()
    )
    rows = session.execute(
        select(Task.id, Prompt.messages, counts.c.rankings)
        .join(counts, counts.c.task_id == Task.id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(
            ~_is_dismissed(),
            ~exists().where(Assignment.task_id == Task.id, Assignment.user_id == user.id),
        )
    )
    found = [Entry(task_id, scores[task_id], messages[-1]["content"], count) for task_id, messages, count in rows]
    return sorted(found, key=lambda entry: (-entry.score, entry.task_id))[:LONGEST_QUEUE]


def case(session: Session, project: Project, task_id: UUID, user: User, *, filled: Fields | None = None) -> Case:
    """Return a ranking task as a reviewer judges it; raise `ConflictError` when they have ranked it themselves."""
    task = _task(session, project, task_id)
    _refuse_own(session, task, user)
    verdict = _verdict(session, task.id)
    order = _shown_order(session, task, user)
    messages = session.execute(select(Prompt.messages).where(Prompt.id == task.prompt_id)).scalar_one()
    fields = filled or (judgements.as_fields(verdict, order) if verdict else {})
    return Case(
        task_id=task.id,
        submit_id=_submit_id(task, verdict),
        order=order,
        messages=messages,
        answers=_answers(session, order),
        opinions=_opinions(session, task, user, order),
        guidelines=board(guidelines.current(session, project.id)),
        fields={name: value for name, value in fields.items() if not name.startswith("judge_")},
        verdict=verdict.id if verdict else None,
        is_dismissed=bool(session.scalar(select(_is_dismissed()).select_from(Task).where(Task.id == task.id))),
    )


def bare_case(session: Session, project: Project, task_id: UUID, user: User, *, filled: Fields | None = None) -> Case:
    """Return a ranking task on a board that asks for the ranking alone, without anybody's opinion of it."""
    task = _task(session, project, task_id)
    order = _shown_order(session, task, user)
    current = board(guidelines.current(session, project.id))
    asked = current.questions.model_copy(update={"strength": "off", "line": False, "reason": "off"})
    return Case(
        task_id=task.id,
        submit_id=uuid5(task.id, "reference"),
        order=order,
        messages=session.execute(select(Prompt.messages).where(Prompt.id == task.prompt_id)).scalar_one(),
        answers=_answers(session, order),
        opinions=(),
        guidelines=replace(current, questions=asked),
        fields=filled or {},
        verdict=None,
        is_dismissed=False,
    )


def board(current: Guideline) -> Guideline:
    """Return the guidelines with what the reviewer's board asks: all of the ranking, nothing about single answers."""
    asked = current.questions.model_copy(update={"rank_at_least": None, "edits": False, "criteria": ()})
    return replace(current, questions=asked)


def decide(
    session: Session, project: Project, task_id: UUID, user: User, submit_id: UUID, fields: Fields, seconds: float = 0.0
) -> Ranking:
    """Store a reviewer's ranking as the one that stands for the task; the same one sent twice is stored once.

    Raises `InvalidInputError` for a board that makes no ranking, and `ConflictError` when another reviewer has
    adjudicated the task since the form was opened.
    """
    task = _task(session, project, task_id, lock=True)
    _refuse_own(session, task, user)
    version = board(guidelines.current(session, project.id))
    order = _shown_order(session, task, user)
    judgement = judgements.judge(fields, order, version.questions)
    replayed = session.scalar(select(Ranking).where(Ranking.submit_id == submit_id))
    if replayed is not None and replayed.user_id == user.id and replayed.body_sha256 == judgement.sha256():
        return replayed
    before = _verdict(session, task.id)
    if submit_id != _submit_id(task, before):
        raise ConflictError("Somebody has settled this task since you opened it. Reload the page to see how.")
    stored = session.scalars(
        insert(Ranking)
        .values(
            submit_id=submit_id,
            body_sha256=judgement.sha256(),
            project_id=project.id,
            task_id=task.id,
            assignment_id=_assignment(session, task, user, order, version.version_id),
            user_id=user.id,
            guideline_version_id=version.version_id,
            origin="adjudication",
            groups=judgement.groups,
            strengths=judgement.strengths,
            acceptable=judgement.acceptable,
            reason=judgement.reason,
            shown_order=order,
            is_simulated=user.is_simulated,
            counted=True,
            seconds=seconds,
            supersedes=before.id if before else None,
        )
        .returning(Ranking)
    ).one()
    audit.record(session, user, "task.adjudicated", "task", task.id)
    return stored


def dismiss(session: Session, project: Project, task_id: UUID, user: User) -> None:
    """Let a task's rankings stand as they are, until another one comes in."""
    task = _task(session, project, task_id, lock=True)
    if _verdict(session, task.id) is not None:
        raise ConflictError("This task has been adjudicated already. Give another ranking to change it.")
    values = {"user_id": user.id, "created_at": func.clock_timestamp()}
    session.execute(
        upsert(Dismissal)
        .values(task_id=task.id, **values)
        .on_conflict_do_update(index_elements=[Dismissal.task_id], set_=values)
    )
    audit.record(session, user, "disagreement.dismissed", "task", task.id)


def verdict_groups(session: Session, project: Project, task_id: UUID) -> list[list[str]]:
    """Return the tie groups of a task's adjudication; raise `ConflictError` when it has none."""
    verdict = _verdict(session, _task(session, project, task_id).id)
    if verdict is None:
        raise ConflictError("This task has not been adjudicated. Rank it first.")
    return verdict.groups


def settled(session: Session, project_id: UUID) -> set[UUID]:
    """Return the project's ranking tasks that are adjudicated, or whose disagreement may stand."""
    return set(
        session.scalars(
            select(Task.id).where(Task.project_id == project_id, or_(standing.is_adjudicated(Task.id), _is_dismissed()))
        )
    )


def _task(session: Session, project: Project, task_id: UUID, *, lock: bool = False) -> Task:
    query = select(Task).where(Task.id == task_id, Task.project_id == project.id, Task.kind == "ranking")
    task = session.scalar(query.where(Task.purpose == "collect").with_for_update() if lock else query)
    if task is None or task.purpose != "collect":
        raise NotFoundError("There is no such ranking task in this project.")
    return task


def _refuse_own(session: Session, task: Task, user: User) -> None:
    own = select(Assignment.id).where(
        Assignment.task_id == task.id,
        Assignment.user_id == user.id,
        ~exists().where(Ranking.assignment_id == Assignment.id, Ranking.origin == "adjudication"),
    )
    if session.scalar(own) is not None:
        raise ConflictError(OWN)


def _verdict(session: Session, task_id: UUID) -> Ranking | None:
    return session.scalar(
        select(Ranking).where(
            Ranking.task_id == task_id,
            Ranking.origin == "adjudication",
            Ranking.counted,
            answered.is_latest(Ranking),
        )
    )


def _submit_id(task: Task, before: Ranking | None) -> UUID:
    return uuid5(task.id, "adjudication") if before is None else answered.next_submit_id(before.id)


def _assignment(session: Session, task: Task, user: User, order: list[UUID], version_id: UUID) -> UUID:
    """Return the reviewer's assignment of the task, born answered: it is no lease and takes no place."""
    found = session.scalar(select(Assignment.id).where(Assignment.task_id == task.id, Assignment.user_id == user.id))
    if found is not None:
        return found
    now = func.clock_timestamp()
    return session.scalars(
        insert(Assignment)
        .values(
            task_id=task.id,
            user_id=user.id,
            state="done",
            shown_order=order,
            guideline_version_id=version_id,
            expires_at=now,
            shown_at=now,
            finished_at=now,
        )
        .returning(Assignment.id)
    ).one()


def _shown_order(session: Session, task: Task, user: User) -> list[UUID]:
    """Return the answers in an order that is the reviewer's own and the same whenever they open the task."""
    ids = session.scalars(select(TaskCompletion.completion_id).where(TaskCompletion.task_id == task.id))
    return sorted(ids, key=lambda completion: _shuffled(task, user, completion))


def _shuffled(task: Task, user: User, item: UUID) -> bytes:
    return hashlib.sha256(task.id.bytes + user.id.bytes + item.bytes).digest()


def _answers(session: Session, order: list[UUID]) -> tuple[ShownAnswer, ...]:
    texts = {
        row.id: row.text
        for row in session.execute(select(Completion.id, Completion.text).where(Completion.id.in_(order)))
    }
    return tuple(ShownAnswer(letter, texts[item]) for letter, item in zip(LETTERS, order, strict=False))


def _opinions(session: Session, task: Task, user: User, order: list[UUID]) -> tuple[Opinion, ...]:
    """Return the labelers' rankings in an order that says nothing about who they are."""
    letter_of = {str(item): letter for letter, item in zip(LETTERS, order, strict=False)}
    rows = session.scalars(
        select(Ranking)
        .join(Task, Task.id == Ranking.task_id)
        .where(
            Ranking.task_id == task.id,
            Ranking.counted,
            answered.is_latest(Ranking),
            Ranking.origin != "adjudication",
        )
    ).all()
    return tuple(
        Opinion(f"Labeler {number}", _ranks(ranking, letter_of), ranking.acceptable, ranking.reason)
        for number, ranking in enumerate(sorted(rows, key=lambda ranking: _shuffled(task, user, ranking.id)), start=1)
    )


def _ranks(ranking: Ranking, letter_of: Mapping[str, str]) -> dict[str, int | None]:
    ranks: dict[str, int | None] = dict.fromkeys(sorted(letter_of.values()))
    for rank, group in enumerate(ranking.groups, start=1):
        for completion in group:
            ranks[letter_of[completion]] = rank
    return ranks


def _is_dismissed() -> Any:
    newer = exists().where(Ranking.task_id == Dismissal.task_id, Ranking.created_at > Dismissal.created_at)
    return exists(select(true()).where(Dismissal.task_id == Task.id, ~newer)).correlate(Task)
