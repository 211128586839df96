"""Pages of projects: made, paused, filled with prompts, sampled, opened. Admins act, reviewers read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, BinaryIO, Literal
from uuid import UUID, uuid4

from fastapi import Depends, Query, Request
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import ModelVersion, Project, Run
from app.services.labeling import flags, leases, queue_order, tasks
from app.services.labeling.tasks import SampledTasks
from app.services.projects import project_overview, projects, prompts
from app.services.projects.guidelines import MAX_GUIDELINES
from app.services.projects.project_overview import Overview
from app.services.projects.projects import NewProject
from app.services.projects.prompts import ImportReport, PromptPage
from app.services.projects.questions import PRESETS, Questions
from app.services.training import registry, round_figures, run_views, runs
from app.services.training.saturation import Saturation
from app.templating import redirect, render

router = page_router("/projects")


class ProjectForm(FormModel):
    """A new project, as typed."""

    name: str = Field(min_length=1, max_length=projects.MAX_NAME)
    guidelines: str = Field(min_length=1, max_length=MAX_GUIDELINES)
    k: int = Field(ge=2, le=9)
    overlap: int = Field(ge=1, le=16)
    lease_minutes: int = Field(ge=1, le=1440)
    held_out_percent: int = Field(ge=0, le=90)
    preset: Literal["none", "hhh", "instructgpt"] = "none"


class StateForm(FormModel):
    """Pause, archive or open."""

    state: Literal["open", "paused", "archived"]


class SampleForm(FormModel):
    """A sampling run. `form_id` makes a second click find the first click's run."""

    model_id: UUID
    prompts: Literal["all", "unsampled", "train", "held_out"] = "unsampled"
    temperature: float = Field(default=0.8, ge=0, le=2, allow_inf_nan=False)
    max_new_tokens: int = Field(default=256, ge=1, le=4096)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    form_id: UUID | None = None


class OpenForm(FormModel):
    """Which tasks to open."""

    kind: Literal["ranking", "demonstration"] = "ranking"


@dataclass(frozen=True)
class ProjectsPage:
    """Context of `projects/list.html`. `answers` are (in, wanted) by project."""

    projects: Sequence[Project]
    answers: Mapping[UUID, tuple[int, int]]
    may_create: bool


@dataclass(frozen=True)
class NewProjectPage:
    """Context of `projects/new.html`. `presets` are what can be asked of each answer, by name."""

    form: Submitted[ProjectForm]
    presets: Mapping[str, str]


@dataclass(frozen=True)
class OverviewPage:
    """Context of `projects/overview.html`. Some counts end at `many`.

    `judge` is the newest reward model's name, or nothing; `asked_first` says in words which tasks go out first.
    """

    project: Project
    overview: Overview
    guard: Saturation
    judge: str
    asked_first: str
    form_id: str
    model_choices: Sequence[tuple[UUID, str]]
    samplings: Sequence[tuple[Run, SampledTasks | None]]
    form: Submitted[SampleForm]
    is_late: bool | None
    open_flags: int
    open_leases: int
    many: int
    may_change: bool


@dataclass(frozen=True)
class PromptsPage:
    """Context of `projects/prompts.html`."""

    project: Project
    page: PromptPage
    may_change: bool


@dataclass(frozen=True)
class ImportPage:
    """Context of `projects/import.html`: `problem` and `details` say why nothing was imported."""

    project: Project
    values: Mapping[str, str]
    problem: str | None = None
    details: Sequence[str] = ()


@dataclass(frozen=True)
class ImportReportPage:
    """Context of `projects/imported.html`."""

    project: Project
    report: ImportReport


@dataclass(frozen=True)
class SentPrompts:
    """An import form as it came: pasted text, or an uploaded file (None when none was chosen)."""

    text: str
    file: BinaryIO | None
    file_format: str
    tags: str


async def sent_prompts(request: Request) -> AsyncIterator[SentPrompts]:
    """Yield the import form; the uploaded file lies on disk, not in memory, and goes when the request ends."""
    async with request.form() as form:
        upload, text, file_format = form.get("file"), form.get("text", ""), form.get("format", "auto")
        tags = form.get("tags", "")
        yield SentPrompts(
            text=text if isinstance(text, str) else "",
            file=upload.file if isinstance(upload, UploadFile) and upload.filename else None,
            file_format=file_format if isinstance(file_format, str) else "",
            tags=tags if isinstance(tags, str) else "",
        )


@router.get("")
def list_projects(request: Request, user: ReviewerUser, session: SessionDep) -> Response:
    """List every project."""
    page = ProjectsPage(projects.listed(session), project_overview.answers_by_project(session), user.role == "admin")
    return render(request, "projects/list.html", page)


@router.get("/new")
def new_project(request: Request, _user: AdminUser) -> Response:
    """Show the empty form of a project."""
    return _new(request, blank(k="4", overlap="1", lease_minutes="60", held_out_percent="20", preset="none"))


@router.post("")
@router.post("/new")
def create_project(
    request: Request,
    user: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[ProjectForm], Depends(form_of(ProjectForm))],
) -> Response:
    """Make a project."""
    if submitted.data is None:
        return _new(request, submitted, 422)
    asked = Questions(criteria=PRESETS[submitted.data.preset][1])
    new = NewProject(**submitted.data.model_dump(exclude={"preset"}), questions=asked)
    try:
        project = projects.create(session, user, new)
    except (InvalidInputError, ConflictError) as error:
        return _new(request, submitted.refused(error, "name"), error.status)
    return redirect(f"/projects/{project.id}", done="project-created")


@router.get("/{project_id}")
def overview(request: Request, project_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Show how far a project is."""
    return _overview(request, session, projects.get(session, project_id), may_change=user.role == "admin")


@router.post("/{project_id}/state")
def set_state(
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[StateForm], Depends(form_of(StateForm))],
) -> Response:
    """Pause a project, archive it or open it again."""
    if submitted.data is None:
        raise InvalidInputError("A project can be opened, paused or archived.")
    project = projects.get(session, project_id)
    projects.set_state(session, project, user, submitted.data.state)
    return redirect(f"/projects/{project.id}", done=f"project-{submitted.data.state}")


@router.get("/{project_id}/prompts")
def list_prompts(
    request: Request,
    project_id: UUID,
    user: ReviewerUser,
    session: SessionDep,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """List a project's prompts, a page at a time."""
    project = projects.get(session, project_id)
    context = PromptsPage(project, prompts.page(session, project.id, page), user.role == "admin")
    return render(request, "projects/prompts.html", context)


@router.get("/{project_id}/prompts/import")
def show_import(request: Request, project_id: UUID, _user: AdminUser, session: SessionDep) -> Response:
    """Show the empty import form."""
    page = ImportPage(projects.get(session, project_id), {"format": "auto", "text": "", "tags": ""})
    return render(request, "projects/import.html", page)


@router.post("/{project_id}/prompts/import")
def import_prompts(
    request: Request,
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    sent: Annotated[SentPrompts, Depends(sent_prompts)],
) -> Response:
    """Import prompts, all or nothing."""
    project = projects.get(session, project_id)
    try:
        report_id = prompts.import_file(session, project, user, _source(sent), sent.file_format, sent.tags)
    except InvalidInputError as error:
        values = {"format": sent.file_format, "text": sent.text, "tags": sent.tags}
        page = ImportPage(project, values, error.message, error.details)
        return render(request, "projects/import.html", page, error.status)
    return redirect(f"/projects/{project.id}/prompts/imported/{report_id}")


@router.get("/{project_id}/prompts/imported/{report_id}")
def show_import_report(
    request: Request, project_id: UUID, report_id: UUID, _user: ReviewerUser, session: SessionDep
) -> Response:
    """Show what an import has added."""
    project = projects.get(session, project_id)
    page = ImportReportPage(project, prompts.report(session, project.id, report_id))
    return render(request, "projects/imported.html", page)


@router.post("/{project_id}/sample")
def sample(
    request: Request,
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[SampleForm], Depends(form_of(SampleForm))],
) -> Response:
    """Queue a sampling run and lead to its page."""
    project = projects.get(session, project_id)
    form = submitted.data
    if form is None:
        return _overview(request, session, project, may_change=True, form=submitted, status=422)
    try:
        run = runs.create_sampling_run(
            session,
            project,
            registry.get(session, form.model_id),
            user,
            temperature=form.temperature,
            max_new_tokens=form.max_new_tokens,
            prompts=form.prompts,
            seed=form.seed,
            dedupe_key=str(form.form_id) if form.form_id else None,
        )
    except (InvalidInputError, ConflictError) as error:
        return _overview(request, session, project, may_change=True, form=submitted.refused(error), status=error.status)
    return redirect(f"/runs/{run.id}")


@router.post("/{project_id}/open-tasks")
def open_tasks(
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[OpenForm], Depends(form_of(OpenForm))],
) -> Response:
    """Open the drafts of ranking tasks, or make and open demonstration tasks."""
    if submitted.data is None:
        raise InvalidInputError("Choose the tasks to open: rankings or demonstrations.")
    project = projects.get(session, project_id)
    opened = tasks.open_tasks(session, project, user, submitted.data.kind)
    return redirect(f"/projects/{project.id}", done="tasks-opened" if opened else "nothing-to-open")


def _new(request: Request, form: Submitted[ProjectForm], status: int = 200) -> Response:
    presets = {name: label for name, (label, _) in PRESETS.items()}
    return render(request, "projects/new.html", NewProjectPage(form, presets), status)


def _source(sent: SentPrompts) -> BinaryIO:
    if sent.file is None:
        return BytesIO(sent.text.encode())
    if sent.text.strip():
        raise InvalidInputError("Paste lines or choose a file, not both; empty one of the two.")
    return sent.file


def _label(model: ModelVersion) -> str:
    return f"{model.name} ({model.state})" if model.state != "candidate" else model.name


def _overview(
    request: Request,
    session: SessionDep,
    project: Project,
    *,
    may_change: bool,
    form: Submitted[SampleForm] | None = None,
    status: int = 200,
) -> Response:
    made = {item.run_id: item for item in tasks.sampled(session, project.id)}
    samplings = [run for run, _ in run_views.listed(session, project.id) if run.method == "sample"]
    counts = project_overview.overview(session, project.id)
    models = registry.of_project(session, project.id, "policy")
    judges = registry.of_project(session, project.id, "reward")
    page = OverviewPage(
        project,
        counts,
        round_figures.guard(session, project.id),
        judges[0].name if judges else "",
        queue_order.ORDERS[project.queue_order].lower(),
        str(uuid4()),
        [(model.id, _label(model)) for model in sorted(models, key=lambda model: model.state != "promoted")],
        [(run, made.get(run.id)) for run in samplings],
        form or _blank_sample_form(counts),
        project_overview.is_late(project, counts),
        flags.count_open(session, project.id),
        leases.count_open(session, project.id),
        project_overview.MANY,
        may_change,
    )
    return render(request, "projects/overview.html", page, status)


def _blank_sample_form(counts: Overview) -> Submitted[SampleForm]:
    return blank(
        model_id="",
        prompts="unsampled" if counts.sampled < counts.prompts else "all",
        temperature="0.8",
        max_new_tokens="256",
        seed="0",
        form_id=str(uuid4()),
    )
