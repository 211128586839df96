"""REST API, version 1: runs, queued, followed and cancelled."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api.callers import RunsCaller, RunsProject, RunsWriter, RunsWriterProject
from app.api.once import OnceDep
from app.api.problems import PROBLEMS, WRITES
from app.api.schemas import Closed, JsonObject, Page, PageQuery, example, page
from app.db import SessionDep
from app.errors import InvalidInputError, NotFoundError
from app.models import ModelVersion, Project, Run, Snapshot, User
from app.services.accounts import tokens
from app.services.accounts.tokens import NOTHING
from app.services.api import training
from app.services.training import registry, run_options, run_states, runs, snapshots

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["runs"])

Method = Literal["sft", "reward", "dpo", "kto", "ppo", "rloo", "evaluate", "sample"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class RunOut(Closed):
    """A run and how far it is. `summary` holds the main figures of its report once it has succeeded."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000011",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "name": "dpo-3",
            "method": "dpo",
            "state": "running",
            "state_reason": None,
            "attempt": 1,
            "gpus": 1,
            "progress_step": 120,
            "progress_total": 400,
            "snapshot_id": "0198c0de-0000-7000-8000-000000000004",
            "parent_model_id": "0198c0de-0000-7000-8000-000000000013",
            "model_id": None,
            "summary": None,
            "cancel_requested_at": None,
            "created_at": "2026-11-02T09:00:00Z",
            "started_at": "2026-11-02T09:05:00Z",
            "finished_at": None,
        }
    )
    id: UUID
    project_id: UUID
    name: str
    method: str
    state: State
    state_reason: str | None
    attempt: int
    progress_step: int | None
    progress_total: int | None
    gpus: int
    snapshot_id: UUID | None
    parent_model_id: UUID | None
    model_id: UUID | None
    summary: dict[str, Any] | None
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class LoraIn(Closed):
    """Low-rank adapters instead of all weights."""

    rank: int = Field(ge=1, le=1024)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False, description="default: twice the rank")


class RunIn(Closed):
    """A run to queue. `options` are the method's own, as `run.json` holds them; the trainer's reader checks them.

    Methods that train start from `model_id` and learn from `snapshot_id` (`ppo` and `rloo` with `reward_model_id`);
    `evaluate` judges `policy_ids` against `model_id` on the snapshot's held-out prompts; `sample` draws answers of
    `model_id` to the chosen `prompts`.
    """

    model_config = example(
        {
            "method": "dpo",
            "model_id": "0198c0de-0000-7000-8000-000000000003",
            "snapshot_id": "0198c0de-0000-7000-8000-000000000004",
            "seed": 1,
            "lora": {"rank": 16},
            "options": {"beta": 0.1, "optim": {"learning_rate": 0.00005, "epochs": 1}},
        }
    )
    method: Method
    model_id: UUID
    snapshot_id: UUID | None = None
    reward_model_id: UUID | None = None
    policy_ids: list[UUID] = Field([], max_length=16)
    prompts: Literal["all", "unsampled", "train", "held_out"] = "all"
    gpus: int = Field(1, ge=1, le=run_options.MOST_GPUS, description="how many GPUs of one worker it waits for")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    max_length: int | None = Field(None, ge=16, le=1 << 20)
    lora: LoraIn | None = None
    options: JsonObject = Field({}, max_length=100)

    def settings(self) -> dict[str, Any]:
        """Return the keys of run.json that all methods share."""
        found: dict[str, Any] = {"seed": self.seed, "gpus": self.gpus}
        if self.max_length is not None:
            found["max_length"] = self.max_length
        if self.lora is not None:
            found["lora"] = {"rank": self.lora.rank, "alpha": self.lora.alpha or 2.0 * self.lora.rank}
        return found


class RunsQuery(PageQuery):
    """Which runs."""

    state: State | None = None
    method: Method | Literal["score"] | None = None


@router.get("/projects/{project_id}/runs")
def list_runs(session: SessionDep, project: RunsProject, asked: Annotated[RunsQuery, Query()]) -> Page[RunOut]:
    """List a project's runs."""
    return page(
        asked,
        RunOut,
        lambda part: training.runs(session, project.id, part, state=asked.state, method=asked.method),
        project.id,
    )


@router.post("/projects/{project_id}/runs", responses=WRITES, status_code=201, response_model=RunOut)
def queue_run(
    sent: RunIn, session: SessionDep, caller: RunsWriter, project: RunsWriterProject, once: OnceDep
) -> Response:
    """Queue a run. Everything it names belongs to the project."""
    made = _queued(session, project, tokens.maker(session, caller), sent)
    session.flush()
    shown = RunOut(**training.run(session, made.id))
    return once.answer(shown, 201, Location=f"/api/v1/runs/{made.id}")


@router.get("/runs/{run_id}")
def read_run(run_id: UUID, session: SessionDep, caller: RunsCaller) -> RunOut:
    """Return a run and how far it is."""
    found = training.run(session, run_id)
    caller.require_project(found["project_id"])
    return RunOut(**found)


@router.post("/runs/{run_id}/cancel", responses=WRITES, response_model=RunOut)
def cancel_run(run_id: UUID, session: SessionDep, caller: RunsWriter, once: OnceDep) -> Response:
    """Cancel a run. One that is running stops at its next heartbeat; asking again changes nothing."""
    caller.require_project(training.run(session, run_id)["project_id"])
    run_states.request_cancel(session, run_id, tokens.maker(session, caller).id)
    return once.answer(RunOut(**training.run(session, run_id)))


def _queued(session: Session, project: Project, user: User, sent: RunIn) -> Run:
    model = _model(session, project, sent.model_id)
    options, settings = dict(sent.options), sent.settings()
    by_id = sorted(run_options.NOT_OFFERED & options.keys())
    if by_id:
        raise InvalidInputError(f"{by_id[0]} is no option here: models and data are named by their ids.")
    if sent.method == "sample":
        return runs.create_sampling_run(
            session, project, model, user, prompts=sent.prompts, options=options, **settings
        )
    snapshot = _snapshot(session, project, sent.snapshot_id)
    reward_model = None if sent.reward_model_id is None else _model(session, project, sent.reward_model_id)
    if sent.method == "evaluate":
        return runs.create_evaluation_run(
            session,
            project,
            user,
            baseline=model,
            policies=[_model(session, project, item) for item in sent.policy_ids],
            snapshot=snapshot,
            reward_model=reward_model,
            options=options,
            **settings,
        )
    return runs.create_training_run(
        session,
        project,
        sent.method,
        user,
        model=model,
        snapshot=snapshot,
        reward_model=reward_model,
        options=options,
        **settings,
    )


def _model(session: Session, project: Project, model_id: UUID) -> ModelVersion:
    found = registry.get(session, model_id)
    if found.project_id != project.id:
        raise NotFoundError(NOTHING)
    return found


def _snapshot(session: Session, project: Project, snapshot_id: UUID | None) -> Snapshot:
    if snapshot_id is None:
        raise InvalidInputError("This method needs a snapshot: name it as snapshot_id.")
    found = snapshots.get(session, snapshot_id)
    if found.project_id != project.id:
        raise NotFoundError(NOTHING)
    return found
