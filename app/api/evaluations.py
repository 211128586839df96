"""REST API, version 1: policies judged blind by labelers, the gate before one is used, and which were in use."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api import versions
from app.api.callers import ModelsCaller, ModelsProject, RunsCaller, RunsProject, RunsWriter, RunsWriterProject
from app.api.models import ModelOut
from app.api.once import OnceDep, json_only
from app.api.problems import EDITS, PROBLEMS, WRITES
from app.api.schemas import Closed, Page, PageQuery, example, page
from app.api.versions import IfMatch
from app.db import SessionDep
from app.models import BlindEvaluation
from app.services.accounts import tokens
from app.services.api import evaluations, training
from app.services.evaluation import blind, blind_figures, gate, promotions
from app.services.evaluation.gate import Limits
from app.services.projects import projects
from app.services.training import registry, runs

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["evaluations"])

State = Literal["open", "stopped"]
Share = Annotated[float, Field(ge=0, le=1)]


class FiguresOut(Closed):
    """The win rate of the candidate over all prompts, with an interval that may be looked at at any time."""

    win_rate: float
    low: float
    high: float
    verdict: Literal["better", "worse", "undecided"]
    judged: int = Field(description="prompts that labelers have settled")
    waiting: int
    rankings: int
    ties: int
    labelers: int
    simulated: int


class BlindOut(Closed):
    """Two policies judged by labelers who do not know it, on the answers of an evaluation run.

    In a list `figures` is null while it goes on.
    """

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000051",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "run_id": "0198c0de-0000-7000-8000-000000000011",
            "candidate_id": "0198c0de-0000-7000-8000-000000000012",
            "incumbent_id": "0198c0de-0000-7000-8000-000000000013",
            "state": "open",
            "overlap": 2,
            "prompts": 62,
            "identical": 3,
            "verdict": None,
            "reason": None,
            "figures": {
                "win_rate": 0.58,
                "low": 0.47,
                "high": 0.68,
                "verdict": "undecided",
                "judged": 40,
                "waiting": 19,
                "rankings": 80,
                "ties": 9,
                "labelers": 5,
                "simulated": 0,
            },
            "created_at": "2026-11-02T09:00:00Z",
            "stopped_at": None,
        }
    )
    id: UUID
    project_id: UUID
    run_id: UUID
    candidate_id: UUID
    incumbent_id: UUID
    state: State
    overlap: int
    prompts: int
    identical: int = Field(description="prompts to which both gave the same answer: ties that nobody is asked about")
    verdict: Literal["better", "worse", "undecided"] | None
    reason: str | None
    figures: FiguresOut | None
    created_at: datetime
    stopped_at: datetime | None


class BlindIn(Closed):
    """Which two policies of which evaluation run are to be judged, and by how many labelers a prompt."""

    model_config = example(
        {
            "run_id": "0198c0de-0000-7000-8000-000000000011",
            "candidate_id": "0198c0de-0000-7000-8000-000000000012",
            "incumbent_id": "0198c0de-0000-7000-8000-000000000013",
            "overlap": 2,
        }
    )
    run_id: UUID
    candidate_id: UUID
    incumbent_id: UUID
    overlap: int = Field(1, ge=1, le=16)


class GateIn(Closed):
    """What a candidate has to reach; what is left out is not asked for."""

    model_config = example({"min_blind_win_rate": 0.5, "max_kl": 20.0, "promotes": False})
    min_accuracy: Share | None = Field(None, description="of the reward model on held-out rankings")
    min_win_rate: Share | None = Field(None, description="lower bound by the reward model")
    min_blind_win_rate: Share | None = Field(None, description="lower bound by labelers")
    max_kl: float | None = Field(None, gt=0, le=1e6)
    max_perplexity_rise: float | None = Field(None, ge=0, le=1e6, description="share of the baseline's")
    max_choice_drop: Share | None = None
    promotes: bool = Field(False, description="whether a candidate that passes in a round is used without an admin")
    blind_percent: int = Field(50, ge=1, le=100, description="tasks that are blind ones while there are any")


class GateOut(GateIn):
    """A project's gate."""

    model_config = example(
        {
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "min_accuracy": 0.6,
            "min_win_rate": 0.5,
            "min_blind_win_rate": 0.5,
            "max_kl": 20.0,
            "max_perplexity_rise": 0.1,
            "max_choice_drop": 0.02,
            "promotes": False,
            "blind_percent": 50,
        }
    )
    project_id: UUID


class CheckOut(Closed):
    """One threshold held against what was measured; `source` says where the number comes from, or why it is null."""

    name: str
    limit: float
    measured: float | None
    passed: bool
    source: str


class VerdictOut(Closed):
    """What the gate found of a policy at one moment."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000052",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "model_id": "0198c0de-0000-7000-8000-000000000012",
            "passed": False,
            "checks": [
                {
                    "name": "max_kl",
                    "limit": 20.0,
                    "measured": 23.4,
                    "passed": False,
                    "source": "the evaluation run of 2 November",
                },
            ],
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    model_id: UUID
    passed: bool
    checks: list[CheckOut]
    created_at: datetime


class PromotionOut(Closed):
    """One change of the policy in use."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000053",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "model_id": "0198c0de-0000-7000-8000-000000000012",
            "previous_id": "0198c0de-0000-7000-8000-000000000013",
            "how": "admin",
            "verdict_id": None,
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    model_id: UUID
    previous_id: UUID | None
    how: Literal["admin", "gate", "rollback"]
    verdict_id: UUID | None
    created_at: datetime


class RollBackIn(Closed):
    """The policy that is in use and shall not be: if another one is by now, nothing happens."""

    model_config = example({"leaving_id": "0198c0de-0000-7000-8000-000000000012"})
    leaving_id: UUID


class BlindQuery(PageQuery):
    """Which blind evaluations."""

    state: State | None = None


class VerdictsQuery(PageQuery):
    """Which verdicts."""

    model_id: UUID | None = None


class PromotionsQuery(PageQuery):
    """Which part of the promotions."""


@router.get("/projects/{project_id}/blind-evaluations")
def list_blind_evaluations(
    session: SessionDep, project: RunsProject, asked: Annotated[BlindQuery, Query()]
) -> Page[BlindOut]:
    """List a project's blind evaluations."""
    return page(
        asked, BlindOut, lambda part: evaluations.blind(session, project.id, part, state=asked.state), project.id
    )


@router.post("/projects/{project_id}/blind-evaluations", responses=WRITES, status_code=201, response_model=BlindOut)
def start_blind_evaluation(
    sent: BlindIn, session: SessionDep, caller: RunsWriter, project: RunsWriterProject, once: OnceDep
) -> Response:
    """Open the tasks that compare two policies; asked again, it is the same evaluation."""
    made = blind.start(
        session,
        project,
        tokens.maker(session, caller),
        runs.get(session, sent.run_id),
        registry.get(session, sent.candidate_id),
        registry.get(session, sent.incumbent_id),
        overlap=sent.overlap,
    )
    session.flush()
    return once.answer(_shown(session, made), 201, Location=f"/api/v1/blind-evaluations/{made.id}")


@router.get("/blind-evaluations/{evaluation_id}")
def read_blind_evaluation(evaluation_id: UUID, session: SessionDep, caller: RunsCaller) -> BlindOut:
    """Return a blind evaluation with the figures it stopped with, or those of this moment."""
    found = blind.get(session, evaluation_id)
    caller.require_project(found.project_id)
    return _shown(session, found)


@router.post("/blind-evaluations/{evaluation_id}/stop", responses=WRITES, response_model=BlindOut)
def stop_blind_evaluation(evaluation_id: UUID, session: SessionDep, caller: RunsWriter, once: OnceDep) -> Response:
    """Stop a blind evaluation; what is known by then stands. Once more changes nothing."""
    caller.require_project(blind.get(session, evaluation_id).project_id)
    return once.answer(_shown(session, blind.stop(session, evaluation_id, tokens.maker(session, caller))))


@router.get("/projects/{project_id}/gate")
def read_gate(project_id: UUID, session: SessionDep, caller: RunsCaller, response: Response) -> GateOut:
    """Return what a candidate has to reach. Its ETag is what a change of it needs."""
    caller.require_project(project_id)
    shown = _gate(session, project_id)
    response.headers["ETag"] = versions.etag(shown)
    return shown


@router.put("/projects/{project_id}/gate", responses=EDITS, dependencies=[Depends(json_only)])
def change_gate(
    project_id: UUID,
    sent: GateIn,
    session: SessionDep,
    caller: ModelsCaller,
    response: Response,
    if_match: IfMatch = None,
) -> GateOut:
    """Set all thresholds anew."""
    caller.require_project(project_id)
    project = projects.lock(session, project_id)
    versions.check(if_match, _gate(session, project_id))
    values = sent.model_dump()
    promotes, blind_percent = values.pop("promotes"), values.pop("blind_percent")
    gate.save(
        session,
        project,
        tokens.maker(session, caller),
        Limits(**values),
        promotes=promotes,
        blind_percent=blind_percent,
    )
    session.flush()
    session.expire_all()
    shown = _gate(session, project_id)
    response.headers["ETag"] = versions.etag(shown)
    return shown


@router.get("/projects/{project_id}/verdicts")
def list_verdicts(
    session: SessionDep, project: RunsProject, asked: Annotated[VerdictsQuery, Query()]
) -> Page[VerdictOut]:
    """List what a project's gate has said."""
    return page(
        asked,
        VerdictOut,
        lambda part: evaluations.verdicts(session, project.id, part, model_id=asked.model_id),
        project.id,
    )


@router.post("/models/{model_id}/verdicts", responses=WRITES, status_code=201, response_model=VerdictOut)
def judge_model(model_id: UUID, session: SessionDep, caller: ModelsCaller, once: OnceDep) -> Response:
    """Hold a policy against the gate of its project now, and keep the verdict. Nothing is promoted by it."""
    caller.require_project(training.model(session, model_id)["project_id"])
    model = registry.get(session, model_id)
    limits, _ = gate.of_project(session, model.project_id)
    made = gate.judge(session, model, tokens.maker(session, caller), limits)
    return once.answer(VerdictOut(**evaluations.verdict(session, made.id)), 201)


@router.get("/projects/{project_id}/promotions")
def list_promotions(
    session: SessionDep, project: RunsProject, asked: Annotated[PromotionsQuery, Query()]
) -> Page[PromotionOut]:
    """List which policy was in use since when, and how it became so."""
    return page(asked, PromotionOut, lambda part: evaluations.promotions(session, project.id, part), project.id)


@router.post("/projects/{project_id}/roll-back", responses=WRITES, response_model=ModelOut)
def roll_back(
    sent: RollBackIn, session: SessionDep, caller: ModelsCaller, project: ModelsProject, once: OnceDep
) -> Response:
    """Use the policy again that was in use before this one."""
    model = promotions.roll_back(session, project, tokens.maker(session, caller), sent.leaving_id)
    session.flush()
    return once.answer(ModelOut(**training.model(session, model.id)))


def _shown(session: Session, found: BlindEvaluation) -> BlindOut:
    fields = {name: getattr(found, name) for name in BlindOut.model_fields if name != "figures"}
    return BlindOut(**fields, figures=FiguresOut(**asdict(blind_figures.known(session, found))))


def _gate(session: Session, project_id: UUID) -> GateOut:
    project = projects.get(session, project_id)
    limits, promotes = gate.of_project(session, project_id)
    return GateOut(project_id=project_id, **asdict(limits), promotes=promotes, blind_percent=project.blind_percent)
