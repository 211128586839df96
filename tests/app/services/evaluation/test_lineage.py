"""Lineage: back from a policy to every ranking, through reward model and parents, and forward from a labeler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from browsers import SignIn
from evaluation_world import add_model
from labeling_world import make_user
from run_builders import (
    completion_ids,
    demonstrate,
    fake_model_folder,
    freeze,
    make_project,
    make_prompts,
    make_task,
    queue_training_run,
    rank,
)
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db
from app.models import ModelVersion, Project, Ranking, Run, Snapshot, User
from app.services.data import pseudonyms
from app.services.evaluation import lineage


def trained(
    session: Session, admin: User, method: str, parent: ModelVersion, snapshot: Snapshot, **more: Any
) -> ModelVersion:
    """A model as its run leaves it."""
    project = session.get_one(Project, parent.project_id)
    run: Run = queue_training_run(session, project, admin, parent, snapshot, method, **more)
    return add_model(
        session, project, admin, f"{method}-1", kind="reward" if method == "reward" else "policy", method=method,
        uri=parent.uri, parent_id=parent.id, run_id=run.id, snapshot_id=snapshot.id,
    )  # fmt: skip


def test_the_chain_leads_back_to_every_ranking_and_forward_to_the_policy(
    database: str, redis_url: str, tmp_path: Path, sign_in: SignIn
) -> None:
    with db.transaction() as session:
        admin, busy, idle = make_user(session, "admin"), make_user(session), make_user(session)
        project = make_project(session, admin, "Traced", held_out_fraction=0.0)
        prompts = make_prompts(session, project, [f"Is it {n}?" for n in range(6)])
        tasks = [make_task(session, prompt, ["Yes.", "No."]) for prompt in prompts]
        for task in tasks[:4]:
            rank(session, task, busy, [[0], [1]])
        rank(session, tasks[0], idle, [[1], [0]])
        demonstrate(session, prompts[0], busy, "Yes, it is.")
        base = add_model(session, project, admin, "base", method="base", uri=fake_model_folder(tmp_path / "base"))
    with db.transaction() as session:
        first = freeze(session, project, admin)
    with db.transaction() as session:
        # What comes after the snapshot is behind no model.
        rank(session, tasks[5], busy, [[0], [1]])
        sft = trained(session, admin, "sft", base, first)
        judge = trained(session, admin, "reward", sft, first)
        ppo = trained(session, admin, "ppo", sft, first, reward_model=judge)
        ppo.state = "promoted"
    with db.transaction() as session:
        found = lineage.chain(session, session.get_one(ModelVersion, ppo.id))
        told = lineage.as_json(session, session.get_one(ModelVersion, ppo.id))
        early = set(map(str, session.scalars(select(Ranking.id).where(Ranking.task_id != tasks[5].id))))
    assert [(step.model.name, step.role) for step in found.steps] == [
        ("ppo-1", ""),
        ("reward-1", "the reward model of ppo-1"),
        ("sft-1", "reward-1 began from it"),
        ("base", "sft-1 began from it"),
    ]
    assert [step.data.words if step.data else None for step in found.steps] == [
        None,
        "5 rankings of 2 labelers",
        "1 demonstration of 1 labeler",
        None,
    ]
    names = {person.id: pseudonyms.of_labeler(person.email) for person in (busy, idle)}
    assert found.labelers == {
        names[busy.id]: {"comparisons": 4, "demonstrations": 1},
        names[idle.id]: {"comparisons": 1},
    }
    rankings = next(part for part in told["data"] if part["kind"] == "comparisons")
    assert set(rankings["ids"]) == early
    assert len(early) == 5
    assert busy.email not in str(told)
    assert busy.name not in str(told)

    browser = sign_in(admin)
    page = browser.get(f"/models/{ppo.id}/lineage")
    assert "5 rankings of 2 labelers" in page.text
    assert "Answered the prompts of" in page.text
    assert busy.name not in page.text
    sent = browser.get(f"/models/{ppo.id}/lineage.json")
    assert sent.headers["content-disposition"] == 'attachment; filename="lineage-ppo-1.json"'
    assert sent.json() == told
    mine = sign_in(busy).get(f"/work/{project.id}/mine").text
    assert (
        "Your <strong>4 rankings</strong> and <strong>1 written answer</strong> trained <strong>ppo-1</strong>" in mine
    )
    assert "Your <strong>1 written answer</strong> trained <strong>sft-1</strong>." in mine
    other = sign_in(idle).get(f"/work/{project.id}/mine").text
    assert "Your <strong>1 ranking</strong> trained <strong>ppo-1</strong>" in other
    assert "sft-1" not in other


def test_a_ledger_that_is_elsewhere_leaves_the_counts_and_says_why_there_are_no_ids(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    with db.transaction() as session:
        admin = make_user(session, "admin")
        project = make_project(session, admin, "Moved", held_out_fraction=0.0)
        prompt = make_prompts(session, project, ["Is it so?"])[0]
        task = make_task(session, prompt, ["Yes.", "No."])
        rank(session, task, admin, [[0], [1]])
        assert len(completion_ids(session, task)) == 2
        base = add_model(session, project, admin, "base", method="base", uri=fake_model_folder(tmp_path / "base"))
    with db.transaction() as session:
        snapshot = freeze(session, project, admin)
        snapshot.ledger = {kind: {"sha256": "0" * 64, "rows": 1} for kind in ("comparisons", "demonstrations")}
        dpo = trained(session, admin, "dpo", base, snapshot)
        told = lineage.as_json(session, dpo)
    assert told["data"][0]["rows"] == 1
    assert told["data"][0]["ids"] is None
    assert "not on this machine" in told["data"][0]["reason"]
