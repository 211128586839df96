"""Figures for Prometheus: for who knows the token, and from the database alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from browsers import Browser
from run_builders import fake_model_folder, make_model, make_project, make_prompts, make_user
from sqlalchemy import text

from app import latency
from app.db import transaction
from app.services import figures
from app.services.accounts import backups
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
    assert not {"last_backup_timestamp_seconds", "last_verified_restore_timestamp_seconds"} & before.keys()
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
        backups.note_verified(session, "x", "2026-11-01T00:00:00+00:00")
        backups.note_made(session, "x", "2026-11-01T00:00:00+00:00")
    after = now()
    assert (after['runs{state="queued"}'], after['runs{state="running"}'], after['runs{state="failed"}']) == (1, 1, 0)
    assert 100 <= after["run_queue_age_seconds"] < 160
    assert 5 <= after["run_lease_over_seconds"] < 65
    assert 65 <= after["run_heartbeat_age_seconds"] < 125, "the lease of 60 s is over since 5 s"
    assert 0 <= after['worker_seen_age_seconds{queue="gpu"}'] < 60
    assert after["last_verified_restore_timestamp_seconds"] > 1.7e9
    assert after["last_backup_timestamp_seconds"] >= after["last_verified_restore_timestamp_seconds"]


def test_times_of_submits_are_a_histogram_that_all_processes_of_a_host_share() -> None:
    program = "import sys; from app import latency as at; at._counter(at.get_settings().var).add(float(sys.argv[1]))"
    for seconds in ("0.004", "0.3", "99"):
        subprocess.run([sys.executable, "-c", program, seconds], check=True, capture_output=True)
    files = list((get_settings().var / "run" / "latency").iterdir())
    assert len(files) == 1, "a new process goes on where an ended one left off"
    latency._counter.cache_clear()
    here = [latency._counter(get_settings().var)]
    latency._counter.cache_clear()
    here.append(latency._counter(get_settings().var))  # a second one while the first one counts
    for counter in here:
        counter.add(0.3)
    found = figures_of(figures.exposition([], latency.submits()))
    assert found == {
        **{f'submit_seconds_bucket{{le="{bound}"}}': 1 for bound in (0.005, 0.01, 0.025, 0.05, 0.1, 0.25)},
        **{f'submit_seconds_bucket{{le="{bound}"}}': 4 for bound in (0.5, 1.0, 2.5, 5.0, 10.0)},
        'submit_seconds_bucket{le="+Inf"}': 5,
        "submit_seconds_sum": pytest.approx(0.004 + 3 * 0.3 + 99),
        "submit_seconds_count": 5,
    }
