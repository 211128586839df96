"""Pages of files from elsewhere: the form, what was imported before, and what became of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, BinaryIO, Literal
from uuid import UUID

from fastapi import Depends, Request
from starlette.datastructures import UploadFile
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError
from app.models import Import, Job, Project
from app.services.data import import_rows, intake, jobs
from app.services.data.formats.catalog import READ, Source
from app.services.projects import projects
from app.templating import redirect, render

router = page_router("/projects/{project_id}")

CHOICES = {
    title: {name: of.title for name, of in READ.items() if of.of == kind}
    for kind, title in (
        ("rankings", "Rankings"),
        ("demonstrations", "Demonstrations"),
        ("prompts", "Prompts, with or without answers"),
    )
}
_FIELDS = ("format", "dataset", "judge")


@dataclass(frozen=True)
class ImportPage:
    """Context of `imports/new.html`: choices of format by what they hold; `problem` and `details` of a refusal."""

    project: Project
    detect: str
    choices: Mapping[str, Mapping[str, str]]
    values: Mapping[str, str]
    earlier: Sequence[tuple[Import, str]]
    unfinished: Sequence[Job]
    problem: str | None = None
    details: Sequence[str] = ()


@dataclass(frozen=True)
class ImportReportPage:
    """Context of `imports/show.html`."""

    project: Project
    found: Import
    of: Source
    title: str


@dataclass(frozen=True)
class SentFile:
    """The form as it came: its fields, and the uploaded file (None when none was chosen)."""

    values: Mapping[str, str]
    file: BinaryIO | None
    name: str


async def sent_file(request: Request) -> AsyncIterator[SentFile]:
    """Yield the form; the uploaded file lies on disk, not in memory, and goes when the request ends."""
    async with request.form() as form:
        fields = {name: form.get(name, "") for name in _FIELDS}
        upload = form.get("file")
        values = {name: value if isinstance(value, str) else "" for name, value in fields.items()}
        if isinstance(upload, UploadFile) and upload.filename:
            yield SentFile(values, upload.file, upload.filename)
        else:
            yield SentFile(values, None, "")


@router.get("/import")
def show_form(request: Request, project_id: UUID, _user: AdminUser, session: SessionDep) -> Response:
    """Show the empty form."""
    return _form(request, session, projects.get(session, project_id), {"format": intake.DETECT})


@router.post("/import")
def import_file(
    request: Request,
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    sent: Annotated[SentFile, Depends(sent_file)],
) -> Response:
    """Import a file, all or nothing, and lead to the report; for a large file to a page that says how far it is."""
    project = projects.get(session, project_id)
    if sent.file is None:
        return _form(request, session, project, sent.values, InvalidInputError("Choose a file."))
    format_name = sent.values["format"]
    dataset = sent.values["dataset"] or sent.name[: import_rows.MAX_NAME]
    judge: Literal["human", "ai"] | None = (
        "ai" if sent.values["judge"] == "ai" else "human" if sent.values["judge"] == "human" else None
    )
    try:
        if jobs.is_long_import(sent.file):
            job = jobs.ask_import_of(
                session, project, user, sent.file, format_name=format_name, dataset=dataset, judge=judge
            )
            return redirect(f"/projects/{project.id}/jobs/{job.id}")
        report = intake.import_file(
            session, project, user, sent.file, format_name=format_name, dataset=dataset, judge=judge
        )
    except InvalidInputError as error:
        # What was read stands in a temporary table alone, which ends with this transaction.
        return _form(request, session, project, sent.values, error)
    return redirect(f"/projects/{project.id}/imports/{report.import_id}")


@router.get("/imports/{import_id}")
def show_report(
    request: Request, project_id: UUID, import_id: UUID, _user: ReviewerUser, session: SessionDep
) -> Response:
    """Show what became of a file."""
    project = projects.get(session, project_id)
    found = intake.get(session, project.id, import_id)
    of = READ[found.format]
    return render(request, "imports/show.html", ImportReportPage(project, found, of.of, of.title))


def _form(
    request: Request,
    session: SessionDep,
    project: Project,
    values: Mapping[str, str],
    error: InvalidInputError | None = None,
) -> Response:
    page = ImportPage(
        project,
        intake.DETECT,
        CHOICES,
        {name: values.get(name, "") for name in _FIELDS},
        intake.of_project(session, project.id),
        jobs.unfinished(session, project.id, "import"),
        error.message if error else None,
        error.details if error else (),
    )
    return render(request, "imports/new.html", page, error.status if error else 200)
