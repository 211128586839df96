"""A labeler's own progress: what they have done, what waits for them, and where they may work."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.models import Assignment, Project, Task, User
from app.services.projects import guidelines, memberships
from app.services.projects.guidelines import Unread
from app.services.quality import trials
from app.services.quality.trials import Trial

MANY = 100
"""Waiting tasks are counted up to here: a labeler needs to know no more, and the page stays fast."""

# What a labeler could still be handed: never theirs, or theirs until the lease ran out, or leased ahead and not shown.
# Who is far ahead of the others has many tasks that wait for others only; so the count begins behind their last one.
_WAITING = text("""
WITH last AS (
    SELECT o.priority, o.sort_key
    FROM (SELECT id, task_id FROM assignments WHERE user_id = :user_id ORDER BY id DESC LIMIT 100) a
    JOIN tasks o ON o.id = a.task_id
    WHERE o.project_id = :project_id AND o.kind = :kind AND o.purpose = 'collect' ORDER BY a.id DESC LIMIT 1),
behind AS (
    SELECT 1 FROM tasks t
    WHERE t.project_id = :project_id AND t.kind = :kind AND t.purpose IN ('collect', 'evaluation')
      AND t.state = 'open' AND t.takeable
      AND t.required_tags <@ CAST(:tags AS text[])
      AND t.priority = (SELECT priority FROM last) AND t.sort_key > (SELECT sort_key FROM last)
      AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.task_id = t.id AND a.user_id = :user_id
                      AND a.state <> 'expired' OFFSET 0)
    LIMIT :many),
anywhere AS (
    SELECT 1 FROM tasks t
    WHERE t.project_id = :project_id AND t.kind = :kind AND t.purpose IN ('collect', 'evaluation')
      AND t.state = 'open' AND t.takeable
      AND t.required_tags <@ CAST(:tags AS text[])
      AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.task_id = t.id AND a.user_id = :user_id
                      AND a.state <> 'expired' OFFSET 0)
    LIMIT :many),
ahead AS (
    SELECT 1 FROM assignments a JOIN tasks t ON t.id = a.task_id
    WHERE a.user_id = :user_id AND a.state = 'leased' AND a.shown_at IS NULL
      AND t.project_id = :project_id AND t.kind = :kind)
SELECT CASE WHEN (SELECT count(*) FROM behind) >= :many THEN :many
            ELSE least(:many, (SELECT count(*) FROM anywhere) + (SELECT count(*) FROM ahead)) END
""")

# An answer counts once, however often it is changed, and not at all when it was taken back. An edit is a part of it.
_DONE_SINCE = """
SELECT count(*) FILTER (WHERE NOT gone AND is_today) - count(*) FILTER (WHERE gone AND is_today) AS today,
       count(*) FILTER (WHERE NOT gone) - count(*) FILTER (WHERE gone) AS total
FROM (SELECT created_at >= date_trunc('day', now()) AS is_today, false AS gone FROM rankings
      WHERE user_id = :user_id AND project_id = :project_id AND created_at >= <since>
        AND supersedes IS NULL AND origin <> 'edit'
      UNION ALL
      SELECT created_at >= date_trunc('day', now()), true FROM rankings r
      WHERE user_id = :user_id AND project_id = :project_id AND created_at >= <since>
        AND retracts AND origin <> 'edit'
        AND NOT EXISTS (SELECT 1 FROM rankings later WHERE later.supersedes = r.id)
      UNION ALL
      SELECT created_at >= date_trunc('day', now()), false FROM demonstrations
      WHERE user_id = :user_id AND project_id = :project_id AND created_at >= <since>
        AND supersedes IS NULL AND completion_id IS NULL
      UNION ALL
      SELECT created_at >= date_trunc('day', now()), true FROM demonstrations d
      WHERE user_id = :user_id AND project_id = :project_id AND created_at >= <since>
        AND retracts AND completion_id IS NULL
        AND NOT EXISTS (SELECT 1 FROM demonstrations later WHERE later.supersedes = d.id)) done
"""
_DONE = text(_DONE_SINCE.replace("<since>", "'-infinity'"))
_DONE_TODAY = text(_DONE_SINCE.replace("<since>", "date_trunc('day', now())"))


@dataclass(frozen=True)
class MyProgress:
    """A labeler's own progress in a project. Waiting tasks are counted up to `MANY`; a day is one of UTC.

    `trial` is how far a trial is, for somebody who is new to a screening project; then only its tasks wait.
    """

    done_today: int
    done_total: int
    rankings_waiting: int
    demonstrations_waiting: int
    trial: Trial | None = None


@dataclass(frozen=True)
class WorkLine:
    """A project on the labeler's home page, with the leases they hold in it, by kind of task.

    `refusal` says why they may not work in it any more. `is_over`: the deadline has passed. `unread` are guidelines
    that they have not read yet.
    """

    project: Project
    progress: MyProgress
    held: dict[str, UUID]
    refusal: str | None
    is_over: bool
    unread: Unread | None

    @property
    def may_start(self) -> bool:
        """Whether the labeler can be handed a new task here, if one waits."""
        return self.project.state == "open" and not self.is_over and self.refusal is None


def mine(session: Session, project_id: UUID, user: User, *, today_only: bool = False) -> MyProgress:
    """Return a labeler's own progress in one project; with `today_only` the total is today's, which is faster."""
    parameters = {"project_id": project_id, "user_id": user.id, "many": MANY, "tags": list(user.tags)}
    done = session.execute(_DONE_TODAY if today_only else _DONE, parameters).one()
    trial = trials.of(session, session.get_one(Project, project_id), user)
    if trial is not None:
        return MyProgress(done.today, done.total, trial.needed - trial.done, 0, trial)
    rankings, demonstrations = (
        session.execute(_WAITING, {**parameters, "kind": kind}).scalar_one() for kind in ("ranking", "demonstration")
    )
    return MyProgress(done.today, done.total, rankings, demonstrations)


def my_work(session: Session, user: User) -> list[WorkLine]:
    """Return the projects that a labeler may work in, holds a lease in, or was turned down by."""
    held: dict[UUID, dict[str, UUID]] = {}
    leases = session.execute(
        select(Task.project_id, Task.kind, Assignment.id)
        .join(Assignment, Assignment.task_id == Task.id)
        .where(
            Assignment.user_id == user.id,
            Assignment.state == "leased",
            Assignment.expires_at > func.clock_timestamp(),
        )
    )
    for project_id, kind, assignment_id in leases:
        held.setdefault(project_id, {})[kind] = assignment_id
    is_over = func.coalesce(Project.deadline_at <= func.clock_timestamp(), False)
    rows = session.execute(
        select(Project, is_over).where((Project.state == "open") | Project.id.in_(held)).order_by(Project.id.desc())
    ).all()
    standings = memberships.standings_of(session, [project for project, _ in rows], user)
    return [
        _line(session, project, user, standings[project.id], held.get(project.id, {}), is_over=over)
        for project, over in rows
        if standings[project.id] not in ("outside", "removed") or project.id in held
    ]


def _line(
    session: Session,
    project: Project,
    user: User,
    standing: memberships.Standing,
    held: dict[str, UUID],
    *,
    is_over: bool,
) -> WorkLine:
    return WorkLine(
        project,
        mine(session, project.id, user),
        held,
        refusal=memberships.refusal(standing),
        is_over=is_over,
        unread=guidelines.unread(session, project.id, user),
    )
