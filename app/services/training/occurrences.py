"""What is due: every due time of a schedule gets one row, in the transaction that starts its round or says why not.

    due ─► started      with its pipeline
       ├─► queued       while an earlier round runs, where the schedule says so ─► started, or skipped
       └─► skipped      with the reason: paused, archived, missed, too few new rankings, still running

Whoever settles holds the schedule's row; the primary key is the last defence. Only Postgres' clock says what is due.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError
from app.models import Occurrence, Pipeline, Project, Ranking, Schedule, Task, User
from app.services.labeling import standing
from app.services.training import pipelines, recipes, timing

GRACE = timedelta(minutes=10)
"""With the policy `skip`, a due time that is looked at later than this was missed."""

IN_ONE_GO = 50
"""So many due times are settled in one transaction; the next tick goes on."""


def due(session: Session) -> list[UUID]:
    """Return the schedules that a tick looks at: something is due, or waits for its turn."""
    waits = select(Occurrence.schedule_id).where(Occurrence.state == "queued")
    now = func.clock_timestamp()
    return list(
        session.scalars(
            select(Schedule.id).where(or_(Schedule.next_due_at <= now, Schedule.id.in_(waits))).order_by(Schedule.id)
        )
    )


def settle(session: Session, schedule_id: UUID) -> None:
    """Give what is due its row. Does nothing while somebody else holds the schedule."""
    schedule = session.scalar(
        select(Schedule)
        .where(Schedule.id == schedule_id)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if schedule is not None:
        start_waiting(session, schedule)
        settle_locked(session, schedule)


def settle_locked(session: Session, schedule: Schedule) -> bool:
    """As `settle`, for a caller that holds the schedule's row; return whether more is due than fits in one go."""
    now = moment(session)
    following = timing.due_times(schedule.cron, schedule.timezone, schedule.next_due_at)
    due_at = schedule.next_due_at
    for _ in range(IN_ONE_GO):
        if due_at > now:
            break
        later = next(following)
        session.add(_decided(session, schedule, due_at, now, is_last=later > now))
        session.flush()
        due_at = later
    schedule.next_due_at = due_at
    session.flush()
    return due_at <= now


def start_waiting(session: Session, schedule: Schedule) -> None:
    """Start the round that has waited longest, once none of the schedule runs; in a pause, one asked for by hand."""
    if running(session, schedule.id) is not None:
        return
    query = select(Occurrence).where(Occurrence.schedule_id == schedule.id, Occurrence.state == "queued")
    if schedule.paused:
        query = query.where(Occurrence.asked_by.is_not(None))
    for waiting in session.scalars(query.order_by(Occurrence.due_at)).all():
        reason = None if waiting.asked_by else _too_few(session, schedule)
        if reason is None:
            user = session.get_one(User, waiting.asked_by or schedule.created_by)
            reason = _start(session, schedule, waiting, user)
        if reason is None:
            return
        waiting.state, waiting.reason = "skipped", reason


def run_now(session: Session, schedule: Schedule, user: User, key: str) -> Occurrence:
    """Start a round at once because an admin asks for it: paused or not, however few the new rankings.

    The caller holds the schedule's row. The same key gives the same round. While another runs, the policy decides: it
    waits, it takes the other's place, or it is refused with `ConflictError`.
    """
    dedupe_key = f"schedule:{schedule.id}:asked:{key}"
    before = session.scalar(
        select(Occurrence)
        .join(Pipeline, Pipeline.id == Occurrence.pipeline_id)
        .where(Pipeline.dedupe_key == dedupe_key)
    )
    if before is not None:
        return before
    asked = Occurrence(schedule_id=schedule.id, due_at=moment(session), state="queued", asked_by=user.id)
    earlier = _in_the_way(session, schedule)
    if earlier is not None and schedule.overlap != "cancel_running":
        if schedule.overlap == "skip" or _waits(session, schedule.id):
            raise ConflictError(
                "An earlier round of this schedule has not ended yet. Wait until it has, or cancel it first."
            )
        asked.reason = earlier
    else:
        _make_room(session, schedule, "Replaced by a round that was started by hand.")
        problem = _start(session, schedule, asked, user, dedupe_key)
        if problem is not None:
            raise InvalidInputError(problem)
    session.add(asked)
    session.flush()
    return asked


def moment(session: Session) -> datetime:
    """Return the time by Postgres' clock."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now


def running(session: Session, schedule_id: UUID) -> Pipeline | None:
    """Return the round of a schedule that is running, if one is."""
    return session.scalar(
        select(Pipeline)
        .where(Pipeline.schedule_id == schedule_id, Pipeline.state == "running")
        .execution_options(populate_existing=True)
    )


def new_rankings(session: Session, schedule: Schedule) -> tuple[int, Pipeline | None]:
    """Return how many rankings that count were made since the last round began which used them, and that round.

    A round that failed or was cancelled has used none.
    """
    last = session.scalar(
        select(Pipeline)
        .where(Pipeline.schedule_id == schedule.id, Pipeline.state.in_(("running", "succeeded")))
        .order_by(Pipeline.created_at.desc())
        .limit(1)
    )
    query = (
        select(func.count(Ranking.id))
        .join(Task, Task.id == Ranking.task_id)
        .where(Ranking.project_id == schedule.project_id, *standing.rankings())
    )
    if last is not None:
        query = query.where(Ranking.created_at > last.created_at)
    return session.scalar(query) or 0, last


def _decided(session: Session, schedule: Schedule, due_at: datetime, now: datetime, *, is_last: bool) -> Occurrence:
    """Return what becomes of one due time; its round, if it gets one, is made here."""
    found = Occurrence(schedule_id=schedule.id, due_at=due_at, state="skipped")
    found.reason = (
        _off(session, schedule)
        or _missed(schedule.catch_up, now - due_at, is_last=is_last)
        or _too_few(session, schedule)
    )
    if found.reason is not None:
        return found
    earlier = _in_the_way(session, schedule)
    if earlier is not None and schedule.overlap != "cancel_running":
        found.state, found.reason = ("queued" if schedule.overlap == "queue" else "skipped"), earlier
        return found
    _make_room(session, schedule, "Replaced by the next round of its schedule.")
    found.reason = _start(session, schedule, found, session.get_one(User, schedule.created_by))
    return found


def _off(session: Session, schedule: Schedule) -> str | None:
    if schedule.paused:
        return "The schedule was paused."
    if session.get_one(Project, schedule.project_id).state == "archived":
        return "The project was archived."
    return None


def _missed(catch_up: str, late: timedelta, *, is_last: bool) -> str | None:
    if catch_up == "all" or (is_last and (catch_up == "latest" or late <= GRACE)):
        return None
    if not is_last and catch_up == "latest":
        return "Missed while the scheduler was down; the latest due time was caught up instead."
    return "Missed while the scheduler was down."


def _too_few(session: Session, schedule: Schedule) -> str | None:
    if not schedule.min_new_rankings:
        return None
    count, last = new_rankings(session, schedule)
    if count >= schedule.min_new_rankings:
        return None
    since = f" since round {last.number}" if last is not None else ""
    return f"Too few new rankings: {count}{since}, and {schedule.min_new_rankings} are needed."


def _in_the_way(session: Session, schedule: Schedule) -> str | None:
    before = running(session, schedule.id)
    if before is not None:
        return f"Round {before.number} was still running."
    return "An earlier round was still waiting." if _waits(session, schedule.id) else None


def _waits(session: Session, schedule_id: UUID) -> bool:
    query = select(Occurrence.due_at).where(Occurrence.schedule_id == schedule_id, Occurrence.state == "queued")
    return session.scalar(query.limit(1)) is not None


def _make_room(session: Session, schedule: Schedule, reason: str) -> None:
    before = running(session, schedule.id)
    if before is not None:
        pipelines.cancel(session, before.id, session.get_one(User, schedule.created_by), reason)


def _start(
    session: Session, schedule: Schedule, occurrence: Occurrence, user: User, dedupe_key: str | None = None
) -> str | None:
    """Make the round of an occurrence; return why it cannot be made, if so."""
    try:
        recipe = recipes.read(schedule.recipe)
    except InvalidInputError as error:
        return f"The recipe will not do any more: {error.message}"
    made = pipelines.create(
        session,
        session.get_one(Project, schedule.project_id),
        user,
        recipe,
        name=schedule.name,
        dedupe_key=dedupe_key or f"schedule:{schedule.id}:{occurrence.due_at.isoformat()}",
        schedule_id=schedule.id,
    )
    occurrence.state, occurrence.reason, occurrence.pipeline_id = "started", None, made.id
    return None
