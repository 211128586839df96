"""Blind evaluations: two policies' answers to held-out prompts, judged as tasks that look like all others.

The answers are those that an evaluation run drew from both policies under the same settings. Every prompt whose answers
differ becomes a ranking task of two answers with the purpose `evaluation`: handed out in between the others, with the
same board, rotation and leases. Its rankings never become training data. After every look the evaluation may stop
(`app.services.evaluation.sequential` says why that is allowed); tasks that nobody has in hand are closed then, and
whoever has one can still send it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import BlindEvaluation, Completion, ModelVersion, Project, Prompt, Run, Task, TaskCompletion, User
from app.services.accounts import audit
from app.services.evaluation import blind_figures
from app.services.evaluation.blind_figures import Figures
from app.services.projects import projects
from app.settings import get_settings
from trainer.jsonl import RecordError
from trainer.records import Sample, read_samples

ENOUGH = "The interval has left one half, so no more answers are needed to say so."
ALL_IN = "Every answer is in, and the interval still holds one half."
NONE_LEFT = "Its tasks were closed before anybody had answered one."
BY_HAND = "An admin stopped it."
SAME = "Both policies gave the same answer to every prompt, so there is nothing to ask."

Pair = tuple[Sample, Sample]


@dataclass(frozen=True)
class Line:
    """A blind evaluation as lists show it, with the names of its policies and what is known by now."""

    evaluation: BlindEvaluation
    candidate: str
    incumbent: str
    figures: Figures


@dataclass(frozen=True)
class Choice:
    """An evaluation run whose answers can be judged blind, and its policies by id, the baseline first."""

    run: Run
    policies: dict[UUID, str]


def start(
    session: Session,
    project: Project,
    user: User,
    run: Run,
    candidate: ModelVersion,
    incumbent: ModelVersion,
    *,
    overlap: int = 1,
) -> BlindEvaluation:
    """Make and open the tasks that compare two policies of an evaluation run; a second call returns the first's.

    Each task is judged by `overlap` labelers. Raises `InvalidInputError` for a run or policies that cannot be judged,
    `ConflictError` when the same pair is being judged with another overlap.
    """
    existing = session.scalar(_same(run, candidate, incumbent))
    if existing is None:
        _check(project, run, candidate, incumbent)
        pairs = _pairs(run, candidate, incumbent)
        projects.lock(session, project.id)  # the place that tasks get in the queue, and the second of two clicks
        existing = session.scalar(_same(run, candidate, incumbent))
    if existing is not None:
        if existing.overlap != overlap:
            raise ConflictError("These two are being judged already, by another number of labelers a task.")
        return existing
    prompts = _prompts(session, project, pairs)
    differing = {key: pair for key, pair in pairs.items() if pair[0].text.strip() != pair[1].text.strip()}
    evaluation = session.scalars(
        insert(BlindEvaluation)
        .values(
            project_id=project.id,
            run_id=run.id,
            candidate_id=candidate.id,
            incumbent_id=incumbent.id,
            overlap=overlap,
            prompts=len(pairs),
            identical=len(pairs) - len(differing),
            created_by=user.id,
        )
        .returning(BlindEvaluation)
    ).one()
    _add_tasks(session, evaluation, [prompts[key] for key in differing], list(differing.values()))
    audit.record(session, user, "blind.started", "blind_evaluation", evaluation.id, tasks=len(differing))
    if not differing:
        _stop(session, evaluation, blind_figures.of(session, evaluation), SAME, user)
    return evaluation


def follow(session: Session, evaluation_id: UUID) -> BlindEvaluation:
    """Look at an evaluation, and stop it once it is decided or nothing is left to be answered."""
    evaluation = session.scalars(
        select(BlindEvaluation)
        .where(BlindEvaluation.id == evaluation_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    if evaluation.state == "open":
        figures = blind_figures.of(session, evaluation)
        if figures.verdict != "undecided":
            _stop(session, evaluation, figures, ENOUGH, None)
        elif not _is_anything_left(session, evaluation):
            _stop(session, evaluation, figures, ALL_IN if figures.judged else NONE_LEFT, None)
    return evaluation


def open_ids(session: Session) -> Sequence[UUID]:
    """Return the evaluations of all projects that go on."""
    return session.scalars(select(BlindEvaluation.id).where(BlindEvaluation.state == "open")).all()


def stop(session: Session, evaluation_id: UUID, user: User) -> BlindEvaluation:
    """Stop an evaluation on an admin's word; what is known by then stands. Once more changes nothing."""
    get(session, evaluation_id)
    evaluation = follow(session, evaluation_id)
    if evaluation.state == "open":
        _stop(session, evaluation, blind_figures.of(session, evaluation), BY_HAND, user)
    return evaluation


def get(session: Session, evaluation_id: UUID) -> BlindEvaluation:
    """Return a blind evaluation, or raise `NotFoundError`."""
    evaluation = session.get(BlindEvaluation, evaluation_id)
    if evaluation is None:
        raise NotFoundError("There is no such blind evaluation.")
    return evaluation


def line(session: Session, evaluation: BlindEvaluation) -> Line:
    """Return an evaluation with its policies' names, and with its stored figures or those of this moment."""
    names = [session.get_one(ModelVersion, key).name for key in (evaluation.candidate_id, evaluation.incumbent_id)]
    return Line(evaluation, names[0], names[1], blind_figures.known(session, evaluation))


def listed(session: Session, project_id: UUID) -> list[Line]:
    """Return a project's blind evaluations, the newest first."""
    found = session.scalars(
        select(BlindEvaluation).where(BlindEvaluation.project_id == project_id).order_by(BlindEvaluation.id.desc())
    ).all()
    return [line(session, evaluation) for evaluation in found]


def choices(session: Session, project_id: UUID, most: int = 20) -> list[Choice]:
    """Return the newest evaluation runs whose policies could be judged blind."""
    runs = session.scalars(
        select(Run)
        .where(Run.project_id == project_id, Run.method == "evaluate", Run.state == "succeeded")
        .order_by(Run.id.desc())
        .limit(most)
    ).all()
    return [
        Choice(run, {UUID(run.inputs["policies"][name]): name for name in _names(run.config["options"])})
        for run in runs
        if run.config["options"].get("split", "held_out") == "held_out"
    ]


def _names(options: dict[str, Any]) -> list[str]:
    """Return the policies in the order of the run's form; the database keeps no order of an object's keys."""
    return [options["baseline"], *(policy["name"] for policy in options["policies"])]


def _same(run: Run, candidate: ModelVersion, incumbent: ModelVersion) -> Select[BlindEvaluation]:
    return select(BlindEvaluation).where(
        BlindEvaluation.run_id == run.id,
        BlindEvaluation.candidate_id == candidate.id,
        BlindEvaluation.incumbent_id == incumbent.id,
    )


def _check(project: Project, run: Run, candidate: ModelVersion, incumbent: ModelVersion) -> None:
    if {run.project_id, candidate.project_id, incumbent.project_id} != {project.id}:
        raise NotFoundError("This project has no such run or policy.")
    if run.method != "evaluate" or run.state != "succeeded":
        raise InvalidInputError("Choose an evaluation run that has succeeded; its answers are what is judged.")
    if run.config["options"].get("split", "held_out") != "held_out":
        raise InvalidInputError("This run answered prompts that policies were trained on; judge on held-out ones.")
    if candidate.id == incumbent.id:
        raise InvalidInputError("Choose two different policies; one cannot be compared with itself.")
    judged = set(run.inputs["policies"].values())
    for policy in (candidate, incumbent):
        if str(policy.id) not in judged:
            raise InvalidInputError(f"{policy.name} gave no answers in this run; evaluate it first.")


def _pairs(run: Run, candidate: ModelVersion, incumbent: ModelVersion) -> dict[str, Pair]:
    """Return the first answers of both policies to each prompt, by the prompt's name in the run's files."""
    path = get_settings().runs_dir / str(run.id) / "samples.jsonl"
    names = {key: name for name, key in run.inputs["policies"].items()}
    try:
        samples = read_samples(path)
    except (OSError, RecordError) as error:
        raise InvalidInputError(f"The answers of this run cannot be read: {error}") from None
    first: dict[str, dict[str, Sample]] = {"": {}}
    for sample in samples:
        if sample.index == 0:
            first.setdefault(sample.policy, {})[sample.prompt_id] = sample
    ours, theirs = (first.get(names[str(policy.id)], {}) for policy in (candidate, incumbent))
    both = {key: (ours[key], theirs[key]) for key in ours if key in theirs}
    if not both:
        raise InvalidInputError("The run holds no prompt that both policies have answered; evaluate them together.")
    return both


def _prompts(session: Session, project: Project, pairs: dict[str, Pair]) -> dict[str, Prompt]:
    rows = session.scalars(
        select(Prompt).where(
            Prompt.project_id == project.id,
            Prompt.split == "held_out",
            func.concat("p", func.left(Prompt.content_sha256, 16)).in_(list(pairs)),
        )
    )
    found = {f"p{prompt.content_sha256[:16]}": prompt for prompt in rows}
    if len(found) < len(pairs):
        raise InvalidInputError("The run answered prompts that are not held out in this project any more.")
    return found


def _add_tasks(session: Session, evaluation: BlindEvaluation, prompts: Sequence[Prompt], pairs: Sequence[Pair]) -> None:
    """Store the answers and one open task for each pair, in an order that says nothing about who wrote what.

    Ids tell when a row was made. So the order of both tables comes from a hash, not from policy or prompt.
    """
    if not prompts:
        return
    run = session.get_one(Run, evaluation.run_id)
    places = {run.inputs["policies"][name]: place for place, name in enumerate(_names(run.config["options"]))}
    each = int(run.config["options"].get("samples_per_prompt", 1))
    policies = (evaluation.candidate_id, evaluation.incumbent_id)
    rows = [
        {
            "prompt_id": prompt.id,
            "text": sample.text.replace("\x00", "\N{REPLACEMENT CHARACTER}"),
            "source": "model",
            "model_version_id": policy_id,
            "run_id": evaluation.run_id,
            "sample_index": places[str(policy_id)] * each,
            "sampling": {"tokens": sample.tokens},
            "finish_reason": sample.finish_reason,
        }
        for prompt, pair in zip(prompts, pairs, strict=True)
        for policy_id, sample in zip(policies, pair, strict=True)
    ]
    rows.sort(key=lambda row: _shuffled(evaluation.id, row["prompt_id"], row["model_version_id"]))
    # A policy that was compared with another one before has its answers stored already.
    session.execute(upsert(Completion).on_conflict_do_nothing(), rows)
    stored: dict[UUID, list[UUID]] = {}
    for completion_id, prompt_id in session.execute(
        select(Completion.id, Completion.prompt_id)
        .where(Completion.run_id == evaluation.run_id, Completion.model_version_id.in_(policies))
        .order_by(Completion.id)
    ):
        stored.setdefault(prompt_id, []).append(completion_id)
    last = session.scalar(select(func.max(Task.sort_key)).where(Task.project_id == evaluation.project_id))
    mixed = sorted(prompts, key=lambda prompt: _shuffled(evaluation.id, prompt.id))
    tasks = [
        {
            "project_id": evaluation.project_id,
            "prompt_id": prompt.id,
            "kind": "ranking",
            "state": "open",
            "purpose": "evaluation",
            "evaluation_id": evaluation.id,
            "sort_key": place,
            "target_overlap": evaluation.overlap,
            "required_tags": prompt.tags,
        }
        for place, prompt in enumerate(mixed, start=0 if last is None else last + 1)
    ]
    made = session.execute(insert(Task).returning(Task.id, Task.prompt_id), tasks).all()
    session.execute(
        insert(TaskCompletion),
        [
            {"task_id": task_id, "completion_id": completion_id, "position": position}
            for task_id, prompt_id in made
            for position, completion_id in enumerate(stored[prompt_id])
        ],
    )


def _shuffled(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def _is_anything_left(session: Session, evaluation: BlindEvaluation) -> bool:
    """Return whether an answer can still come: a task to be handed out, or one in somebody's hands."""
    left = (Task.open_leases > 0) | (Task.takeable & (Task.state == "open"))
    return session.scalar(select(Task.id).where(Task.evaluation_id == evaluation.id, left).limit(1)) is not None


def _stop(session: Session, evaluation: BlindEvaluation, figures: Figures, reason: str, user: User | None) -> None:
    """Write down what was found, and close what is still open: leases are left alone, and their answers kept."""
    session.execute(
        update(BlindEvaluation)
        .where(BlindEvaluation.id == evaluation.id, BlindEvaluation.state == "open")
        .values(
            state="stopped",
            verdict=figures.verdict,
            reason=reason,
            figures=asdict(figures),
            stopped_at=func.clock_timestamp(),
        )
    )
    closed = session.execute(
        update(Task)
        .where(Task.evaluation_id == evaluation.id, Task.state == "open")
        .values(state="closed")
        .returning(Task.id)
    ).all()
    session.refresh(evaluation)
    audit.record(session, user, "blind.stopped", "blind_evaluation", evaluation.id, reason=reason, closed=len(closed))
