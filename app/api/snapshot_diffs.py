"""REST API, version 1: what is different between two snapshots of a project."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from app.api.callers import ExportCaller
from app.api.problems import PROBLEMS, documented
from app.db import SessionDep
from app.services.training import snapshot_diffs, snapshots

NO_LEDGER = documented((409, "A snapshot is from before ledgers were kept, so its answers cannot be told apart."))

router = APIRouter(prefix="/api/v1/snapshots", responses=PROBLEMS | NO_LEDGER, tags=["snapshots"])


class SnapshotName(BaseModel):
    """One of the two snapshots."""

    model_config = ConfigDict(extra="forbid")
    id: UUID
    number: int
    sha256: str


class CountsOut(BaseModel):
    """How many came and went."""

    model_config = ConfigDict(extra="forbid")
    added: int
    removed: int


class ChangesOut(BaseModel):
    """What changed of one kind; of the ids the first hundred. `superseded` ones are among the removed ones."""

    model_config = ConfigDict(extra="forbid")
    kept: int
    added: int
    removed: int
    superseded: int
    removed_because: dict[str, int]
    by: dict[str, dict[str, CountsOut]]
    added_ids: list[UUID]
    removed_ids: list[UUID]


class DifferenceOut(BaseModel):
    """The difference of two snapshots: prompts, rankings (`comparisons`) and demonstrations."""

    model_config = ConfigDict(extra="forbid")
    older: SnapshotName
    newer: SnapshotName
    prompts: ChangesOut
    comparisons: ChangesOut
    demonstrations: ChangesOut


@router.get("/{snapshot_id}/difference/{other_id}")
def difference(snapshot_id: UUID, other_id: UUID, session: SessionDep, caller: ExportCaller) -> DifferenceOut:
    """Say what came and went between two snapshots of one project, whichever of them is named first."""
    found = [snapshots.get(session, each) for each in (snapshot_id, other_id)]
    for snapshot in found:
        caller.require_project(snapshot.project_id)
    older, newer = sorted(found, key=lambda snapshot: snapshot.number)
    answer: dict[str, Any] = snapshot_diffs.compare(session, older, newer).as_dict()
    return DifferenceOut(**answer)
