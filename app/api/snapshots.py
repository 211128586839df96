"""REST API, version 1: snapshots, frozen and read."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.api.callers import RunsCaller, RunsProject, SnapshotsCaller, SnapshotsProject
from app.api.jobs import ACCEPTED, location, shown
from app.api.once import OnceDep
from app.api.problems import PROBLEMS, WRITES
from app.api.schemas import Closed, Page, PageQuery, example, page
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.api import training
from app.services.data import jobs
from app.services.training import snapshots

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["snapshots"])


class SnapshotOut(Closed):
    """A frozen export, addressed by its content. Labelers stand in its manifest under pseudonyms."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000004",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "number": 7,
            "sha256": "9f2c" * 16,
            "manifest": {
                "files": {"comparisons.jsonl": {"rows": 1200, "bytes": 2400000, "sha256": "51ab" * 16}},
                "splits": {"comparisons": {"train": 1000, "held_out": 200}},
            },
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    number: int
    sha256: str
    manifest: dict[str, Any]
    created_at: datetime


class SnapshotsQuery(PageQuery):
    """Which part of the snapshots."""


@router.get("/projects/{project_id}/snapshots")
def list_snapshots(
    session: SessionDep, project: RunsProject, asked: Annotated[SnapshotsQuery, Query()]
) -> Page[SnapshotOut]:
    """List a project's snapshots."""
    return page(asked, SnapshotOut, lambda part: training.snapshots(session, project.id, part), project.id)


@router.post(
    "/projects/{project_id}/snapshots", responses=WRITES | ACCEPTED, status_code=201, response_model=SnapshotOut
)
def freeze(session: SessionDep, caller: SnapshotsCaller, project: SnapshotsProject, once: OnceDep) -> Response:
    """Freeze what counts now. When nothing has changed since, the answer is the snapshot that is there.

    Where there is much to freeze the answer is 202 and a job; the snapshot then holds what counts when a worker begins.
    """
    if jobs.is_long_snapshot(session, project):
        job = jobs.ask_snapshot(session, project, tokens.maker(session, caller))
        return once.answer(shown(session, job), 202, Location=location(job))
    made = snapshots.create(session, project, tokens.maker(session, caller))
    found = SnapshotOut(**training.snapshot(session, made.id))
    return once.answer(found, 201, Location=f"/api/v1/snapshots/{made.id}")


@router.get("/snapshots/{snapshot_id}")
def read_snapshot(snapshot_id: UUID, session: SessionDep, caller: RunsCaller) -> SnapshotOut:
    """Return a snapshot with its manifest."""
    found = training.snapshot(session, snapshot_id)
    caller.require_project(found["project_id"])
    return SnapshotOut(**found)
