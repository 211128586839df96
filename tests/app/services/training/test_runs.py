"""Making sampling runs: which prompts they take, and that later imports do not change them."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_builders import fake_model_folder, make_model, make_project, make_prompts, make_task, make_user
from sqlalchemy import func, select

from app.db import transaction
from app.errors import InvalidInputError
from app.models import ModelVersion, Project, Run, RunEvent, User
from app.services.training import runs

Scene = tuple[Project, ModelVersion, User]
QUESTIONS = [f"Is it {number}?" for number in range(12)]


@pytest.fixture
def scene(database: str, redis_url: str, tmp_path: Path) -> Scene:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        return project, make_model(session, project, admin, fake_model_folder(tmp_path / "model")), admin


def test_a_sampling_run_takes_the_prompts_chosen_in_their_order(scene: Scene) -> None:
    project, model, admin = scene
    with transaction() as session:
        prompts = make_prompts(session, project, QUESTIONS)
        make_task(session, prompts[0], ["Yes.", "No."])
        chosen = {
            choice: runs.create_sampling_run(session, project, model, admin, prompts=choice).inputs["prompts"]
            for choice in runs.PROMPT_CHOICES
        }
    assert chosen["all"] == [str(prompt.id) for prompt in prompts]
    assert chosen["unsampled"] == chosen["all"][1:]
    assert chosen["held_out"] == [str(prompt.id) for prompt in prompts if prompt.split == "held_out"]
    assert 0 < len(chosen["held_out"]) < len(QUESTIONS)


def test_the_configuration_holds_what_was_asked_for(scene: Scene) -> None:
    project, model, admin = scene
    with transaction() as session:
        make_prompts(session, project, QUESTIONS)
        run = runs.create_sampling_run(
            session, project, model, admin, temperature=1.5, max_new_tokens=9, seed=4, max_length=64
        )
    options = run.config["options"]
    assert options["samples_per_prompt"] == project.k
    assert (options["sampling"]["temperature"], options["sampling"]["max_new_tokens"]) == (1.5, 9)
    assert (run.config["seed"], run.config["max_length"], run.config["model"]) == (4, 64, model.uri)


def test_a_run_asks_for_several_gpus_only_where_its_method_can_share_the_work(scene: Scene) -> None:
    project, model, admin = scene
    with transaction() as session:
        make_prompts(session, project, QUESTIONS)
    for gpus, sentence in (
        (2, "Sampling runs on one GPU; only sft, reward, dpo, kto, ppo, rloo can share"),
        (0, "at least one GPU"),
    ):
        with pytest.raises(InvalidInputError, match=sentence), transaction() as session:
            runs.create_sampling_run(session, project, model, admin, gpus=gpus)
    with transaction() as session:
        assert runs.create_sampling_run(session, project, model, admin, gpus=1).gpus == 1


@pytest.mark.parametrize("choice", runs.PROMPT_CHOICES)
def test_without_prompts_there_is_nothing_to_sample(scene: Scene, choice: str) -> None:
    project, model, admin = scene
    with pytest.raises(InvalidInputError, match="no prompt"), transaction() as session:
        runs.create_sampling_run(session, project, model, admin, prompts=choice)
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 0
        assert session.scalar(select(func.count()).select_from(RunEvent)) == 0


def test_a_reward_model_writes_no_answers(scene: Scene) -> None:
    project, model, admin = scene
    with transaction() as session:
        make_prompts(session, project, QUESTIONS)
        scorer = make_model(session, project, admin, model.uri, "reward-1", kind="reward", method="reward")
        with pytest.raises(InvalidInputError, match="choose a policy"):
            runs.create_sampling_run(session, project, scorer, admin)
