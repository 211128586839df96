"""Rankings: tie groups, best first, stored once as given and never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError
from app.models import Assignment, Ranking, User
from app.services import assignments
from trainer.records import canonical

LETTERS = "ABCDEFGHI"


@dataclass(frozen=True)
class Stored:
    """What became of an answer: stored just now or found again, and whether it counts (else the reason)."""

    assignment: Assignment
    is_replay: bool
    not_counted_reason: str | None


def tie_groups(shown_order: Sequence[UUID], ranks: Mapping[str, int]) -> list[list[str]]:
    """Return the completion ids as tie groups, best first, from the rank of each shown letter (1 is best).

    Equal ranks are a tie and gaps close up: ranks 1, 3, 3 make two groups. Inside a group ids are sorted, so the same
    judgement has one spelling whatever order the answers were shown in. Raises `InvalidInputError` when an answer is
    missing, one is named that is not there, or a rank is not between 1 and K.
    """
    letters = LETTERS[: len(shown_order)]
    foreign = sorted(set(ranks) - set(letters))
    if foreign:
        raise InvalidInputError(
            f"There is no answer {foreign[0]} in this task: rank the answers {letters[0]} to {letters[-1]}."
        )
    missing = [letter for letter in letters if letter not in ranks]
    if missing:
        raise InvalidInputError(f"Give every answer a rank: {_listed(missing)} {_has(missing)} none yet.")
    out_of_range = [letter for letter in letters if not 1 <= ranks[letter] <= len(letters)]
    if out_of_range:
        raise InvalidInputError(f"The rank of answer {out_of_range[0]} must be between 1 and {len(letters)}.")
    return [
        sorted(
            str(completion) for letter, completion in zip(letters, shown_order, strict=True) if ranks[letter] == rank
        )
        for rank in sorted(set(ranks.values()))
    ]


def submit(session: Session, assignment_id: UUID, user: User, submit_id: UUID, ranks: Mapping[str, int]) -> Stored:
    """Store a labeler's ranking of an assignment, or find it again when the same submit comes a second time.

    `ranks` maps the letters that the labeler saw to ranks. An answer that comes too late is stored and not counted.
    Raises `ConflictError` when another ranking was stored under this submit, or the form belongs to another task.
    """
    assignment = assignments.lock_assignment(session, assignment_id, user, "ranking")
    groups = tie_groups(assignment.shown_order, ranks)
    digest = hashlib.sha256(canonical(groups)).hexdigest()
    if assignment.submit_id != submit_id:
        raise ConflictError("This form does not belong to the task it was sent for. Reload the page and rank again.")
    stored = session.scalar(select(Ranking).where(Ranking.submit_id == submit_id))
    if stored is not None:
        if stored.body_sha256 != digest:
            raise ConflictError("Your first ranking of this task is saved; a different one was sent and not stored.")
        return Stored(assignment, is_replay=True, not_counted_reason=stored.not_counted_reason)
    reason = assignments.settle(session, assignment)
    session.execute(
        insert(Ranking).values(
            submit_id=submit_id,
            body_sha256=digest,
            project_id=assignment.task.project_id,
            task_id=assignment.task_id,
            assignment_id=assignment.id,
            user_id=user.id,
            guideline_version_id=assignment.guideline_version_id,
            groups=groups,
            shown_order=assignment.shown_order,
            is_simulated=user.is_simulated,
            counted=reason is None,
            not_counted_reason=reason,
            seconds=func.extract("epoch", func.clock_timestamp() - assignment.started_at),
        )
    )
    return Stored(assignment, is_replay=False, not_counted_reason=reason)


def stored_ranks(session: Session, assignment: Assignment) -> dict[str, int]:
    """Return an assignment's stored ranking as ranks by shown letter (dense, 1 is best); empty when there is none."""
    groups = session.scalar(select(Ranking.groups).where(Ranking.submit_id == assignment.submit_id))
    rank_of = {completion: rank for rank, group in enumerate(groups or [], start=1) for completion in group}
    shown = zip(LETTERS, assignment.shown_order, strict=False)
    return {letter: rank_of[str(completion)] for letter, completion in shown if str(completion) in rank_of}


def _listed(letters: Sequence[str]) -> str:
    return letters[0] if len(letters) == 1 else ", ".join(letters[:-1]) + " and " + letters[-1]


def _has(letters: Sequence[str]) -> str:
    return "has" if len(letters) == 1 else "have"
