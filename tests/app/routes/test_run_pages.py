"""Pages of runs, snapshots and models over HTTP, as an admin and a reviewer use them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from run_builders import (
    demonstrate,
    fake_model_folder,
    fill_project,
    freeze,
    make_model,
    make_project,
    make_prompts,
    make_user,
    rank,
)
from sqlalchemy import func, select, text

from app.db import transaction
from app.models import AuditEvent, ModelVersion, Project, Run, Snapshot, Task, User
from app.services.accounts import tokens
from app.services.training import run_options, run_states, runs, workers
from app.services.training.run_states import Beat, Lease
from app.settings import get_settings


@dataclass(frozen=True)
class Scene:
    """A signed-in admin, a project with answers, a base model and a snapshot."""

    admin: Any
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


@pytest.fixture
def scene(redis_url: str, make_user: Any, sign_in: Any, tmp_path: Path) -> Scene:
    admin = make_user("admin")
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


def count_runs() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Run)) or 0


def claimed(run: Run) -> Lease:
    with transaction() as session:
        lease = run_states.claim(session, run.id, "w1", 60)
    assert lease is not None
    return lease


@pytest.mark.parametrize("method", run_options.BY_PEOPLE)
def test_the_form_of_each_method_opens_filled_in(scene: Scene, method: str) -> None:
    page = scene.admin.get(f"{scene.new}&method={method}")
    assert page.status_code == 200
    if method in runs.SCORED_METHODS:
        assert "No reward model yet" in page.text
    else:
        assert re.search(r'name="form_id" value="[0-9a-f-]{36}"', page.text)
        assert {field.name for field in run_options.fields_of(method)} <= set(re.findall(r' name="(\w+)"', page.text))
    assert scene.admin.get(f"{scene.new}&method=sample").status_code == 404


def test_a_run_is_started_with_the_numbers_of_the_form(scene: Scene) -> None:
    run = run_of(scene.start())
    assert run.state == "queued"
    optim = run.config["options"]["optim"]
    assert (optim["learning_rate"], optim["batch_size"], optim["epochs"]) == (0.0001, 4, 2.0)
    assert (run.config["seed"], run.config["max_length"]) == (7, 256)
    assert run.config["lora"]["rank"] == 8
    assert run.config["model"] == scene.model.uri
    assert run.config["run_id"] == str(run.id)


def test_rank_zero_trains_every_weight_and_advanced_options_win(scene: Scene) -> None:
    advanced = '{"optim": {"epochs": 5, "warmup_fraction": 0.2}, "beta": 0.3}'
    run = run_of(scene.start("dpo", lora_rank="0", beta="0.1", advanced=advanced))
    assert run.config["lora"] is None
    assert run.config["options"]["beta"] == 0.3
    optim = run.config["options"]["optim"]
    assert (optim["epochs"], optim["warmup_fraction"], optim["batch_size"]) == (5.0, 0.2, 4)


def test_a_run_asks_for_gpus_and_waits_for_a_worker_that_offers_as_many(scene: Scene) -> None:
    assert 'name="gpus"' in scene.admin.get(f"{scene.new}&method=sft").text
    assert 'name="gpus"' not in scene.admin.get(f"{scene.new}&method=evaluate").text, "it cannot share its work"
    run = run_of(scene.start(gpus="4"))
    assert run.gpus == 4
    with transaction() as session:
        assert run_states.claim(session, run.id, "small", 60, gpus=2) is None
        workers.seen(session, "small")
    assert "The run asks for 4 GPUs, and no worker" in scene.admin.get(f"/runs/{run.id}").text
    with transaction() as session:
        assert run_states.claim(session, run.id, "large", 60, gpus=4) is not None
    assert run_of(scene.start()).gpus == 1
    for gpus in ("0", "many"):
        assert scene.start(gpus=gpus).status_code == 422


def test_a_model_is_shared_among_the_gpus_that_a_run_asks_for(scene: Scene) -> None:
    alone = scene.start(shard="yes", lora_rank="0")
    assert alone.status_code == 422
    assert "Sharding spreads a model over the GPUs of a run, and this run asks for one" in alone.text
    assert run_of(scene.start(shard="yes", lora_rank="0", gpus="2")).config["options"]["optim"]["shard"] is True
    assert "Sharding is for training every weight and does not go with" in scene.start(shard="yes", gpus="2").text


def test_a_second_click_starts_no_second_run(scene: Scene) -> None:
    form_id = str(uuid4())
    first, second = (run_of(scene.start(form_id=form_id)) for _ in range(2))
    assert first.id == second.id
    assert count_runs() == 1
    other = scene.start(form_id=form_id, seed="8")
    assert other.status_code == 409
    assert "already started another run" in other.text
    assert count_runs() == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"advanced": '{"speed": 9}'}, "options has an unknown key &#39;speed&#39;"),
        ({"advanced": '{"optim": {"schedule": "zigzag"}}'}, 'id="schedule-error">Schedule must be one of constant'),
        ({"learning_rate": "2"}, 'id="learning_rate-error">Learning rate must be between 0 and 1.'),
        ({"schedule": "zigzag"}, 'id="schedule-error">Choose one of the values offered.'),
        ({"warmup_fraction": "1"}, 'id="warmup_fraction-error">Warmup fraction must be in [0, 1).'),
        ({"lora_alpha": "0"}, 'id="lora_alpha-error">LoRA alpha must be above 0.'),
        ({"weight_decay": "nan"}, 'id="weight_decay-error">Enter a number.'),
        ({"advanced": '{"optim": {"weight_decay": 1e999}}'}, "must be finite"),
        ({"advanced": "[1]"}, "not a JSON object"),
        ({"advanced": "{"}, "not a JSON object"),
        ({"advanced": "[" * 15000}, "not a JSON object"),
        ({"learning_rate": "fast"}, "Enter a number."),
        ({"batch_size": "0"}, 'id="batch_size-error">Prompts a step must be at least 1.'),
        ({"model_id": "x"}, "Choose one of the entries offered."),
        ({"seed": "-1"}, 'id="seed-error">Seed must be from 0 to 2147483647.'),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place_and_kept(
    scene: Scene, fields: dict[str, str], sentence: str
) -> None:
    answer = scene.start(**fields)
    assert answer.status_code == 422
    assert sentence in answer.text
    assert 'value="256"' in answer.text, "what was typed is lost"
    assert count_runs() == 0


def test_the_options_of_each_method_go_into_its_configuration(scene: Scene, make_user: Any) -> None:
    asked: dict[str, dict[str, str]] = {
        "sft": {"turns": "all", "precision": "float32"},
        "reward": {"loss": "davidson", "heads": "4"},
        "dpo": {"loss": "ipo", "length_normalised": "yes", "nll_weight": "0.2", "max_steps": ""},
        "kto": {"beta": "0.3", "schedule": "constant"},
    }
    with transaction() as session:
        admin, second = make_user("admin"), make_user("labeler")
        for task in session.scalars(select(Task).where(Task.kind == "ranking")).all():
            rank(session, task, second, [[0], [1], [2]], acceptable=1)
    with transaction() as session:
        lined = freeze(session, scene.project, admin)
    found = {
        method: run_of(scene.start(method, snapshot_id=str(lined.id), **fields)).config
        for method, fields in asked.items()
    }
    assert (found["sft"]["options"]["turns"], found["sft"]["precision"]) == ("all", "float32")
    assert (found["reward"]["options"]["loss"], found["reward"]["options"]["heads"]) == ("davidson", 4)
    dpo = found["dpo"]["options"]
    assert (dpo["loss"], dpo["length_normalised"], dpo["nll_weight"]) == ("ipo", True, 0.2)
    assert dpo["optim"]["max_steps"] is None
    assert (found["kto"]["options"]["beta"], found["kto"]["options"]["optim"]["schedule"]) == (0.3, "constant")
    assert found["kto"]["lora"] == {"rank": 8, "alpha": 16.0, "targets": ["all-linear"]}


def test_kto_asks_for_rankings_with_a_line(scene: Scene) -> None:
    answer = scene.start("kto")
    assert answer.status_code == 422
    assert "no ranking says which answers are acceptable" in answer.text
    assert count_runs() == 0


def test_options_that_exclude_each_other_are_refused_by_the_names_of_the_form(scene: Scene) -> None:
    answer = scene.start("reward", loss="plackett_luce", margin="0.5")
    assert answer.status_code == 422
    assert 'id="margin-error">Margin goes with loss pairs only.' in answer.text
    unknown = scene.start(colour="red")
    assert unknown.status_code == 422
    assert "a field that this page does not have" in unknown.text


def test_a_missing_model_folder_is_refused_with_a_sentence(scene: Scene) -> None:
    with transaction() as session:
        session.execute(text("UPDATE model_versions SET uri = '/nowhere/model'"))
    answer = scene.start()
    assert answer.status_code == 422
    assert "The model folder /nowhere/model does not exist" in answer.text
    assert count_runs() == 0


def test_a_model_of_another_project_is_not_found(scene: Scene, make_user: Any) -> None:
    with transaction() as session:
        other = make_project(session, make_user("admin"), "Other")
        foreign = make_model(session, other, make_user("admin"), scene.model.uri)
    assert scene.start(model_id=str(foreign.id)).status_code == 404
    assert scene.start(model_id=str(uuid4())).status_code == 404


def test_ppo_asks_for_a_reward_model_and_takes_no_policy_for_it(scene: Scene) -> None:
    ppo = {"iterations": "3", "kl_coefficient": "0.1", "max_new_tokens": "32"}
    for wrong in ({}, {"reward_model_id": str(scene.model.id)}):
        with transaction() as session:
            project = session.get_one(Project, scene.project.id)
            creator = session.get_one(ModelVersion, scene.model.id).created_by
            found = session.scalars(select(ModelVersion).where(ModelVersion.kind == "reward")).first()
            if found is None:
                found = make_model(
                    session, project, session.get_one(User, creator), scene.model.uri, "reward-1",
                    kind="reward", method="reward",
                )  # fmt: skip
        answer = scene.start("ppo", **ppo, **wrong)
        assert answer.status_code == 422
        assert "reward model" in answer.text
    run = run_of(scene.start("ppo", **ppo, reward_model_id=str(found.id)))
    assert run.config["options"]["reward_model"] == found.uri
    assert run.config["options"]["sampling"]["temperature"] == 1.0
    assert run.inputs == {"reward_model": str(found.id)}


def test_an_evaluation_judges_the_ticked_policies(scene: Scene, make_user: Any) -> None:
    with transaction() as session:
        other = make_model(session, scene.project, make_user("admin"), scene.model.uri, "dpo-1", method="dpo")
    form = {"samples_per_prompt": "1", "temperature": "0.7", "max_new_tokens": "16", "policies": [str(other.id)]}
    run = run_of(scene.start("evaluate", **form))
    assert run.config["options"]["baseline"] == "base"
    assert [item["name"] for item in run.config["options"]["policies"]] == ["dpo-1"]
    assert run.inputs["policies"] == {"base": str(scene.model.id), "dpo-1": str(other.id)}


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


def test_a_token_is_shown_once_and_can_be_revoked(scene: Scene, client: Any) -> None:
    form = {"name": "nightly job", "scope_export": "yes", "project_id": "", "days": "30"}
    page = scene.admin.post_form("/tokens", form)
    secret = re.search(r"pkt_[0-9a-f]{16}_[0-9a-f]{64}", page.text)
    assert secret is not None
    listed = scene.admin.get("/tokens").text
    assert secret[0] not in listed
    assert "nightly job" in listed
    headers = {"Authorization": f"Bearer {secret[0]}"}
    assert client.get("/api/v1/projects", headers=headers).status_code == 200
    revoke = re.search(r"/tokens/[0-9a-f-]{36}/revoke", listed)
    assert revoke is not None
    assert scene.admin.post_form(revoke[0]).status_code == 303
    assert client.get("/api/v1/projects", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "fields", [{"scope_export": ""}, {"days": "366"}, {"days": "0"}, {"name": ""}, {"project_id": str(uuid4())}]
)
def test_a_token_without_scope_end_or_name_is_not_made(scene: Scene, fields: dict[str, str]) -> None:
    form = {"name": "job", "scope_export": "yes", "project_id": "", "days": "30"} | fields
    page = scene.admin.post_form("/tokens", {key: value for key, value in form.items() if value or key == "project_id"})
    assert page.status_code in (404, 422)
    assert "pkt_" not in page.text.replace("pkt_…", "")


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
