"""The form that starts a run, by method: what it asks for, what it refuses and where, and what it makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from run_builders import freeze, make_model, make_project, rank
from sqlalchemy import func, select, text
from training_world import Scene, make_scene, run_of

from app.db import transaction
from app.models import ModelVersion, Project, Run, Task, User
from app.services.training import run_options, run_states, runs, workers


@pytest.fixture
def scene(redis_url: str, make_user: Any, sign_in: Any, tmp_path: Path) -> Scene:
    return make_scene(make_user("admin"), sign_in, tmp_path)


def count_runs() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Run)) or 0


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
