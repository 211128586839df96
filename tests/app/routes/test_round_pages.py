"""What a project's page says about its rounds, and the button that lets a reward model order the queue."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pipeline_world import Loop, make_loop, play_round
from sqlalchemy import func, select

from app.db import transaction
from app.models import Project, Run


@dataclass(frozen=True)
class Scene:
    """A signed-in admin and reviewer, and a project whose rounds are ended by hand."""

    loop: Loop
    admin: Any
    reviewer: Any

    @property
    def base(self) -> str:
        return f"/projects/{self.loop.project.id}"

    def asks_first(self, queue_order: str) -> None:
        with transaction() as session:
            session.get_one(Project, self.loop.project.id).queue_order = queue_order

    def form_id(self) -> str:
        form = self.admin.get(self.base).text.split(f'action="{self.base}/order-queue"')[1]
        found = re.search(r'name="form_id" value="([^"]+)"', form)
        assert found
        return found[1]


@pytest.fixture
def scene(redis_url: str, make_user: Any, sign_in: Any, tmp_path: Path) -> Scene:
    loop = make_loop(tmp_path / "models")
    return Scene(loop, sign_in(loop.admin), sign_in(make_user("reviewer")))


def test_the_project_page_tells_when_rounds_stop_teaching_and_is_silent_while_they_teach(scene: Scene) -> None:
    for win_rate in (0.7, 0.65):
        play_round(scene.loop, win_rate)
    assert "notice-warning" not in scene.reviewer.get(scene.base).text
    play_round(scene.loop, 0.45)
    page = scene.reviewer.get(scene.base).text
    notice = page.split("notice-warning")[1].split("</div>")[0]
    assert "Round 3 taught less than the ones before" in notice
    assert "the new policy wins 45%, interval 35% to 55%, so it is not shown to be better." in notice
    assert f'href="{scene.base}/rounds"' in notice


def test_the_queue_is_put_in_order_by_hand_once_for_two_clicks(scene: Scene) -> None:
    assert "Order of the queue" not in scene.admin.get(scene.base).text, "there is no reward model yet"
    play_round(scene.loop, 0.7)
    page = scene.admin.get(scene.base).text
    assert "order-queue" not in page
    assert f'href="{scene.base}/settings#queue_order"' in page, "tasks go out as they came: choose an order first"

    scene.asks_first("margin")
    wish = {"form_id": scene.form_id()}
    assert "Asked first: where the reward model sees little difference, by reward-1" in scene.admin.get(scene.base).text
    first, second = (scene.admin.post_form(f"{scene.base}/order-queue", wish) for _ in "ab")
    assert first.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    with transaction() as session:
        run = session.scalars(select(Run).where(Run.method == "score")).one()
        assert run.inputs["policy"] == "margin"
        assert len(run.inputs["tasks"]) > 1
    assert first.headers["location"] == f"/runs/{run.id}"
    assert "order-queue" not in scene.reviewer.get(scene.base).text
    assert scene.reviewer.post_form(f"{scene.base}/order-queue", wish).status_code == 403


def test_an_order_that_the_reward_model_cannot_give_is_refused_in_a_sentence(scene: Scene) -> None:
    scene.asks_first("uncertainty")
    none = scene.admin.post_form(f"{scene.base}/order-queue", {"form_id": "a"})
    assert none.status_code == 422
    assert "The project has no reward model that could put tasks in order; train one first." in none.text
    play_round(scene.loop, 0.7)
    scene.asks_first("arrival")
    refused = scene.admin.post_form(f"{scene.base}/order-queue", {"form_id": "a"})
    assert refused.status_code == 422
    assert "choose another order in its settings" in refused.text
    assert scene.admin.post_form(f"{scene.base}/order-queue", {}).status_code == 422
    scene.asks_first("random")
    assert scene.admin.post_form(f"{scene.base}/order-queue", {"form_id": "a"}).status_code == 303
    with transaction() as session:
        assert session.scalar(select(func.count()).where(Run.method == "score")) == 1
