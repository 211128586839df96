"""The table of policies from real rankings and real files: who is in it, in what order, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsers import SignIn
from evaluation_world import add_model, begin, judge_next, make_scene
from run_builders import completion_ids, make_prompts, make_task, rank
from sqlalchemy import select, update

from app import db
from app.models import Completion, Project, Prompt, Run
from app.services.evaluation import policy_table
from app.settings import get_settings
from trainer.jsonl import write_jsonl
from trainer.records import Sample


def test_the_table_takes_blind_and_ordinary_rankings_and_leaves_out_what_does_not_count(
    database: str, redis_url: str, sign_in: SignIn
) -> None:
    scene = make_scene(questions=60)
    begin(scene)
    for place in range(8):
        assert judge_next(scene.project, scene.labelers[0], lambda texts, _, won=place > 1: "new" if won else "old")
    with db.transaction() as session:
        third = add_model(session, scene.project, scene.admin, "third")
        session.execute(update(Prompt).values(position=Prompt.position + 1000))
        prompts = make_prompts(session, session.get_one(Project, scene.project.id), [f"More {n}?" for n in range(4)])
        for number, prompt in enumerate(prompts):
            task = make_task(session, prompt, ["a long answer of the third", "short", "by hand"])
            ids = completion_ids(session, task)
            writers = dict(zip(ids, (third.id, scene.old.id, None), strict=True))
            for completion, model in writers.items():
                change = update(Completion).where(Completion.id == completion)
                session.execute(change.values(source="model" if model else "human", model_version_id=model))
            # The last one does not count; else the third policy wins whatever people wrote beside it.
            extra: dict[str, Any] = {"counted": False, "not_counted_reason": "late"} if number == 3 else {}
            rank(session, task, scene.labelers[0], [[0], [2], [1]] if number < 3 else [[1], [2], [0]], **extra)
    with db.transaction() as session:
        table = policy_table.of_people(session, scene.project.id)
    rows = {row.model.name: row for row in table.rows}
    assert (table.anchor, table.encounters, table.prompts) == ("old", 11, 11)
    assert rows.keys() == {"old", "new", "third"}
    assert (rows["old"].win_rate, rows["new"].win_rate, rows["third"].win_rate) == pytest.approx((2 / 11, 6 / 8, 1.0))
    assert rows["old"].strength.elo == 0
    assert rows["third"].strength.elo > rows["new"].strength.elo > 0
    assert rows["new"].strength.low < rows["new"].strength.elo < rows["new"].strength.high
    assert [row.model.name for row in table.rows] == ["third", "new", "old"]

    browser = sign_in(scene.admin)
    page = browser.get(f"/projects/{scene.project.id}/policies")
    assert "11 encounters on 11 prompts" in page.text
    assert "No two policies have met yet." in page.text  # by the reward model
    told = browser.get(f"/projects/{scene.project.id}/policies.json").json()
    assert [row["name"] for row in told["by_people"]["policies"]] == ["third", "new", "old"]
    assert told["by_people"]["policies"][1]["win_rate"] == 0.75
    assert told["by_reward_model"]["policies"] == []
    assert sign_in(scene.labelers[0]).get(f"/projects/{scene.project.id}/policies").status_code == 403


def test_the_reward_models_table_reads_its_own_runs_and_says_which_files_are_gone(database: str) -> None:
    scene = make_scene(questions=30)
    with db.transaction() as session:
        judge = add_model(session, scene.project, scene.admin, "reward-1", kind="reward", method="reward")
        run = session.get_one(Run, scene.run.id)
        run.inputs = {**run.inputs, "reward_model": str(judge.id)}
        samples = [
            Sample(name, f"p{n}", index, text, 3, "stop", reward=reward)
            for n in range(5)
            for index in range(2)
            for name, text, reward in (("old", "x", 0.0), ("new", "x y", (1.0, -1.0, 0.0)[n % 3]))
        ]
    write_jsonl(Path(get_settings().runs_dir) / str(run.id) / "samples.jsonl", list(samples))
    with db.transaction() as session:
        table = policy_table.of_reward_model(session, scene.project.id)
    # Prompts 0 and 3 are won, 1 and 4 lost, 2 is a tie, each by both answers.
    assert (table.judge, table.encounters, table.prompts, table.unread) == ("reward-1", 10, 5, 0)
    assert {row.model.name: row.win_rate for row in table.rows} == {"old": 0.5, "new": 0.5}
    (get_settings().runs_dir / str(run.id) / "samples.jsonl").unlink()
    with db.transaction() as session:
        found = policy_table.of_reward_model(session, scene.project.id)
        assert (found.rows, found.unread) == ((), 1)
        assert session.scalars(select(Run.state)).all() == ["succeeded"]
