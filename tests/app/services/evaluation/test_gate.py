"""The gate and promotions: verdicts with their numbers, one active policy, and one click back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from evaluation_world import add_evaluation_run, add_model, judge_next
from labeling_world import make_user
from pipeline_world import FULL, by_name, make_loop, pipeline
from run_builders import fake_model_folder, make_project, make_prompts
from sqlalchemy import func, select

from app import db
from app.errors import ConflictError, InvalidInputError
from app.models import AuditEvent, BlindEvaluation, GateVerdict, ModelVersion, Project, Promotion, Prompt, Run, User
from app.services.evaluation import gate, promotions
from app.services.evaluation.gate import Limits
from app.services.training import registry, round_figures, round_pages
from app.settings import get_settings
from app.worker import rounds
from trainer.jsonl import write_jsonl
from trainer.records import Sample

SUMMARY = {
    "held_out_accuracy": 0.7,
    "policies": {
        "old": {"perplexity": 10.0, "choice_accuracy": 0.5},
        "new": {
            "win_rate": 0.6,
            "win_rate_interval": [0.52, 0.68],
            "kl": 4.0,
            "perplexity": 11.0,
            "choice_accuracy": 0.47,
        },
    },
}


@pytest.fixture
def policies(database: str, tmp_path: Path) -> list[ModelVersion]:
    """Three policies of one project, of which `new` was evaluated against `old`."""
    with db.transaction() as session:
        admin = make_user(session, "admin")
        project = make_project(session, admin, "Gated")
        make_prompts(session, project, [f"Is it {n}?" for n in range(9)])
        uri = fake_model_folder(tmp_path / "model")
        made = [add_model(session, project, admin, name, uri=uri) for name in ("old", "new", "third")]
        run = add_evaluation_run(session, project, admin, made[:2], lambda n, name: name, SUMMARY)
        made[1].metrics = {"evaluation": {**SUMMARY["policies"]["new"], "run_id": str(run.id)}}  # type: ignore[index]
        return made


def who(model: ModelVersion) -> tuple[Project, User]:
    with db.transaction() as session:
        return session.get_one(Project, model.project_id), session.get_one(User, model.created_by)


def judged(model: ModelVersion, **limits: float) -> dict[str, tuple[float | None, bool]]:
    with db.transaction() as session:
        verdict = gate.judge(session, session.get_one(ModelVersion, model.id), None, Limits(**limits))
        return {check.name: (check.measured, check.passed) for check in gate.checks_of(verdict)}


def test_each_threshold_is_held_against_its_number(policies: list[ModelVersion]) -> None:
    # The lower end of the win rate counts, not the rate; perplexity rose by 1/10, multiple choice fell by 3 points.
    met = {
        "min_accuracy": 0.7,
        "min_win_rate": 0.52,
        "max_kl": 4.0,
        "max_perplexity_rise": 0.11,
        "max_choice_drop": 0.04,
    }
    missed = {
        "min_accuracy": 0.71,
        "min_win_rate": 0.55,
        "max_kl": 3.9,
        "max_perplexity_rise": 0.09,
        "max_choice_drop": 0.02,
    }
    measured = {
        "min_accuracy": 0.7,
        "min_win_rate": 0.52,
        "max_kl": 4.0,
        "max_perplexity_rise": 0.1,
        "max_choice_drop": 0.03,
    }
    for limits, passed in ((met, True), (missed, False)):
        found = judged(policies[1], **limits)
        assert {name: value for name, (value, _) in found.items()} == pytest.approx(measured)
        assert {ok for _, ok in found.values()} == {passed}
    with db.transaction() as session:
        verdicts = session.scalars(select(GateVerdict.passed).order_by(GateVerdict.id)).all()
    assert verdicts == [True, False]


def test_what_was_not_measured_is_not_met_and_a_gate_without_thresholds_lets_pass(policies: list[ModelVersion]) -> None:
    assert judged(policies[2], min_win_rate=0.1, max_kl=99.0) == {
        "min_win_rate": (None, False),
        "max_kl": (None, False),
    }
    assert judged(policies[1], min_blind_win_rate=0.0) == {"min_blind_win_rate": (None, False)}
    assert judged(policies[2]) == {}
    with db.transaction() as session:
        newest = gate.newest(session, policies[2].id)
        assert newest is not None
        assert newest.passed


def test_thresholds_are_stored_once_and_a_gate_that_asks_for_nothing_promotes_nobody(
    policies: list[ModelVersion],
) -> None:
    project, admin = who(policies[0])
    with pytest.raises(InvalidInputError, match="Set a threshold first"), db.transaction() as session:
        gate.save(session, project, admin, Limits(), promotes=True, blind_percent=50)
    for _ in range(2):
        with db.transaction() as session:
            found = session.get_one(Project, project.id)
            gate.save(session, found, admin, Limits(max_kl=9.5), promotes=True, blind_percent=30)
    with db.transaction() as session:
        assert gate.of_project(session, project.id) == (Limits(max_kl=9.5), True)
        assert session.get_one(Project, project.id).blind_percent == 30
        changes = select(func.count()).select_from(AuditEvent).where(AuditEvent.action == "gate.changed")
        assert session.scalar(changes) == 1


def promote(model: ModelVersion, user: User) -> None:
    with db.transaction() as session:
        promotions.promote(session, session.get_one(ModelVersion, model.id), user)


def active_name(project: Project) -> str | None:
    with db.transaction() as session:
        active = registry.active(session, project.id)
        return active.name if active else None


def test_going_back_leads_through_the_policies_in_use_before_and_a_second_click_does_nothing(
    policies: list[ModelVersion],
) -> None:
    project, admin = who(policies[0])
    old, new, third = policies

    def back(leaving: ModelVersion) -> None:
        with db.transaction() as session:
            promotions.roll_back(session, project, admin, leaving.id)

    with pytest.raises(ConflictError, match="Another policy is active"):
        back(old)
    for model in policies:
        promote(model, admin)
    assert active_name(project) == "third"
    back(third)
    with pytest.raises(ConflictError, match="Another policy is active"):
        back(third)
    assert active_name(project) == "new"
    back(new)
    assert active_name(project) == "old"
    with pytest.raises(ConflictError, match="no policy before old"):
        back(old)
    with db.transaction() as session:
        states = session.scalars(select(ModelVersion.state).order_by(ModelVersion.id)).all()
        hows = session.scalars(select(Promotion.how).order_by(Promotion.id)).all()
    assert states == ["promoted", "retired", "retired"]
    assert hows == ["admin"] * 3 + ["rollback"] * 2
    # After going back, promoting again starts from there: one click returns to what was in use then.
    promote(third, admin)
    back(third)
    assert active_name(project) == "old"


def test_an_admin_may_promote_what_did_not_pass_and_the_history_says_so(policies: list[ModelVersion]) -> None:
    project, admin = who(policies[0])
    promote(policies[0], admin)
    with db.transaction() as session:
        found = session.get_one(Project, project.id)
        gate.save(session, found, admin, Limits(max_kl=1.0), promotes=False, blind_percent=50)
    for _ in range(2):
        promote(policies[1], admin)
    with db.transaction() as session:
        lines = promotions.listed(session, project.id)
    assert [(line.model, line.previous, line.passed) for line in lines] == [("new", "old", False), ("old", None, None)]


def with_people(limit: float) -> dict[str, Any]:
    recipe = copy.deepcopy(FULL)
    people = {"name": "people", "kind": "blind", "evaluation": "exam", "candidate": "stage:policy"}
    recipe["stages"].insert(5, people)
    recipe["stages"][6] |= {"blind": "people", "min_blind_win_rate": limit, "promote": "as_project"}
    recipe["stages"][6].pop("min_win_rate")
    return recipe


@pytest.mark.parametrize(("limit", "passes"), [(0.05, True), (0.5, False)])
def test_a_pipeline_waits_for_the_labelers_and_its_gate_hears_them(
    database: str, redis_url: str, tmp_path: Path, limit: float, passes: bool
) -> None:
    loop = make_loop(tmp_path)
    with db.transaction() as session:
        project = session.get_one(Project, loop.project.id)
        project.blind_percent = 100
        gate.save(session, project, loop.admin, Limits(max_kl=50.0), promotes=True, blind_percent=100)
        labeler = make_user(session)
    pipeline_id = loop.begin(with_people(limit))
    rounds.look()
    for _ in ("sft", "reward", "dpo"):
        loop.end_run(pipeline_id)
    write_answers(by_name(pipeline_id)["exam"].run_id)
    loop.end_run(pipeline_id, {"held_out_accuracy": 0.7, "policies": {"dpo-1": {"win_rate": 0.6, "kl": 3.0}}})
    assert by_name(pipeline_id)["people"].state == "running"
    while by_name(pipeline_id)["people"].state == "running":
        assert judge_next(loop.project, labeler, lambda texts, _: "dpo-1")
        rounds.look()
    people, decided = by_name(pipeline_id)["people"].detail, by_name(pipeline_id)["gate"].detail
    with db.transaction() as session:
        found = session.get_one(BlindEvaluation, UUID(people["blind_evaluation_id"]))
        verdict = session.scalars(select(GateVerdict)).one()
        promoted = session.scalars(select(Promotion)).all()
        names = {model.id: model.name for model in session.scalars(select(ModelVersion))}
    assert (found.state, people["judged"], people["win_rate"]) == ("stopped", found.prompts, 1.0)
    by_people = next(check for check in gate.checks_of(verdict) if check.name == "min_blind_win_rate")
    assert (by_people.measured, by_people.passed) == (pytest.approx(people["low"]), passes)
    assert (decided["passed"], decided["promoted"]) == (passes, passes)
    assert [(names[row.model_id], row.how, row.verdict_id) for row in promoted] == (
        [("dpo-1", "gate", verdict.id)] if passes else []
    )
    assert decided["unmet"]["dpo-1"] == ([] if passes else [by_people.sentence])
    assert pipeline(pipeline_id).state == "running"
    with db.transaction() as session:
        [row] = round_figures.of_project(session, loop.project.id).rounds
        shown = {view.stage.name: view for view in round_pages.view(session, pipeline(pipeline_id)).stages}
    assert (row.candidate, row.incumbent, row.judged_by) == ("dpo-1", "sft-1", "people, blind")
    assert (row.measured.win_rate, row.judged, row.to_judge) == (1.0, found.prompts, found.prompts)
    assert by_people in row.checks
    assert shown["people"].notes[0].startswith(f"{found.prompts} prompts judged: the candidate wins 100%, between ")


def write_answers(run_id: UUID | None) -> None:
    """Leave the answers of an evaluation run where its trainer would have."""
    with db.transaction() as session:
        run = session.get_one(Run, run_id)
        prompts = session.scalars(
            select(Prompt).where(Prompt.project_id == run.project_id, Prompt.split == "held_out")
        ).all()
        samples = [
            Sample(name, f"p{prompt.content_sha256[:16]}", 0, f"{name} says so.", 3, "stop")
            for name in run.inputs["policies"]
            for prompt in prompts
        ]
    write_jsonl(get_settings().runs_dir / str(run_id) / "samples.jsonl", list(samples))
