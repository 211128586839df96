"""The admin's pages of webhooks: the secret is shown once, messages are seen and sent again by hand."""

from __future__ import annotations

import json
import re

import pytest
from browsers import Browser, MakeUser, SignIn
from hostile_text import became_markup
from receiver import receiving
from run_builders import make_project
from sqlalchemy import select

from app.db import transaction
from app.models import AuditEvent, Project, User, WebhookDelivery
from app.services.hooks import outbox
from app.settings import get_settings
from app.worker import hooks

SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{44}")


@pytest.fixture
def admin(make_user: MakeUser, sign_in: SignIn) -> Browser:
    return sign_in(make_user("admin"))


def allow(monkeypatch: pytest.MonkeyPatch, *origins: str) -> None:
    monkeypatch.setenv("PLACKETT_WEBHOOK_ORIGINS", json.dumps(origins))
    monkeypatch.setenv("PLACKETT_WEBHOOK_NETWORKS", '["127.0.0.0/8"]')
    get_settings.cache_clear()


def test_without_an_allowed_server_the_page_says_what_the_operator_has_to_do(admin: Browser) -> None:
    page = admin.get("/webhooks").text
    assert "PLACKETT_WEBHOOK_ORIGINS" in page
    refused = admin.post_form("/webhooks", {"url": "https://hooks.example.org/x", "event_run": "yes"})
    assert refused.status_code == 422
    assert SECRET.search(refused.text) is None


def test_a_webhook_is_made_followed_and_its_message_sent_again(
    admin: Browser, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction() as session:
        project = make_project(session, session.scalars(select(User)).one(), "<b>Kindness")
    with receiving() as receiver:
        allow(monkeypatch, receiver.url)
        form = {"url": f"{receiver.url}/500", "event_run": "yes", "project_id": str(project.id)}
        made = admin.post_form("/webhooks", form)
        secret = SECRET.search(made.text)
        assert secret is not None
        listed = admin.get("/webhooks").text
        assert secret[0] not in listed
        assert became_markup(listed) == []
        address = re.search(r"/webhooks/[0-9a-f-]{36}", listed)
        assert address is not None
        with transaction() as session:
            outbox.announce(session, "run.finished", session.get_one(Project, project.id).id, name="<i>run")
            assert "whsec" not in str(session.scalars(select(AuditEvent.detail)).all())
        hooks.deliver()
        shown = admin.get(address[0]).text
        assert "It answered 500." in shown
        assert secret[0] not in shown
        assert became_markup(shown) == []
        with transaction() as session:
            message = session.scalars(select(WebhookDelivery)).one()
        again = admin.post_form(f"/webhooks/messages/{message.id}/again")
        assert (again.status_code, again.headers["location"]) == (303, f"{address[0]}?done=message-again")
        assert hooks.deliver() == 1
        assert len(receiver.requests) == 2
        assert admin.post_form(f"{address[0]}/disable").status_code == 303
        assert "This webhook is disabled" in admin.get(address[0]).text
        assert admin.post_form(f"{address[0]}/enable").status_code == 303
        assert "This webhook is disabled" not in admin.get(address[0]).text


@pytest.mark.parametrize(
    "fields", [{"event_run": ""}, {"url": "https://evil.example"}, {"url": ""}, {"project_id": "x"}, {"secret": "mine"}]
)
def test_a_webhook_that_will_not_do_is_not_made(
    admin: Browser, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    allow(monkeypatch, "https://hooks.example.org")
    form = {"url": "https://hooks.example.org/x", "event_run": "yes", "project_id": ""} | fields
    answer = admin.post_form("/webhooks", {name: value for name, value in form.items() if value or name != "event_run"})
    assert answer.status_code == 422
    assert SECRET.search(answer.text) is None
