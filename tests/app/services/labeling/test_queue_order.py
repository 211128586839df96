"""The order of the queue: what is asked first, what stays where it is, and what chance has to say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from labeling_world import World, make_world
from run_builders import fake_model_folder, make_model
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app import db
from app.db import transaction
from app.errors import InvalidInputError
from app.models import Assignment, Completion, ModelVersion, Project, Prompt, Run, Task, TaskCompletion, TaskScore
from app.services.labeling import assignments, queue_order
from app.services.labeling.queue_order import ordered
from app.services.training import runs
from trainer.records import Score

MANY = [Score(str(UUID(int=n)), (0.0, 0.0), n / 1000, 0.1, (n * 7 % 1000) / 1000) for n in range(1000)]


def test_a_share_drawn_by_chance_stands_at_even_distances_in_the_queue() -> None:
    places = ordered(MANY, "uncertainty", 0.2, seed=3)
    assert sorted(place.task_id.int for place in places) == list(range(1000))
    assert [n for n, place in enumerate(places) if place.picked == "random"] == list(range(0, 1000, 5))
    policy = [place.task_id.int for place in places if place.picked == "uncertainty"]
    assert policy == sorted(policy, reverse=True)
    # What chance has drawn is a fair sample: of 200 numbers below 1000 the mean is 500, give or take 20.
    drawn = [place.task_id.int for place in places if place.picked == "random"]
    assert 440 < sum(drawn) / 200 < 560
    assert drawn not in (sorted(drawn), sorted(drawn, reverse=True))
    assert ordered(MANY[::-1], "uncertainty", 0.2, seed=3) == places, "the order they come in must not matter"
    assert ordered(MANY, "uncertainty", 0.2, seed=4) != places


@pytest.mark.parametrize("share", [0.0, 0.01, 0.33, 0.5, 0.999, 1.0])
def test_every_task_has_one_place_whatever_the_share(share: float) -> None:
    for count in (1, 2, 7, 100):
        places = ordered(MANY[:count], "margin", share, seed=1)
        assert len({place.task_id for place in places}) == count
        chance = Counter(place.picked for place in places)["random"]
        assert share * count <= chance < share * count + 1
        margins = [MANY[place.task_id.int].margin for place in places if place.picked == "margin"]
        assert margins == sorted(margins)


def test_the_random_policy_leaves_nothing_to_the_model() -> None:
    assert {place.picked for place in ordered(MANY, "random", 0.0, seed=1)} == {"random"}


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=8, overlap=2)


def scoring(world: World, scored: dict[UUID, float], **inputs: Any) -> Run:
    """Store a scoring run that found this information, and put the tasks in their order."""
    with transaction() as session:
        run = Run(
            project_id=world.project_id,
            method="score",
            name="Order",
            config={"seed": 0},
            inputs={"tasks": [str(item) for item in scored], "policy": "uncertainty", "random_share": 0.0} | inputs,
            dedupe_key=str(sorted(scored.items())) + str(inputs),
            created_by=world.admin.id,
        )
        session.add(run)
        session.flush()
        queue_order.apply(session, run, [Score(str(key), (0.0,), value, 0.0, 1.0) for key, value in scored.items()])
        return run


def claimed(session: Session, world: World, labeler: int) -> UUID:
    """Let a labeler take a further task and return which it is."""
    project = session.get_one(Project, world.project_id)
    held = session.scalar(select(Assignment.id).where(Assignment.user_id == world.labelers[labeler].id))
    taken = assignments.claim(session, project, world.labelers[labeler], "ranking", ahead_of=held)
    return session.get_one(Assignment, taken).task_id


def queue(world: World) -> list[UUID]:
    with transaction() as session:
        query = select(Task.id).where(Task.project_id == world.project_id)
        return list(session.scalars(query.order_by(Task.priority.desc(), Task.sort_key)))


def test_scored_tasks_share_out_their_places_and_a_leased_or_urgent_task_keeps_its_own(world: World) -> None:
    before = queue(world)
    with transaction() as session:
        project = session.get_one(Project, world.project_id)
        assert claimed(session, world, 0) == before[0]
        session.execute(update(Task).where(Task.id == before[5]).values(priority=3))
        assert list(queue_order.candidates(session, project)) == [before[5], *before[1:5], *before[6:]]
        assert list(queue_order.candidates(session, project, limit=2)) == [before[5], before[1]]
    # The later a task stands, the more it would tell; the last one is not scored.
    run = scoring(world, {task_id: n / 10 for n, task_id in enumerate(before[:7])})

    urgent, *others = queue(world)
    assert urgent == before[5], "what a person gave priority stays ahead"
    assert others == [before[0], before[6], before[4], before[3], before[2], before[1], before[7]]
    with transaction() as session:
        keys = session.scalars(select(Task.sort_key).where(Task.project_id == world.project_id))
        assert sorted(keys) == list(range(8)), "the places are the same ones"
        scores = session.scalars(select(TaskScore)).all()
        assert {score.task_id for score in scores} == set(before[1:7])
        assert {(score.run_id, score.picked) for score in scores} == {(run.id, "uncertainty")}
        # The next labeler is asked for what tells most.
        assert claimed(session, world, 1) == before[5]
        assert claimed(session, world, 0) == before[5], "who holds the first task already gets the next"


def test_a_task_that_is_being_handed_out_at_this_moment_is_passed_over_without_waiting(world: World) -> None:
    before = queue(world)
    with db.transaction() as other:
        other.execute(text("SELECT 1 FROM tasks WHERE id = :id FOR UPDATE"), {"id": before[2]})
        scoring(world, {task_id: n / 10 for n, task_id in enumerate(before)})
    assert queue(world) == [before[place] for place in (7, 6, 2, 5, 4, 3, 1, 0)]


def test_a_later_scoring_replaces_what_an_earlier_one_said(world: World) -> None:
    before = queue(world)
    scoring(world, {task_id: n / 10 for n, task_id in enumerate(before)})
    second = scoring(world, {task_id: 1 - n / 10 for n, task_id in enumerate(before)}, random_share=1.0)
    with transaction() as session:
        rows = session.scalars(select(TaskScore)).all()
        assert {(row.run_id, row.picked) for row in rows} == {(second.id, "random")}
        assert len(rows) == 8


def test_held_out_prompts_and_tasks_that_are_no_ones_to_take_are_not_scored(world: World) -> None:
    before = queue(world)
    with transaction() as session:
        held_out = select(Task.prompt_id).where(Task.id == before[0])
        session.execute(update(Prompt).where(Prompt.id.in_(held_out)).values(split="held_out"))
        session.execute(update(Task).where(Task.id == before[1]).values(state="closed"))
        session.execute(update(Task).where(Task.id == before[2]).values(done_count=2))
        session.execute(update(Task).where(Task.id == before[3]).values(purpose="gold", reference=[]))
        session.execute(update(Task).where(Task.id == before[4]).values(state="draft"))
        project = session.get_one(Project, world.project_id)
        assert list(queue_order.candidates(session, project)) == before[4:]


def reward_model(session: Session, world: World, folder: Path, heads: int) -> ModelVersion:
    project = session.get_one(Project, world.project_id)
    uri = fake_model_folder(folder)
    (folder / "reward.json").write_text(json.dumps({"mean": [0.0] * heads}))
    return make_model(session, project, world.admin, uri, f"reward-{heads}", kind="reward", method="reward")


def test_a_scoring_run_is_refused_with_a_remedy_until_it_can_do_something(
    world: World, redis_url: str, tmp_path: Path
) -> None:
    with transaction() as session:
        project = session.get_one(Project, world.project_id)
        one, many = (reward_model(session, world, tmp_path / str(heads), heads) for heads in (1, 5))
        policy = make_model(session, project, world.admin, one.uri, "policy")

        def create(model: ModelVersion) -> Run:
            return runs.create_scoring_run(session, project, world.admin, reward_model=model, seed=7)

        with pytest.raises(InvalidInputError, match="choose another order"):
            create(many)
        project.queue_order = "uncertainty"
        with pytest.raises(InvalidInputError, match="has one head"):
            create(one)
        with pytest.raises(InvalidInputError, match="not a reward model"):
            create(policy)
        run = create(many)
        assert run.inputs == {
            "tasks": [str(item) for item in queue_order.candidates(session, project)],
            "policy": "uncertainty",
            "random_share": 0.2,
        }
        assert (run.method, run.config["seed"], run.config["model"]) == ("score", 7, many.uri)
        project.queue_order = "margin"
        assert create(one).inputs["policy"] == "margin"
        session.execute(update(Task).where(Task.project_id == project.id).values(state="closed"))
        with pytest.raises(InvalidInputError, match="No task waits"):
            create(many)


def test_the_data_file_holds_the_answers_and_nobodys_word_on_them(world: World) -> None:
    with transaction() as session:
        ids = queue(world)[:2]
        cut = select(TaskCompletion.completion_id).where(TaskCompletion.task_id == ids[0], TaskCompletion.position == 1)
        session.execute(update(Completion).where(Completion.id.in_(cut)).values(finish_reason="length"))
        run = Run(inputs={"tasks": [str(item) for item in ids]})
        rows = list(queue_order.unjudged(session, run))
    assert {row.id: row.ended for row in rows} == {str(ids[0]): (True, False, True), str(ids[1]): ()}
    assert {row.id for row in rows} == {str(item) for item in ids}
    assert all(row.completions == ("Answer 0.", "Answer 1.", "Answer 2.") and row.ranking == () for row in rows)
    assert rows[0].messages[-1].content.startswith("Question")
