"""What worker tests share: a world to train in, a supervisor in a thread, and waiting for rows and files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

from app.db import transaction
from app.models import ModelVersion, Project, Run, Snapshot, User
from app.services.training import runs
from app.worker.supervise import TRAINER, supervise


@dataclass(frozen=True)
class World:
    """A project with answers, a base model and a snapshot."""

    project: Project
    admin: User
    model: ModelVersion
    snapshot: Snapshot

    def queue_sft(self, *, steps: int = 6, **settings: Any) -> UUID:
        """Queue a short supervised run and return its id."""
        options = {"optim": {"batch_size": 2, "max_steps": steps, "epochs": 1000.0, "learning_rate": 1e-3}}
        keys = {"checkpoint_steps": 2, "max_length": 128, "precision": "float32", **settings}
        with transaction() as session:
            return runs.create_training_run(
                session,
                self.project,
                "sft",
                self.admin,
                model=self.model,
                snapshot=self.snapshot,
                options=options,
                **keys,
            ).id


def stored(run_id: UUID) -> Run:
    with transaction() as session:
        return session.get_one(Run, run_id)


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a row or a file says so: they send no event that could be waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.05)


class Supervision(Thread):
    """`supervise` in a thread, as the solo worker runs it in its own."""

    def __init__(self, run_id: UUID, trainer: tuple[str, ...] = TRAINER) -> None:
        super().__init__()
        self.run_id = run_id
        self.drain = Event()
        self.trainer = trainer
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            supervise(self.run_id, "test-worker", self.drain, self.trainer)
        except BaseException as error:  # noqa: BLE001 # handed to the test by `end`
            self.error = error

    def end(self, seconds: float = 90.0) -> Run:
        """Wait for the end, raise what went wrong, and return the stored run."""
        self.join(seconds)
        assert not self.is_alive(), "the supervisor did not end"
        if self.error is not None:
            raise self.error
        return stored(self.run_id)


def child_pid(run_dir: Path) -> int:
    """Process id of the trainer that works in a run directory."""
    wait_for("the trainer's process id", lambda: (run_dir / "lock").exists() and (run_dir / "lock").read_text() != "")
    return int((run_dir / "lock").read_text().split()[0])
