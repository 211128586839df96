"""Fixtures of webhooks: a project, a server that they are sent to, and what the operator allows."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from receiver import Receiver, receiving
from run_builders import make_project, make_user
from webhook_world import Allow

from app.db import transaction
from app.models import Project
from app.settings import get_settings


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Allow:
    """Allow these origins, and by default this machine's own network."""

    def settings(*origins: str, networks: tuple[str, ...] = ("127.0.0.0/8",)) -> None:
        monkeypatch.setenv("PLACKETT_WEBHOOK_ORIGINS", json.dumps(origins))
        monkeypatch.setenv("PLACKETT_WEBHOOK_NETWORKS", json.dumps(networks))
        get_settings.cache_clear()

    return settings


@pytest.fixture
def project(database: str, redis_url: str) -> Project:
    with transaction() as session:
        return make_project(session, make_user(session))
