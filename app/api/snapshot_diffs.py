"""REST API, version 1: what is different between two snapshots of a project."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter

from app.api.callers import ExportCaller
from app.api.problems import PROBLEMS, documented
from app.api.schemas import Closed, example
from app.db import SessionDep
from app.services.training import snapshot_diffs, snapshots

NO_LEDGER = documented((409, "A snapshot is from before ledgers were kept, so its answers cannot be told apart."))

router = APIRouter(prefix="/api/v1/snapshots", responses=PROBLEMS | NO_LEDGER, tags=["snapshots"])


_UNCHANGED = {
    "added": 0, "removed": 0, "superseded": 0, "removed_because": {}, "by": {}, "added_ids": [], "removed_ids": []
}  # fmt: skip


class SnapshotName(Closed):
    """One of the two snapshots."""

    id: UUID
    number: int
    sha256: str


class CountsOut(Closed):
    """How many came and went."""

    added: int
    removed: int


class ChangesOut(Closed):
    """What changed of one kind; of the ids the first hundred. `superseded` ones are among the removed ones."""

    kept: int
    added: int
    removed: int
    superseded: int
    removed_because: dict[str, int]
    by: dict[str, dict[str, CountsOut]]
    added_ids: list[UUID]
    removed_ids: list[UUID]


class DifferenceOut(Closed):
    """The difference of two snapshots: prompts, rankings (`comparisons`) and demonstrations."""

    model_config = example(
        {
            "older": {"id": "0198c0de-0000-7000-8000-000000000003", "number": 6, "sha256": "51ab" * 16},
            "newer": {"id": "0198c0de-0000-7000-8000-000000000004", "number": 7, "sha256": "9f2c" * 16},
            "prompts": _UNCHANGED | {"kept": 400},
            "comparisons": {
                "kept": 1000,
                "added": 1,
                "removed": 1,
                "superseded": 1,
                "removed_because": {"superseded": 1},
                "by": {"judge": {"human": {"added": 1, "removed": 1}}},
                "added_ids": ["0198c0de-0000-7000-8000-000000000082"],
                "removed_ids": ["0198c0de-0000-7000-8000-000000000081"],
            },
            "demonstrations": _UNCHANGED | {"kept": 12},
        }
    )
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
