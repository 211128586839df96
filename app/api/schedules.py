"""REST API, version 1: schedules, and the rounds (pipelines) that they start."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import Response

from app.api import versions
from app.api.callers import RunsCaller, RunsProject, SchedulesCaller, SchedulesProject
from app.api.once import OnceDep, json_only
from app.api.problems import EDITS, PROBLEMS, WRITES
from app.api.schemas import Closed, JsonObject, Page, PageQuery, Text, example, page
from app.api.versions import IfMatch
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.api import rounds
from app.services.training import pipelines, schedules
from app.services.training.schedules import Values

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["schedules"])

State = Literal["running", "succeeded", "failed", "cancelled"]


class ScheduleOut(Closed):
    """When a recipe is due, by cron in a time zone, and what happens to due times that were missed or collide."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000041",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "name": "weekly",
            "cron": "0 3 * * 1",
            "timezone": "Europe/Berlin",
            "recipe": {"stages": [{"kind": "snapshot", "name": "freeze"}]},
            "min_new_rankings": 200,
            "catch_up": "latest",
            "overlap": "skip",
            "paused": False,
            "next_due_at": "2026-11-09T02:00:00Z",
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    name: str
    cron: str
    timezone: str
    recipe: dict[str, Any]
    min_new_rankings: int
    catch_up: Literal["latest", "all", "skip"]
    overlap: Literal["skip", "queue", "cancel_running"]
    paused: bool
    next_due_at: datetime
    created_at: datetime


class StageOut(Closed):
    """One attempt at one stage of a round."""

    kind: str
    name: str
    attempt: int
    state: Literal["waiting", "running", "succeeded", "failed", "skipped", "cancelled"]
    reason: str | None
    run_id: UUID | None


class PipelineOut(Closed):
    """One round of a recipe, with its stages in order."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000042",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "number": 3,
            "name": "weekly, round 3",
            "schedule_id": "0198c0de-0000-7000-8000-000000000041",
            "state": "running",
            "reason": None,
            "attempt": 1,
            "stages": [
                {
                    "kind": "snapshot",
                    "name": "freeze",
                    "attempt": 1,
                    "state": "succeeded",
                    "reason": None,
                    "run_id": None,
                },
                {
                    "kind": "dpo",
                    "name": "policy",
                    "attempt": 1,
                    "state": "running",
                    "reason": None,
                    "run_id": "0198c0de-0000-7000-8000-000000000011",
                },
            ],
            "created_at": "2026-11-02T09:00:00Z",
            "finished_at": None,
        }
    )
    id: UUID
    project_id: UUID
    number: int
    name: str
    schedule_id: UUID | None
    state: State
    reason: str | None
    attempt: int
    stages: list[StageOut]
    created_at: datetime
    finished_at: datetime | None


class ScheduleIn(Closed):
    """A new schedule. The recipe is what the page of a schedule shows as JSON."""

    model_config = example(
        {
            "name": "weekly",
            "cron": "0 3 * * 1",
            "timezone": "Europe/Berlin",
            "recipe": {"stages": [{"kind": "snapshot", "name": "freeze"}]},
            "min_new_rankings": 200,
        }
    )
    name: Text = Field(min_length=1, max_length=schedules.MAX_NAME)
    cron: Text = Field(min_length=1, max_length=100)
    timezone: Text = Field(min_length=1, max_length=64)
    recipe: JsonObject
    min_new_rankings: int = Field(0, ge=0, le=1_000_000)
    catch_up: Literal["latest", "all", "skip"] = "latest"
    overlap: Literal["skip", "queue", "cancel_running"] = "skip"


class ScheduleChange(Closed):
    """What changes of a schedule; what is left out stays. Due times in a pause are skipped."""

    model_config = example({"cron": "0 3 * * 2", "min_new_rankings": 500, "paused": False})
    name: Text | None = Field(None, min_length=1, max_length=schedules.MAX_NAME)
    cron: Text | None = Field(None, min_length=1, max_length=100)
    timezone: Text | None = Field(None, min_length=1, max_length=64)
    recipe: JsonObject | None = None
    min_new_rankings: int | None = Field(None, ge=0, le=1_000_000)
    catch_up: Literal["latest", "all", "skip"] | None = None
    overlap: Literal["skip", "queue", "cancel_running"] | None = None
    paused: bool | None = None


class SchedulesQuery(PageQuery):
    """Which schedules."""

    paused: bool | None = None


class PipelinesQuery(PageQuery):
    """Which rounds."""

    state: State | None = None
    schedule_id: UUID | None = None


@router.get("/projects/{project_id}/schedules")
def list_schedules(
    session: SessionDep, project: RunsProject, asked: Annotated[SchedulesQuery, Query()]
) -> Page[ScheduleOut]:
    """List a project's schedules."""
    return page(
        asked,
        ScheduleOut,
        lambda part: rounds.schedules(session, project.id, part, paused=asked.paused),
        project.id,
    )


@router.post("/projects/{project_id}/schedules", responses=WRITES, status_code=201, response_model=ScheduleOut)
def create_schedule(
    sent: ScheduleIn, session: SessionDep, caller: SchedulesCaller, project: SchedulesProject, once: OnceDep
) -> Response:
    """Make a schedule; its first due time is the next one from now."""
    values = Values(
        sent.name,
        sent.cron,
        sent.timezone,
        dict(sent.recipe),
        None,
        sent.min_new_rankings,
        sent.catch_up,
        sent.overlap,
    )
    made = schedules.create(session, project, tokens.maker(session, caller), values)
    session.flush()
    shown = ScheduleOut(**rounds.schedule(session, made.id))
    return once.answer(shown, 201, Location=f"/api/v1/schedules/{made.id}", ETag=versions.etag(shown))


@router.get("/schedules/{schedule_id}")
def read_schedule(schedule_id: UUID, session: SessionDep, caller: RunsCaller, response: Response) -> ScheduleOut:
    """Return a schedule. Its ETag is what a change of it needs."""
    found = rounds.schedule(session, schedule_id)
    caller.require_project(found["project_id"])
    shown = ScheduleOut(**found)
    response.headers["ETag"] = versions.etag(shown)
    return shown


@router.patch("/schedules/{schedule_id}", responses=EDITS, dependencies=[Depends(json_only)])
def change_schedule(
    schedule_id: UUID,
    sent: ScheduleChange,
    session: SessionDep,
    caller: SchedulesCaller,
    response: Response,
    if_match: IfMatch = None,
) -> ScheduleOut:
    """Change a schedule, pause it, or let it go on. What was due before is settled by what held then."""
    caller.require_project(rounds.schedule(session, schedule_id)["project_id"])
    schedule = schedules.lock(session, schedule_id)
    versions.check(if_match, ScheduleOut(**rounds.schedule(session, schedule_id)))
    by = tokens.maker(session, caller)
    changes = sent.model_dump(exclude={"paused"}, exclude_none=True)
    if changes:
        kept = {field.name: getattr(schedule, field.name) for field in fields(Values)}
        if "recipe" in changes:  # the form's choices were of another one
            kept["choices"] = None
        schedules.change(session, schedule_id, by, schedule.version, Values(**kept | changes))
    if sent.paused is not None:
        schedules.set_paused(session, schedule_id, by, paused=sent.paused)
    session.flush()
    shown = ScheduleOut(**rounds.schedule(session, schedule_id))
    response.headers["ETag"] = versions.etag(shown)
    return shown


@router.get("/projects/{project_id}/pipelines")
def list_pipelines(
    session: SessionDep, project: RunsProject, asked: Annotated[PipelinesQuery, Query()]
) -> Page[PipelineOut]:
    """List a project's rounds with their stages."""
    return page(
        asked,
        PipelineOut,
        lambda part: rounds.pipelines(session, project.id, part, state=asked.state, schedule_id=asked.schedule_id),
        project.id,
    )


@router.get("/pipelines/{pipeline_id}")
def read_pipeline(pipeline_id: UUID, session: SessionDep, caller: RunsCaller) -> PipelineOut:
    """Return a round with its stages."""
    found = rounds.pipeline(session, pipeline_id)
    caller.require_project(found["project_id"])
    return PipelineOut(**found)


@router.post("/pipelines/{pipeline_id}/cancel", responses=WRITES, response_model=PipelineOut)
def cancel_pipeline(pipeline_id: UUID, session: SessionDep, caller: SchedulesCaller, once: OnceDep) -> Response:
    """Cancel a round: the run at work stops, the stages after it are skipped."""
    caller.require_project(rounds.pipeline(session, pipeline_id)["project_id"])
    pipelines.cancel(session, pipeline_id, tokens.maker(session, caller))
    session.flush()
    return once.answer(PipelineOut(**rounds.pipeline(session, pipeline_id)))
