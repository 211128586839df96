"""A project at a glance, for its page: how far it is, what waits, who works, and when it will be done at this pace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, case, exists, func, literal, select, text, union_all
from sqlalchemy.orm import Session

from app.models import Assignment, Completion, Demonstration, Project, Prompt, Ranking, Task, User
from app.services.labeling.answered import last_words
from app.services.labeling.assignments import SKIP_REASONS, TaskKind

HOURS = 24
MANY = 100_000
KINDS: tuple[TaskKind, ...] = ("ranking", "demonstration")


@dataclass(frozen=True)
class TaskCounts:
    """Tasks of one kind by where they stand; `answers_done` of `answers_wanted` answers are in.

    A closed task wants no more answers than it has.
    """

    draft: int
    waiting: int
    in_progress: int
    done: int
    answers_done: int
    answers_wanted: int
    closed: int = 0

    @property
    def opened(self) -> int:
        """Tasks that labelers can take, or could."""
        return self.waiting + self.in_progress + self.done + self.closed

    @property
    def answers_left(self) -> int:
        """Answers that open tasks still want."""
        return self.answers_wanted - self.answers_done


@dataclass(frozen=True)
class Pace:
    """How fast answers of one kind come in. `per_hour` are averages over the last 24 hours and over the last one.

    `done_at` is when those that are left will be in at the pace of the last 24 hours; None when none came in, or none
    is left.
    """

    kind: TaskKind
    left: int
    per_hour_of_day: float
    per_hour_now: int
    done_at: datetime | None
    hours_left: float | None
    hours_left_now: float | None


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
    """A project at a glance. `per_hour` counts rankings of the last 24 hours, the oldest hour first.

    `sampled` and `ranked` are counted up to `MANY`, and `labelers` over the newest `MANY` answers of each kind, so that
    the page of a large project stays quick. `queue` holds the tasks by kind and purpose: those to be collected, gold
    ones, trial ones and blind ones.
    """

    prompts: int
    held_out: int
    sampled: int
    ranked: int
    queue: dict[tuple[str, str], TaskCounts]
    paces: tuple[Pace, ...]
    per_hour: tuple[int, ...]
    labelers: tuple[LabelerLine, ...]
    skips: tuple[tuple[str, int], ...]

    @property
    def ranking(self) -> TaskCounts:
        """The ranking tasks that collect."""
        return self.queue[("ranking", "collect")]

    @property
    def demonstration(self) -> TaskCounts:
        """The demonstration tasks."""
        return self.queue[("demonstration", "collect")]

    @property
    def without_demonstration(self) -> int:
        """Training prompts for which nobody has been asked to write an answer."""
        return self.prompts - self.held_out - self.demonstration.draft - self.demonstration.opened

    @property
    def is_simulated(self) -> bool:
        """Whether any of the work counted here is a simulation's."""
        return any(line.is_simulated for line in self.labelers)

    @property
    def done_at(self) -> datetime | None:
        """When the slowest kind will be done at its pace of the last 24 hours; None when a kind has none."""
        left = [pace for pace in self.paces if pace.left]
        times = [pace.done_at for pace in left if pace.done_at is not None]
        return max(times) if times and len(times) == len(left) else None


def overview(session: Session, project_id: UUID) -> Overview:
    """Return everything the project page counts."""
    prompts, held_out = session.execute(
        select(func.count(), func.count().filter(Prompt.split == "held_out")).where(Prompt.project_id == project_id)
    ).one()
    sampled = _some_prompts(session, project_id, exists().where(Completion.prompt_id == Prompt.id))
    is_ranked = exists().where(Task.prompt_id == Prompt.id, Task.kind == "ranking", Task.done_count > 0)
    ranked = _some_prompts(session, project_id, is_ranked)
    queue = _queue(session, project_id)
    return Overview(
        prompts,
        held_out,
        sampled,
        ranked,
        queue=queue,
        paces=tuple(_pace(session, project_id, kind, queue[(kind, "collect")].answers_left) for kind in KINDS),
        per_hour=_per_hour(session, project_id),
        labelers=_labelers(session, project_id),
        skips=_skips(session, project_id),
    )


def answers_by_project(session: Session) -> dict[UUID, tuple[int, int]]:
    """Return, for each project with opened tasks, how many answers are in and how many are wanted."""
    wanted = case((Task.state == "closed", Task.done_count), else_=Task.target_overlap)
    rows = session.execute(
        select(Task.project_id, func.sum(Task.done_count), func.sum(wanted))
        .where(Task.state != "draft", Task.purpose == "collect", Task.kind.in_(KINDS))
        .group_by(Task.project_id)
    )
    return {project_id: (done, wanted) for project_id, done, wanted in rows}


def is_late(project: Project, found: Overview) -> bool | None:
    """Return whether the deadline comes before the work is done at this pace; None when that cannot be said."""
    if project.deadline_at is None or found.done_at is None:
        return None
    return found.done_at > project.deadline_at


def _some_prompts(session: Session, project_id: UUID, condition: ColumnElement[bool]) -> int:
    some = select(literal(1)).where(Prompt.project_id == project_id, condition).limit(MANY).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def _queue(session: Session, project_id: UUID) -> dict[tuple[str, str], TaskCounts]:
    is_open, closed, draft = (Task.state == state for state in ("open", "closed", "draft"))
    done = is_open & (Task.done_count >= Task.target_overlap)
    begun = is_open & (Task.done_count < Task.target_overlap) & (Task.done_count + Task.open_leases > 0)
    waiting = is_open & (Task.done_count + Task.open_leases == 0)
    wanted = case((closed, Task.done_count), else_=Task.target_overlap)
    rows = session.execute(
        select(
            Task.kind,
            Task.purpose,
            func.count().filter(draft),
            func.count().filter(waiting),
            func.count().filter(begun),
            func.count().filter(done),
            func.coalesce(func.sum(Task.done_count).filter(~draft), 0),
            func.coalesce(func.sum(wanted).filter(~draft), 0),
            func.count().filter(closed),
        )
        .where(Task.project_id == project_id, Task.kind.in_(KINDS))
        .group_by(Task.kind, Task.purpose)
    )
    found = {(kind, "collect"): TaskCounts(0, 0, 0, 0, 0, 0) for kind in KINDS}
    return {**found, **{(row[0], row[1]): TaskCounts(*row[2:]) for row in rows}}


def _pace(session: Session, project_id: UUID, kind: TaskKind, left: int) -> Pace:
    table = Ranking if kind == "ranking" else Demonstration
    now = func.clock_timestamp()
    own = Ranking.origin == "task" if table is Ranking else Demonstration.completion_id.is_(None)
    first = select(func.min(table.created_at)).where(table.project_id == project_id).scalar_subquery()
    day, hour, since, at = session.execute(
        select(
            func.count(),
            func.count().filter(table.created_at > now - timedelta(hours=1)),
            func.extract("epoch", now - first) / 3600,
            now,
        ).where(
            table.project_id == project_id,
            table.counted,
            table.supersedes.is_(None),
            own,
            table.created_at > now - timedelta(hours=HOURS),
        )
    ).one()
    # A project that began two hours ago has a pace of two hours, and one that began a minute ago none of an hour yet.
    per_hour = day / min(float(HOURS), max(1.0, float(since))) if day else 0.0
    hours_left = left / per_hour if per_hour and left else None
    longest = 24 * 365 * 10
    return Pace(
        kind,
        left,
        per_hour,
        hour,
        done_at=at + timedelta(hours=min(hours_left, longest)) if hours_left is not None else None,
        hours_left=hours_left,
        hours_left_now=left / hour if hour and left else None,
    )


def _per_hour(session: Session, project_id: UUID) -> tuple[int, ...]:
    hour = func.date_trunc("hour", Ranking.created_at)
    age = func.extract("epoch", func.date_trunc("hour", func.clock_timestamp()) - hour) / 3600
    rows = session.execute(
        select(age.label("hours_ago"), func.count())
        .where(
            Ranking.project_id == project_id,
            *last_words(Ranking),
            Ranking.created_at
            >= func.date_trunc("hour", func.clock_timestamp()) - text(f"interval '{HOURS - 1} hours'"),
        )
        .group_by("hours_ago")
    )
    counts = {int(hours_ago): count for hours_ago, count in rows}
    return tuple(counts.get(hours_ago, 0) for hours_ago in reversed(range(HOURS)))


def _labelers(session: Session, project_id: UUID) -> tuple[LabelerLine, ...]:
    newest = [
        select(table.user_id, literal(kind).label("kind"), table.counted, table.seconds, table.created_at)
        .where(table.project_id == project_id, *last_words(table))
        .order_by(table.created_at.desc(), table.id.desc())
        .limit(MANY)
        .subquery()
        for table, kind in ((Ranking, "ranking"), (Demonstration, "demonstration"))
    ]
    answers = union_all(
        *map(select, newest),
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
