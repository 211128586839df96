"""How far a project is, for its page and for each labeler: counts that are read, never kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import case, exists, func, literal, select, text, union_all
from sqlalchemy.orm import Session

from app.models import Assignment, Completion, Demonstration, Project, Prompt, Ranking, Task, User
from app.services import memberships, trials
from app.services.assignments import SKIP_REASONS, TaskKind
from app.services.trials import Trial

MANY = 100
"""Waiting tasks are counted up to here: a labeler needs to know no more, and the page stays fast."""

HOURS = 24


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
    WHERE t.project_id = :project_id AND t.kind = :kind AND t.purpose = 'collect' AND t.state = 'open' AND t.takeable
      AND t.priority = (SELECT priority FROM last) AND t.sort_key > (SELECT sort_key FROM last)
      AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.task_id = t.id AND a.user_id = :user_id
                      AND a.state <> 'expired' OFFSET 0)
    LIMIT :many),
anywhere AS (
    SELECT 1 FROM tasks t
    WHERE t.project_id = :project_id AND t.kind = :kind AND t.purpose = 'collect' AND t.state = 'open' AND t.takeable
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

# An answer counts once, however often it is changed.
_DONE = text("""
SELECT count(*) FILTER (WHERE created_at >= date_trunc('day', clock_timestamp())) AS today, count(*) AS total
FROM (SELECT created_at FROM rankings
      WHERE user_id = :user_id AND project_id = :project_id AND supersedes IS NULL
      UNION ALL
      SELECT created_at FROM demonstrations
      WHERE user_id = :user_id AND project_id = :project_id AND supersedes IS NULL) done
""")


@dataclass(frozen=True)
class TaskCounts:
    """Tasks of one kind by where they stand; `answers_done` of `answers_wanted` answers are in."""

    draft: int
    waiting: int
    in_progress: int
    done: int
    answers_done: int
    answers_wanted: int

    @property
    def opened(self) -> int:
        """Tasks that labelers can or could take."""
        return self.waiting + self.in_progress + self.done


@dataclass(frozen=True)
class LabelerLine:
    """What one labeler has done in a project. `median_seconds` is of their rankings, None without any."""

    name: str
    is_simulated: bool
    rankings: int
    demonstrations: int
    not_counted: int
    skipped: int
    median_seconds: float | None
    last_at: datetime | None


@dataclass(frozen=True)
class Overview:
    """A project at a glance. `per_hour` counts rankings of the last 24 hours, the oldest hour first."""

    prompts: int
    held_out: int
    sampled: int
    ranked: int
    ranking: TaskCounts
    demonstration: TaskCounts
    per_hour: tuple[int, ...]
    labelers: tuple[LabelerLine, ...]
    skips: tuple[tuple[str, int], ...]

    @property
    def without_demonstration(self) -> int:
        """Training prompts for which nobody has been asked to write an answer."""
        return self.prompts - self.held_out - self.demonstration.draft - self.demonstration.opened

    @property
    def is_simulated(self) -> bool:
        """Whether any of the work counted here is a simulation's."""
        return any(line.is_simulated for line in self.labelers)


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

    `refusal` is why they may not work there, empty when they may.
    """

    project: Project
    progress: MyProgress
    held: dict[str, UUID]
    refusal: str


def overview(session: Session, project_id: UUID) -> Overview:
    """Return everything the project page counts."""
    prompts, held_out, sampled, ranked = session.execute(
        select(
            func.count(),
            func.count().filter(Prompt.split == "held_out"),
            func.count().filter(exists().where(Completion.prompt_id == Prompt.id)),
            func.count().filter(
                exists().where(Task.prompt_id == Prompt.id, Task.kind == "ranking", Task.done_count > 0)
            ),
        ).where(Prompt.project_id == project_id)
    ).one()
    return Overview(
        prompts,
        held_out,
        sampled,
        ranked,
        ranking=_task_counts(session, project_id, "ranking"),
        demonstration=_task_counts(session, project_id, "demonstration"),
        per_hour=_per_hour(session, project_id),
        labelers=_labelers(session, project_id),
        skips=_skips(session, project_id),
    )


def answers_by_project(session: Session) -> dict[UUID, tuple[int, int]]:
    """Return, for each project with opened tasks, how many answers are in and how many are wanted."""
    rows = session.execute(
        select(Task.project_id, func.sum(Task.done_count), func.sum(Task.target_overlap))
        .where(Task.state != "draft", Task.purpose == "collect")
        .group_by(Task.project_id)
    )
    return {project_id: (done, wanted) for project_id, done, wanted in rows}


def mine(session: Session, project_id: UUID, user: User) -> MyProgress:
    """Return a labeler's own progress in one project."""
    parameters = {"project_id": project_id, "user_id": user.id, "many": MANY}
    done = session.execute(_DONE, parameters).one()
    trial = trials.of(session, session.get_one(Project, project_id), user)
    if trial is not None:
        return MyProgress(done.today, done.total, trial.needed - trial.done, 0, trial)
    rankings, demonstrations = (
        session.execute(_WAITING, {**parameters, "kind": kind}).scalar_one() for kind in ("ranking", "demonstration")
    )
    return MyProgress(done.today, done.total, rankings, demonstrations)


def my_work(session: Session, user: User) -> list[WorkLine]:
    """Return the projects a labeler can work in, or holds a lease in, each with their own progress."""
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
    shown = select(Project).where((Project.state == "open") | Project.id.in_(held)).order_by(Project.id.desc())
    lines = []
    for project in session.scalars(shown):
        standing = memberships.standing_of(session, project, user)
        if standing in ("outside", "removed") and project.id not in held:
            continue
        refusal = memberships.REFUSED.get(standing, "")
        lines.append(WorkLine(project, mine(session, project.id, user), held.get(project.id, {}), refusal))
    return lines


def _task_counts(session: Session, project_id: UUID, kind: TaskKind) -> TaskCounts:
    opened = Task.state != "draft"
    done = opened & (Task.done_count >= Task.target_overlap)
    begun = opened & ~done & ((Task.done_count > 0) | (Task.open_leases > 0))
    row = session.execute(
        select(
            func.count().filter(~opened),
            func.count().filter(opened & ~done & ~begun),
            func.count().filter(begun),
            func.count().filter(done),
            func.coalesce(func.sum(Task.done_count).filter(opened), 0),
            func.coalesce(func.sum(Task.target_overlap).filter(opened), 0),
        ).where(Task.project_id == project_id, Task.kind == kind, Task.purpose == "collect")
    ).one()
    return TaskCounts(*row)


def _per_hour(session: Session, project_id: UUID) -> tuple[int, ...]:
    hour = func.date_trunc("hour", Ranking.created_at)
    age = func.extract("epoch", func.date_trunc("hour", func.clock_timestamp()) - hour) / 3600
    rows = session.execute(
        select(age.label("hours_ago"), func.count())
        .where(
            Ranking.project_id == project_id,
            Ranking.created_at
            >= func.date_trunc("hour", func.clock_timestamp()) - text(f"interval '{HOURS - 1} hours'"),
        )
        .group_by("hours_ago")
    )
    counts = {int(hours_ago): count for hours_ago, count in rows}
    return tuple(counts.get(hours_ago, 0) for hours_ago in reversed(range(HOURS)))


def _labelers(session: Session, project_id: UUID) -> tuple[LabelerLine, ...]:
    answers = union_all(
        select(
            Ranking.user_id,
            literal("ranking").label("kind"),
            Ranking.counted,
            Ranking.seconds,
            Ranking.created_at,
        ).where(Ranking.project_id == project_id),
        select(
            Demonstration.user_id,
            literal("demonstration").label("kind"),
            Demonstration.counted,
            Demonstration.seconds,
            Demonstration.created_at,
        ).where(Demonstration.project_id == project_id),
        select(
            Assignment.user_id,
            literal("skip").label("kind"),
            literal(True),
            literal(0.0),
            case((Assignment.finished_at.is_not(None), Assignment.finished_at), else_=Assignment.started_at),
        )
        .join(Task)
        .where(Task.project_id == project_id, Assignment.state == "skipped"),
    ).subquery()
    is_ranking, is_demonstration = answers.c.kind == "ranking", answers.c.kind == "demonstration"
    rows = session.execute(
        select(
            User.name,
            User.is_simulated,
            func.count().filter(is_ranking & answers.c.counted),
            func.count().filter(is_demonstration & answers.c.counted),
            func.count().filter(~answers.c.counted),
            func.count().filter(answers.c.kind == "skip"),
            func.percentile_cont(0.5).within_group(answers.c.seconds).filter(is_ranking),
            func.max(answers.c.created_at),
        )
        .join(answers, answers.c.user_id == User.id)
        .group_by(User.id)
        .order_by(func.count().filter(answers.c.counted).desc(), User.name)
    )
    return tuple(LabelerLine(*row) for row in rows)


def _skips(session: Session, project_id: UUID) -> tuple[tuple[str, int], ...]:
    rows = session.execute(
        select(Assignment.skip_reason, func.count())
        .join(Task)
        .where(Task.project_id == project_id, Assignment.state == "skipped")
        .group_by(Assignment.skip_reason)
        .order_by(func.count().desc(), Assignment.skip_reason)
    )
    return tuple((SKIP_REASONS.get(reason or "", "Another reason"), count) for reason, count in rows)
