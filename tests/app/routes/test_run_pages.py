"""Pages of runs, as an admin and a reviewer see them: progress, curves, costs, samples, plots, and how one ended."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from run_builders import make_model, make_project
from sqlalchemy import text
from training_world import Scene, claimed, make_scene, run_of

from app.db import transaction
from app.models import ModelVersion, Run, User
from app.services.training import run_states
from app.services.training.run_states import Beat
from app.settings import get_settings


@pytest.fixture
def scene(redis_url: str, make_user: Any, sign_in: Any, tmp_path: Path) -> Scene:
    return make_scene(make_user("admin"), sign_in, tmp_path)


def test_the_page_asks_for_news_only_while_the_run_lives(scene: Scene) -> None:
    run = run_of(scene.start())
    lease = claimed(run)
    with transaction() as session:
        metrics = {step: {"loss": 3.0 / step, "time": 1000.0 + step, "total_steps": 20} for step in range(1, 11)}
        run_states.heartbeat(session, lease, 60, Beat(step=10, total=20, log_tail="<b>hello</b>", metrics=metrics))
    whole = scene.admin.get(f"/runs/{run.id}")
    assert "Step 10 of 20, about 10 s left" in whole.text
    assert "&lt;b&gt;hello&lt;/b&gt;" in whole.text
    assert "<polyline" in whole.text
    assert " style=" not in whole.text
    live = scene.admin.get(f"/runs/{run.id}/live", headers={"HX-Request": "true"})
    assert "<html" not in live.text
    assert f'hx-get="/runs/{run.id}/live" hx-trigger="every 2s"' in live.text
    with transaction() as session:
        run_states.finish(session, lease, {"summary": {"headline": "All good.", "held_out_loss": 1.25}})
    ended = scene.admin.get(f"/runs/{run.id}/live")
    assert "hx-trigger" not in ended.text
    assert "All good." in ended.text
    assert "1.25" in ended.text


def at_work(scene: Scene, method: str = "sft", **fields: Any) -> Run:
    run = run_of(scene.start(method, **fields))
    lease = claimed(run)
    with transaction() as session:
        metrics = {step: {"loss": 3.0 / step, "time": 1000.0 + step, "grad_norm": 1.0} for step in range(1, 11)}
        run_states.heartbeat(session, lease, 60, Beat(step=10, total=20, metrics=metrics))
    return run


def test_curves_of_other_runs_are_laid_over_these_and_stay_fresh(scene: Scene, make_user: Any) -> None:
    first, second, third = at_work(scene), at_work(scene, seed="8"), at_work(scene, seed="9")
    with transaction() as session:
        session.execute(text("UPDATE runs SET name = 'Run ' || (config->>'seed')"))
    alone = scene.admin.get(f"/runs/{first.id}/curves").text
    assert alone.count("<polyline") == 2  # loss and gradient norm
    assert alone.count('type="checkbox"') == 2
    path = f"/runs/{first.id}/curves?x=time&with={second.id}&with={third.id}&with={first.id}"
    page = scene.admin.get(path).text
    assert page.count("<polyline") == 6
    assert page.count(" checked") == 2
    assert f'<strong>B</strong> <a href="/runs/{second.id}">Run 8</a>' in page
    assert page.count('<span class="legend-name">B</span>') == 2
    assert "<span>0 s</span>" in page
    [fragment] = re.findall(r'hx-get="([^"]+)"', page)
    live = scene.admin.get(fragment.replace("&amp;", "&"))
    assert live.text.count("<polyline") == 6
    assert "<html" not in live.text
    with transaction() as session:
        session.execute(
            text("UPDATE runs SET state = 'succeeded', lease_until = NULL, finished_at = clock_timestamp()")
        )
    assert "hx-get" not in scene.admin.get(path).text

    with transaction() as session:
        other = make_project(session, make_user("admin"), "Other")
        session.execute(text("UPDATE runs SET project_id = :id WHERE id = :run"), {"id": other.id, "run": third.id})
    assert scene.admin.get(path).status_code == 404
    many = "&".join(f"with={uuid4()}" for _ in range(5))
    refused = scene.admin.get(f"/runs/{first.id}/curves?{many}")
    assert (refused.status_code, "Choose at most 4 other runs" in refused.text) == (422, True)
    assert scene.admin.get(f"/runs/{first.id}/curves?x=colour").status_code == 422


def test_costs_stand_on_the_run_and_in_the_list(scene: Scene) -> None:
    run = at_work(scene)
    with transaction() as session:
        session.execute(text("UPDATE run_attempts SET started_at = clock_timestamp() - interval '90 minutes'"))
    assert "1.50 GPU hours" in scene.admin.get(f"/runs/{run.id}").text
    listed = scene.admin.get(f"/projects/{scene.project.id}/runs").text
    assert "In all, 1.50 GPU hours." in listed
    assert '<td class="number muted small">1.50</td>' in listed
    assert '<td class="number muted small">1.50</td>' in scene.admin.get("/runs").text


def test_samples_of_a_run_show_hostile_text_as_text(scene: Scene) -> None:
    with transaction() as session:
        creator = session.get_one(User, session.get_one(ModelVersion, scene.model.id).created_by)
        scorer = make_model(session, scene.project, creator, scene.model.uri, "r", kind="reward", method="reward")
    run = run_of(scene.start("ppo", reward_model_id=str(scorer.id), batch_size="8"))
    path = f"/runs/{run.id}/samples"
    assert "No samples here" in scene.admin.get(path).text
    folder = get_settings().runs_dir / str(run.id)
    folder.mkdir(parents=True)
    row = {
        "iteration": 3,
        "prompt_id": "p1",
        "text": '<script>alert(1)</script><p hx-get="/x">',
        "finish_reason": "length",
    }
    (folder / "rollouts.jsonl").write_text(json.dumps(row | {"tokens": 9, "reward": 0.25, "kl": None}) + "\n")
    page = scene.admin.get(path).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;p hx-get=" in page
    assert "<script>alert" not in page
    assert "reward 0.25, 9 tokens, cut off by the limit" in page
    assert path in scene.admin.get(f"/runs/{run.id}").text
    assert "/samples" not in scene.admin.get(f"/runs/{at_work(scene).id}").text


def test_a_run_that_failed_says_why(scene: Scene) -> None:
    run = run_of(scene.start())
    lease = claimed(run)
    with transaction() as session:
        run_states.fail(session, lease, "data/demonstrations.jsonl has no demonstration.", 2)
    page = scene.admin.get(f"/runs/{run.id}").text
    assert "data/demonstrations.jsonl has no demonstration." in page
    assert "hx-trigger" not in page


def test_a_run_is_cancelled_from_its_page(scene: Scene) -> None:
    run = run_of(scene.start())
    for _ in range(2):
        assert scene.admin.post_form(f"/runs/{run.id}/cancel").status_code == 303
    assert "Cancelled before it started." in scene.admin.get(f"/runs/{run.id}").text
    done = run_of(scene.start())
    lease = claimed(done)
    with transaction() as session:
        run_states.finish(session, lease, None)
    assert scene.admin.post_form(f"/runs/{done.id}/cancel").status_code == 409


def test_without_a_worker_the_page_says_what_is_missing(scene: Scene) -> None:
    run = run_of(scene.start())
    assert "No GPU worker has been seen" in scene.admin.get(f"/runs/{run.id}").text
    with transaction() as session:
        session.execute(text("UPDATE runs SET dispatched_at = NULL"))
    assert "The message broker does not answer" in scene.admin.get(f"/runs/{run.id}").text


def test_a_plot_is_an_image_that_can_run_nothing(scene: Scene) -> None:
    run = run_of(scene.start())
    folder = get_settings().runs_dir / str(run.id) / "plots"
    folder.mkdir(parents=True)
    (folder / "loss.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    for name in ("run.json", "report.json"):
        (folder.parent / name).write_text("{}")
    assert scene.admin.get(f"/runs/{run.id}/plots/loss.svg").status_code == 404  # not before it has succeeded
    lease = claimed(run)
    with transaction() as session:
        run_states.finish(session, lease, {"summary": {}})
    image = scene.admin.get(f"/runs/{run.id}/plots/loss.svg")
    assert image.headers["content-type"] == "image/svg+xml"
    assert image.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    for name in ("..%2Frun.json", "%2e%2e/run.json", "run.json", "loss.svg%00", "other.svg"):
        assert scene.admin.get(f"/runs/{run.id}/plots/{name}").status_code == 404, name
    assert f"/runs/{run.id}/plots/loss.svg" in scene.admin.get(f"/runs/{run.id}").text


def test_reviewers_read_and_labelers_do_not(scene: Scene, make_user: Any, sign_in: Any) -> None:
    run = run_of(scene.start())
    pages = [
        "/runs",
        f"/runs/{run.id}",
        f"/runs/{run.id}/live",
        f"/runs/{run.id}/curves",
        f"/runs/{run.id}/curves/live",
        f"/runs/{run.id}/samples",
        f"/projects/{scene.project.id}/runs",
        f"/projects/{scene.project.id}/snapshots",
        f"/projects/{scene.project.id}/models",
        f"/snapshots/{scene.snapshot.id}",
        f"/models/{scene.model.id}",
    ]
    acts = [scene.new, f"/runs/{run.id}/cancel", f"/models/{scene.model.id}/promote", "/tokens"]
    reviewer, labeler = sign_in(make_user("reviewer")), sign_in(make_user("labeler"))
    for page in pages:
        assert scene.admin.get(page).status_code == 200, page
        assert reviewer.get(page).status_code == 200, page
        assert "/cancel" not in reviewer.get(page).text
        assert labeler.get(page).status_code == 403, page
    for act in acts:
        assert reviewer.post_form(act).status_code == 403, act
        assert scene.admin.post(act).status_code == 403, f"{act} without its token"
