"""The weekly form of the demo: its recipe, and the report of its rounds from planted figures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from rich.console import Console

from app.demo import weekly_plan, weekly_report
from app.demo.weekly_report import Told
from app.services.evaluation.gate import Check
from app.services.training import recipes, saturation
from app.services.training.round_figures import RoundFigures, Rounds, Source
from app.services.training.saturation import Measured

FIRST = RoundFigures(
    uuid4(), 1, "Every minute", "succeeded", 120, 120,
    Measured(1, pairs=700, ties=0.08, margin=0.5, win_rate=0.8, low=0.6, high=0.9, kl=3.21),
    accuracy=0.7, accuracy_interval=(0.62, 0.78), candidate="dpo-1", incumbent="sft-1", judged_by="people, blind",
    reward_win_rate=0.75, passed=True, promoted=True, unmet=(), opened=40,
    sources=(Source("sft-1", 0.8, 60), Source("sft-1", 1.1, 30), Source("base", 0.8, 20), Source(None, None, 10)),
    judged=31, to_judge=80,
    checks=(Check("min_blind_win_rate", 0.5, 0.6, True, "31 prompts judged blind"),),
)  # fmt: skip
SECOND = replace(
    FIRST,
    number=2,
    rankings=240,
    measured=replace(FIRST.measured, number=2, win_rate=0.5, low=0.3, high=0.7),
    candidate="dpo-2",
    incumbent="dpo-1",
    passed=False,
    promoted=False,
    unmet=("The lower bound of the win rate by labelers is 30 %, below 50 %.",),
    judged=80,
    checks=(
        Check("min_blind_win_rate", 0.5, 0.3, False, "80 prompts judged blind"),
        Check("max_kl", 20, None, False, "It has not been evaluated."),
    ),
)  # fmt: skip
ROUNDS = Rounds((FIRST, SECOND), saturation.judge([FIRST.measured, SECOND.measured]))
STAGES = {1: [("Snapshot", 0.4), ("Reward model", 70.2)], 2: [("Snapshot", 0.4)]}


def test_the_recipe_of_the_weekly_form_can_be_read_and_orders_the_tasks_before_it_opens_them() -> None:
    kinds = [stage["kind"] for stage in recipes.read(weekly_plan.RECIPE).as_json()["stages"]]
    assert kinds == ["snapshot", "reward", "sft", "dpo", "evaluate", "blind", "gate", "sample", "order", "tasks"]
    assert set(kinds) == set(weekly_plan.STAGE_SECONDS), "every stage has its part of the bar"


def test_the_gate_asks_people_and_cannot_be_passed_by_a_policy_that_is_not_shown_to_be_better() -> None:
    [gate] = [stage for stage in weekly_plan.RECIPE["stages"] if stage["kind"] == "gate"]
    assert gate["blind"] == "people"
    assert gate["min_blind_win_rate"] >= 0.5
    assert gate["min_reward_accuracy"] > 0.5
    assert gate["max_kl"] <= weekly_plan.ANSWERS["max_new_tokens"], "less than a nat a token"


def test_the_report_has_a_row_and_a_chapter_for_each_round_and_says_what_the_gate_and_the_guard_say(
    tmp_path: Path,
) -> None:
    due = {"started": 2, "Too few new rankings: 3.": 7}
    told = Told(ROUNDS, due, STAGES, {"sample": 41.4, "round 1": 258.6}, seed=0)
    report = weekly_report.write(tmp_path, told).read_text(encoding="utf-8")
    assert "| 1 | 120 | 120 | 8% | 70% [62, 78] | dpo-1 | sft-1 | 80% [60, 90] | 75% | 3.2 | promoted |" in report
    assert "| 2 | 240 | 120 | 8% | 70% [62, 78] | dpo-2 | dpo-1 | 50% [30, 70] | 75% | 3.2 | not passed |" in report

    one, two = report.split("## Round 1: dpo-1 against sft-1")[1].split("## Round 2: dpo-2 against dpo-1")
    assert "dpo-1 wins 80% [60, 90] over sft-1, by 31 blind judgements; it passes the gate and is promoted." in one
    assert "of answers by sft-1 at temperature 0.8 (50%), sft-1 at temperature 1.1 (25%), base at temp" in one
    assert "(17%), people (8%)." in one
    assert "decided after 31 of the 80 held-out prompts to which the two answers differ." in one
    assert "40 tasks opened with fresh answers" in one
    assert "snapshot 0 s · reward model 70 s" in one
    assert "| Lower bound of the win rate by labelers | at least 50 % | 60 % | met | 31 prompts judged blind |" in one
    assert "it does not pass the gate, and dpo-1 stays in use." in two
    assert "not decided after 80 of the 80" in two
    assert "| at least 50 % | 30 % | **not met** | 80 prompts judged blind |" in two
    assert "| Kl to the baseline" not in two
    assert "| KL to the baseline | at most 20 | not measured | **not met** | It has not been evaluated. |" in two

    assert "- In use at the end: dpo-1, promoted by the gate." in report
    assert "Round 2 taught less than the ones before" in report
    assert "- **KL**: at most 20 nats an answer to the policy in use." in report
    assert "- 7 times: Too few new rankings: 3.\n- 2 times: started" in report
    assert "240 rankings to learn from and 111 blind judgements, in 5 minutes." in report
    assert "| sample | 41 |" in report

    out = io.StringIO()
    Console(file=out, width=80).print(weekly_report.table(ROUNDS))
    assert all(heading in out.getvalue() for heading in weekly_report.SHOWN.values())  # nothing is cut or folded
    assert "not passed" in out.getvalue()


def test_rounds_of_which_none_passed_leave_the_first_policy_in_use() -> None:
    told = weekly_report.sentences(Rounds((replace(SECOND, number=1),), saturation.judge([])))
    assert told[0].startswith("Round 1: dpo-2 wins 50% [30, 70] over dpo-1")
    assert told[1] == "In use at the end: dpo-1, as before; no candidate has passed the gate."
