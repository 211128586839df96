"""Pages of runs: the list, the form that starts one, and the page that follows one while it works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, Request
from starlette.responses import FileResponse, Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.forms import Submitted, blank
from app.models import ModelVersion, Project, Run, Snapshot, User
from app.models.training import TERMINAL_STATES
from app.routes.run_forms import OFFERED, RunForm, Sent, chosen_method, read_run_form, refused
from app.services.projects import projects
from app.services.training import (
    charts,
    costs,
    curves,
    registry,
    run_files,
    run_logs,
    run_options,
    run_states,
    run_views,
    runs,
    snapshots,
    workers,
)
from app.services.training.curves import Chart
from app.services.training.run_options import OptionField
from app.services.training.run_views import RunPage
from app.templating import redirect, render
from trainer.config import SPLITTABLE

router = page_router()

# A plot is shown as an image and may be opened by itself; there, too, it can load and run nothing.
PLOT_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}


@dataclass(frozen=True)
class RunsPage:
    """Context of `runs/list.html`: all runs, or those of one project."""

    project: Project | None
    runs: Sequence[tuple[Run, str]]
    gpu_hours: dict[UUID, str]
    all_gpu_hours: str
    may_change: bool


@dataclass(frozen=True)
class NewRunPage:
    """Context of `runs/new.html`."""

    project: Project
    method: str
    titles: dict[str, tuple[str, str]]
    models: Sequence[ModelVersion]
    reward_models: Sequence[ModelVersion]
    snapshots: Sequence[Snapshot]
    policies: Sequence[str]
    fields: Sequence[OptionField]
    needs_reward_model: bool
    explanation: str
    splits: bool
    form: Submitted[RunForm]


@dataclass(frozen=True)
class LivePage:
    """Context of `runs/show.html` and of the part of it that is fetched again while the run lives."""

    run: Run
    page: RunPage
    has_samples: bool
    memory: str
    speed: str
    live: bool
    may_cancel: bool
    waiting: str
    charts: Sequence[Chart]
    last_values: Sequence[tuple[str, str]]
    log: str
    duration: str
    gpu_hours: str
    left: str
    plots: Sequence[str]
    figures: dict[str, str]
    policies: dict[str, dict[str, str]]
    headline: str


@router.get("/runs")
def list_runs(request: Request, session: SessionDep, user: ReviewerUser, project: UUID | None = None) -> Response:
    """List the newest runs of all projects, or lead to those of one."""
    if project is not None:
        return redirect(f"/projects/{project}/runs")
    return _list(request, session, user, None)


@router.get("/projects/{project_id}/runs")
def list_project_runs(request: Request, session: SessionDep, user: ReviewerUser, project_id: UUID) -> Response:
    """List a project's runs, with what they have cost."""
    return _list(request, session, user, projects.get(session, project_id))


MethodDep = Annotated[str, Depends(chosen_method)]


@router.get("/runs/new")
def show_form(request: Request, session: SessionDep, _admin: AdminUser, project: UUID, method: MethodDep) -> Response:
    """Show the form of one method, filled with sensible values."""
    target = projects.get(session, project)
    start_from = registry.usual_start(session, target.id, method)
    form = blank(form_id=str(uuid4()), gpus="1", model_id=str(start_from or ""), **run_options.first_values(method))
    return _form(request, session, target, method, form)


@router.post("/runs/new")
def start(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    project: UUID,
    sent: Annotated[Sent, Depends(read_run_form)],
    method: MethodDep,
) -> Response:
    """Queue a run and lead to its page; a second click on the same form leads to the same run."""
    target = projects.get(session, project)
    form = sent.submitted.data
    if form is None:
        return _form(request, session, target, method, sent.submitted, sent.policies, status=422)
    common: dict[str, Any] = {
        "options": dict(sent.options),
        "reward_model": registry.get(session, form.reward_model_id) if form.reward_model_id else None,
        "snapshot": snapshots.get(session, form.snapshot_id),
        "dedupe_key": str(form.form_id),
        "gpus": form.gpus,
        **sent.settings,
    }
    model = registry.get(session, form.model_id)
    try:
        if method == "evaluate":
            judged = [registry.get(session, item) for item in form.policies]
            common["gold_model"] = registry.get(session, form.gold_model_id) if form.gold_model_id else None
            run = runs.create_evaluation_run(session, target, admin, baseline=model, policies=judged, **common)
        else:
            run = runs.create_training_run(session, target, method, admin, model=model, **common)
    except InvalidInputError as error:
        answer = refused(method, sent.submitted, error)
        return _form(request, session, target, method, answer, sent.policies, status=error.status)
    except ConflictError as error:
        answer = sent.submitted.refused(error)
        return _form(request, session, target, method, answer, sent.policies, status=error.status)
    return redirect(f"/runs/{run.id}")


@router.get("/runs/{run_id}")
def show(request: Request, session: SessionDep, user: ReviewerUser, run_id: UUID) -> Response:
    """Show a run; while it lives, the page keeps itself fresh."""
    return render(request, "runs/show.html", _page(session, runs.get(session, run_id), may_cancel=user.role == "admin"))


@router.get("/runs/{run_id}/live")
def live(request: Request, session: SessionDep, user: ReviewerUser, run_id: UUID) -> Response:
    """Return the part of the page that changes. Once the run has ended it asks for no more."""
    return render(
        request, "runs/_live.html", _page(session, runs.get(session, run_id), may_cancel=user.role == "admin")
    )


@router.post("/runs/{run_id}/cancel")
def cancel(session: SessionDep, admin: AdminUser, run_id: UUID) -> Response:
    """Cancel a queued run at once, or ask the worker of a running one to stop."""
    run_states.request_cancel(session, run_id, admin.id)
    return redirect(f"/runs/{run_id}")


@router.get("/runs/{run_id}/plots/{name}")
def plot(session: SessionDep, _user: ReviewerUser, run_id: UUID, name: str) -> Response:
    """Send one of the report's plots; only names that the report's folder lists exist."""
    run = runs.get(session, run_id)
    path = run_files.find(run, f"plots/{name}") if name in run_files.plots(run) else None
    if path is None:
        raise NotFoundError("This run has no such plot.")
    return FileResponse(path, media_type="image/svg+xml", headers=PLOT_HEADERS)


def _list(request: Request, session: SessionDep, user: User, project: Project | None) -> Response:
    listed = run_views.listed(session, project.id if project else None)
    hours = costs.hours_of(session, [run.id for run, _ in listed])
    page = RunsPage(
        project,
        listed,
        {run_id: costs.spoken(found) for run_id, found in hours.items()},
        costs.spoken(costs.hours_of_project(session, project.id)) if project else "",
        user.role == "admin",
    )
    return render(request, "runs/list.html", page)


def _page(session: SessionDep, run: Run, *, may_cancel: bool) -> LivePage:
    page = run_views.page_of(session, run)
    left = charts.seconds_left(run, page.metrics)
    summary = (run.report or {}).get("summary", {})
    is_live = run.state not in TERMINAL_STATES
    newest = dict(charts.last_values(page.metrics))
    return LivePage(
        run=run,
        page=page,
        has_samples=runs.has_samples(run),
        memory=charts.memory(newest["peak_memory_mb"]) if "peak_memory_mb" in newest else "",
        speed=charts.number(newest["tokens_per_second"]) if "tokens_per_second" in newest else "",
        live=is_live,
        may_cancel=may_cancel and is_live and run.cancel_requested_at is None,
        waiting=_waiting(session, run, page) if run.state == "queued" else "",
        charts=curves.of_run(page.metrics),
        last_values=[(charts.label(name), charts.number(value)) for name, value in newest.items()],
        log=run_logs.readable(run.log_tail),
        duration=charts.duration(run, page.now),
        gpu_hours=costs.spoken(page.gpu_hours),
        left=charts.spoken(left) if left is not None else "",
        plots=run_files.plots(run),
        figures=charts.figures(summary),
        policies={name: charts.figures(found) for name, found in _in_order(run, summary.get("policies", {}))},
        headline=str(summary.get("headline", "")),
    )


def _in_order(run: Run, found: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return an evaluation's figures in the order of its form, the baseline first."""
    options = run.config["options"]
    names = [options.get("baseline"), *(policy["name"] for policy in options.get("policies", []))]
    return sorted(found.items(), key=lambda item: names.index(item[0]) if item[0] in names else len(names))


def _waiting(session: SessionDep, run: Run, page: RunPage) -> str:
    if run.not_before > page.now:
        return f"The next attempt starts in {charts.spoken((run.not_before - page.now).total_seconds())}."
    if run.dispatched_at is None and run.attempt == 0:
        return "The run is stored. The message broker does not answer just now; the run is sent as soon as it does."
    if not workers.any_recent(session):
        return "No GPU worker has been seen in the last minute. Start one with: plackett worker --queue gpu"
    if not workers.any_recent(session, gpus=run.gpus):
        return f"The run asks for {run.gpus} GPUs, and no worker that was seen in the last minute offers as many."
    return "Waiting for the GPU worker to be free."


def _form(
    request: Request,
    session: SessionDep,
    project: Project,
    method: str,
    form: Submitted[RunForm],
    policies: Sequence[str] = (),
    status: int = 200,
) -> Response:
    page = NewRunPage(
        project,
        method,
        OFFERED,
        registry.of_project(session, project.id, "policy"),
        registry.of_project(session, project.id, "reward"),
        snapshots.of_project(session, project.id),
        policies,
        run_options.fields_of(method),
        method in runs.SCORED_METHODS,
        run_options.explanation(method),
        method in SPLITTABLE,
        form,
    )
    return render(request, "runs/new.html", page, status)
