"""The web application: every router, the layers around them, and the refusal to start with an unguarded route.

Run it with `plackett up`, or `uvicorn app.main:app` where PostgreSQL is set up already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.middleware.trustedhost import TrustedHostMiddleware

from app.api import answers as api_answers
from app.api import evaluations as api_evaluations
from app.api import exports, imports, problems, snapshot_diffs, uploads
from app.api import jobs as api_jobs
from app.api import members as api_members
from app.api import models as api_models
from app.api import projects as api_projects
from app.api import prompts as api_prompts
from app.api import runs as api_runs
from app.api import schedules as api_schedules
from app.api import snapshots as api_snapshots
from app.api import tasks as api_tasks
from app.api.once import ReplayError, on_replay
from app.auth import GUARDS
from app.error_pages import HANDLERS
from app.errors import NotSignedInError, StaleFormError
from app.middleware import BodyLimit, Envelope
from app.routes import (
    adjudications,
    auth,
    chat,
    chat_models,
    desk,
    evaluations,
    gate,
    guidelines,
    health,
    home,
    jobs,
    labeling,
    lineage,
    operations,
    people,
    policies,
    project_settings,
    projects,
    quality,
    reference,
    references,
    registry,
    rounds,
    run_curves,
    runs,
    schedules,
    snapshots,
    task_list,
    tokens,
    webhooks,
)
from app.routes import (
    imports as import_pages,
)
from app.settings import get_settings
from app.static_files import CachedStaticFiles
from app.streams import Streams

ROUTERS = (
    health.router,
    home.router,
    auth.router,
    people.router,
    reference.router,
    projects.router,
    chat.router,
    project_settings.router,
    guidelines.router,
    task_list.router,
    labeling.router,
    quality.router,
    references.router,
    adjudications.router,
    chat_models.router,
    desk.router,
    snapshots.router,
    import_pages.router,
    jobs.router,
    runs.router,
    run_curves.router,
    registry.router,
    evaluations.router,
    gate.router,
    policies.router,
    rounds.router,
    schedules.router,
    lineage.router,
    tokens.router,
    webhooks.router,
    operations.router,
    api_projects.router,
    api_members.router,
    api_prompts.router,
    api_tasks.router,
    api_answers.router,
    api_snapshots.router,
    api_runs.router,
    api_models.router,
    api_evaluations.router,
    api_schedules.router,
    exports.router,
    imports.router,
    uploads.router,
    api_jobs.router,
    snapshot_diffs.router,
)

PUBLIC = frozenset(
    {
        "/",
        "/livez",
        "/readyz",
        "/sign-in",
        "/invite/{token}",
        "/static",
        "/api/docs",
        "/api/openapi.json",
    }
)
"""Routes that strangers may use. Everything else carries a guard of `app.auth`."""

ANSWERS: dict[Any, Any] = {
    **HANDLERS,
    NotSignedInError: auth.on_not_signed_in,
    StaleFormError: auth.on_stale_form,
    ReplayError: on_replay,
}
"""What answers for each kind of failure. FastAPI takes functions of both kinds, its type only one."""

IMPORT_PATHS = re.compile(
    r"/projects/[^/]+/prompts/import|/projects/[^/]+/import|/api/v1/projects/[^/]+/import|/api/v1/uploads/[^/]+"
)


def create_app() -> FastAPI:
    """Return the application, configured from the settings; raise if a route is neither guarded nor public."""
    settings = get_settings()
    app = FastAPI(
        title="Plackett",
        version="1",
        description="Human preferences, ready for training.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        redirect_slashes=False,
        exception_handlers=ANSWERS,
    )
    app.state.streams = Streams(settings.chat_streams)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", CachedStaticFiles(), name="static")
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit=settings.max_form_bytes, larger=((IMPORT_PATHS, settings.max_import_bytes),))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts, www_redirect=False)
    app.add_middleware(Envelope, https=settings.secure_cookies)
    describe = app.openapi
    app.openapi = lambda: problems.described(describe())  # type: ignore[method-assign]  # FastAPI's documented way
    refuse_unguarded(app)
    return app


def refuse_unguarded(app: FastAPI) -> None:
    """Raise if any route is open to strangers without standing in `PUBLIC`. Deny by default, checked at each start."""
    for context in iter_route_contexts(app.routes):
        if context.path not in PUBLIC and not is_guarded(context):
            raise RuntimeError(f"{context.path} has no guard: give it SignedIn, ReviewerUser, AdminUser or ApiCaller.")


def is_guarded(context: RouteContext) -> bool:
    """Return whether one of the route's dependencies, at any depth, is a guard."""
    dependant = getattr(context, "dependant", None)
    return isinstance(dependant, Dependant) and any(call in GUARDS for call in _calls(dependant))


def _calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    for inner in dependant.dependencies:
        if inner.call is not None:
            yield inner.call
        yield from _calls(inner)


app = create_app()
