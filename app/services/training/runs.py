"""Making runs. What happens to a run afterwards is in `run_states`, what pages show of it in `run_views`.

A run is checked before its row exists: what it is made of by `run_inputs`, its configuration by the trainer's own
reader. The broker is only told; a broker that is down loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import logs
from app.db import after_commit, transaction
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Completion, ModelVersion, Project, Prompt, Run, Snapshot, User
from app.queue import gpu_queue, ring
from app.services.labeling import queue_order
from app.services.training import registry, run_inputs, run_states
from app.services.training.run_inputs import METHOD_NAMES
from app.settings import get_settings
from trainer.config import METHODS, ConfigError, dump_run, parse_run

logger = logging.getLogger(__name__)

TRAINING_METHODS = tuple(method for method in METHODS if method in registry.KINDS)
SCORED_METHODS = ("ppo", "rloo")
"""Methods whose answers a reward model scores while they train."""

PROMPT_CHOICES = ("all", "unsampled", "train", "held_out")
PROMPT_WORDS = {"unsampled": "unsampled", "train": "for training", "held_out": "held-out"}


@dataclass(frozen=True)
class PolicyShare:
    """A policy that writes a share of the sampled answers, at its own temperature or the run's."""

    model: ModelVersion
    share: float = 1.0
    temperature: float | None = None

    @property
    def name(self) -> str:
        """How the run's files call it; a policy may stand in two temperatures."""
        return self.model.name if self.temperature is None else f"{self.model.name} at {self.temperature:g}"


def create_training_run(
    session: Session,
    project: Project,
    method: str,
    user: User,
    *,
    model: ModelVersion,
    snapshot: Snapshot,
    reward_model: ModelVersion | None = None,
    options: dict[str, Any] | None = None,
    dedupe_key: str | None = None,
    gpus: int = 1,
    **settings: Any,
) -> Run:
    """Queue a run of a method that trains; it starts from `model` and learns from `snapshot`.

    `settings` are further keys of run.json (seed, lora, max_length, …). The same `dedupe_key` of the same person
    gives the same run. Raises `InvalidInputError` for what cannot start, `ConflictError` for a key used otherwise.
    """
    if method not in TRAINING_METHODS:
        raise InvalidInputError(f"The method is one of {', '.join(TRAINING_METHODS)}.")
    run_inputs.require_policy(project, model)
    run_inputs.require_same_project(project, snapshot)
    run_inputs.require_data(method, snapshot)
    options, inputs = dict(options or {}), {}
    if method in SCORED_METHODS:
        if reward_model is None:
            raise InvalidInputError(f"{METHOD_NAMES[method]} needs a reward model; train one first, then choose it.")
        run_inputs.require_reward_model(project, reward_model)
        options["reward_model"] = reward_model.uri
        inputs["reward_model"] = str(reward_model.id)
    return _create(
        session,
        project,
        method,
        user,
        model,
        snapshot,
        options,
        inputs,
        name=f"{METHOD_NAMES[method]} from {model.name}, snapshot {snapshot.number}",
        dedupe_key=dedupe_key,
        gpus=gpus,
        settings=settings,
    )


def create_evaluation_run(
    session: Session,
    project: Project,
    user: User,
    *,
    baseline: ModelVersion,
    policies: Sequence[ModelVersion],
    snapshot: Snapshot,
    reward_model: ModelVersion | None = None,
    gold_model: ModelVersion | None = None,
    options: dict[str, Any] | None = None,
    dedupe_key: str | None = None,
    gpus: int = 1,
    **settings: Any,
) -> Run:
    """Queue an evaluation of `policies` against `baseline` on the snapshot's held-out prompts.

    `gold_model` is a reward model beside the first, one that no policy was trained against.
    """
    if not policies:
        raise InvalidInputError("Choose at least one policy to judge.")
    for policy in (baseline, *policies):
        run_inputs.require_policy(project, policy)
    run_inputs.require_same_project(project, snapshot)
    options = dict(options or {}) | {
        "baseline": baseline.name,
        "policies": [{"name": policy.name, "model": policy.uri} for policy in policies],
    }
    split = options.get("split", "held_out")
    if not snapshot.manifest["splits"]["prompts"].get(split):
        raise InvalidInputError(
            f"Snapshot {snapshot.number} has no {split} prompts to judge on; give the project a held-out share, "
            "import more prompts and freeze a new snapshot."
        )
    inputs: dict[str, Any] = {"policies": {policy.name: str(policy.id) for policy in (baseline, *policies)}}
    if reward_model is not None:
        run_inputs.require_reward_model(project, reward_model)
        options["reward_model"] = reward_model.uri
        inputs["reward_model"] = str(reward_model.id)
    if gold_model is not None:
        run_inputs.require_reward_model(project, gold_model)
        if reward_model is None or gold_model.id == reward_model.id:
            raise InvalidInputError("A gold judge stands beside another reward model; choose two different ones.")
        options["gold_model"] = gold_model.uri
        inputs["gold_model"] = str(gold_model.id)
    names = ", ".join(policy.name for policy in policies)
    return _create(
        session,
        project,
        "evaluate",
        user,
        baseline,
        snapshot,
        options,
        inputs,
        name=f"Evaluation of {names} against {baseline.name}",
        dedupe_key=dedupe_key,
        gpus=gpus,
        settings=settings,
    )


def create_sampling_run(
    session: Session,
    project: Project,
    model: ModelVersion,
    user: User,
    *,
    temperature: float = 0.7,
    max_new_tokens: int = 256,
    prompts: str = "all",
    policies: Sequence[PolicyShare] = (),
    seed: int = 0,
    options: dict[str, Any] | None = None,
    dedupe_key: str | None = None,
    gpus: int = 1,
    **settings: Any,
) -> Run:
    """Queue a run that draws K answers of `model` to each chosen prompt: `all`, `unsampled`, `train` or `held_out`.

    With `policies` the K answers come from these by their shares instead; `model` is then only what the run is listed
    under. The prompts are chosen now, so that importing more later does not change what the run does.
    """
    for policy in (model, *(share.model for share in policies)):
        run_inputs.require_policy(project, policy)
    chosen = [str(item) for item in session.scalars(choose_prompts(project, prompts))]
    if not chosen:
        raise InvalidInputError(
            "There is no prompt to sample answers for; import prompts first."
            if prompts == "all"
            else f"The project has no prompt that is {PROMPT_WORDS[prompts]}; import more, or choose all prompts."
        )
    options = dict(options or {})
    inputs: dict[str, Any] = {"prompts": chosen}
    if policies:
        inputs["policies"] = {share.name: str(share.model.id) for share in policies}
        options["policies"] = [
            {"name": share.name, "model": share.model.uri, "share": share.share, "temperature": share.temperature}
            for share in policies
        ]
    sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens} | dict(options.get("sampling", {}))
    return _create(
        session,
        project,
        "sample",
        user,
        model,
        None,
        {"samples_per_prompt": project.k} | options | {"sampling": sampling},
        inputs,
        name=f"{len(chosen)} prompts, {project.k} answers each, of "
        + (", ".join(share.name for share in policies) or model.name),
        dedupe_key=dedupe_key,
        gpus=gpus,
        settings={"seed": seed} | settings,
    )


def create_scoring_run(
    session: Session,
    project: Project,
    user: User,
    *,
    reward_model: ModelVersion,
    seed: int = 0,
    dedupe_key: str | None = None,
    **settings: Any,
) -> Run:
    """Queue a run that scores the waiting tasks and then puts them in the order that the project is set to.

    Raises `InvalidInputError` when the project hands tasks out as they came, no task waits, or the order goes by
    disagreement and the reward model has a single head, which cannot disagree with itself.
    """
    run_inputs.require_reward_model(project, reward_model)
    if project.queue_order == "arrival":
        raise InvalidInputError(
            "This project hands tasks out in the order in which they were made; choose another order in its settings."
        )
    if project.queue_order == "uncertainty" and registry.heads(reward_model) == 1:
        raise InvalidInputError(
            f"{reward_model.name} has one head, and a single head cannot disagree; train a reward model with several "
            "heads, or let the queue go by margin in the project's settings."
        )
    tasks = [str(item) for item in queue_order.candidates(session, project)]
    if not tasks:
        raise InvalidInputError("No task waits that could change its place; open ranking tasks first.")
    return _create(
        session,
        project,
        "score",
        user,
        reward_model,
        None,
        {},
        {"tasks": tasks, "policy": project.queue_order, "random_share": project.random_percent / 100},
        name=f"Order of {len(tasks)} tasks by {reward_model.name}",
        dedupe_key=dedupe_key,
        gpus=1,
        settings={"seed": seed, "max_length": run_inputs.length_of(session, reward_model)} | settings,
    )


def get(session: Session, run_id: UUID) -> Run:
    """Return a run, or raise `NotFoundError`."""
    run = session.get(Run, run_id)
    if run is None:
        raise NotFoundError("There is no such run.")
    return run


def has_samples(run: Run) -> bool:
    """Return whether the run's method learns from answers of its own, which it shows as it goes."""
    return run.method in SCORED_METHODS


def result_id(session: Session, run: Run) -> UUID | None:
    """Return the id of the model version that a run has left behind, if it has."""
    return session.scalar(select(ModelVersion.id).where(ModelVersion.run_id == run.id))


def announce(session: Session, run: Run) -> None:
    """Ring for a run once this transaction has committed, and note on it that the broker took the message."""
    run_id, queue = run.id, gpu_queue(run.gpus)
    after_commit(session, lambda: _ring(run_id, queue))


def _ring(run_id: UUID, queue: str) -> None:
    logger.info("a run is queued", extra=logs.fields(run_id=str(run_id), queue=queue))
    if not ring(run_states.TASK, queue, str(run_id)):
        return
    try:
        with transaction() as session:
            run_states.mark_dispatched(session, run_id)
    except SQLAlchemyError as error:
        # The run is stored and its message is sent; without the note the dispatcher only sends one message more.
        logger.warning("could not note that run %s was sent: %s", run_id, type(error).__name__)


def _create(
    session: Session,
    project: Project,
    method: str,
    user: User,
    model: ModelVersion,
    snapshot: Snapshot | None,
    options: dict[str, Any],
    inputs: dict[str, Any],
    *,
    name: str,
    dedupe_key: str | None,
    gpus: int,
    settings: dict[str, Any],
) -> Run:
    run_inputs.require_splittable(method, gpus)
    run_id: UUID = session.execute(select(func.uuidv7())).scalar_one()
    config = {
        "device": get_settings().trainer_device,
        **settings,
        "run_id": str(run_id),
        "method": method,
        "model": model.uri,
        "snapshot_id": str(snapshot.id) if snapshot else None,
        "options": options,
    }
    try:
        checked = parse_run(config)
    except ConfigError as error:
        raise InvalidInputError(str(error)) from None
    run_inputs.require_shareable(checked, gpus)
    config = dump_run(checked)
    run_inputs.require_storable(config)
    key = f"{user.id}:{dedupe_key or uuid4()}"
    values = {
        "project_id": project.id,
        "method": method,
        "name": name,
        "config": config,
        "inputs": inputs,
        "snapshot_id": snapshot.id if snapshot else None,
        "parent_model_id": model.id,
        "dedupe_key": key,
        "gpus": gpus,
        "created_by": user.id,
    }
    made: Run | None = session.scalar(
        upsert(Run).values(id=run_id, **values).on_conflict_do_nothing(index_elements=[Run.dedupe_key]).returning(Run)
    )
    if made is None:
        return _same_as_before(session, key, values)
    run_states.record_created(session, made)
    announce(session, made)
    return made


def _same_as_before(session: Session, key: str, values: dict[str, Any]) -> Run:
    """Return the run that this form has already made, if it was the same form."""
    before: Run = session.execute(select(Run).where(Run.dedupe_key == key)).scalar_one()
    same = all(getattr(before, name) == value for name, value in values.items() if name != "config")
    ours = {**values["config"], "run_id": None}
    if same and {**before.config, "run_id": None} == _as_json(ours):
        return before
    raise ConflictError("This form has already started another run; open the form again to start a new one.")


def _as_json(value: Any) -> Any:
    """Return `value` as it comes back from the database: tuples become lists."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def choose_prompts(project: Project, choice: str) -> Select[UUID]:
    """Return the query of a project's prompts that a choice means, in their order."""
    query = select(Prompt.id).where(Prompt.project_id == project.id).order_by(Prompt.position)
    if choice in ("train", "held_out"):
        return query.where(Prompt.split == choice)
    if choice == "unsampled":
        # Answers that a blind evaluation compares are no samples: there is one of each policy, and only to measure.
        judged = select(Run.id).where(Run.id == Completion.run_id, Run.method == "evaluate").exists()
        return query.where(~select(Completion.id).where(Completion.prompt_id == Prompt.id, ~judged).exists())
    if choice == "all":
        return query
    raise InvalidInputError(f"Prompts to sample are one of {', '.join(PROMPT_CHOICES)}.")
