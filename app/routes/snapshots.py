"""Pages of snapshots: a project's list, one snapshot with its files and card, two compared, and freezing a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request
from starlette.responses import FileResponse, Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.models import Job, Project, Snapshot
from app.services.data import jobs
from app.services.projects import projects
from app.services.training import data_cards, snapshot_diffs, snapshots
from app.services.training.snapshot_diffs import Difference
from app.templating import redirect, render

router = page_router()


@dataclass(frozen=True)
class SnapshotsPage:
    """Context of `snapshots/list.html`."""

    project: Project
    snapshots: Sequence[Snapshot]
    unfinished: Sequence[Job]
    may_change: bool


@dataclass(frozen=True)
class SnapshotPage:
    """Context of `snapshots/show.html`."""

    project: Project
    snapshot: Snapshot
    is_simulated: bool
    others: Sequence[Snapshot]
    may_change: bool


@dataclass(frozen=True)
class CardPage:
    """Context of `snapshots/card.html`."""

    snapshot: Snapshot
    card: str


@dataclass(frozen=True)
class DifferencePage:
    """Context of `snapshots/difference.html`."""

    project: Project
    difference: Difference


@router.get("/projects/{project_id}/snapshots")
def list_snapshots(request: Request, session: SessionDep, user: ReviewerUser, project_id: UUID) -> Response:
    """List a project's snapshots."""
    project = projects.get(session, project_id)
    found = snapshots.of_project(session, project.id)
    waiting = jobs.unfinished(session, project.id, "snapshot")
    return render(request, "snapshots/list.html", SnapshotsPage(project, found, waiting, user.role == "admin"))


@router.post("/projects/{project_id}/snapshots")
def freeze(session: SessionDep, admin: AdminUser, project_id: UUID) -> Response:
    """Freeze what is counted now. Without new answers this leads to the newest snapshot there is.

    Where there is much to freeze, a worker does it, and this leads to a page that says how far it is.
    """
    project = projects.get(session, project_id)
    if jobs.is_long_snapshot(session, project):
        return redirect(f"/projects/{project.id}/jobs/{jobs.ask_snapshot(session, project, admin).id}")
    snapshot = snapshots.create(session, project, admin)
    return redirect(f"/snapshots/{snapshot.id}", done="snapshot-ready")


@router.get("/snapshots/{snapshot_id}")
def show(request: Request, session: SessionDep, user: ReviewerUser, snapshot_id: UUID) -> Response:
    """Show what a snapshot holds."""
    snapshot = snapshots.get(session, snapshot_id)
    page = SnapshotPage(
        projects.get(session, snapshot.project_id),
        snapshot,
        any(snapshot.manifest["simulated"].values()),
        [other for other in snapshots.of_project(session, snapshot.project_id) if other.id != snapshot.id],
        user.role == "admin",
    )
    return render(request, "snapshots/show.html", page)


@router.get("/snapshots/{snapshot_id}/card")
def show_card(request: Request, session: SessionDep, _user: ReviewerUser, snapshot_id: UUID) -> Response:
    """Show the data card: what to know before using the snapshot."""
    snapshot = snapshots.get(session, snapshot_id)
    page = CardPage(snapshot, data_cards.markdown(snapshot.manifest, snapshot.sha256))
    return render(request, "snapshots/card.html", page)


@router.get("/snapshots/{snapshot_id}/difference")
def show_difference(
    request: Request, session: SessionDep, _user: ReviewerUser, snapshot_id: UUID, other: UUID
) -> Response:
    """Show what is different between this snapshot and another one; the older one comes first."""
    pair = (snapshots.get(session, snapshot_id), snapshots.get(session, other))
    older, newer = sorted(pair, key=lambda snapshot: snapshot.number)
    page = DifferencePage(projects.get(session, newer.project_id), snapshot_diffs.compare(session, older, newer))
    return render(request, "snapshots/difference.html", page)


@router.get("/snapshots/{snapshot_id}/files/{name}")
def download(session: SessionDep, _user: ReviewerUser, snapshot_id: UUID, name: str) -> Response:
    """Send one of the snapshot's files, always as a download."""
    snapshot = snapshots.get(session, snapshot_id)
    path = snapshots.file_of(snapshot, name)
    return FileResponse(path, media_type="application/octet-stream", filename=f"snapshot-{snapshot.number}-{path.name}")
