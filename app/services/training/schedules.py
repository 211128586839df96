"""Schedules: made, changed, paused and listed by admins. What becomes of their due times is in `occurrences`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Occurrence, Pipeline, Project, Schedule, User
from app.services.accounts import audit
from app.services.training import occurrences, recipes, timing

CATCH_UP = ("latest", "all", "skip")
OVERLAP = ("skip", "queue", "cancel_running")
MAX_NAME = 80


class FieldError(InvalidInputError):
    """What stands in one field of a schedule will not do; `field` names it."""

    def __init__(self, field: str, error: InvalidInputError) -> None:
        super().__init__(" ".join(error.details) or error.message, error.details)
        self.field = field


@dataclass(frozen=True)
class Values:
    """What an admin decides about a schedule. `choices` are kept beside the recipe that was made of them."""

    name: str
    cron: str
    timezone: str
    recipe: dict[str, Any]
    choices: dict[str, Any] | None = None
    min_new_rankings: int = 0
    catch_up: str = "latest"
    overlap: str = "skip"

    def checked(self) -> Values:
        """Return the values as they are stored; raise `InvalidInputError` for what will not do."""
        name = " ".join(self.name.split())
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidInputError(f"Give the schedule a name of 1 to {MAX_NAME} characters.")
        if self.catch_up not in CATCH_UP or self.overlap not in OVERLAP:
            raise InvalidInputError("Choose one of the policies offered.")
        if not 0 <= self.min_new_rankings <= 1_000_000:
            raise InvalidInputError("The least number of new rankings is from 0 to 1,000,000.")
        cron = " ".join(self.cron.split())
        with _in_field("timezone"):
            timing.zone(self.timezone)
        with _in_field("cron"):
            timing.check(cron, self.timezone)
        with _in_field("recipe"):
            recipe = recipes.read(self.recipe).as_json()
        return Values(**{**asdict(self), "name": name, "cron": cron, "recipe": recipe})


@contextmanager
def _in_field(name: str) -> Iterator[None]:
    try:
        yield
    except InvalidInputError as error:
        raise FieldError(name, error) from None


def create(session: Session, project: Project, user: User, values: Values) -> Schedule:
    """Make a schedule; its first due time is the next one from now.

    Raises `InvalidInputError` for what will not do, `ConflictError` when the project has one of this name.
    """
    checked = values.checked()
    schedule = Schedule(project_id=project.id, created_by=user.id)
    _write(session, schedule, checked)
    audit.record(session, user, "schedule.created", "schedule", schedule.id, cron=checked.cron)
    return schedule


def change(session: Session, schedule_id: UUID, user: User, version: int, values: Values) -> Schedule:
    """Change a schedule. What was due before the change has its row by the old rules; the new ones hold from now on.

    `version` is the one that the form was filled from: `ConflictError` when somebody has changed it since.
    """
    checked = values.checked()
    schedule = lock(session, schedule_id)
    if schedule.version != version:
        raise ConflictError(
            "Somebody has changed this schedule since you opened it. Open it again, and make your changes to what is "
            "there now."
        )
    _settle_all(session, schedule)
    _write(session, schedule, checked, version=version + 1)
    audit.record(session, user, "schedule.changed", "schedule", schedule.id, version=schedule.version)
    return schedule


def set_paused(session: Session, schedule_id: UUID, user: User, *, paused: bool) -> None:
    """Pause a schedule or let it go on; once more changes nothing. Due times during the pause are skipped."""
    schedule = lock(session, schedule_id)
    if schedule.paused == paused:
        return
    _settle_all(session, schedule)
    schedule.paused = paused
    action = "schedule.paused" if paused else "schedule.resumed"
    audit.record(session, user, action, "schedule", schedule.id)


def run_now(session: Session, schedule_id: UUID, user: User, key: str) -> Occurrence:
    """Start a round now; see `occurrences.run_now`."""
    schedule = lock(session, schedule_id)
    started = occurrences.run_now(session, schedule, user, key)
    audit.record(session, user, "schedule.run_now", "schedule", schedule.id)
    return started


def get(session: Session, schedule_id: UUID) -> Schedule:
    """Return a schedule, or raise `NotFoundError`."""
    schedule = session.get(Schedule, schedule_id)
    if schedule is None:
        raise NotFoundError("There is no such schedule.")
    return schedule


def lock(session: Session, schedule_id: UUID) -> Schedule:
    """Return a schedule whose row is locked against a tick and other admins."""
    schedule = session.scalar(
        select(Schedule)
        .where(Schedule.id == schedule_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if schedule is None:
        raise NotFoundError("There is no such schedule.")
    return schedule


def of_project(session: Session, project_id: UUID) -> Sequence[Schedule]:
    """Return a project's schedules by name."""
    return session.scalars(select(Schedule).where(Schedule.project_id == project_id).order_by(Schedule.name)).all()


@dataclass(frozen=True)
class Happened:
    """What became of one due time, on the schedule's clock; `state` is that of the round where there is one."""

    occurrence: Occurrence
    at: str
    state: str
    number: int | None
    asked_by: str | None


def happened(session: Session, schedule: Schedule, limit: int = 50) -> list[Happened]:
    """Return what became of a schedule's due times, the newest first."""
    rows = session.execute(
        select(Occurrence, Pipeline.state, Pipeline.number, User.name)
        .outerjoin(Pipeline, Pipeline.id == Occurrence.pipeline_id)
        .outerjoin(User, User.id == Occurrence.asked_by)
        .where(Occurrence.schedule_id == schedule.id)
        .order_by(Occurrence.due_at.desc())
        .limit(limit)
    )
    return [
        Happened(row, timing.shown(row.due_at, schedule.timezone), state or row.state, number, name)
        for row, state, number, name in rows
    ]


def _settle_all(session: Session, schedule: Schedule) -> None:
    while occurrences.settle_locked(session, schedule):
        pass


def _write(session: Session, schedule: Schedule, values: Values, version: int = 1) -> None:
    """Store the values, and let the first due time by them be the next one from now."""
    next_due_at = next(timing.due_times(values.cron, values.timezone, occurrences.moment(session)))
    try:
        with session.begin_nested():
            for name, value in asdict(values).items():
                setattr(schedule, name, value)
            schedule.next_due_at, schedule.version = next_due_at, version
            session.add(schedule)
            session.flush()
    except IntegrityError:
        raise ConflictError(
            f"This project has a schedule named “{values.name}” already. Choose another name."
        ) from None
