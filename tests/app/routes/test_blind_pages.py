"""Pages of blind evaluations, and that a labeler's page of a blind task is the page of any other task."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browsers import MakeUser, SignIn
from evaluation_world import Scene, begin, judge_next, make_scene
from run_builders import make_task
from sqlalchemy import select, update

from app import db
from app.models import Assignment, BlindEvaluation, Project, Prompt, Task


@pytest.fixture
def scene(database: str, redis_url: str) -> Scene:
    return make_scene(questions=60)


def form(scene: Scene, **fields: str) -> dict[str, str]:
    return {"pair": f"{scene.run.id}:{scene.new.id}:{scene.old.id}", "overlap": "2", **fields}


def test_an_admin_opens_a_blind_evaluation_once_and_sees_how_it_goes(
    scene: Scene, make_user: MakeUser, sign_in: SignIn
) -> None:
    admin, path = sign_in(scene.admin), f"/projects/{scene.project.id}/blind"
    page = admin.get(path)
    assert "No blind evaluation yet" in page.text
    assert "new against old" in page.text
    refused = admin.post_form(path, form(scene, overlap="17"))
    assert refused.status_code == 422
    assert 'id="overlap-error"' in refused.text
    first, second = (admin.post_form(path, form(scene)) for _ in range(2))
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    clash = admin.post_form(path, form(scene, overlap="3"))
    assert clash.status_code == 409
    assert "another number of labelers" in clash.text
    address = first.headers["location"].partition("?")[0]
    assert "nothing is known yet" in admin.get(address).text
    for _ in range(3):
        for labeler in scene.labelers:
            judge_next(scene.project, labeler, lambda texts, _: "new")
    shown = admin.get(address).text
    assert "3 of " in shown
    assert "course-band" in shown
    assert "Win rate over the prompts judged: after 3 prompts 100%" in shown
    reviewer = sign_in(make_user("reviewer"))
    assert reviewer.get(address).status_code == 200
    assert "Stop now" not in reviewer.get(address).text
    assert reviewer.post_form(f"{address}/stop").status_code == 403
    assert "The evaluation is stopped" in admin.get(admin.post_form(f"{address}/stop").headers["location"]).text
    assert "Labelers do not tell the two apart. An admin stopped it." in admin.get(address).text
    assert "undecided" in admin.get(path).text
    with db.transaction() as session:
        assert session.scalars(select(BlindEvaluation.state)).all() == ["stopped"]


def bare(page: str) -> str:
    """Return a page without what differs between any two tasks: ids, times, the prompt, the answers."""
    page = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", page)
    page = re.sub(r"(old|new) says \d+\.|Question \d+\?", "TEXT", page)
    return re.sub(r"\d+", "N", page)


def test_a_blind_task_looks_like_any_other_to_its_labeler(database: str, redis_url: str, sign_in: SignIn) -> None:
    scene = make_scene(questions=40, k=2)
    evaluation = begin(scene)
    with db.transaction() as session:
        prompt = session.scalars(select(Prompt).where(Prompt.split == "train").limit(1)).one()
        make_task(session, prompt, ["old says 1.", "new says 1."])
    pages: dict[str, Any] = {}
    # One page of each sort, for a labeler each: the share decides which comes first.
    for share, person in zip((100, 1), scene.labelers, strict=True):
        labeler = sign_in(person)
        with db.transaction() as session:
            session.execute(update(Project).values(blind_percent=share))
            if share == 1:
                session.execute(update(Task).where(Task.evaluation_id.is_not(None)).values(state="closed"))
        answer = labeler.post_form(f"/work/{scene.project.id}/next", {"kind": "ranking"})
        address = answer.headers["location"].partition("?")[0]
        with db.transaction() as session:
            assignment = session.get_one(Assignment, address.rsplit("/", 1)[1])
            purpose = session.get_one(Task, assignment.task_id).purpose
        page = labeler.get(address).text
        for word in ("evaluation", "blind", "policy", *map(str, (evaluation.id, scene.new.id, scene.old.id))):
            assert word not in page.lower(), word
        pages[purpose] = bare(page.replace(labeler.csrf_token, "TOKEN"))
    assert pages.keys() == {"evaluation", "collect"}
    assert pages["evaluation"] == pages["collect"]
