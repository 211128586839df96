"""Pages of snapshots: freezing, what is shown of one, its files, and two of them compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_builders import demonstrate, freeze, make_project, make_prompts, make_user, rank
from sqlalchemy import select
from training_world import Scene, make_scene

from app.db import transaction
from app.models import AuditEvent, Task, User
from app.services.accounts import tokens


@pytest.fixture
def scene(redis_url: str, make_user: Any, sign_in: Any, tmp_path: Path) -> Scene:
    return make_scene(make_user("admin"), sign_in, tmp_path)


def test_a_snapshot_of_simulated_demonstrations_alone_can_be_shown(scene: Scene) -> None:
    with transaction() as session:
        admin = session.scalars(select(User).where(User.role == "admin")).first()
        assert admin is not None
        written = make_project(session, admin, "Written only")
        writer = make_user(session, "writer@simulated.example", "labeler", is_simulated=True)
        for prompt in make_prompts(session, written, ["What is tea?", "What is rain?"]):
            demonstrate(session, prompt, writer, "An answer.", is_simulated=True)
    with transaction() as session:
        made = freeze(session, written, admin)
    page = scene.admin.get(f"/snapshots/{made.id}")
    assert page.status_code == 200
    assert "0 of the rankings and 2 of the demonstrations come from simulated labelers." in page.text
    assert scene.admin.get(f"/snapshots/{made.id}/card").status_code == 200


def test_a_snapshot_is_frozen_once_shown_and_downloaded(scene: Scene) -> None:
    path = f"/projects/{scene.project.id}/snapshots"
    again = scene.admin.post_form(path)
    assert again.headers["location"].startswith(f"/snapshots/{scene.snapshot.id}")
    page = scene.admin.get(f"/snapshots/{scene.snapshot.id}")
    assert scene.snapshot.sha256 in page.text
    assert "Snapshot 1" in scene.admin.get(path).text
    file = scene.admin.get(f"/snapshots/{scene.snapshot.id}/files/comparisons.jsonl")
    assert file.content.count(b"\n") == 10
    assert file.headers["content-disposition"].startswith("attachment")
    assert scene.admin.get(f"/snapshots/{scene.snapshot.id}/files/..%2Fx").status_code == 404
    with transaction() as session:
        actions = list(session.scalars(select(AuditEvent.action).where(AuditEvent.object_type == "snapshot")))
    assert actions == ["snapshot.created"]


def test_a_snapshot_has_a_card_and_is_compared_with_another(scene: Scene, make_user: Any, client: Any) -> None:
    base = f"/snapshots/{scene.snapshot.id}"
    card = scene.admin.get(f"{base}/card")
    assert "Before you use it" in card.text
    assert scene.admin.get(f"{base}/files/card.md").content.startswith(b"# Data card")
    with transaction() as session:
        task = session.query(Task).filter_by(kind="ranking").first()
        rank(session, task, session.get_one(User, make_user("labeler").id), [[0], [1], [2]])
    with transaction() as session:
        later = freeze(session, scene.project, session.query(User).filter_by(role="admin").first())
        made_by = session.query(User).filter_by(role="admin").first()
        token = {
            project: tokens.create(session, made_by, name="t", scopes=["export:read"], project_id=project, days=1)[1]
            for project in (scene.project.id, make_project(session, made_by, "Other").id)
        }
    assert str(later.id) in scene.admin.get(base).text
    page = scene.admin.get(f"{base}/difference", params={"other": str(later.id)})
    assert "From snapshot 1 to 2" in page.text
    assert "+1 " in page.text
    path = f"/api/v1/snapshots/{later.id}/difference/{scene.snapshot.id}"
    mine, foreign = ({"Authorization": f"Bearer {text}"} for text in token.values())
    found = client.get(path, headers=mine).json()
    assert (found["older"]["number"], found["comparisons"]["added"]) == (1, 1)
    assert client.get(path, headers=foreign).status_code == 404
    export = f"/api/v1/projects/{scene.project.id}/export"
    lines = [
        len(client.get(export, headers=mine, params={"format": "csv", "snapshot": str(each.id)}).content.splitlines())
        for each in (scene.snapshot, later)
    ]
    assert lines[1] - lines[0] == 3
    strange = client.get(export.replace(str(scene.project.id), str(list(token)[1])), headers=foreign)
    assert strange.status_code == 200
    missing = client.get(strange.request.url.path, headers=foreign, params={"snapshot": str(later.id)})
    assert missing.status_code == 404


def test_freezing_nothing_is_refused(scene: Scene, make_user: Any) -> None:
    with transaction() as session:
        empty = make_project(session, make_user("admin"), "Empty")
    answer = scene.admin.post_form(f"/projects/{empty.id}/snapshots")
    assert answer.status_code == 422
    assert "nothing to freeze" in answer.text
