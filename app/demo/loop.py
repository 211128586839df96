"""One turn of the whole loop on the demo's project, from empty tables to new answers that wait to be ranked.

    prompts → answers → rankings and demonstrations → snapshot → SFT → reward model → DPO and PPO → evaluation
            → promotion → answers of the promoted policy to new prompts, opened as the next tasks

What a person would do is done through the pages' forms. How a run gets on is read from its row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import select

from app import db
from app.demo import plan, results
from app.demo.browser import Browser
from app.demo.labelers import Worker, rank_all, write_all
from app.demo.plan import Training
from app.demo.progress import Step, Story
from app.demo.results import Result
from app.errors import PlackettError
from app.models import ModelVersion, Project, Run, Snapshot
from app.models.training import TERMINAL_STATES
from app.settings import get_settings

DATA = Path(__file__).parent / "data"
PROMPT_FILES: Mapping[str, int | None] = MappingProxyType({"prompts.jsonl": None})
POLL_SECONDS = 0.3
BASE = "base"


class DemoError(PlackettError):
    """A step of the demo did not end as it should; the sentence says which, and why."""


@dataclass(frozen=True)
class Scene:
    """Who acts, on what, and where it shows. `wait` sleeps, and is true once the stack has given up."""

    admin: Browser
    workers: Sequence[Worker]
    story: Story
    seed: int
    wait: Callable[[float], bool]


def turn(scene: Scene, model: Path) -> tuple[Result, UUID]:
    """Run the loop once and return what it found out, and the project's id."""
    name, project_id = make_project(scene)
    base_id = register_base(scene, project_id, model)
    with scene.story.step("sample", "Sample answers of the base model") as step:
        sample(scene, step, project_id, base_id, "all", scene.seed)
    with scene.story.step("label", "Rank and demonstrate (simulated)") as step:
        label(scene, step, project_id)
    snapshot_id = freeze(scene, project_id)
    train = {"snapshot_id": str(snapshot_id)}
    with scene.story.step("sft", "Fine-tune on the demonstrations") as step:
        sft = start(scene, step, project_id, "sft", plan.SFT, {**train, "model_id": str(base_id)})
    sft_id = model_of(sft)
    with scene.story.step("reward", "Train the reward model") as step:
        reward = start(scene, step, project_id, "reward", plan.REWARD, {**train, "model_id": str(base_id)})
    reward_id = model_of(reward)
    with scene.story.step("dpo", "DPO from the fine-tuned model") as step:
        dpo = start(scene, step, project_id, "dpo", plan.DPO, {**train, "model_id": str(sft_id)})
    judged_by = {"reward_model_id": str(reward_id)}
    with scene.story.step("ppo", "PPO from the fine-tuned model") as step:
        ppo = start(scene, step, project_id, "ppo", plan.PPO, {**train, **judged_by, "model_id": str(sft_id)})
    policies = [str(sft_id), str(model_of(dpo)), str(model_of(ppo))]
    with scene.story.step("evaluate", "Judge all policies on held-out prompts") as step:
        values = {**train, **judged_by, "model_id": str(base_id), "policies": policies}
        evaluation = start(scene, step, project_id, "evaluate", plan.EVALUATE, values)

    figures = results.policy_figures(report_of(evaluation), folder_of(evaluation), BASE, scene.seed)
    promoted, is_better = results.choose(figures)
    promoted_id = promote(scene, project_id, promoted)
    let_chat(scene, project_id, {promoted_id, base_id})
    with scene.story.step("next", "Sample the promoted policy's answers") as step:
        import_prompts(scene, project_id, "next_prompts.jsonl")
        sample(scene, step, project_id, promoted_id, "unsampled", scene.seed)
        open_tasks(scene, project_id, "ranking")
    with db.transaction() as session:
        snapshot = session.get_one(Snapshot, snapshot_id)
    splits = snapshot.manifest["splits"]
    return Result(
        project=name,
        seed=scene.seed,
        train_prompts=splits["prompts"]["train"],
        held_out_prompts=splits["prompts"]["held_out"],
        rankings=sum(splits["comparisons"].values()),
        demonstrations=sum(splits["demonstrations"].values()),
        agreement=results.mean_agreement(Path(snapshot.uri) / "comparisons.jsonl"),
        reward=results.reward_figures(report_of(reward)),
        policies=figures,
        promoted=promoted,
        is_better=is_better,
        examples=results.examples(folder_of(evaluation), BASE, promoted),
    ), project_id


def make_project(
    scene: Scene, files: Mapping[str, int | None] = PROMPT_FILES, overlap: int = plan.OVERLAP
) -> tuple[str, UUID]:
    """Make a project called Demo, or Demo 2 and so on where there are earlier ones, and import its files of prompts.

    `files` says of each how many of its first lines are taken; None takes all.
    """
    with db.transaction() as session:
        taken = set(session.scalars(select(Project.name)))
    names = ("Demo" if number == 1 else f"Demo {number}" for number in range(1, len(taken) + 2))
    name = next(item for item in names if item not in taken)
    scene.admin.open("/projects/new")
    scene.admin.submit(
        scene.admin.form("/projects/new"),
        {
            "name": name,
            "guidelines": (DATA / "guidelines.md").read_text(encoding="utf-8"),
            "k": str(plan.K),
            "overlap": str(overlap),
            "held_out_percent": str(plan.HELD_OUT_PERCENT),
        },
    )
    project_id = scene.admin.id_in_path()
    for file, limit in files.items():
        import_prompts(scene, project_id, file, limit)
    return name, project_id


def import_prompts(scene: Scene, project_id: UUID, name: str, limit: int | None = None) -> None:
    """Import one of the demo's files of prompts, or its first lines, through the import form."""
    path = f"/projects/{project_id}/prompts/import"
    scene.admin.open(path)
    lines = (DATA / name).read_bytes().splitlines(keepends=True)
    scene.admin.submit(scene.admin.form(path), file=(name, b"".join(lines[:limit])))


def register_base(scene: Scene, project_id: UUID, folder: Path) -> UUID:
    """Register the base model in the project's registry and return its id."""
    path = f"/projects/{project_id}/models"
    scene.admin.open(path)
    scene.admin.submit(scene.admin.form(path), {"name": BASE, "uri": str(folder)})
    return scene.admin.id_in_path()


def sample(scene: Scene, step: Step, project_id: UUID, model_id: UUID, prompts: str, seed: int) -> None:
    """Sample answers to `prompts` (as the form calls them) and wait for them."""
    scene.admin.open(f"/projects/{project_id}")
    form = scene.admin.form(f"/projects/{project_id}/sample")
    scene.admin.submit(form, {**plan.SAMPLING, "model_id": str(model_id), "prompts": prompts, "seed": str(seed)})
    follow(scene, step, scene.admin.id_in_path())


def open_tasks(scene: Scene, project_id: UUID, kind: str) -> None:
    """Press the button that opens tasks of a kind."""
    scene.admin.open(f"/projects/{project_id}")
    scene.admin.submit(scene.admin.form(f"/projects/{project_id}/open-tasks", kind=kind))


def label(scene: Scene, step: Step, project_id: UUID) -> None:
    """Open all tasks and have the simulated labelers answer them."""
    open_tasks(scene, project_id, "ranking")
    total = len(read_data("prompts.jsonl")) * len(scene.workers) + len(read_data("demonstrations.jsonl"))
    rankings = 0
    for rankings in rank_all(scene.workers, project_id, scene.seed):
        step.update(rankings, total)
    written = demonstrate(scene, step, project_id, rankings, total)
    step.result = f"{rankings} rankings, {written} demonstrations"


def demonstrate(scene: Scene, step: Step, project_id: UUID, done: int = 0, total: int | None = None) -> int:
    """Open the demonstration tasks, have the simulated labelers write, and return how many they wrote.

    `done` of the `total` of the step's bar were done before.
    """
    open_tasks(scene, project_id, "demonstration")
    texts = {row["messages"][-1]["content"]: row["completion"] for row in read_data("demonstrations.jsonl")}
    written = 0
    for written in write_all(scene.workers, project_id, texts):
        step.update(done + written, total or len(texts))
    return written


def freeze(scene: Scene, project_id: UUID) -> UUID:
    """Freeze a snapshot and return its id."""
    path = f"/projects/{project_id}/snapshots"
    scene.admin.open(path)
    scene.admin.submit(scene.admin.form(path))
    return scene.admin.id_in_path()


def start(scene: Scene, step: Step, project_id: UUID, method: str, training: Training, values: dict[str, Any]) -> UUID:
    """Start a run through its form, wait until it has succeeded, and return its id."""
    scene.admin.open(f"/runs/new?project={project_id}&method={method}")
    common = {"seed": str(scene.seed), "max_length": str(plan.MAX_LENGTH), "advanced": json.dumps(training.advanced)}
    scene.admin.submit(scene.admin.form("/runs/new"), {**training.fields, **common, **values})
    run_id = scene.admin.id_in_path()
    follow(scene, step, run_id)
    return run_id


def follow(scene: Scene, step: Step, run_id: UUID) -> None:
    """Move the step's bar with the run until it has ended; raise `DemoError` unless it succeeded."""
    while True:
        with db.transaction() as session:
            run = session.get_one(Run, run_id)
        if run.state in TERMINAL_STATES:
            break
        step.update(run.progress_step or 0, run.progress_total)
        if scene.wait(POLL_SECONDS):
            raise DemoError("A process of the stack has given up, so the demo cannot go on.")
    if run.state != "succeeded":
        raise DemoError(f"The run {run.name!r} has {run.state}: {run.state_reason or 'it gave no reason'}")
    step.result = str((run.report or {}).get("summary", {}).get("headline", ""))


def promote(scene: Scene, project_id: UUID, name: str) -> UUID:
    """Promote a model of the project by its name and return its id."""
    with db.transaction() as session:
        model = session.scalars(
            select(ModelVersion).where(ModelVersion.project_id == project_id, ModelVersion.name == name)
        ).one()
    scene.admin.open(f"/models/{model.id}")
    scene.admin.submit(scene.admin.form(f"/models/{model.id}/promote"))
    return model.id


def let_chat(scene: Scene, project_id: UUID, model_ids: Collection[UUID]) -> None:
    """Let models take part in live chat, on the server of models that the stack has started, if it has one."""
    if get_settings().model_server_url is None:
        return
    path = f"/projects/{project_id}/chat"
    for model_id in model_ids:
        scene.admin.open(path)
        scene.admin.submit(scene.admin.form(path), {"source": f"local:{model_id}", **plan.CHAT})


def model_of(run_id: UUID) -> UUID:
    """Return the id of the model that a run has left behind."""
    with db.transaction() as session:
        return session.scalars(select(ModelVersion.id).where(ModelVersion.run_id == run_id)).one()


def report_of(run_id: UUID) -> dict[str, Any]:
    """Return a run's report."""
    report: dict[str, Any] = json.loads((folder_of(run_id) / "report.json").read_text(encoding="utf-8"))
    return report


def folder_of(run_id: UUID) -> Path:
    """Return a run's directory."""
    return get_settings().runs_dir / str(run_id)


def read_data(name: str) -> list[dict[str, Any]]:
    """Return the rows of one of the demo's files."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
