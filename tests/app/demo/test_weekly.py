"""The weekly form of the demo: its recipe, and the report of its rounds from planted figures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from rich.console import Console

from app.demo import plan, weekly_report
from app.services.training import recipes, saturation
from app.services.training.round_figures import RoundFigures, Rounds
from app.services.training.saturation import Measured

FIRST = RoundFigures(
    uuid4(), 1, "Every minute", "succeeded", 120, 120,
    Measured(1, pairs=700, ties=0.08, margin=0.5, win_rate=0.8, low=0.6, high=0.9, kl=3.21),
    accuracy=0.7, accuracy_interval=(0.62, 0.78), candidate="dpo-1", incumbent="base", judged_by="people, blind",
    reward_win_rate=0.75, passed=True, promoted=True, unmet=(), opened=40,
)  # fmt: skip
SECOND = replace(
    FIRST,
    number=2,
    rankings=240,
    measured=replace(FIRST.measured, number=2, win_rate=0.5, low=0.3, high=0.7),
    passed=False,
    promoted=False,
    unmet=("The lower bound of the win rate by labelers is 30 %, below 50 %.",),
)


def test_the_recipe_of_the_weekly_form_can_be_read_and_orders_the_tasks_before_it_opens_them() -> None:
    kinds = [stage["kind"] for stage in recipes.read(plan.WEEKLY_RECIPE).as_json()["stages"]]
    assert kinds == ["snapshot", "reward", "dpo", "evaluate", "blind", "gate", "sample", "order", "tasks"]


def test_the_report_has_a_row_for_each_round_and_says_what_the_gate_and_the_guard_say(tmp_path: Path) -> None:
    rounds = Rounds((FIRST, SECOND), saturation.judge([FIRST.measured, SECOND.measured]))
    path = weekly_report.write(
        tmp_path, rounds, {"started": 2, "Too few new rankings: 3.": 7}, {"sample": 41.4}, seed=0
    )
    report = path.read_text(encoding="utf-8")
    assert "| 1 | 120 | 120 | 8% | 70% [62, 78] | dpo-1 | base | 80% [60, 90] | 75% | 3.2 | promoted |" in report
    assert "| 2 | 240 | 120 | 8% | 70% [62, 78] | dpo-1 | base | 50% [30, 70] | 75% | 3.2 | not passed |" in report
    assert "- Round 1: every threshold is met." in report
    assert "- Round 2: The lower bound of the win rate by labelers is 30 %, below 50 %." in report
    assert "Round 2 taught less than the ones before" in report
    assert "- 7 times: Too few new rankings: 3.\n- 2 times: started" in report
    assert "| sample | 41 |" in report

    out = io.StringIO()
    Console(file=out, width=200).print(weekly_report.table(rounds))
    assert "not passed" in out.getvalue()
