"""Pages of models: base models brought in by hand, and the one policy that is promoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_builders import fake_model_folder, make_model
from sqlalchemy import func, select
from training_world import Scene, make_scene

from app.db import transaction
from app.models import AuditEvent, ModelVersion


@pytest.fixture
def scene(redis_url: str, make_user: Any, sign_in: Any, tmp_path: Path) -> Scene:
    return make_scene(make_user("admin"), sign_in, tmp_path)


def test_a_base_model_is_registered_from_a_folder_or_the_hub(scene: Scene, tmp_path: Path) -> None:
    path = f"/projects/{scene.project.id}/models"
    folder = fake_model_folder(tmp_path / "second")
    first = scene.admin.post_form(path, {"name": "second", "uri": folder})
    again = scene.admin.post_form(path, {"name": "second", "uri": folder})
    assert first.status_code == again.status_code == 303
    assert first.headers["location"] == again.headers["location"]
    assert folder in scene.admin.get(first.headers["location"]).text
    assert scene.admin.post_form(path, {"name": "hub", "uri": "org/name-1B"}).status_code == 303
    taken = scene.admin.post_form(path, {"name": "second", "uri": "org/name-1B"})
    assert taken.status_code == 409
    assert "choose another name" in taken.text


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("folder", "does not exist"),
        ("config.json", "no config.json"),
        ("model.safetensors", "no safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(scene: Scene, tmp_path: Path, missing: str, sentence: str) -> None:
    folder = Path(fake_model_folder(tmp_path / "broken"))
    if missing != "folder":
        (folder / missing).unlink()
    uri = str(folder) if missing != "folder" else str(tmp_path / "not there")
    answer = scene.admin.post_form(f"/projects/{scene.project.id}/models", {"name": "broken", "uri": uri})
    assert answer.status_code == 422
    assert sentence in answer.text
    assert 'value="broken"' in answer.text


def test_one_policy_is_promoted_at_a_time(scene: Scene, make_user: Any) -> None:
    with transaction() as session:
        second = make_model(session, scene.project, make_user("admin"), scene.model.uri, "second")
    for model in (scene.model, second, second):
        assert scene.admin.post_form(f"/models/{model.id}/promote").status_code == 303
    with transaction() as session:
        states = {row.name: row.state for row in session.scalars(select(ModelVersion))}
        promotions = session.scalar(select(func.count()).where(AuditEvent.action == "model.promoted"))
    assert states == {"base": "retired", "second": "promoted"}
    assert promotions == 2


def test_a_reward_model_or_one_with_changed_files_is_not_promoted(scene: Scene, make_user: Any) -> None:
    with transaction() as session:
        reward = make_model(session, scene.project, make_user("admin"), scene.model.uri, "reward-1", kind="reward")
        gone = make_model(session, scene.project, make_user("admin"), "/nowhere", "gone")
        changed = make_model(
            session, scene.project, make_user("admin"), scene.model.uri, "changed", manifest_sha256="ab" * 32
        )
    for model, words in ((reward, "Only a policy"), (gone, "does not exist"), (changed, "cannot be trusted")):
        answer = scene.admin.post_form(f"/models/{model.id}/promote")
        assert answer.status_code == 422
        assert words in answer.text
    with transaction() as session:
        assert session.scalar(select(func.count()).where(ModelVersion.state == "promoted")) == 0
