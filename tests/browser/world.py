"""What a browser test finds when it starts, made through the same services that the pages call."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db
from app.models import Assignment, Completion, ModelVersion, Project, Prompt, Ranking, Run, Snapshot, User
from app.services.labeling import assignments, demonstrations, judgements, rankings, tasks
from app.services.projects import projects, prompts
from app.services.projects.projects import NewProject
from app.services.training import registry, run_states, runs, snapshots
from app.services.training.run_states import Beat
from app.settings import get_settings
from trainer.jsonl import append_jsonl
from trainer.records import Sample, read_prompts

from .texts import DEMONSTRATION, GUIDELINES, PROJECT, QUESTIONS

Groups = list[set[str]]
"""A ranking by the texts of the answers: tie groups, best first."""


def make_project(
    session: Session, admin: User, questions: Sequence[str] = tuple(QUESTIONS), /, **values: object
) -> Project:
    """A project with these prompts, none of them held out unless asked for."""
    settings = {"name": PROJECT, "guidelines": GUIDELINES, "k": 4, "overlap": 2, "held_out_percent": 0, **values}
    project = projects.create(session, admin, NewProject(**settings))  # type: ignore[arg-type]
    import_lines(session, project, admin, questions)
    return project


def import_lines(session: Session, project: Project, admin: User, questions: Sequence[str]) -> None:
    """Import prompts of one message each."""
    lines = "\n".join(json.dumps({"prompt": question}) for question in questions)
    prompts.import_file(session, project, admin, BytesIO(lines.encode()), "jsonl")


def make_model(
    session: Session, project: Project, admin: User, folder: Path, name: str = "smollm2-135m"
) -> ModelVersion:
    """A base model whose folder looks like one; nothing here loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / file).write_text("{}")
    return registry.register_base(session, project, admin, name=name, uri=str(folder))


def start(session: Session, run: Run) -> run_states.Lease:
    """Claim a queued run, as a worker does."""
    lease = run_states.claim(session, run.id, "gpu-1", 3600)
    assert lease is not None
    return lease


def sample(session: Session, admin: User, model: ModelVersion, answers: Mapping[str, Sequence[str]] = QUESTIONS) -> Run:
    """A finished sampling run of the model's project, with these answers by question, as draft tasks."""
    project = session.get_one(Project, model.project_id)
    run = runs.create_sampling_run(session, project, model, admin)
    session.flush()
    lease = start(session, run)
    ids = {prompt.messages[-1]["content"]: prompt.id for prompt in session.scalars(select(Prompt))}
    samples = [
        Sample(model.name, str(ids[question]), index, text, len(text) // 4, "stop")
        for question, texts in answers.items()
        for index, text in enumerate(texts)
    ]
    tasks.add_sampled(session, run, samples, model.id)
    run_states.finish(session, lease, None)
    return run


def open_for_ranking(
    session: Session, admin: User, folder: Path, questions: Mapping[str, Sequence[str]], /, **values: object
) -> Project:
    """A project with these questions and answers, its ranking tasks open; `values` are `NewProject`'s."""
    project = make_project(session, admin, tuple(questions), k=len(next(iter(questions.values()))), **values)
    sample(session, admin, make_model(session, project, admin, folder), questions)
    tasks.open_tasks(session, project, admin, "ranking")
    return project


def rank_next(session: Session, project: Project, labeler: User, order: Sequence[int]) -> None:
    """Let a labeler take a task and rank its answers; `order` gives the rank of each in its stored position."""
    assignment_id = assignments.claim(session, project, labeler, "ranking")
    assert assignment_id is not None
    assignment = session.get_one(Assignment, assignment_id)
    by_id = dict(zip(sorted(assignment.shown_order), order, strict=True))
    shown = zip(judgements.LETTERS, assignment.shown_order, strict=False)
    fields = {f"rank_{letter}": str(by_id[item]) for letter, item in shown}
    rankings.submit(session, assignment_id, labeler, assignment.submit_id, fields)


def write_next(session: Session, project: Project, labeler: User, text: str) -> None:
    """Let a labeler take a demonstration task and write this answer."""
    assignment_id = assignments.claim(session, project, labeler, "demonstration")
    assert assignment_id is not None
    assignment = session.get_one(Assignment, assignment_id)
    demonstrations.submit(session, assignment_id, labeler, assignment.submit_id, {"text": text})


def stored_rankings(session: Session) -> list[Groups]:
    """Every stored ranking in the order of arrival, by the texts of its answers."""
    texts = {str(key): text for key, text in session.execute(select(Completion.id, Completion.text))}
    found = session.scalars(select(Ranking).order_by(Ranking.created_at, Ranking.id))
    return [[{texts[item] for item in group} for group in ranking.groups] for ranking in found]


@dataclass(frozen=True)
class Studio:
    """A project in its second week: people, tasks half done, a snapshot, a family of models, a run at work."""

    project: Project
    admin: User
    labeler: User
    snapshot: Snapshot
    models: Mapping[str, ModelVersion]
    running: Run
    earlier: Run


TRAINED = (
    ("sft", "smollm2-135m", {"held_out_loss": 1.318}, {}),
    ("reward", "sft-1", {"held_out_accuracy": 0.742, "held_out_loss": 0.561}, {}),
    ("dpo", "sft-1", {"held_out_accuracy": 0.716}, {"win_rate": 0.643, "reward": 0.81, "kl": 7.4}),
    ("ppo", "sft-1", {"reward": 0.93}, {"win_rate": 0.618, "reward": 1.02, "kl": 11.9}),
)
"""Method, parent, what its training reported, and what an evaluation found."""


def make_studio(
    admin: User,
    folder: Path,
    labelers: Sequence[User] = (),
    questions: Mapping[str, Sequence[str]] = QUESTIONS,
    **project_values: Any,
) -> Studio:
    """Make a project as it looks when the loop has gone round once; the questions are at least six, of four answers."""
    labelers = labelers or (_person("Jonas Petri", "labeler"),)
    with db.transaction() as session:
        project = make_project(session, admin, tuple(questions), overlap=3, held_out_percent=20, **project_values)
        base = make_model(session, project, admin, folder / "base")
        sample(session, admin, base, questions)
        for kind in ("ranking", "demonstration"):
            tasks.open_tasks(session, project, admin, kind)
    with db.transaction() as session:
        for number, labeler in enumerate(labelers):
            for order in ((1, 3, 4, 2), (1, 4, 1, 3), (2, 4, 1, 3), (1, 4, 3, 1))[: 4 - number]:
                rank_next(session, project, labeler, order)
        for text in (DEMONSTRATION, "It is Rayleigh scattering: air bends blue light aside far more than red."):
            write_next(session, project, labelers[0], text)
    with db.transaction() as session:
        snapshot = snapshots.create(session, project, admin)
        models = {base.name: base}
        for method, parent, figures, judged in TRAINED:
            made = _trained(session, admin, models, method, models[parent], snapshot, folder, figures, judged)
            models[made.name] = made
        registry.promote(session, registry.get(session, base.id), admin)
        run = _queue(session, admin, models, "ppo", models["sft-1"], snapshot)
    with db.transaction() as session:
        run_states.heartbeat(session, start(session, run), 3600, _curves())
        earlier = session.get_one(Run, models["ppo-1"].run_id)
    _write_rollouts(run, snapshot, questions)
    return Studio(project, admin, labelers[0], snapshot, models, run, earlier)


def _person(name: str, role: str) -> User:
    with db.transaction() as session:
        user = User(email=f"{name.split()[0].lower()}@example.org", name=name, role=role, password_hash="none")
        session.add(user)
        session.flush()
        session.refresh(user)
    return user


def _queue(
    session: Session, admin: User, models: Mapping[str, ModelVersion], method: str, parent: ModelVersion, data: Snapshot
) -> Run:
    run = runs.create_training_run(
        session,
        session.get_one(Project, parent.project_id),
        method,
        admin,
        model=parent,
        snapshot=data,
        reward_model=models["reward-1"] if method == "ppo" else None,
        dedupe_key=str(uuid4()),
        lora={"rank": 16, "alpha": 32.0},
    )
    session.flush()
    return run


def _trained(
    session: Session,
    admin: User,
    models: Mapping[str, ModelVersion],
    method: str,
    parent: ModelVersion,
    data: Snapshot,
    folder: Path,
    figures: Mapping[str, float],
    judged: Mapping[str, float],
) -> ModelVersion:
    run = _queue(session, admin, models, method, parent, data)
    lease = start(session, run)
    if method == "ppo":
        run_states.heartbeat(session, lease, 3600, _curves(seed=11, steps=120))
    target = folder / method
    target.mkdir(parents=True)
    for file in (folder / "base").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    metrics = dict(figures) | ({"evaluation": {**judged, "run_id": str(run.id)}} if judged else {})
    made = registry.add_trained(session, run, uri=str(target), manifest_sha256="0" * 64, metrics=metrics)
    run_states.finish(session, lease, {"summary": dict(figures)})
    return made


def _write_rollouts(run: Run, snapshot: Snapshot, questions: Mapping[str, Sequence[str]]) -> None:
    """Leave in the run's folder what PPO writes while it works: answers to two of the prompts, again and again."""
    folder = get_settings().runs_dir / str(run.id)
    shutil.copytree(snapshot.uri, folder / "data")
    prompts = read_prompts(folder / "data" / "prompts.jsonl")[:2]
    rows = [
        {
            "iteration": iteration,
            "prompt_id": prompt.id,
            "text": questions[prompt.messages[-1].content][place % 4],
            "tokens": 41 + 3 * place,
            "finish_reason": "stop" if place else "length",
            "reward": -0.12 + 0.36 * place,
            "kl": 0.2 + 3.1 * place,
        }
        for place, iteration in enumerate((1, 20, 40, 80))
        for prompt in prompts
    ]
    append_jsonl(folder / "rollouts.jsonl", rows)


def _curves(seed: int = 7, steps: int = 80) -> Beat:
    """PPO at two thirds: reward and KL rise together, noise dies down. Made up, but of the usual shape."""
    noise = random.Random(seed)
    metrics: dict[int, dict[str, Any]] = {}
    for step in range(1, steps + 1):
        grown = 1 - math.exp(-step / 30)
        metrics[step] = {
            "time": step * 4.2,
            "reward": round(-0.1 + 1.1 * grown + noise.gauss(0, 0.07), 4),
            "objective": round(-0.1 + 0.86 * grown + noise.gauss(0, 0.07), 4),
            "kl": round(11.4 * grown**1.5 + noise.gauss(0, 0.25), 4),
            "loss": round(0.42 * math.exp(-step / 18) + 0.06 + noise.gauss(0, 0.012), 4),
            "response_length": round(88 + 21 * grown + noise.gauss(0, 4), 1),
            "entropy": round(2.35 - 0.5 * grown + noise.gauss(0, 0.03), 4),
            "tokens_per_second": round(395 + noise.gauss(0, 9), 1),
            "grad_norm": round(0.9 * math.exp(-step / 40) + 0.3 + noise.gauss(0, 0.05), 4),
            "clip_fraction": round(abs(0.08 + noise.gauss(0, 0.02)), 4),
            "peak_memory_mb": 3120.5,
        }
    log = "\n".join(
        f"step {step}/120  reward {row['reward']:.3f}  kl {row['kl']:.2f}  length {row['response_length']:.0f}"
        for step, row in list(metrics.items())[-12:]
    )
    return Beat(step=steps, total=120, log_tail=log, metrics=metrics)
