"""Blind evaluations on the real database: tasks like all others, a verdict that may be looked at, no training data."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from evaluation_world import add_evaluation_run, add_model, begin, judge_next, make_scene
from labeling_world import counters_are_right
from sqlalchemy import func, select, update

from app import db
from app.errors import ConflictError, InvalidInputError
from app.models import (
    Assignment,
    AuditEvent,
    BlindEvaluation,
    Completion,
    Project,
    Prompt,
    Ranking,
    Run,
    Task,
    TaskCompletion,
)
from app.services.data import exports
from app.services.evaluation import blind, blind_figures
from app.services.labeling import assignments, progress
from app.services.quality import quarantines
from app.services.quality.quarantines import NewQuarantine
from app.services.training import snapshots
from app.worker.tasks import tick


def followed(evaluation: BlindEvaluation) -> BlindEvaluation:
    with db.transaction() as session:
        return blind.follow(session, evaluation.id)


def figures_of(evaluation: BlindEvaluation) -> blind_figures.Figures:
    with db.transaction() as session:
        return blind_figures.known(session, session.get_one(BlindEvaluation, evaluation.id))


def tasks_of(evaluation: BlindEvaluation) -> list[Task]:
    with db.transaction() as session:
        return list(session.scalars(select(Task).where(Task.evaluation_id == evaluation.id).order_by(Task.sort_key)))


def test_each_prompt_with_two_answers_becomes_one_open_task_and_equal_answers_none(database: str) -> None:
    scene = make_scene(same=3)
    evaluation = begin(scene, overlap=2)
    made = tasks_of(evaluation)
    assert (evaluation.prompts, evaluation.identical) == (scene.held_out, 3)
    assert len(made) == scene.held_out - 3
    assert {(task.kind, task.state, task.purpose, task.target_overlap) for task in made} == {
        ("ranking", "open", "evaluation", 2)
    }
    with db.transaction() as session:
        prompts = session.scalars(select(Prompt).where(Prompt.id.in_([task.prompt_id for task in made]))).all()
        assert {prompt.split for prompt in prompts} == {"held_out"}
        # Ids come in the order of their making: neither policy is always the first.
        first = Counter(
            session.execute(
                select(Completion.prompt_id, Completion.model_version_id).order_by(Completion.prompt_id, Completion.id)
            ).all()[::2]
        )
        writers = Counter(model for _, model in first)
    assert len(writers) == 2
    assert min(writers.values()) >= 5


def test_starting_twice_is_starting_once_and_another_overlap_is_refused(database: str) -> None:
    scene = make_scene(questions=40)
    assert begin(scene).id == begin(scene).id
    with pytest.raises(ConflictError, match="another number of labelers"):
        begin(scene, overlap=3)
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(BlindEvaluation)) == 1
        assert (
            session.scalar(select(func.count()).select_from(AuditEvent).where(AuditEvent.action == "blind.started"))
            == 1
        )


def test_a_policy_that_was_judged_before_keeps_its_answers_for_the_next_pair(database: str) -> None:
    scene = make_scene(questions=40)
    with db.transaction() as session:
        third = add_model(session, scene.project, scene.admin, "a third")
        run = add_evaluation_run(
            session, scene.project, scene.admin, [scene.new, third, scene.old], lambda n, name: f"{name} says {n}."
        )
        blind.start(session, scene.project, scene.admin, run, scene.new, scene.old)
    with db.transaction() as session:
        second = blind.start(session, scene.project, scene.admin, session.get_one(Run, run.id), third, scene.old)
        judged = select(func.count()).select_from(TaskCompletion).join(Task, Task.id == TaskCompletion.task_id)
        assert session.scalar(judged.where(Task.evaluation_id == second.id)) == 2 * scene.held_out
        # Three policies, one answer each to every prompt: those of the policy in both pairs are stored once.
        assert session.scalar(select(func.count()).select_from(Completion)) == 3 * scene.held_out


def test_what_cannot_be_judged_blind_is_refused_with_the_remedy(database: str) -> None:
    scene = make_scene(questions=40)
    with db.transaction() as session:
        third = add_model(session, scene.project, scene.admin, "third")
        running = add_evaluation_run(session, scene.project, scene.admin, [scene.old, scene.new], lambda n, name: name)
        running.state, running.finished_at = "queued", None
        options = {"options": {"split": "train", "baseline": "old"}}
        seen = add_evaluation_run(
            session, scene.project, scene.admin, [scene.old, scene.new], lambda n, name: name, config=options
        )
    for run, candidate, sentence in (
        (scene.run, third, "gave no answers in this run"),
        (scene.run, scene.old, "two different policies"),
        (running, scene.new, "that has succeeded"),
        (seen, scene.new, "trained on"),
    ):
        with pytest.raises(InvalidInputError, match=sentence), db.transaction() as session:
            blind.start(session, scene.project, scene.admin, run, candidate, scene.old)
    assert begin(scene).state == "open"


def test_a_better_candidate_is_found_early_and_what_nobody_holds_is_closed(database: str) -> None:
    scene = make_scene()
    evaluation = begin(scene)
    with db.transaction() as session:
        held = assignments.claim(session, session.get_one(Project, scene.project.id), scene.labelers[1], "ranking")
    judged = 0
    while followed(evaluation).state == "open":
        assert judge_next(scene.project, scene.labelers[0], lambda texts, _: "new")
        judged += 1
    stopped = followed(evaluation)
    assert (stopped.verdict, stopped.reason) == ("better", blind.ENOUGH)
    # By hand: n wins leave wealth (1/7) sum (1 + s)^n over the stakes 0.8, 0.4, …, 0.0125; 40 is passed at n = 10.
    assert judged == 10
    states = Counter((task.state, task.open_leases, task.done_count) for task in tasks_of(evaluation))
    assert states == {("closed", 0, 1): 10, ("closed", 1, 0): 1, ("closed", 0, 0): scene.held_out - 11}
    # Whoever has a task keeps it: the answer is taken, counted, and changes nothing about the verdict.
    with db.transaction() as session:
        assert session.get_one(Assignment, held).state == "leased"
    assert judge_next(scene.project, scene.labelers[1], lambda texts, _: "old")
    assert not judge_next(scene.project, scene.labelers[1], lambda texts, _: "old")
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Ranking).where(Ranking.counted)) == 11
    assert figures_of(evaluation).rankings == 10
    assert counters_are_right()


def test_equal_policies_are_judged_to_the_end_and_stay_undecided(database: str) -> None:
    scene = make_scene(questions=60)
    evaluation = begin(scene)
    while judge_next(scene.project, scene.labelers[0], lambda texts, place: ("new", "old", None)[place % 3]):
        assert followed(evaluation).verdict in (None, "undecided")
    stopped = followed(evaluation)
    assert (stopped.state, stopped.verdict, stopped.reason) == ("stopped", "undecided", blind.ALL_IN)
    assert figures_of(evaluation).judged == scene.held_out


def test_the_figures_by_hand_with_equal_answers_ties_and_two_labelers(database: str) -> None:
    scene = make_scene(questions=60, same=4)
    evaluation = begin(scene, overlap=2)
    first, second = scene.labelers
    # The first labeler prefers the new policy on two prompts; the second agrees once and calls the other a tie.
    for _ in range(2):
        assert judge_next(scene.project, first, lambda texts, _: "new")
    assert figures_of(evaluation).judged == 0  # half-judged prompts do not count yet
    said = iter(["new", None])
    for _ in range(2):
        assert judge_next(scene.project, second, lambda texts, _: next(said))
    found = figures_of(evaluation)
    assert (found.judged, found.rankings, found.ties, found.labelers) == (2, 4, 1, 2)
    # The prompts' means are 1 and 3/4, so 7/8 of those that differ; equal answers are ties of the whole.
    same = 4 / scene.held_out
    assert found.win_rate == pytest.approx(0.5 * same + (1 - same) * 0.875)
    assert found.low < 0.5 < found.win_rate < found.high
    assert found.waiting == scene.held_out - 4 - 2


def test_blind_tasks_come_in_between_others_and_are_counted_as_waiting(database: str) -> None:
    scene = make_scene(questions=60, collected=8, people=1)
    begin(scene)
    labeler = scene.labelers[0]
    with db.transaction() as session:
        waiting = progress.mine(session, scene.project.id, labeler).rankings_waiting
        session.execute(update(Project).values(blind_percent=50))
    assert waiting == scene.held_out + 8
    sorts = []
    for _ in range(waiting):
        with db.transaction() as session:
            taken = assignments.claim(session, session.get_one(Project, scene.project.id), labeler, "ranking")
            assert taken is not None
            assignment = session.get_one(Assignment, taken)
            task = session.get_one(Task, assignment.task_id)
            sorts.append(task.purpose)
            assignments.skip(session, taken, labeler, "other")
    assert Counter(sorts) == {"evaluation": scene.held_out, "collect": 8}
    # Half and half by chance: neither sort is done before the other begins, but once in 2^8.
    assert "evaluation" in sorts[: sorts.index("collect") + 9]


def test_answers_to_blind_tasks_reach_no_snapshot_and_exports_say_what_they_are(database: str) -> None:
    scene = make_scene(questions=60, collected=6)
    begin(scene)
    judged = 0
    while judged < 4:
        with db.transaction() as session:
            session.execute(update(Project).values(blind_percent=100))
        judged += judge_next(scene.project, scene.labelers[0], lambda texts, _: "new")
    with db.transaction() as session:
        snapshot = snapshots.create(session, scene.project, scene.admin)
        assert snapshot.manifest["files"]["comparisons.jsonl"]["rows"] == 6
        lines = [
            json.loads(line)
            for chunk in exports.ranking_lines(session, scene.project.id)
            for line in chunk.splitlines()
        ]
        current = exports.Filters(state="current")
        kept = b"".join(exports.ranking_lines(session, scene.project.id, current)).splitlines()
    assert Counter(line["purpose"] for line in lines) == {"collect": 6, "evaluation": 4}
    assert len(kept) == 6


def test_the_workers_tick_stops_what_is_decided_and_an_admin_may_stop_by_hand(database: str, redis_url: str) -> None:
    scene = make_scene(questions=60)
    evaluation = begin(scene)
    for _ in range(10):
        assert judge_next(scene.project, scene.labelers[0], lambda texts, _: "old")
    tick()
    with db.transaction() as session:
        found = session.get_one(BlindEvaluation, evaluation.id)
        assert (found.state, found.verdict) == ("stopped", "worse")
    other = make_scene(questions=30)
    begun = begin(other)
    tick()
    for _ in range(2):
        with db.transaction() as session:
            stopped = blind.stop(session, begun.id, other.admin)
    assert (stopped.verdict, stopped.reason) == ("undecided", blind.BY_HAND)
    assert {task.state for task in tasks_of(begun)} == {"closed"}


def test_work_under_quarantine_does_not_judge(database: str) -> None:
    scene = make_scene(questions=40)
    evaluation = begin(scene)
    for labeler in scene.labelers:
        for _ in range(2):
            assert judge_next(scene.project, labeler, lambda texts, _: "new")
    assert figures_of(evaluation).rankings == 4
    with db.transaction() as session:
        new = NewQuarantine(scene.labelers[0].id, None, None, "clicks at random")
        quarantines.create(session, scene.project, scene.admin, new)
    assert figures_of(evaluation).rankings == 2
