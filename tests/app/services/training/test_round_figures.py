"""What the rounds of a project came to, read from what their stages left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_world import JUDGED, Loop, make_loop, play_round
from run_builders import make_prompts, make_task, make_user, rank
from sqlalchemy import select

from app.db import transaction
from app.models import Completion, Project, Run, TaskScore
from app.services.training import round_figures
from app.services.training.round_figures import RoundFigures
from app.worker import rounds


@pytest.fixture
def loop(database: str, redis_url: str, tmp_path: Path) -> Loop:
    return make_loop(tmp_path / "models")


def found(loop: Loop) -> tuple[RoundFigures, ...]:
    with transaction() as session:
        return round_figures.of_project(session, loop.project.id).rounds


def test_a_round_counts_its_own_rankings_and_leaves_out_of_the_ties_what_a_model_moved_ahead(loop: Loop) -> None:
    play_round(loop, 0.7)
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
    play_round(loop, 0.45)
    _, second = found(loop)
    assert (second.rankings, second.new_rankings) == (12, 2)
    assert (second.measured.pairs, second.measured.ties) == (1, 1.0)
    assert (second.passed, second.promoted) == (False, False)
    assert len(second.unmet) == 1
    assert "win rate" in second.unmet[0]


def test_a_round_that_goes_on_is_shown_as_far_as_it_is_and_not_judged(loop: Loop) -> None:
    loop.begin(JUDGED)
    rounds.look()
    with transaction() as session:
        known = round_figures.of_project(session, loop.project.id)
    [row] = known.rounds
    assert (row.state, row.candidate, row.passed, row.opened) == ("running", None, None, None)
    assert known.saturation.state == "too_early"


def test_the_guard_says_what_the_page_of_rounds_says_and_needs_two_of_them(loop: Loop) -> None:
    words = []
    for win_rate in (0.7, 0.62, 0.45):
        play_round(loop, win_rate)
        with transaction() as session:
            said = round_figures.guard(session, loop.project.id)
            assert said == round_figures.of_project(session, loop.project.id).saturation
        words.append((said.state, len(said.signs)))
    assert words == [("too_early", 0), ("teaching", 0), ("slowing", 1)]


def test_a_round_tells_whose_answers_were_ranked_and_what_the_gate_held_against_what(loop: Loop) -> None:
    with transaction() as session:
        answers = session.scalars(select(Completion).order_by(Completion.id)).all()
        for number, answer in enumerate(answers):
            answer.source, answer.model_version_id = "model", loop.model.id
            answer.sampling = {"temperature": 1.1 if number % 3 == 0 else 0.8}
    play_round(loop, 0.7)
    [row] = found(loop)
    assert [(source.policy, source.temperature, source.answers) for source in row.sources] == [
        ("base", 0.8, 20),
        ("base", 1.1, 10),
    ]
    assert [(check.name, check.limit, check.passed) for check in row.checks] == [("min_win_rate", 0.5, True)]
    assert row.checks[0].measured == pytest.approx(0.6)
    assert (row.judged, row.to_judge) == (None, None)
