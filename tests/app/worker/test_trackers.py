"""Runs that are tracked elsewhere too: MLflow with a store in a folder, and a library that is not there."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import mlflow
import pytest
from supervision import Supervision, World, child_pid, wait_for

from app.settings import get_settings


def use(monkeypatch: pytest.MonkeyPatch, tracker: str) -> None:
    monkeypatch.setenv("PLACKETT_TRACKER", tracker)
    monkeypatch.setenv("PLACKETT_TRACKER_PROJECT", "weekly")
    get_settings.cache_clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := (tmp_path / "mlflow").as_uri())
    return uri


def tracked(store: str) -> list[Any]:
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("weekly")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def status(store: str) -> str:
    found = tracked(store)
    return str(found[0].info.status) if found else ""


def test_a_run_that_was_cut_short_and_resumed_is_one_run_in_mlflow_with_every_step_once(
    world: World, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "mlflow")
    run_id = world.queue_sft(steps=200, checkpoint_steps=10)
    folder = get_settings().runs_dir / str(run_id)
    first = Supervision(run_id)
    first.start()
    wait_for("a checkpoint", lambda: any(folder.glob("checkpoints/step_*/manifest.json")))
    os.kill(child_pid(folder), signal.SIGKILL)
    assert first.end().state == "queued"
    wait_for("the word that it was cut short", lambda: status(store) == "KILLED")
    wait_for("the time of the next attempt", lambda: (again := Supervision(run_id)).start() or again.end().attempt == 2)
    wait_for("the word that it has succeeded", lambda: status(store) == "FINISHED")
    (found,) = tracked(store)
    assert found.data.tags["plackett.run_id"] == str(run_id)
    assert found.data.params["method"] == "sft"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    history = mlflow.MlflowClient(store).get_metric_history(found.info.run_id, "loss")
    assert {one.step: one.value for one in history} == {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert len(history) == len({one.step for one in history}) == 200


def test_a_tracker_that_cannot_be_used_costs_the_run_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "trackio")  # not installed here
    run_id = world.queue_sft(steps=6)
    supervision = Supervision(run_id)
    supervision.start()
    assert supervision.end().state == "succeeded"
    log = get_settings().runs_dir / str(run_id) / "tracker.log"
    wait_for("the reason", lambda: "No module named 'trackio'" in log.read_text())
