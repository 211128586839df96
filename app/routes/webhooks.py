"""The admin's pages of webhooks: make one, see its secret once, and follow what was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field
from starlette.responses import Response

from app.auth import AdminUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError, NotFoundError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import Project, Webhook, WebhookDelivery
from app.services.hooks import addresses, deliveries, webhooks
from app.services.hooks.outbox import EVENTS
from app.services.hooks.webhooks import Line
from app.services.projects import projects
from app.settings import get_settings
from app.templating import redirect, render

router = page_router("/webhooks")

FIELDS = {"event_snapshot": "snapshot.ready", "event_run": "run.finished", "event_model": "model.promoted"}
"""The check boxes of the form, and the event that each stands for."""


class WebhookForm(FormModel):
    """A new webhook. `event_*` are check boxes."""

    url: str = Field(min_length=1, max_length=addresses.MAX_URL)
    event_snapshot: bool = False
    event_run: bool = False
    event_model: bool = False
    project_id: UUID | Literal[""] = ""


@dataclass(frozen=True)
class WebhooksPage:
    """Context of `webhooks/list.html`. `secret` is that of a webhook just made, shown this once.

    `events` are check boxes: the field, what happened in words, and the event's name.
    """

    lines: Sequence[Line]
    projects: Sequence[Project]
    origins: Sequence[str]
    events: Sequence[tuple[str, str, str]]
    form: Submitted[WebhookForm]
    secret: str


@dataclass(frozen=True)
class WebhookPage:
    """Context of `webhooks/show.html`."""

    webhook: Webhook
    project: Project | None
    deliveries: Sequence[WebhookDelivery]
    event_names: Mapping[str, str]


@router.get("")
def list_webhooks(request: Request, session: SessionDep, _admin: AdminUser) -> Response:
    """List the webhooks."""
    return _page(request, session, _new())


@router.post("")
def create(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    submitted: Annotated[Submitted[WebhookForm], Depends(form_of(WebhookForm))],
) -> Response:
    """Make a webhook and show its secret, once."""
    form = submitted.data
    if form is None:
        return _page(request, session, submitted, status=422)
    events = [event for field, event in FIELDS.items() if getattr(form, field)]
    try:
        _, secret = webhooks.create(session, admin, url=form.url, events=events, project_id=form.project_id or None)
    except (InvalidInputError, NotFoundError) as error:
        return _page(request, session, submitted.refused(error), status=error.status)
    return _page(request, session, _new(), secret)


@router.get("/{webhook_id}")
def show(request: Request, session: SessionDep, _admin: AdminUser, webhook_id: UUID) -> Response:
    """Show a webhook and what it was sent."""
    webhook = webhooks.get(session, webhook_id)
    project = projects.get(session, webhook.project_id) if webhook.project_id else None
    page = WebhookPage(webhook, project, deliveries.of_webhook(session, webhook_id), EVENTS)
    return render(request, "webhooks/show.html", page)


@router.post("/{webhook_id}/disable")
def disable(session: SessionDep, admin: AdminUser, webhook_id: UUID) -> Response:
    """Send it nothing more."""
    webhooks.disable(session, webhook_id, admin)
    return redirect(f"/webhooks/{webhook_id}", done="webhook-disabled")


@router.post("/{webhook_id}/enable")
def enable(session: SessionDep, admin: AdminUser, webhook_id: UUID) -> Response:
    """Let it be told again."""
    webhooks.enable(session, webhook_id, admin)
    return redirect(f"/webhooks/{webhook_id}", done="webhook-enabled")


@router.post("/messages/{delivery_id}/again")
def send_again(session: SessionDep, admin: AdminUser, delivery_id: UUID) -> Response:
    """Send a message again."""
    webhook_id = deliveries.again(session, delivery_id, admin)
    return redirect(f"/webhooks/{webhook_id}", done="message-again")


def _new() -> Submitted[WebhookForm]:
    return blank(**dict.fromkeys(FIELDS, "yes"))


def _page(
    request: Request, session: SessionDep, form: Submitted[WebhookForm], secret: str = "", status: int = 200
) -> Response:
    page = WebhooksPage(
        webhooks.listed(session),
        projects.listed(session),
        get_settings().webhook_origins,
        [(field, EVENTS[event], event) for field, event in FIELDS.items()],
        form,
        secret,
    )
    return render(request, "webhooks/list.html", page, status)
