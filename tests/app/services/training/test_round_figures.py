"""What the rounds of a project came to, read from what their stages left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pipeline_world import Loop, by_name, make_loop
from run_builders import make_prompts, make_task, make_user, rank
from sqlalchemy import select

from app.db import transaction
from app.models import Project, Run, TaskScore
from app.services.training import round_figures
from app.services.training.round_figures import RoundFigures
from app.worker import rounds

RECIPE: dict[str, Any] = {
    "stages": [
        {"name": "data", "kind": "snapshot"},
        {"name": "judge", "kind": "reward", "snapshot": "data", "model": "base"},
        {"name": "policy", "kind": "dpo", "snapshot": "data", "model": "base"},
        {
            "name": "exam",
            "kind": "evaluate",
            "snapshot": "data",
            "policies": ["stage:policy"],
            "reward_model": "stage:judge",
        },
        {
            "name": "gate",
            "kind": "gate",
            "evaluation": "exam",
            "candidates": ["stage:policy"],
            "min_win_rate": 0.5,
            "promote": "automatically",
        },
    ]
}


@pytest.fixture
def loop(database: str, redis_url: str, tmp_path: Path) -> Loop:
    return make_loop(tmp_path / "models")


def play(loop: Loop, win_rate: float) -> UUID:
    """A whole round whose new policy wins so often, give or take a tenth."""
    pipeline_id = loop.begin(RECIPE)
    rounds.look()
    loop.end_run(pipeline_id, {"held_out_accuracy": 0.7, "held_out_margin": 0.9})
    loop.end_run(pipeline_id)
    with transaction() as session:
        exam = session.get_one(Run, by_name(pipeline_id)["exam"].run_id)
        candidate = exam.config["options"]["policies"][0]["name"]
    figures = {"win_rate": win_rate, "win_rate_interval": [win_rate - 0.1, win_rate + 0.1], "kl": 3.0}
    summary = {
        "held_out_accuracy": 0.75,
        "held_out_accuracy_interval": [0.7, 0.8],
        "policies": {"base": {}, candidate: figures},
    }
    loop.end_run(pipeline_id, summary)
    return pipeline_id


def found(loop: Loop) -> tuple[RoundFigures, ...]:
    with transaction() as session:
        return round_figures.of_project(session, loop.project.id).rounds


def test_a_round_counts_its_own_rankings_and_leaves_out_of_the_ties_what_a_model_moved_ahead(loop: Loop) -> None:
    play(loop, 0.7)
    [first] = found(loop)
    # Of ten rankings of three answers five have a tie of two: 5 of 30 pairs.
    assert (first.rankings, first.new_rankings, first.measured.pairs, first.measured.ties) == (10, 10, 30, 5 / 30)
    assert (first.accuracy, first.accuracy_interval, first.measured.margin) == (0.75, (0.7, 0.8), 0.9)
    assert (first.candidate, first.incumbent, first.judged_by) == ("dpo-1", "base", "reward model")
    assert (first.measured.win_rate, first.measured.kl) == (0.7, 3.0)
    assert (first.measured.low, first.measured.high) == (pytest.approx(0.6), pytest.approx(0.8))
    assert (first.passed, first.promoted, first.unmet) == (True, True, ())

    with transaction() as session:
        project = session.get_one(Project, loop.project.id)
        labeler = make_user(session, "fresh@example.org", "labeler")
        run = session.scalars(select(Run).limit(1)).one()
        prompts = make_prompts(session, project, ["Is it new?", "Is it newer?"], after=10)
        plain, moved = (make_task(session, prompt, ["Yes.", "No."]) for prompt in prompts)
        rank(session, plain, labeler, [[0, 1]])
        rank(session, moved, labeler, [[0], [1]])
        session.add(TaskScore(task_id=moved.id, run_id=run.id, picked="margin", information=0, spread=0, margin=0))
    play(loop, 0.45)
    _, second = found(loop)
    assert (second.rankings, second.new_rankings) == (12, 2)
    assert (second.measured.pairs, second.measured.ties) == (1, 1.0)
    assert (second.passed, second.promoted) == (False, False)
    assert len(second.unmet) == 1
    assert "win rate" in second.unmet[0]


def test_a_round_that_goes_on_is_shown_as_far_as_it_is_and_not_judged(loop: Loop) -> None:
    loop.begin(RECIPE)
    rounds.look()
    with transaction() as session:
        known = round_figures.of_project(session, loop.project.id)
    [row] = known.rounds
    assert (row.state, row.candidate, row.passed, row.opened) == ("running", None, None, None)
    assert known.saturation.state == "too_early"
