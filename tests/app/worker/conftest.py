"""A tiny real model, a project to train it in, and short leases, so that a lost worker is noticed in seconds."""

from __future__ import annotations

import pytest
from run_builders import fill_project, freeze, make_model, make_project, make_user
from supervision import World
from tiny_model import write_tiny_policy

from app.db import transaction
from app.settings import get_settings


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random Llama of one layer with a tokenizer of bytes."""
    return write_tiny_policy(tmp_path_factory.mktemp("tiny_policy"))


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch, _own_settings: None) -> None:
    for name, value in {
        "RUN_LEASE_SECONDS": "8",
        "RUN_HEARTBEAT_SECONDS": "0.5",
        "RUN_RETRY_SECONDS": "0",
        "CANCEL_GRACE_SECONDS": "20",
        "TRAINER_DEVICE": "cpu",
    }.items():
        monkeypatch.setenv(f"PLACKETT_{name}", value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    get_settings.cache_clear()


@pytest.fixture
def world(database: str, redis_url: str, tiny_policy: str) -> World:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        model = make_model(session, project, admin, tiny_policy)
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(10)])
    with transaction() as session:
        return World(project, admin, model, freeze(session, project, admin))
