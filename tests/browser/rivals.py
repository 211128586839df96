"""A project whose policies have been judged blind by labelers, for the pages that judge policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from evaluation_world import add_evaluation_run, add_model, judge_next
from sqlalchemy import update
from sqlalchemy.orm import Session

from app import db
from app.models import ModelVersion, Project, Prompt, User
from app.services.evaluation import blind, gate, promotions
from app.services.evaluation.gate import Limits

from .texts import QUESTIONS
from .world import make_project

NUMBER_OF_PROMPTS = 40
LIMITS = Limits(min_blind_win_rate=0.5, max_kl=10.0)

SUMMARY: dict[str, Any] = {
    "held_out_accuracy": 0.71,
    "policies": {"dpo-1": {"win_rate": 0.64, "reward": 0.81, "kl": 11.4}},
}


@dataclass(frozen=True)
class Rivals:
    """The project, its policies by name, and a blind evaluation that has stopped."""

    project: Project
    models: dict[str, ModelVersion]
    stopped: UUID


def make_rivals(admin: User) -> Rivals:
    """Make the project: a candidate that wins clearly, and one that is still being judged."""
    with db.transaction() as session:
        questions = [f"{question} ({n})" for n in range(7) for question in QUESTIONS][:NUMBER_OF_PROMPTS]
        project = make_project(session, admin, questions, name="Letters of complaint", overlap=1)
        session.execute(update(Prompt).where(Prompt.project_id == project.id).values(split="held_out"))
        labelers = [_labeler(session, name) for name in ("Hana Sato", "Otto Brandt")]
        names = ("smollm2-135m", "sft-1", "dpo-1")
        models = {name: add_model(session, project, admin, name, method=name.split("-")[0]) for name in names}
        run = add_evaluation_run(session, project, admin, list(models.values()), _say, SUMMARY)
        models["dpo-1"].metrics = {"evaluation": {**SUMMARY["policies"]["dpo-1"], "run_id": str(run.id)}}
        first = blind.start(session, project, admin, run, models["dpo-1"], models["sft-1"])
        gate.save(session, project, admin, LIMITS, promotes=True, blind_percent=50)
        promotions.promote(session, models["sft-1"], admin)
    for number in range(NUMBER_OF_PROMPTS):
        judge_next(project, labelers[number % 2], lambda texts, place: "sft-1" if place % 5 == 0 else "dpo-1")
    with db.transaction() as session:
        blind.follow(session, first.id)
        promotions.promote(session, session.get_one(ModelVersion, models["dpo-1"].id), admin)
        blind.start(session, project, admin, run, models["sft-1"], models["smollm2-135m"])
    for number in range(9):
        judge_next(project, labelers[number % 2], lambda texts, place: (None, "sft-1", "smollm2-135m")[place % 3])
    return Rivals(project, models, first.id)


def _say(number: int, policy: str) -> str:
    return f"Dear neighbour, this is letter {number} of {policy}, " + "and I mean it kindly. " * (1 + len(policy) % 4)


def _labeler(session: Session, name: str) -> User:
    user = User(email=f"{name.split()[0].lower()}@example.org", name=name, role="labeler", password_hash="none")
    session.add(user)
    session.flush()
    session.refresh(user)
    return user
