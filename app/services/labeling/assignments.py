"""Assignments: a task leased to one labeler; handing out, taking back, skipping, and what a finished one counts for.

The counters stand on the task row, so that the row's lock re-checks them at hand-out; the CHECK on the table is the
last defence. Locks are taken in one order everywhere: labeler (advisory), or task → assignment → ranking. Postgres'
clock alone decides what has expired.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import func, select, text, true, update
from sqlalchemy.orm import Session, joinedload

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Assignment, Demonstration, Project, Ranking, Task, User
from app.services.accounts import audit
from app.services.projects import memberships

NOBODY = UUID(int=0)

TaskKind = Literal["ranking", "demonstration"]

SKIP_REASONS = {
    "unclear": "The prompt is unclear or cut off",
    "knowledge": "I do not know enough to judge",
    "harmful": "The content is harmful or private",
    "display": "The page does not show it properly",
    "other": "Another reason",
}

LONGEST = 8
"""How many times the project's lease an open page can keep a task."""

LATE = "The lease had ended and the task has all the answers it needs."

# What a labeler may be handed. OFFSET 0 keeps the look at earlier assignments a look per task: as a join it is
# estimated so badly on young tables that all tasks are read and sorted to hand out one.
_OPEN = "t.project_id = :project_id AND t.kind = :kind AND t.purpose = :purpose AND t.state = 'open' AND t.takeable"
_THEIRS = """EXISTS (SELECT 1 FROM may) AND (t.required_tags = '{}' OR t.required_tags <@ CAST(:tags AS text[]))
      AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.task_id = t.id AND a.user_id = :user_id OFFSET 0)"""
_LAST = """(SELECT o.{} FROM (SELECT id, task_id FROM assignments WHERE user_id = :user_id ORDER BY id DESC LIMIT 100) a
                    JOIN tasks o ON o.id = a.task_id
                    WHERE o.project_id = :project_id AND o.kind = :kind AND o.purpose = :purpose
                    ORDER BY a.id DESC LIMIT 1)"""

# One statement finds the lease that the labeler holds already, or claims a task they never had. SKIP LOCKED passes over
# rows that others are claiming at this moment, and the UPDATE makes the claim visible to them in the same statement.
# Most labelers find a task among the first. Who is far ahead of the others has had all of these and goes on behind
# their last one, instead of passing over everything that is theirs each time; only when nothing is left there,
# everything is looked through.
# Answers are shown in a random order, which moves by one place with each labeler: over K labelers every answer of a
# task stands once in every place.
_CLAIM = text(f"""
WITH mine AS (
    SELECT a.id, a.started_at, t.kind FROM assignments a JOIN tasks t ON t.id = a.task_id
    WHERE a.user_id = :user_id AND a.state = 'leased' AND a.expires_at > clock_timestamp()
      AND t.project_id = :project_id),
held AS (SELECT id FROM mine WHERE kind = :kind AND id <> :besides ORDER BY started_at, id LIMIT 1),
shown AS (UPDATE assignments SET shown_at = clock_timestamp()
          FROM held WHERE assignments.id = held.id AND assignments.shown_at IS NULL AND :is_shown),
may AS (
    SELECT 1 FROM projects p
    WHERE p.id = :project_id AND p.state = 'open' AND (p.deadline_at IS NULL OR p.deadline_at > clock_timestamp())
      AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.project_id = :project_id AND m.user_id = :user_id
                      AND m.state IN ('rejected', 'removed'))
      AND NOT EXISTS (SELECT 1 FROM held) AND (SELECT count(*) FROM mine) < :max_leases),
first AS (
    SELECT t.id FROM (SELECT t.id, t.priority, t.sort_key FROM tasks t WHERE {_OPEN}
                      ORDER BY t.priority DESC, t.sort_key LIMIT 64) f JOIN tasks t ON t.id = f.id
    WHERE {_OPEN} AND {_THEIRS}
    ORDER BY f.priority DESC, f.sort_key FOR UPDATE OF t SKIP LOCKED LIMIT 1),
behind AS (
    SELECT t.id FROM tasks t
    WHERE NOT EXISTS (SELECT 1 FROM first) AND {_OPEN} AND {_THEIRS}
      AND t.priority = {_LAST.format("priority")} AND t.sort_key > {_LAST.format("sort_key")}
    ORDER BY t.priority DESC, t.sort_key FOR UPDATE OF t SKIP LOCKED LIMIT 1),
anywhere AS (
    SELECT t.id FROM tasks t
    WHERE NOT EXISTS (SELECT 1 FROM first) AND NOT EXISTS (SELECT 1 FROM behind) AND {_OPEN} AND {_THEIRS}
    ORDER BY t.priority DESC, t.sort_key FOR UPDATE OF t SKIP LOCKED LIMIT 1),
pick AS (SELECT id FROM first UNION ALL SELECT id FROM behind UNION ALL SELECT id FROM anywhere),
upd AS (UPDATE tasks SET open_leases = open_leases + 1 FROM pick WHERE tasks.id = pick.id RETURNING tasks.id),
made AS (
    INSERT INTO assignments (task_id, user_id, shown_order, guideline_version_id, expires_at, shown_at)
    SELECT upd.id, :user_id,
           coalesce((
               SELECT array_agg(c.completion_id ORDER BY (c.place + c.earlier) % c.k) FROM (
                   SELECT completion_id, count(*) OVER () AS k,
                          row_number() OVER (ORDER BY md5(upd.id::text || completion_id::text)) AS place,
                          (SELECT count(*) FROM assignments a WHERE a.task_id = upd.id) AS earlier
                   FROM task_completions WHERE task_id = upd.id) c), '{{}}'),
           (SELECT id FROM guideline_versions WHERE project_id = :project_id ORDER BY version DESC LIMIT 1),
           clock_timestamp() + make_interval(mins => :lease_minutes),
           CASE WHEN :is_shown THEN clock_timestamp() END
    FROM upd RETURNING id)
SELECT id FROM held UNION ALL SELECT id FROM made
""")  # noqa: S608  (put together from the sentences above, with no word from outside)

# Without this, a project with few labelers could never finish a task whose lease ran out over lunch.
_CLAIM_AGAIN = text("""
WITH pick AS (
    SELECT t.id FROM tasks t JOIN assignments a ON a.task_id = t.id AND a.user_id = :user_id AND a.state = 'expired'
    WHERE t.project_id = :project_id AND t.kind = :kind AND t.purpose = :purpose AND t.state = 'open' AND t.takeable
      AND EXISTS (SELECT 1 FROM projects p WHERE p.id = :project_id AND p.state = 'open'
                  AND (p.deadline_at IS NULL OR p.deadline_at > clock_timestamp()))
      AND (SELECT count(*) FROM assignments m JOIN tasks o ON o.id = m.task_id WHERE m.user_id = :user_id
           AND m.state = 'leased' AND m.expires_at > clock_timestamp() AND o.project_id = :project_id) < :max_leases
    ORDER BY t.priority DESC, t.sort_key
    FOR UPDATE OF t SKIP LOCKED LIMIT 1),
upd AS (UPDATE tasks SET open_leases = open_leases + 1 FROM pick WHERE tasks.id = pick.id RETURNING tasks.id)
UPDATE assignments
SET state = 'leased', started_at = clock_timestamp(), finished_at = NULL,
    shown_at = CASE WHEN :is_shown THEN clock_timestamp() END,
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


_IS_JUDGING = text("SELECT EXISTS (SELECT 1 FROM blind_evaluations WHERE project_id = :project_id AND state = 'open')")

_KEEP = text("""
UPDATE assignments a
SET shown_at = coalesce(a.shown_at, clock_timestamp()),
    expires_at = greatest(a.expires_at, least(
        clock_timestamp() + make_interval(mins => p.lease_minutes),
        a.started_at + make_interval(mins => p.lease_minutes * :longest)))
FROM tasks t JOIN projects p ON p.id = t.project_id
WHERE a.id = :id AND a.user_id = :user_id AND a.state = 'leased' AND t.id = a.task_id
RETURNING a.expires_at
""")


def claim(
    session: Session, project: Project, user: User, kind: TaskKind, *, ahead_of: UUID | None = None
) -> UUID | None:
    """Lease a task to the labeler and return the assignment's id; None when nothing waits or the project is paused.

    A labeler who holds a lease of this kind in the project gets that one back, so a second click or a second tab
    takes nothing away from others; its time counts from when it is shown. With `ahead_of`, the assignment that is being
    worked on, the one after it is leased too, as long as the project lets one person hold so many. Raises
    `ForbiddenError` for who may not work here.
    """
    # Two clicks of one labeler at the same moment: the second waits here and then finds the first one's lease.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{user.id}:{project.id}", 0))))
    standing = memberships.standing(session, project, user)
    parameters = {
        "project_id": project.id,
        "user_id": user.id,
        "kind": kind,
        "besides": ahead_of or NOBODY,
        "max_leases": project.max_leases,
        "tags": list(user.tags),
        "lease_minutes": project.lease_minutes,
        "is_shown": ahead_of is None,
    }
    purposes = _purposes(session, project, standing, kind)
    for purpose in purposes:
        # Tried twice: a row that a concurrent claim used up between our look and our lock leaves the first try empty.
        for _ in range(2):
            claimed: UUID | None = session.execute(_CLAIM, {**parameters, "purpose": purpose}).scalar()
            if claimed is not None:
                return claimed
    # Nothing is free. Leases that are over are, as soon as somebody asks; the workers' tick only tidies up.
    freed = expire_due(session, project.id)
    for purpose in purposes:
        for statement in (_CLAIM, _CLAIM_AGAIN) if freed else (_CLAIM_AGAIN,):
            again: UUID | None = session.execute(statement, {**parameters, "purpose": purpose}).scalar()
            if again is not None:
                return again
    return None


def _purposes(session: Session, project: Project, standing: str, kind: TaskKind) -> list[str]:
    """Return which tasks to look for, in this order: on trial only those, else now and then a gold one.

    While policies are judged blind, their tasks are mixed in by the project's share; who finds none of one sort gets
    one of the other, so that nobody waits and nobody can tell them apart by when they come.
    """
    if standing == "screening":
        return ["screening"]
    purposes = ["collect"]
    if kind == "ranking":
        if session.scalar(_IS_JUDGING, {"project_id": project.id}):
            first = secrets.randbelow(100) < project.blind_percent
            purposes = ["evaluation", "collect"] if first else ["collect", "evaluation"]
        if secrets.randbelow(100) < project.gold_percent:
            purposes.insert(0, "gold")
    return purposes


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


def lock_assignment(
    session: Session, assignment_id: UUID, user: User | None = None, kind: TaskKind | None = None
) -> Assignment:
    """Return an assignment with task and assignment locked, in that order, and both fresh; `user`: only their own."""
    theirs = Assignment.user_id == user.id if user else true()
    task = session.scalar(
        select(Task)
        .join(Assignment, Assignment.task_id == Task.id)
        .where(Assignment.id == assignment_id, theirs)
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


def settle(session: Session, assignment: Assignment, before: Ranking | Demonstration | None = None) -> str | None:
    """Mark a locked assignment as answered; return None when the answer counts, else the reason why it does not.

    An answer counts while its lease holds, and after that as long as the task still has a free slot. One that changes
    the answer `before` takes over whether that counts.
    """
    if before is not None and not before.retracts:
        return before.not_counted_reason
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


def keep(session: Session, assignment_id: UUID, user: User) -> datetime | None:
    """Extend a lease because its page is open and worked on; return its new end, None when the lease is gone.

    A lease lasts at most `LONGEST` times the project's lease from its start, so that a forgotten page lets go.
    """
    until: datetime | None = session.scalar(_KEEP, {"id": assignment_id, "user_id": user.id, "longest": LONGEST})
    return until


def give_back(session: Session, assignment_id: UUID, user: User) -> None:
    """Free a lease that was taken ahead and never shown; it can be handed to the same labeler again."""
    assignment = lock_assignment(session, assignment_id, user)
    if assignment.state == "leased" and assignment.shown_at is None:
        _free(session, assignment, "expired")


def release(session: Session, assignment_id: UUID, admin: User) -> None:
    """Take a lease from its labeler, on an admin's word; what they send all the same counts if a place is free."""
    assignment = lock_assignment(session, assignment_id)
    if assignment.state == "leased":
        _free(session, assignment, "released")
        audit.record(session, admin, "assignment.released", "assignment", assignment.id)


def reopen(session: Session, assignment: Assignment, *, was_counted: bool) -> None:
    """Give a locked assignment whose answer was taken back to its labeler again.

    A counted answer held a place of the task, which turns into a lease; another one had none, so none is left.
    """
    if was_counted:
        session.execute(
            update(Task)
            .where(Task.id == assignment.task_id)
            .values(open_leases=Task.open_leases + 1, done_count=Task.done_count - 1)
        )
    session.execute(
        update(Assignment)
        .where(Assignment.id == assignment.id)
        .values(
            state="leased" if was_counted else "expired",
            finished_at=None,
            shown_at=func.clock_timestamp(),
            expires_at=func.clock_timestamp() + (assignment.expires_at - assignment.started_at),
            started_at=func.clock_timestamp(),
        )
    )


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


def _free(session: Session, assignment: Assignment, state: str) -> None:
    session.execute(update(Task).where(Task.id == assignment.task_id).values(open_leases=Task.open_leases - 1))
    session.execute(
        update(Assignment).where(Assignment.id == assignment.id).values(state=state, finished_at=func.clock_timestamp())
    )
