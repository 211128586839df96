"""Writes of the REST API that come twice or cross: one change for a key, and an edit says what it is an edit of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from browsers import Browser
from fastapi import FastAPI
from resource_world import Call, Scene, caller, items, make_scene
from sqlalchemy import func, select, update

from app.db import transaction
from app.models import Completion, IdempotencyKey, Project, Task
from app.services.api import repeats


@pytest.fixture
def scene(database: str, redis_url: str, tmp_path: Path) -> Scene:
    return make_scene(tmp_path)


@pytest.fixture
def call(scene: Scene, client: Browser) -> Call:
    return caller(client, scene)


def test_the_same_request_with_the_same_key_is_done_once(scene: Scene, call: Call) -> None:
    path = f"/projects/{scene.project_id}/prompts"
    body = {"prompts": [{"messages": [{"role": "user", "content": "Once?"}], "completions": [{"text": "Yes."}]}]}
    first = call("POST", path, json=body, key="k-1")
    again = call("POST", path, json=body, key="k-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    with transaction() as session:
        assert session.scalar(select(func.count()).where(Completion.text == "Yes.")) == 1
    # Without a key it is another request, with another key too; another token has keys of its own.
    assert call("POST", path, json=body).json() != first.json()
    assert call("POST", path, json=body, key="k-2").json() != first.json()
    assert call("POST", path, json=body, key="k-1", token=scene.everything).json() != first.json()
    changed = call("POST", path, json={"prompts": [{"messages": [{"role": "user", "content": "Twice?"}]}]}, key="k-1")
    assert changed.status_code == 422
    assert "used for another request" in changed.json()["detail"]
    assert (
        call("POST", f"/projects/{scene.project_id}/tasks/open", json={"kind": "ranking"}, key="k-1").status_code == 422
    )
    for bad in ("", "with space", "x" * 201):
        assert call("POST", path, json=body, key=bad).status_code == 422


def test_a_replay_keeps_its_headers_and_a_refused_request_leaves_its_key_free(scene: Scene, call: Call) -> None:
    prompt = items(call, f"/projects/{scene.project_id}/prompts")[0]["id"]
    path = f"/prompts/{prompt}/completions"
    assert call("POST", path, json={"text": ""}, key="k").status_code == 422
    first, again = (call("POST", path, json={"text": "So."}, key="k") for _ in "ab")
    assert first.status_code == again.status_code == 201
    assert first.headers["location"] == again.headers["location"]
    with transaction() as session:
        session.execute(update(IdempotencyKey).values(expires_at=func.clock_timestamp()))
    later = call("POST", path, json={"text": "So."}, key="k")
    assert later.json()["id"] != first.json()["id"]
    with transaction() as session:
        session.execute(update(IdempotencyKey).values(expires_at=func.clock_timestamp()))
        repeats.forget_old(session)
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 0


def test_one_key_sent_many_times_at_once_is_one_change(scene: Scene, app: FastAPI) -> None:
    body = {"prompts": [{"messages": [{"role": "user", "content": "At once?"}], "completions": [{"text": "Now."}]}]}
    together = Barrier(6)

    def send(_: int) -> Any:
        with Browser(app) as browser:
            together.wait()
            return browser.post(
                f"/api/v1/projects/{scene.project_id}/prompts",
                json=body,
                headers={"Authorization": f"Bearer {scene.token}", "Idempotency-Key": "same"},
            )

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    done = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in done}) == 1
    with transaction() as session:
        assert session.scalar(select(func.count()).where(Completion.text == "Now.")) == 1


def test_an_edit_says_what_it_is_an_edit_of(scene: Scene, call: Call) -> None:
    task = items(call, f"/projects/{scene.project_id}/tasks", kind="ranking")[0]
    path = f"/tasks/{task['id']}"
    read = call("GET", path).headers["etag"]
    assert call("PATCH", path, json={"priority": 5}).status_code == 428
    assert call("PATCH", path, json={"priority": 5}, headers={"If-Match": '"other"'}).status_code == 412
    assert call("PATCH", path, json={"priority": 5}, headers={"If-Match": f"W/{read}"}).status_code == 412
    changed = call("PATCH", path, json={"priority": 5}, headers={"If-Match": f'"other", {read}'})
    assert (changed.status_code, changed.json()["priority"]) == (200, 5)
    assert changed.headers["etag"] == call("GET", path).headers["etag"] != read
    assert call("PATCH", path, json={"state": "closed"}, headers={"If-Match": read}).status_code == 412
    closed = call("PATCH", path, json={"state": "closed"}, headers={"If-Match": "*"})
    assert closed.json()["state"] == "closed"
    for body in ({}, {"priority": 1001}, {"overlap": 0}, {"state": "draft"}, {"done": 3}, {"purpose": "gold"}):
        assert call("PATCH", path, json=body, headers={"If-Match": "*"}).status_code == 422, body
    project = f"/projects/{scene.project_id}"
    etag = call("GET", project).headers["etag"]
    assert call("PATCH", project, json={"state": "paused"}, headers={"If-Match": etag}).json()["state"] == "paused"
    assert call("PATCH", project, json={"state": "open"}, headers={"If-Match": etag}).status_code == 412
    with transaction() as session:
        assert session.get_one(Project, scene.project_id).state == "paused"
        assert session.get_one(Task, UUID(task["id"])).priority == 5
