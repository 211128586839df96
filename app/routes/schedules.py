"""Pages of schedules: list and calendar, the form with the next due times, and one schedule with what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, Request
from pydantic import Field
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError, PlackettError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import Project, Schedule
from app.routes.schedule_forms import ScheduleForm, first_values, read_schedule_form, values_of
from app.services.projects import projects
from app.services.training import calendars, occurrences, schedules, timing
from app.services.training.calendars import Month
from app.services.training.schedules import FieldError, Happened
from app.templating import redirect, render

router = page_router()

NEXT = 5


@dataclass(frozen=True)
class NextTimes:
    """The next due times in words, or why there are none. Context of `schedules/_next.html`."""

    words: str
    times: Sequence[tuple[datetime, str]]
    problem: str = ""


@dataclass(frozen=True)
class SchedulesPage:
    """Context of `schedules/list.html`. `coming` has each schedule's next due time in words."""

    project: Project
    schedules: Sequence[Schedule]
    words: dict[UUID, str]
    coming: dict[UUID, str]
    month: Month
    may_change: bool


@dataclass(frozen=True)
class SchedulePage:
    """Context of `schedules/show.html`."""

    project: Project
    schedule: Schedule
    next: NextTimes
    happened: Sequence[Happened]
    new_rankings: int
    form_id: str
    may_change: bool
    problem: str


@dataclass(frozen=True)
class FormPage:
    """Context of `schedules/form.html`; `schedule` is None for a new one."""

    project: Project
    schedule: Schedule | None
    form: Submitted[ScheduleForm]
    next: NextTimes
    zones: Sequence[str]


class RunNowForm(FormModel):
    """The wish for a round now; `form_id` makes a second click find the first click's round."""

    form_id: str = Field(min_length=1, max_length=64)


@router.get("/projects/{project_id}/schedules")
def list_schedules(
    request: Request, session: SessionDep, user: ReviewerUser, project_id: UUID, month: str = ""
) -> Response:
    """List a project's schedules, and show a month of what ran and what will."""
    project = projects.get(session, project_id)
    found = schedules.of_project(session, project.id)
    now = occurrences.moment(session)
    page = SchedulesPage(
        project,
        found,
        {item.id: next_times(item.cron, item.timezone, now).words for item in found},
        {item.id: timing.shown(item.next_due_at, item.timezone) for item in found},
        calendars.month(session, found, calendars.parse(month, now.date()), now),
        user.role == "admin",
    )
    return render(request, "schedules/list.html", page)


@router.get("/projects/{project_id}/schedules/new")
def show_new(request: Request, session: SessionDep, _admin: AdminUser, project_id: UUID) -> Response:
    """Show the form of a new schedule, filled with a weekly DPO."""
    return _form(request, session, projects.get(session, project_id), None, blank(**first_values()))


@router.post("/projects/{project_id}/schedules/new")
def create(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    project_id: UUID,
    submitted: Annotated[Submitted[ScheduleForm], Depends(read_schedule_form)],
) -> Response:
    """Make a schedule, or only show when it would be due."""
    project = projects.get(session, project_id)
    if submitted.values.get("action") == "preview":
        return _form(request, session, project, None, blank(**submitted.values))
    if submitted.data is None:
        return _form(request, session, project, None, submitted, status=422)
    try:
        made = schedules.create(session, project, admin, submitted.data.values())
    except (InvalidInputError, ConflictError) as error:
        return _form(request, session, project, None, _refused(submitted, error), status=error.status)
    return redirect(f"/schedules/{made.id}", done="schedule-saved")


@router.get("/schedules/next")
def show_next(request: Request, session: SessionDep, _admin: AdminUser, cron: str = "", timezone: str = "") -> Response:
    """Return the next due times of an expression that is being typed."""
    return render(request, "schedules/_next.html", next_times(cron, timezone, occurrences.moment(session)))


@router.get("/schedules/{schedule_id}")
def show(request: Request, session: SessionDep, user: ReviewerUser, schedule_id: UUID) -> Response:
    """Show a schedule: when it is due next, and what became of its due times."""
    return _show(request, session, schedules.get(session, schedule_id), may_change=user.role == "admin")


@router.get("/schedules/{schedule_id}/edit")
def show_edit(request: Request, session: SessionDep, _admin: AdminUser, schedule_id: UUID) -> Response:
    """Show the form of a schedule as it is."""
    schedule = schedules.get(session, schedule_id)
    project = projects.get(session, schedule.project_id)
    return _form(request, session, project, schedule, blank(**values_of(schedule)))


@router.post("/schedules/{schedule_id}/edit")
def edit(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    schedule_id: UUID,
    submitted: Annotated[Submitted[ScheduleForm], Depends(read_schedule_form)],
) -> Response:
    """Change a schedule, or only show when it would be due."""
    schedule = schedules.get(session, schedule_id)
    project = projects.get(session, schedule.project_id)
    if submitted.values.get("action") == "preview":
        return _form(request, session, project, schedule, blank(**submitted.values))
    data = submitted.data
    if data is None:
        return _form(request, session, project, schedule, submitted, status=422)
    try:
        schedules.change(session, schedule.id, admin, data.version, data.values())
    except (InvalidInputError, ConflictError) as error:
        return _form(request, session, project, schedule, _refused(submitted, error), status=error.status)
    return redirect(f"/schedules/{schedule.id}", done="schedule-saved")


@router.post("/schedules/{schedule_id}/run")
def run_now(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    schedule_id: UUID,
    submitted: Annotated[Submitted[RunNowForm], Depends(form_of(RunNowForm))],
) -> Response:
    """Start a round now, and lead to it."""
    if submitted.data is None:
        raise InvalidInputError("The form is not complete. Reload the page and try again.")
    try:
        started = schedules.run_now(session, schedule_id, admin, submitted.data.form_id)
    except (InvalidInputError, ConflictError) as error:
        schedule = schedules.get(session, schedule_id)
        return _show(request, session, schedule, may_change=True, problem=error.message, status=error.status)
    if started.pipeline_id is None:
        return redirect(f"/schedules/{schedule_id}", done="round-waits")
    return redirect(f"/rounds/{started.pipeline_id}", done="round-started")


@router.post("/schedules/{schedule_id}/pause")
def pause(session: SessionDep, admin: AdminUser, schedule_id: UUID) -> Response:
    """Let nothing new start."""
    schedules.set_paused(session, schedule_id, admin, paused=True)
    return redirect(f"/schedules/{schedule_id}", done="schedule-paused")


@router.post("/schedules/{schedule_id}/resume")
def resume(session: SessionDep, admin: AdminUser, schedule_id: UUID) -> Response:
    """Let the schedule go on from now."""
    schedules.set_paused(session, schedule_id, admin, paused=False)
    return redirect(f"/schedules/{schedule_id}", done="schedule-resumed")


def next_times(cron: str, timezone: str, now: datetime) -> NextTimes:
    """Return the next five due times, or the sentence that says why there are none."""
    try:
        times = timing.next_times(cron, timezone, now, NEXT)
    except InvalidInputError as error:
        return NextTimes("", (), error.message)
    return NextTimes(timing.in_words(cron), [(due, timing.shown(due, timezone)) for due in times])


def _show(
    request: Request, session: SessionDep, schedule: Schedule, *, may_change: bool, problem: str = "", status: int = 200
) -> Response:
    page = SchedulePage(
        projects.get(session, schedule.project_id),
        schedule,
        next_times(schedule.cron, schedule.timezone, occurrences.moment(session)),
        schedules.happened(session, schedule),
        occurrences.new_rankings(session, schedule)[0],
        str(uuid4()),
        may_change,
        problem,
    )
    return render(request, "schedules/show.html", page, status)


def _form(
    request: Request,
    session: SessionDep,
    project: Project,
    schedule: Schedule | None,
    form: Submitted[ScheduleForm],
    status: int = 200,
) -> Response:
    now = occurrences.moment(session)
    coming = next_times(form.values.get("cron", ""), form.values.get("timezone", ""), now)
    return render(request, "schedules/form.html", FormPage(project, schedule, form, coming, timing.zones()), status)


def _refused(submitted: Submitted[ScheduleForm], error: PlackettError) -> Submitted[ScheduleForm]:
    """Return the form with a refusal beside the field that it is about, or above the form."""
    return submitted.refused(error, error.field) if isinstance(error, FieldError) else submitted.refused(error)
