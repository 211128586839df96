"""Where a run's metrics are shown besides its own page: wandb, MLflow or trackio, each through its own library.

A library is imported by the process that forwards (`app.worker.tracker_child`) alone. It finds its server and its key
in its own variables (`WANDB_API_KEY`, `MLFLOW_TRACKING_URI`, …). A later attempt at a run goes on with the same
record there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

SUCCEEDED, FAILED, STOPPED = "succeeded", "failed", "stopped"
"""How an attempt has ended; `STOPPED` when another one may go on."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run at the beginning. `config` is that of `run.json`, flat: "optim.lr" → 1e-5."""

    project: str
    run_id: str
    name: str
    config: Mapping[str, Any]
    folder: Path


class Tracker(Protocol):
    """One run in one tracker. Any exception means that it is not tracked further, and nothing else."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of one step."""

    def end(self, outcome: str) -> None:
        """Say how it ended, and return once all is stored."""


class Wandb:
    """Weights & Biases."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = import_module("wandb").init(
            project=run.project,
            id=run.run_id,
            name=run.name,
            config=dict(run.config),
            dir=str(run.folder),
            resume="allow",
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of one step."""
        self._run.log(dict(numbers), step=step)

    def end(self, outcome: str) -> None:
        """Say how it ended, and return once all is stored."""
        self._run.finish(exit_code=0 if outcome == SUCCEEDED else 1)


class Mlflow:
    """MLflow; a run is found again by its tag `plackett.run_id`."""

    _STATUS: ClassVar[Mapping[str, str]] = {SUCCEEDED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}

    def __init__(self, run: TrackedRun) -> None:
        self._mlflow = mlflow = import_module("mlflow")
        experiment = mlflow.set_experiment(run.project)
        wanted = f"tags.`plackett.run_id` = '{run.run_id}'"
        found = mlflow.MlflowClient().search_runs([experiment.experiment_id], wanted, max_results=1)
        if found:
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=run.name, tags={"plackett.run_id": run.run_id})
            mlflow.log_params(dict(run.config))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of one step."""
        self._mlflow.log_metrics(dict(numbers), step=step)

    def end(self, outcome: str) -> None:
        """Say how it ended, and return once all is stored."""
        self._mlflow.end_run(self._STATUS[outcome])


class Trackio:
    """Trackio, which names runs and does not say how they ended."""

    def __init__(self, run: TrackedRun) -> None:
        self._trackio = import_module("trackio")
        name = f"{run.name} {run.run_id}"
        self._trackio.init(project=run.project, name=name, config=dict(run.config), resume="allow")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of one step."""
        self._trackio.log(dict(numbers), step=step)

    def end(self, outcome: str) -> None:  # noqa: ARG002 # there is no place for it
        """Return once all is stored."""
        self._trackio.finish()


TRACKERS: Mapping[str, Callable[[TrackedRun], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}
