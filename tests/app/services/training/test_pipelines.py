"""Pipelines: stages one after the other, what stops them, retry, cancel, and two ticks at once."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pipeline_world import FULL, SHORT, Loop, by_name, make_loop, pipeline, stages, states
from run_builders import fake_model_folder, make_model
from sqlalchemy import func, select, text

from app.db import transaction
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import AuditEvent, GateVerdict, Job, ModelVersion, PipelineStage, Project, Run, Snapshot, Task
from app.services.training import pipelines, recipes, registry, run_states
from app.settings import get_settings
from app.worker import rounds

GOOD = {
    "held_out_accuracy": 0.7,
    "policies": {"dpo-1": {"win_rate": 0.6, "win_rate_interval": [0.53, 0.67], "kl": 3.0}},
}


@pytest.fixture
def loop(database: str, redis_url: str, tmp_path: Path) -> Loop:
    return make_loop(tmp_path / "models")


def up_to_the_gate(loop: Loop, recipe: dict[str, Any] = FULL, summary: dict[str, Any] = GOOD) -> UUID:
    """A pipeline whose models are trained and judged, and whose gate has decided."""
    pipeline_id = loop.begin(recipe)
    rounds.look()
    for _ in ("sft", "reward", "dpo"):
        loop.end_run(pipeline_id)
    loop.end_run(pipeline_id, summary)
    return pipeline_id


def test_a_round_goes_from_a_snapshot_to_open_tasks(loop: Loop) -> None:
    pipeline_id = up_to_the_gate(loop)
    found = by_name(pipeline_id)
    with transaction() as session:
        snapshot = session.scalars(select(Snapshot)).one()
        models = {model.name: model for model in session.scalars(select(ModelVersion))}
        reward_run, dpo_run = (session.get_one(Run, found[name].run_id) for name in ("judge", "policy"))
        exam = session.get_one(Run, found["exam"].run_id)
    assert found["data"].detail == {"snapshot_id": str(snapshot.id)}
    assert reward_run.parent_model_id == dpo_run.parent_model_id == models["sft-1"].id
    assert exam.inputs == {
        "policies": {"sft-1": str(models["sft-1"].id), "dpo-1": str(models["dpo-1"].id)},
        "reward_model": str(models["reward-1"].id),
    }
    with transaction() as session:
        verdict = session.scalars(select(GateVerdict)).one()
    assert found["gate"].detail == {
        "model_id": str(models["dpo-1"].id),
        "passed": True,
        "unmet": {"dpo-1": []},
        "verdicts": {"dpo-1": str(verdict.id)},
        "promoted": True,
    }
    assert models["dpo-1"].state == "promoted"
    assert found["answers"].state == "running"

    sample_run = loop.end_run(pipeline_id)
    assert states(pipeline_id) == ["succeeded"] * 8
    assert (pipeline(pipeline_id).state, pipeline(pipeline_id).reason) == ("succeeded", None)
    with transaction() as session:
        assert session.get_one(Run, sample_run).parent_model_id == models["dpo-1"].id
        query = select(Task.state, Task.priority, Task.round).where(Task.sampling_run_id == sample_run)
        opened = session.execute(query).all()
    assert opened == [("open", 5, 1)] * 10
    assert by_name(pipeline_id)["tasks"].detail == {"opened": 10}
    rounds.look()
    assert pipeline(pipeline_id).finished_at is not None


@pytest.mark.parametrize(
    ("summary", "unmet"),
    [
        (
            {"policies": {"dpo-1": {"win_rate": 0.6, "win_rate_interval": [0.49, 0.7], "kl": 3.0}}},
            ["The lower bound of the win rate by the reward model is 49 %, below 50 %."],
        ),
        (
            {"policies": {"dpo-1": {"win_rate": 0.6, "win_rate_interval": [0.52, 0.7], "kl": 12.0}}},
            ["The KL to the baseline is 12, above 10."],
        ),
        (
            {"policies": {"dpo-1": {"kl": 3.0}}},
            ["The lower bound of the win rate by the reward model was not measured."],
        ),
    ],
)
def test_a_candidate_that_does_not_pass_stays_one_and_the_better_policy_answers(
    loop: Loop, summary: dict[str, Any], unmet: list[str]
) -> None:
    pipeline_id = up_to_the_gate(loop, summary=summary)
    gate = by_name(pipeline_id)["gate"]
    with transaction() as session:
        models = {model.name: model for model in session.scalars(select(ModelVersion))}
        sampled = session.get_one(Run, by_name(pipeline_id)["answers"].run_id)
    assert (gate.state, gate.detail["passed"], gate.detail["unmet"]) == ("succeeded", False, {"dpo-1": unmet})
    assert {model.state for model in models.values()} == {"candidate"}
    assert sampled.parent_model_id == models["sft-1"].id


def test_a_gate_promotes_only_where_the_recipe_says_so(loop: Loop) -> None:
    by_hand = copy.deepcopy(FULL)
    del by_hand["stages"][5]["promote"]
    gate = by_name(up_to_the_gate(loop, by_hand))["gate"]
    assert (gate.detail["passed"], gate.detail["promoted"]) == (True, False)
    with transaction() as session:
        assert session.scalar(select(func.count()).where(ModelVersion.state == "promoted")) == 0


def test_a_failing_stage_stops_its_successors_and_a_retry_reuses_what_succeeded(loop: Loop) -> None:
    pipeline_id = loop.begin(FULL)
    rounds.look()
    loop.end_run(pipeline_id)
    failed_run = loop.end_run(pipeline_id, failure="The loss is not a number.")
    assert states(pipeline_id) == ["succeeded", "succeeded", "failed", *["skipped"] * 5]
    found = pipeline(pipeline_id)
    assert (found.state, found.reason) == ("failed", "The stage “judge” failed: The loss is not a number.")
    assert by_name(pipeline_id)["gate"].reason == "The stage “judge” before it failed."
    before = by_name(pipeline_id)

    with transaction() as session:
        pipelines.retry(session, pipeline_id, loop.admin)
    rounds.look()
    after = by_name(pipeline_id)
    assert (after["data"].id, after["start"].id) == (before["data"].id, before["start"].id)
    assert (after["judge"].attempt, after["judge"].state) == (2, "running")
    assert after["judge"].run_id != failed_run
    loop.end_run(pipeline_id)
    loop.end_run(pipeline_id)
    loop.end_run(pipeline_id, GOOD)
    loop.end_run(pipeline_id)
    assert (pipeline(pipeline_id).state, pipeline(pipeline_id).attempt) == ("succeeded", 2)
    with transaction() as session:
        assert session.scalar(select(func.count(Snapshot.id))) == 1
        assert session.scalar(select(func.count()).where(Run.method == "sft")) == 1
        kept = session.scalars(select(PipelineStage).where(PipelineStage.run_id == failed_run)).one()
        assert kept.state == "failed"
        assert "pipeline.retried" in session.scalars(select(AuditEvent.action)).all()
    with pytest.raises(ConflictError, match="has succeeded"), transaction() as session:
        pipelines.retry(session, pipeline_id, loop.admin)


def test_a_stage_that_cannot_start_fails_with_the_sentence(loop: Loop) -> None:
    recipe = copy.deepcopy(FULL)
    recipe["stages"][1]["model"] = "model:lost"
    pipeline_id = loop.begin(recipe)
    rounds.look()
    assert states(pipeline_id)[:3] == ["succeeded", "failed", "skipped"]
    assert stages(pipeline_id)[1].reason == "This project has no model named “lost”."


def test_one_broken_pipeline_never_holds_the_others_up(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = loop.begin(SHORT), loop.begin(SHORT)
    with transaction() as session:
        # As a row that an older version left, which no reader of today understands.
        pipelines.get(session, broken).recipe = {"stages": "lost"}
    rounds.look()
    assert states(sound) == ["succeeded", "running"]
    assert states(broken) == ["succeeded", "failed"]
    assert stages(broken)[1].reason == "Something unexpected went wrong. The worker's log says what."
    assert "could not be carried on" in caplog.text


def test_a_file_that_is_gone_fails_the_stage(loop: Loop) -> None:
    pipeline_id = loop.begin(SHORT)
    shutil.rmtree(loop.model.uri)
    rounds.look()
    assert "does not exist" in (stages(pipeline_id)[1].reason or "")


def test_cancel_takes_the_run_along_and_a_retry_goes_on_from_there(loop: Loop) -> None:
    pipeline_id = loop.begin(FULL)
    rounds.look()
    run_id = stages(pipeline_id)[1].run_id
    for _ in ("once", "twice"):
        with transaction() as session:
            pipelines.cancel(session, pipeline_id, loop.admin)
    assert states(pipeline_id) == ["succeeded", *["cancelled"] * 7]
    assert (pipeline(pipeline_id).state, pipeline(pipeline_id).reason) == ("cancelled", "Cancelled on request.")
    with transaction() as session:
        assert session.get_one(Run, run_id).state == "cancelled"
        pipelines.retry(session, pipeline_id, loop.admin)
    rounds.look()
    assert states(pipeline_id)[:3] == ["succeeded", "running", "waiting"]
    with pytest.raises(ConflictError, match="is running, so there is nothing to retry"), transaction() as session:
        pipelines.retry(session, pipeline_id, loop.admin)


def test_cancelling_what_has_ended_is_refused(loop: Loop) -> None:
    pipeline_id = loop.begin({"stages": SHORT["stages"][:1]})
    rounds.look()
    with pytest.raises(ConflictError, match="already succeeded"), transaction() as session:
        pipelines.cancel(session, pipeline_id, loop.admin)
    with pytest.raises(NotFoundError), transaction() as session:
        pipelines.cancel(session, loop.project.id, loop.admin)


def test_a_run_that_is_cancelled_by_itself_fails_its_stage(loop: Loop) -> None:
    pipeline_id = loop.begin(SHORT)
    rounds.look()
    run_id = stages(pipeline_id)[1].run_id
    assert run_id is not None
    with transaction() as session:
        run_states.request_cancel(session, run_id, loop.admin.id)
    rounds.look()
    assert stages(pipeline_id)[1].reason == "Its run was cancelled."


def test_many_ticks_at_once_make_one_run(loop: Loop) -> None:
    pipeline_id = loop.begin(SHORT)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(rounds.look) for _ in range(24)]:
            future.result()
    assert states(pipeline_id) == ["succeeded", "running"]
    with transaction() as session:
        assert session.scalar(select(func.count(Run.id))) == 1
        assert session.scalar(select(func.count(PipelineStage.id))) == 2


def test_the_same_key_gives_the_same_round_and_numbers_have_no_gaps(loop: Loop) -> None:
    first = loop.begin(SHORT, dedupe_key="a")
    assert loop.begin(SHORT, dedupe_key="a") == first
    second = loop.begin(SHORT, dedupe_key="b")
    assert [pipeline(item).number for item in (first, second)] == [1, 2]


def test_a_model_is_found_by_what_it_is(loop: Loop, tmp_path: Path) -> None:
    """`in_use` is the promoted policy; `base` the first one; `model:` any by its name."""
    with transaction() as session:
        named = make_model(session, loop.project, loop.admin, fake_model_folder(tmp_path / "a"), "tuned", method="sft")
        used = make_model(session, loop.project, loop.admin, fake_model_folder(tmp_path / "b"), "used", method="dpo")
        registry.promote(session, used, loop.admin)
    parents = {}
    for ref in ("in_use", "newest_sft", "base", "model:used"):
        stage = {"name": "policy", "kind": "dpo", "snapshot": "data", "model": ref}
        pipeline_id = loop.begin({"stages": [SHORT["stages"][0], stage]})
        rounds.look()
        with transaction() as session:
            parents[ref] = session.get_one(Run, stages(pipeline_id)[1].run_id).parent_model_id
    assert parents == {"in_use": used.id, "newest_sft": named.id, "base": loop.model.id, "model:used": used.id}


def test_an_order_stage_scores_what_waits_and_does_nothing_where_tasks_go_out_as_they_came(loop: Loop) -> None:
    recipe = {
        "stages": [
            {"name": "data", "kind": "snapshot"},
            {"name": "judge", "kind": "reward", "snapshot": "data", "model": "base", "options": {"heads": 3}},
            {"name": "queue", "kind": "order", "reward_model": "stage:judge"},
        ]
    }
    untouched = loop.begin(recipe)
    rounds.look()
    loop.end_run(untouched)
    assert (by_name(untouched)["queue"].state, by_name(untouched)["queue"].detail) == ("succeeded", {"ordered": 0})

    with transaction() as session:
        session.get_one(Project, loop.project.id).queue_order = "margin"
    ordering = loop.begin(recipe)
    rounds.look()
    loop.end_run(ordering)
    with transaction() as session:
        run = session.get_one(Run, by_name(ordering)["queue"].run_id)
    assert (run.method, run.inputs["policy"], run.config["seed"]) == ("score", "margin", 2)
    assert states(ordering)[2] == "running"
    loop.end_run(ordering)
    assert by_name(ordering)["queue"].detail == {"ordered": len(run.inputs["tasks"])}
    assert pipeline(ordering).state == "succeeded"


def test_fresh_answers_come_from_several_policies_and_words_for_one_policy_add_up(loop: Loop) -> None:
    recipe = {
        "stages": [
            {"name": "data", "kind": "snapshot"},
            {"name": "start", "kind": "sft", "snapshot": "data"},
            {
                "name": "answers",
                "kind": "sample",
                "policies": [
                    {"model": "stage:start", "share": 2},
                    {"model": "newest_sft", "share": 1},
                    {"model": "earlier", "share": 1, "temperature": 1.2},
                ],
            },
            {"name": "tasks", "kind": "tasks", "sample": "answers", "priority": 3},
        ]
    }
    pipeline_id = loop.begin(recipe)
    rounds.look()
    loop.end_run(pipeline_id)
    with transaction() as session:
        run = session.get_one(Run, by_name(pipeline_id)["answers"].run_id)
        sft = session.scalars(select(ModelVersion).where(ModelVersion.method == "sft")).one()
    assert run.parent_model_id == sft.id
    assert run.inputs["policies"] == {"sft-1": str(sft.id), "base at 1.2": str(loop.model.id)}
    assert run.config["options"]["policies"] == [
        {"name": "sft-1", "model": sft.uri, "share": 3.0, "temperature": None},
        {"name": "base at 1.2", "model": loop.model.uri, "share": 1.0, "temperature": 1.2},
    ]
    assert run.name.endswith("of sft-1, base at 1.2")


def test_a_recipe_that_shares_out_to_nobody_or_to_a_stage_that_is_not_there_is_refused() -> None:
    def refused(**policy: Any) -> str:
        stage = {"name": "answers", "kind": "sample", "policies": [policy]}
        with pytest.raises(InvalidInputError) as caught:
            recipes.read({"stages": [stage]})
        return caught.value.message

    assert "no earlier stage named “policy”" in refused(model="stage:policy")
    assert "greater than 0" in refused(model="in_use", share=0)
    assert "less than or equal to 5" in refused(model="in_use", temperature=6)
    with pytest.raises(InvalidInputError, match="filled in by the stage"):
        recipes.read({"stages": [{"name": "a", "kind": "sample", "options": {"policies": []}}]})


def test_a_stage_asks_for_gpus_as_its_recipe_says(loop: Loop) -> None:
    recipe = copy.deepcopy(SHORT)
    recipe["stages"][1]["settings"] = {"gpus": 2, "seed": 3}
    pipeline_id = loop.begin(recipe)
    rounds.look()
    with transaction() as session:
        run = session.get_one(Run, by_name(pipeline_id)["start"].run_id)
        assert (run.gpus, run.config["seed"]) == (2, 3)
        assert "gpus" not in run.config
        assert run_states.claim(session, run.id, "small", 60, gpus=1) is None


def carry_out_jobs() -> None:
    subprocess.run([sys.executable, "-m", "app.worker.job_child"], check=True, timeout=120, capture_output=True)


def test_a_large_snapshot_is_a_workers_job_which_ticks_ask_for_once_and_wait_for(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACKETT_FREEZE_AT_ONCE_ROWS", "3")
    get_settings.cache_clear()
    pipeline_id = loop.begin(SHORT)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: rounds.look(), range(4)))
    assert states(pipeline_id) == ["running", "waiting"]
    with transaction() as session:
        job = session.scalars(select(Job)).one()
        assert session.scalar(select(func.count()).select_from(Snapshot)) == 0, "nothing is frozen in a tick"
    carry_out_jobs()
    rounds.look()
    assert states(pipeline_id) == ["succeeded", "running"]
    with transaction() as session:
        snapshot = session.scalars(select(Snapshot)).one()
        assert session.scalars(select(Run)).one().snapshot_id == snapshot.id
        assert session.get_one(Job, job.id).result == {"snapshot_id": str(snapshot.id)}
    assert by_name(pipeline_id)["data"].detail == {"snapshot_id": str(snapshot.id)}

    # The job that cannot be done is the stage's failure, with its reason; a retry asks for another.
    failing = loop.begin(SHORT)
    rounds.look()
    with transaction() as session:
        session.execute(
            text(
                "UPDATE jobs SET state = 'failed', reason = 'No disk.', finished_at = clock_timestamp() "
                "WHERE state = 'queued'"
            )
        )
    rounds.look()
    assert states(failing) == ["failed", "skipped"]
    assert pipeline(failing).reason == "The stage “data” failed: No disk."
    with transaction() as session:
        pipelines.retry(session, failing, loop.admin)
    rounds.look()
    assert states(failing) == ["running", "waiting"]
    carry_out_jobs()
    rounds.look()
    assert states(failing) == ["succeeded", "running"]
    assert by_name(failing)["data"].detail == {"snapshot_id": str(snapshot.id)}, "the same answers, the same snapshot"
