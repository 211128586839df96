"""Two projects with something of everything, and calls of the REST API with the tokens of the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from browsers import Browser
from run_builders import (
    fake_model_folder,
    fill_project,
    freeze,
    make_model,
    make_project,
    make_user,
    queue_training_run,
)

from app.db import transaction
from app.services.accounts import tokens

Call = Callable[..., Any]


@dataclass(frozen=True)
class Scene:
    """A project with something of everything, another one, and a token that may do all in the first."""

    project_id: UUID
    other_id: UUID
    token: str
    everything: str
    reader: str


def make_scene(tmp_path: Path) -> Scene:
    with transaction() as session:
        admin = make_user(session)
        ada = make_user(session, "ada@example.org", "labeler")
        made = []
        for name in ("Kindness", "Honesty"):
            project = make_project(session, admin, name)
            model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
            make_model(session, project, admin, model.uri, "tuned")
            make_model(session, project, admin, model.uri, "judge", kind="reward")
            fill_project(session, project, [ada, admin], [f"Is it {n}?" for n in range(5)])
            made.append((project, model))
    with transaction() as session:
        for project, model in made:
            for _ in range(2):
                queue_training_run(session, project, admin, model, freeze(session, project, admin))
        project, other = made[0][0], made[1][0]
        scopes = list(tokens.SCOPES)
        _, token = tokens.create(session, admin, name="all", scopes=scopes, project_id=project.id, days=1)
        _, everything = tokens.create(session, admin, name="every", scopes=scopes, project_id=None, days=1)
        _, reader = tokens.create(session, admin, name="read", scopes=["export:read"], project_id=project.id, days=1)
    return Scene(project.id, other.id, token, everything, reader)


def caller(client: Browser, scene: Scene) -> Call:
    """`call("GET", "/projects", json=…, key=…)` with the token of the scene's project."""

    def request(method: str, path: str, *, token: str = "", key: str | None = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {token or scene.token}"} | options.pop("headers", {})
        if key is not None:
            headers["Idempotency-Key"] = key
        return client.request(method, f"/api/v1{path}", headers=headers, **options)

    return request


def items(call: Call, path: str, **query: Any) -> list[dict[str, Any]]:
    answer = call("GET", path, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])
