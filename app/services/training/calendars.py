"""A month of a project's schedules: what ran, what was skipped and why, and what will be due."""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, PlackettError
from app.models import Occurrence, Pipeline, Schedule
from app.services.training import timing

SHOWN_A_DAY = 4
MOST_PLANNED = 500
FIRST_YEAR, LAST_YEAR = 2000, 2999


@dataclass(frozen=True)
class Entry:
    """One due time on the clock of its schedule; `state` is planned, queued, skipped, or the state of its round."""

    at: datetime
    time: str
    schedule: str
    schedule_id: UUID
    state: str
    round_id: UUID | None = None
    number: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Day:
    """A day of the grid. `more` entries are not shown one by one."""

    date: date
    in_month: bool
    is_today: bool
    entries: tuple[Entry, ...]
    more: int


@dataclass(frozen=True)
class Month:
    """Whole weeks from Monday to Sunday around a month, and the months beside it as `YYYY-MM`."""

    title: str
    before: str
    after: str
    weeks: tuple[tuple[Day, ...], ...]

    @property
    def is_empty(self) -> bool:
        """Return whether no day has an entry."""
        return not any(day.entries for week in self.weeks for day in week)


def parse(text: str, today: date) -> date:
    """Return the first day of the month `YYYY-MM`, or of this month for an empty text."""
    if not text:
        return today.replace(day=1)
    try:
        first = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise InvalidInputError("A month is written as 2026-11.") from None
    if not FIRST_YEAR <= first.year <= LAST_YEAR:
        raise InvalidInputError("The calendar does not go that far.")
    return first


def month(session: Session, schedules: Sequence[Schedule], first: date, now: datetime) -> Month:
    """Return the month that begins with `first`."""
    weeks = calendar.Calendar().monthdatescalendar(first.year, first.month)
    begin, end = weeks[0][0], weeks[-1][-1]
    days: dict[date, list[Entry]] = defaultdict(list)
    for schedule in schedules:
        for entry in (*_past(session, schedule, begin, end), *_planned(schedule, end)):
            days[entry.at.date()].append(entry)
    today = now.astimezone(UTC).date()
    return Month(
        f"{first:%B %Y}",
        f"{first - timedelta(days=1):%Y-%m}",
        f"{first + timedelta(days=31):%Y-%m}",
        tuple(tuple(_day(item, first.month, today, days[item]) for item in week) for week in weeks),
    )


def _day(item: date, in_month: int, today: date, entries: list[Entry]) -> Day:
    entries.sort(key=lambda entry: entry.at)
    kept = entries if len(entries) <= SHOWN_A_DAY else entries[: SHOWN_A_DAY - 1]
    return Day(item, item.month == in_month, item == today, tuple(kept), len(entries) - len(kept))


def _past(session: Session, schedule: Schedule, begin: date, end: date) -> Iterator[Entry]:
    # A day more at both ends: the grid's days are those of the schedule's zone.
    earliest = datetime.combine(begin - timedelta(days=1), datetime.min.time(), UTC)
    latest = datetime.combine(end + timedelta(days=2), datetime.min.time(), UTC)
    rows = session.execute(
        select(Occurrence, Pipeline.state, Pipeline.number)
        .outerjoin(Pipeline, Pipeline.id == Occurrence.pipeline_id)
        .where(Occurrence.schedule_id == schedule.id, Occurrence.due_at.between(earliest, latest))
        .order_by(Occurrence.due_at)
    )
    for row, state, number in rows:
        local = row.due_at.astimezone(timing.zone(schedule.timezone))
        yield Entry(
            local, f"{local:%H:%M}", schedule.name, schedule.id, state or row.state, row.pipeline_id, number,
            row.reason or "",
        )  # fmt: skip


def _planned(schedule: Schedule, end: date) -> Iterator[Entry]:
    if schedule.paused:
        return
    try:
        zone = timing.zone(schedule.timezone)
        coming = timing.due_times(schedule.cron, schedule.timezone, schedule.next_due_at - timedelta(seconds=1))
        in_time = takewhile(lambda due: due.astimezone(zone).date() <= end, islice(coming, MOST_PLANNED))
        for due in in_time:
            local = due.astimezone(zone)
            yield Entry(local, f"{local:%H:%M}", schedule.name, schedule.id, "planned")
    except PlackettError:
        return  # a zone that this machine no longer knows; the schedule's own page says so
