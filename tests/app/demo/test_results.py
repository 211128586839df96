"""The figures of the demo's table, the rule of promotion, and the report a person reads."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from app.demo import report, results
from app.demo.judge import Interval
from app.demo.results import Example, PolicyFigures, Result, RewardFigures
from trainer.jsonl import write_jsonl
from trainer.records import Comparison, Message, Prompt, Sample

QUESTION = "Why do cats purr?"
GOOD, BAD = "Cats purr when they feel safe and warm with you.", "Cats purr when they feel safe and warm with"


def figures(name: str, interval: Interval | None) -> PolicyFigures:
    return PolicyFigures(name, interval, interval, 4.0, 0.5, 2.25, 30.0, 0.9)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """The directory of an evaluation in which "dpo-1" gives the good answer to both prompts, "base" to the first."""
    prompts = [Prompt(key, (Message("user", QUESTION),), "held_out") for key in ("p1", "p2")]
    write_jsonl(tmp_path / "data" / "prompts.jsonl", prompts)
    answers = {"base": (GOOD, BAD), "dpo-1": (GOOD, GOOD)}
    samples = [
        Sample(name, f"p{number}", 0, text, 12, "stop")
        for name, texts in answers.items()
        for number, text in enumerate(texts, start=1)
    ]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    return tmp_path


def test_simulated_figures_come_from_the_answers_and_the_others_from_the_report(evaluation: Path) -> None:
    row = {"reward": 1.0, "kl": 3.0, "tokens": 12.0, "ended": 1.0}
    judged = {"base": row, "dpo-1": {**row, "win_rate": 0.75, "win_rate_interval": [0.5, 1.0]}}
    base, dpo = results.policy_figures({"summary": {"policies": judged}}, evaluation, "base", seed=0)
    assert (base.by_simulated, base.by_reward_model) == (None, None)
    # A tie on the first prompt, a win on the second: (0.5 + 1) / 2.
    assert dpo.by_simulated is not None
    assert dpo.by_simulated.value == 0.75
    assert dpo.by_reward_model == Interval(0.75, 0.5, 1.0)
    # Only the second answer of the base model breaks off, which costs it two points: one on average.
    assert dpo.simulated_score - base.simulated_score == pytest.approx(1.0)


def test_examples_are_the_first_ones_whatever_they_say(evaluation: Path) -> None:
    assert results.examples(evaluation, "base", "dpo-1", count=2) == (
        Example(QUESTION, GOOD, GOOD),
        Example(QUESTION, BAD, GOOD),
    )


def test_the_highest_lower_bound_is_promoted_not_the_highest_win_rate() -> None:
    lucky, steady = figures("dpo-1", Interval(0.9, 0.55, 1.0)), figures("ppo-1", Interval(0.8, 0.7, 0.9))
    assert results.choose([figures("base", None), lucky, steady]) == ("ppo-1", True)


def test_without_a_policy_that_is_better_one_is_promoted_and_it_is_said() -> None:
    rows = [
        figures("base", None),
        figures("sft-1", Interval(0.55, 0.45, 0.65)),
        figures("dpo-1", Interval(0.4, 0.2, 0.6)),
    ]
    assert results.choose(rows) == ("sft-1", False)
    told = " ".join(report.sentences(result(tuple(rows), "sft-1", is_better=False)))
    assert "No policy is shown to be better than the base model" in told
    assert "sft-1 has the highest lower bound" in told


def test_agreement_is_over_the_prompts_that_two_labelers_share(tmp_path: Path) -> None:
    messages = (Message("user", QUESTION),)

    def ranked(labeler: str, *groups: tuple[int, ...]) -> Comparison:
        return Comparison("c", messages, ("a", "b", "c"), groups, labeler=labeler)

    rows = [ranked("x", (0,), (1,), (2,)), ranked("y", (0,), (2,), (1,)), ranked("z", (0,), (1, 2))]
    write_jsonl(tmp_path / "comparisons.jsonl", rows)
    # x and y agree in 2 of 3 pairs; x and z, and y and z, in both pairs that z orders.
    assert results.mean_agreement(tmp_path / "comparisons.jsonl") == pytest.approx((2 / 3 + 1 + 1) / 3)


def result(policies: tuple[PolicyFigures, ...], promoted: str, *, is_better: bool) -> Result:
    accuracy = RewardFigures(Interval(0.75, 0.69, 0.81), 0.6, 174)
    example = Example(QUESTION, "One\n\n- two", GOOD)
    return Result("Demo 2", 3, 47, 25, 216, 47, 0.81, accuracy, policies, promoted, is_better, (example,))


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Run directories with the metrics that are drawn; a step that was written twice counts once."""
    made = {}
    for method, name in (("sft", "loss"), ("reward", "accuracy"), ("dpo", "accuracy"), ("ppo", "reward")):
        made[method] = tmp_path / method
        made[method].mkdir()
        rows = [{"step": step, name: 0.1 * step} for step in (1, 2, 2, 3)]
        (made[method] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def test_the_report_says_that_all_is_simulated_and_draws_three_plots(tmp_path: Path, runs: dict[str, Path]) -> None:
    policies = (figures("base", None), figures("dpo-1", Interval(0.84, 0.74, 0.94)))
    found = result(policies, "dpo-1", is_better=True)
    text = report.write(tmp_path / "demo", found, runs, {"sft": 20.4}).read_text()
    assert text.startswith(
        "# Demo 2: one turn of the loop, seed 3\n\n**All rankings and demonstrations here are simulated.**"
    )
    assert "| dpo-1 | 84% [74, 94] | 84% [74, 94] | +0.50 | 2.2 | 30.0 | 90% |" in text
    assert "- base: One - two\n- dpo-1: Cats purr" in text
    assert "| sft | 20 |" in text
    plots = sorted((tmp_path / "demo" / "plots").iterdir())
    assert [path.name for path in plots] == ["reward_by_kl.svg", "training.svg", "win_rates.svg"]
    for path in plots:
        assert ET.parse(path).getroot().tag.endswith("svg")  # noqa: S314  # our own file
        assert f"](plots/{path.name})" in text


def test_the_same_figures_give_the_same_plots(tmp_path: Path, runs: dict[str, Path]) -> None:
    found = result((figures("base", None), figures("dpo-1", Interval(0.8, 0.7, 0.9))), "dpo-1", is_better=True)
    for folder in ("one", "two"):
        report.write(tmp_path / folder, found, runs, {})
    for path in (tmp_path / "one" / "plots").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "plots" / path.name).read_bytes()


def test_the_table_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    wide = PolicyFigures("dpo-1", Interval(1, 1, 1), Interval(1, 1, 1), 5.0, -1.25, 12.25, 50.5, 1.0)
    console = Console(width=80)
    console.print(report.table(result((figures("base", None), wide), "dpo-1", is_better=True)))
    shown = capsys.readouterr().out
    assert "Ended" in shown
    assert "100% [100, 100]" in shown
