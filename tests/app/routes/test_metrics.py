"""Figures for Prometheus: for who knows the token, and from the database alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from browsers import Browser
from run_builders import fake_model_folder, make_model, make_project, make_prompts, make_user
from sqlalchemy import text

from app.db import transaction
from app.services.accounts import audit
from app.services.training import run_states, runs, workers
from app.settings import get_settings

TOKEN = "canary-of-the-metrics"


def figures_of(page: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    return {name.removeprefix("plackett_"): float(value) for name, value in lines}


def test_figures_are_for_who_knows_the_token(client: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/metrics", headers=right).status_code == 404
    monkeypatch.setenv("PLACKETT_METRICS_TOKEN", TOKEN)
    get_settings.cache_clear()
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}, {"Authorization": "Bearer ü"}):
        refused = client.get("/metrics", headers={name: value.encode() for name, value in headers.items()})
        assert refused.status_code == 403
        assert TOKEN not in refused.text
    answer = client.get("/metrics", headers=right)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert TOKEN not in answer.text
    assert TOKEN not in repr(get_settings())


def test_figures_follow_runs_workers_and_verified_backups(
    client: Browser, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLACKETT_METRICS_TOKEN", TOKEN)
    get_settings.cache_clear()

    def now() -> dict[str, float]:
        return figures_of(client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text)

    before = now()
    assert before['runs{state="queued"}'] == before["run_queue_age_seconds"] == before["open_leases"] == 0
    assert "last_verified_restore_timestamp_seconds" not in before
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        make_prompts(session, project, ["Is it?"])
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
        _waiting, working = (runs.create_sampling_run(session, project, model, admin) for _ in range(2))
    with transaction() as session:
        assert run_states.claim(session, working.id, "w1", 60) is not None
        workers.seen(session, "w1")
        session.execute(text("UPDATE runs SET not_before = not_before - interval '100 s' WHERE state = 'queued'"))
        session.execute(
            text("UPDATE runs SET lease_until = clock_timestamp() - interval '5 s' WHERE id = :id"), {"id": working.id}
        )
        audit.record(session, None, "backup.verified", "backup", "x")
    after = now()
    assert (after['runs{state="queued"}'], after['runs{state="running"}'], after['runs{state="failed"}']) == (1, 1, 0)
    assert 100 <= after["run_queue_age_seconds"] < 160
    assert 5 <= after["run_lease_over_seconds"] < 65
    assert 0 <= after['worker_seen_age_seconds{queue="gpu"}'] < 60
    assert after["last_verified_restore_timestamp_seconds"] > 1.7e9
