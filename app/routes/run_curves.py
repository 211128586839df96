"""Pages beside a run's own: its curves over those of other runs, and what it answered over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from app.auth import ReviewerUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError
from app.models import Project, Run
from app.models.training import TERMINAL_STATES
from app.services.projects import projects
from app.services.training import curves, rollouts, run_views, runs
from app.services.training.curves import AXES, LETTERS, MOST_TRACES, Axis, Chart, Trace
from app.services.training.rollouts import Samples
from app.templating import render

router = page_router()


@dataclass(frozen=True)
class CurvesPage:
    """Context of `runs/curves.html` and of the part of it that is fetched again while one of the runs lives."""

    run: Run
    project: Project
    others: Sequence[Run]
    shown: Sequence[tuple[str, Run]]
    has_samples: bool
    axes: dict[Axis, str]
    axis: Axis
    query: str
    live: bool
    learning: Sequence[Chart]
    mechanics: Sequence[Chart]


@dataclass(frozen=True)
class SamplesPage:
    """Context of `runs/samples.html`."""

    run: Run
    project: Project
    has_samples: bool
    live: bool
    samples: Samples | None


Overlaid = Annotated[list[UUID], Query(alias="with", max_length=100)]


@router.get("/runs/{run_id}/curves")
def show_curves(
    request: Request,
    session: SessionDep,
    _user: ReviewerUser,
    run_id: UUID,
    overlaid: Overlaid = [],  # noqa: B006  (read only)
    axis: Annotated[Axis, Query(alias="x")] = "step",
) -> Response:
    """Show a run's curves, with those of other runs of the project laid over them."""
    return render(request, "runs/curves.html", _curves(session, run_id, overlaid, axis))


@router.get("/runs/{run_id}/curves/live")
def live_curves(
    request: Request,
    session: SessionDep,
    _user: ReviewerUser,
    run_id: UUID,
    overlaid: Overlaid = [],  # noqa: B006  (read only)
    axis: Annotated[Axis, Query(alias="x")] = "step",
) -> Response:
    """Return the charts alone. Once all runs on them have ended they ask for no more."""
    return render(request, "runs/_curves.html", _curves(session, run_id, overlaid, axis))


@router.get("/runs/{run_id}/samples")
def show_samples(
    request: Request,
    session: SessionDep,
    _user: ReviewerUser,
    run_id: UUID,
    left: int | None = None,
    right: int | None = None,
) -> Response:
    """Show answers of early and late in the run side by side."""
    run = runs.get(session, run_id)
    page = SamplesPage(
        run=run,
        project=projects.get(session, run.project_id),
        has_samples=runs.has_samples(run),
        live=run.state not in TERMINAL_STATES,
        samples=rollouts.read(run, left, right),
    )
    return render(request, "runs/samples.html", page)


def _curves(session: SessionDep, run_id: UUID, overlaid: Sequence[UUID], axis: Axis) -> CurvesPage:
    run = runs.get(session, run_id)
    wanted = [item for item in dict.fromkeys(overlaid) if item != run.id]
    if len(wanted) >= MOST_TRACES:
        raise InvalidInputError(f"Choose at most {MOST_TRACES - 1} other runs: more lines cannot be told apart.")
    chosen = run_views.of_project(session, run.project_id, wanted)
    shown = [run, *chosen]
    traces = [
        Trace(letter, run_views.metrics_of(session, item.id)) for letter, item in zip(LETTERS, shown, strict=False)
    ]
    return CurvesPage(
        run=run,
        project=projects.get(session, run.project_id),
        others=run_views.comparable(session, run),
        shown=list(zip(LETTERS, shown, strict=False)),
        has_samples=runs.has_samples(run),
        axes=AXES,
        axis=axis,
        query=urlencode([("x", axis), *(("with", str(item.id)) for item in chosen)]),
        live=any(item.state not in TERMINAL_STATES for item in shown),
        learning=curves.learning(traces, axis),
        mechanics=curves.mechanics(traces, axis),
    )
