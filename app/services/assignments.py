"""Assignments: a task leased to one labeler; handing out, taking back, skipping, and what a finished one counts for.

The counters stand on the task row, so that the row's lock re-checks them at hand-out; the CHECK on the table is the
last defence. Locks are taken in one order everywhere: labeler (advisory), or task → assignment → ranking. Postgres'
clock alone decides what has expired.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, joinedload

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Assignment, Project, Task, User

TaskKind = Literal["ranking", "demonstration"]

SKIP_REASONS = {
    "unclear": "The prompt is unclear or cut off",
    "knowledge": "I do not know enough to judge",
    "harmful": "The content is harmful or private",
    "display": "The page does not show it properly",
    "other": "Another reason",
}

LATE = "The lease had ended and the task has all the answers it needs."

# A task this labeler never had. SKIP LOCKED passes over rows that others are claiming at this moment, and the UPDATE
# makes the claim visible to them in the same statement.
_CLAIM_NEW = text("""
WITH pick AS (
    SELECT t.id FROM tasks t
    WHERE t.project_id = :project_id AND t.kind = :kind AND t.state = 'open' AND t.takeable
      AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.task_id = t.id AND a.user_id = :user_id)
    ORDER BY t.priority DESC, t.sort_key
    FOR UPDATE SKIP LOCKED LIMIT 1),
upd AS (UPDATE tasks SET open_leases = open_leases + 1 FROM pick WHERE tasks.id = pick.id RETURNING tasks.id)
INSERT INTO assignments (task_id, user_id, shown_order, guideline_version_id, expires_at)
SELECT upd.id, :user_id,
       coalesce((SELECT array_agg(completion_id ORDER BY random()) FROM task_completions WHERE task_id = upd.id), '{}'),
       (SELECT id FROM guideline_versions WHERE project_id = :project_id ORDER BY version DESC LIMIT 1),
       clock_timestamp() + make_interval(mins => :lease_minutes)
FROM upd RETURNING id
""")

# Without this, a project with few labelers could never finish a task whose lease ran out over lunch.
_CLAIM_AGAIN = text("""
WITH pick AS (
    SELECT t.id FROM tasks t JOIN assignments a ON a.task_id = t.id AND a.user_id = :user_id AND a.state = 'expired'
    WHERE t.project_id = :project_id AND t.kind = :kind AND t.state = 'open' AND t.takeable
    ORDER BY t.priority DESC, t.sort_key
    FOR UPDATE OF t SKIP LOCKED LIMIT 1),
upd AS (UPDATE tasks SET open_leases = open_leases + 1 FROM pick WHERE tasks.id = pick.id RETURNING tasks.id)
UPDATE assignments
SET state = 'leased', started_at = clock_timestamp(), finished_at = NULL,
    expires_at = clock_timestamp() + make_interval(mins => :lease_minutes)
FROM upd WHERE assignments.task_id = upd.id AND assignments.user_id = :user_id RETURNING assignments.id
""")

# The task is locked first. `state = 'leased'` in the UPDATE is checked again on the newest row, so a lease that was
# answered between the look and the lock is not taken from its task twice.
_EXPIRE = text("""
WITH due AS (
    SELECT a.id FROM assignments a JOIN tasks t ON t.id = a.task_id
    WHERE a.state = 'leased' AND a.expires_at <= clock_timestamp()
      AND (CAST(:project_id AS uuid) IS NULL OR t.project_id = :project_id)
    ORDER BY t.id
    FOR UPDATE OF t SKIP LOCKED),
freed AS (
    UPDATE assignments SET state = 'expired', finished_at = clock_timestamp() FROM due
    WHERE assignments.id = due.id AND assignments.state = 'leased' AND assignments.expires_at <= clock_timestamp()
    RETURNING assignments.task_id),
per_task AS (SELECT task_id, count(*) AS freed FROM freed GROUP BY task_id)
UPDATE tasks SET open_leases = open_leases - per_task.freed FROM per_task WHERE tasks.id = per_task.task_id
RETURNING per_task.freed
""")


def claim(session: Session, project: Project, user: User, kind: TaskKind) -> UUID | None:
    """Lease a task to the labeler and return the assignment's id; None when nothing waits or the project is paused.

    A labeler who holds a lease of this kind in the project gets that one back, so a second click or a second tab
    takes nothing away from others.
    """
    # Two clicks of one labeler at the same moment: the second waits here and then finds the first one's lease.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{user.id}:{project.id}", 0))))
    expire_due(session, project.id)
    held = session.scalar(
        select(Assignment.id)
        .join(Task)
        .where(
            Assignment.user_id == user.id,
            Assignment.state == "leased",
            Assignment.expires_at > func.clock_timestamp(),
            Task.project_id == project.id,
            Task.kind == kind,
        )
        .order_by(Assignment.started_at)
        .limit(1)
    )
    if held is not None:
        return held
    if project.state != "open":
        return None
    parameters = {
        "project_id": project.id,
        "user_id": user.id,
        "kind": kind,
        "lease_minutes": project.lease_minutes,
    }
    # Tried twice: a row that a concurrent claim used up between our look and our lock leaves the first try empty.
    for statement in (_CLAIM_NEW, _CLAIM_NEW, _CLAIM_AGAIN):
        claimed: UUID | None = session.execute(statement, parameters).scalar()
        if claimed is not None:
            return claimed
    return None


def expire_due(session: Session, project_id: UUID | None = None) -> int:
    """Free the leases whose time is over, of one project or of all, and return how many."""
    return sum(session.scalars(_EXPIRE, {"project_id": project_id}))


def access_assignment(session: Session, assignment_id: UUID, user: User) -> Assignment:
    """Return the labeler's own assignment with its task and prompt; 404 for anybody else's."""
    assignment = session.scalar(
        select(Assignment)
        .where(Assignment.id == assignment_id, Assignment.user_id == user.id)
        .options(joinedload(Assignment.task).joinedload(Task.prompt))
    )
    if assignment is None:
        raise NotFoundError("This task is not assigned to you.")
    return assignment


def lock_assignment(session: Session, assignment_id: UUID, user: User, kind: TaskKind | None = None) -> Assignment:
    """Return the labeler's own assignment with task and assignment locked, in that order, and both fresh."""
    task = session.scalar(
        select(Task)
        .join(Assignment, Assignment.task_id == Task.id)
        .where(Assignment.id == assignment_id, Assignment.user_id == user.id)
        .with_for_update(of=Task)
        .execution_options(populate_existing=True)
    )
    if task is None or kind not in (None, task.kind):
        raise NotFoundError("This task is not assigned to you.")
    return session.scalars(
        select(Assignment)
        .where(Assignment.id == assignment_id)
        .options(joinedload(Assignment.task, innerjoin=True))
        .with_for_update(of=Assignment)
        .execution_options(populate_existing=True)
    ).one()


def settle(session: Session, assignment: Assignment) -> str | None:
    """Mark a locked assignment as answered; return None when the answer counts, else the reason why it does not.

    An answer counts while its lease holds, and after that as long as the task still has a free slot.
    """
    task = assignment.task
    held = assignment.state == "leased"
    counted = held or task.open_leases + task.done_count < task.target_overlap
    session.execute(
        update(Task)
        .where(Task.id == task.id)
        .values(open_leases=Task.open_leases - int(held), done_count=Task.done_count + int(counted))
    )
    session.execute(
        update(Assignment)
        .where(Assignment.id == assignment.id)
        .values(state="done", skip_reason=None, finished_at=func.clock_timestamp())
    )
    return None if counted else LATE


def skip(session: Session, assignment_id: UUID, user: User, reason: str) -> Assignment:
    """Give a task back with a reason; it is not handed to this labeler again. A second click changes nothing.

    Raises `InvalidInputError` for an unknown reason and `ConflictError` when the task has been answered already.
    """
    if reason not in SKIP_REASONS:
        raise InvalidInputError("Choose a reason for skipping this task.")
    assignment = lock_assignment(session, assignment_id, user)
    if assignment.state == "done":
        raise ConflictError("You have answered this task already; it cannot be skipped any more.")
    if assignment.state == "leased":
        session.execute(update(Task).where(Task.id == assignment.task_id).values(open_leases=Task.open_leases - 1))
    if assignment.state != "skipped":
        session.execute(
            update(Assignment)
            .where(Assignment.id == assignment.id)
            .values(state="skipped", skip_reason=reason, finished_at=func.clock_timestamp())
        )
    return assignment
