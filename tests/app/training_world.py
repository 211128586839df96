"""A project that is ready to train, and its admin at a browser who starts runs with the form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from browsers import Browser, SignIn
from run_builders import fake_model_folder, fill_project, freeze, make_model, make_project

from app.db import transaction
from app.models import ModelVersion, Project, Run, Snapshot, User
from app.services.training import run_options, run_states
from app.services.training.run_states import Lease


@dataclass(frozen=True)
class Scene:
    """A signed-in admin, a project with answers, a base model and a snapshot."""

    admin: Browser
    project: Project
    model: ModelVersion
    snapshot: Snapshot

    @property
    def new(self) -> str:
        return f"/runs/new?project={self.project.id}"

    def form(self, method: str, **fields: Any) -> dict[str, Any]:
        common = {"seed": "7", "learning_rate": "0.0001", "batch_size": "4", "epochs": "2", "max_length": "256",
            "lora_rank": "8"}  # fmt: skip
        offered = {field.name for field in run_options.fields_of(method)}
        return {
            "form_id": str(uuid4()),
            "model_id": str(self.model.id),
            "snapshot_id": str(self.snapshot.id),
            **{name: value for name, value in common.items() if name in offered},
            **fields,
        }

    def start(self, method: str = "sft", **fields: Any) -> Any:
        return self.admin.post_form(f"{self.new}&method={method}", self.form(method, **fields))


def make_scene(admin: User, sign_in: SignIn, tmp_path: Path) -> Scene:
    with transaction() as session:
        project = make_project(session, admin)
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(10)])
    with transaction() as session:
        snapshot = freeze(session, project, admin)
    return Scene(sign_in(admin), project, model, snapshot)


def run_of(answer: Any) -> Run:
    assert answer.status_code == 303, answer.text
    with transaction() as session:
        return session.get_one(Run, UUID(answer.headers["location"].rsplit("/", 1)[1]))


def claimed(run: Run) -> Lease:
    with transaction() as session:
        lease = run_states.claim(session, run.id, "w1", 60)
    assert lease is not None
    return lease
