"""The evaluation: win rates and intervals by hand, and whole runs on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import MakeRun, ask, build_tokenizer, read_lines, some_comparisons

from trainer import evaluate, modeling, rollout
from trainer.__main__ import main
from trainer.config import EvaluateOptions, load_run
from trainer.jsonl import write_jsonl
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, Comparison, Prompt, read_samples
from trainer.reward_model import load_reward, score_texts

CPU = torch.device("cpu")
PROMPTS = [Prompt(f"p{n}", ask(f"tell {n}"), split="held_out" if n < 4 else "train") for n in range(6)]
SAMPLING = {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 8}


@pytest.fixture(scope="module")
def judge(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The final folder of a real reward run."""
    folder = tmp_path_factory.mktemp("reward_run")
    (folder / "data").mkdir()
    config = {
        "run_id": "judge",
        "method": "reward",
        "model": tiny_model,
        "precision": "float32",
        "options": {"optim": {"learning_rate": 5e-3, "batch_size": 4, "epochs": 3.0}},
    }
    (folder / "run.json").write_text(json.dumps(config))
    evaluate.write_jsonl(folder / "data" / "comparisons.jsonl", some_comparisons(8))
    (folder / "data" / "manifest.json").write_text('{"schema": 1, "files": {}}')
    assert main(["reward", "--run", str(folder)]) == EXIT_DONE
    return str(folder / "final")


@pytest.fixture(scope="module")
def moved_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a policy that differs from the tiny model."""
    folder = tmp_path_factory.mktemp("moved_model")
    policy = modeling.load_policy(tiny_model, torch.float32, CPU)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    modeling.save_policy(policy, build_tokenizer(), folder, torch.float32)
    return str(folder)


def summary_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "report.json").read_text(encoding="utf-8"))["summary"]


def test_the_reward_model_s_accuracy_is_of_cut_answers_behind_their_mark(letter_judge: str, make_run: MakeRun) -> None:
    rows = [Comparison(str(n), ask(f"say {n}"), ("cd", "ac"), ((0,), (1,)), ended=(False, True)) for n in range(4)]
    rows = [replace(row, split="held_out") for row in rows]
    run_dir = make_run("evaluate", comparisons=rows)
    config = load_run(run_dir)
    found = {}
    for mark in ("a" * 8, "b" * 8):
        model = load_reward(letter_judge, torch.float32, CPU)
        model.cut_mark = mark
        found[mark[0]] = evaluate.judge_accuracy(model, run_dir, config)["held_out_accuracy"]
    assert found == {"a": 1.0, "b": 0.0}  # the judge likes "a" alone


def test_wins_counts_pairs_of_a_prompt_and_halves_ties() -> None:
    # Prompt 1: 3 > 1, 3 > 2, 0 < 1, 0 < 2: 2 of 4. Prompt 2: 5 = 5, 5 > 4, 5 = 5, 5 > 4: 3 of 4.
    assert evaluate.wins([3.0, 0.0, 5.0, 5.0], [1.0, 2.0, 5.0, 4.0], each=2) == [0.5, 0.75]


def test_a_policy_ties_with_itself_on_every_prompt() -> None:
    assert evaluate.wins([1.0, 2.0, 7.0], [1.0, 2.0, 7.0], each=1) == [0.5, 0.5, 0.5]
    assert evaluate.wins([1.0, 2.0], [1.0, 2.0], each=2) == [0.5]


def described(rewards: list[float], baseline: list[float]) -> dict[str, Any]:
    """Return the figures of a policy with these rewards, one answer a prompt."""
    answers = [rollout.Answer([4, 1], "stop", [0.0, 0.0], 0.0), *[rollout.Answer([4], "length", [0.0], 0.0)] * 3]
    texts = ["yes", "I'm sorry, I can't help with that.", "yes yes", "you idiot"]
    found = evaluate.Judged([], answers, texts, [], same_tokens=True)
    base = found._replace(texts=["yes"] * 4)
    kls: dict[str, list[tuple[float, float]] | None] = {"new": [(1.0, 0.5), (-1.0, 0.5), (4.0, 2.0), (0.0, 0.0)]}
    options = EvaluateOptions(samples_per_prompt=1, baseline="base")
    both = {"new": rewards, "base": baseline}
    return evaluate.describe("new", {"new": found, "base": base}, kls, both, {}, options, seed=0)


def test_the_figures_of_a_policy_by_hand() -> None:
    figures = described([1.0, 2.0, 3.0, 6.0], [0.0, 3.0, 2.0, 5.0])
    assert figures["reward"] == pytest.approx(3.0)
    assert figures["win_rate"] == pytest.approx(0.75)  # loses the second prompt only
    assert figures["kl"] == pytest.approx(1.0)  # (1 - 1 + 4 + 0) / 4
    assert figures["kl_k3"] == pytest.approx(0.75)
    assert figures["tokens"] == pytest.approx(1.25)
    assert figures["ended"] == pytest.approx(0.25)
    # Characters: 3 + 34 + 7 + 9 of 4 * 3. Words: 1 of yes, 7 of the refusal, 2 of yes, you idiot: 10 kinds among 12.
    assert figures["length_ratio"] == pytest.approx(53 / 12)
    assert (figures["refusals"], figures["abusive_words"]) == (0.25, 0.25)
    assert figures["distinct_1"] == pytest.approx(10 / 12)
    assert "self_bleu" not in figures  # one answer a prompt repeats nothing
    # Resampling four prompts of which one is lost: the number of wins is binomial(4, 3/4), whose 2.5 % quantile is 1
    # (P(0) = 0.4 %, P(0 or 1) = 5.1 %) and whose 97.5 % quantile is 4.
    assert figures["win_rate_interval"] == pytest.approx([0.25, 1.0])


def test_a_policy_that_wins_everywhere_has_an_interval_without_width() -> None:
    assert described([1.0] * 4, [0.0] * 4)["win_rate_interval"] == [1.0, 1.0]


def test_the_headline_says_whether_the_interval_leaves_a_half(moved_model: str) -> None:
    options = EvaluateOptions()
    for interval, words in (([0.6, 0.8], "better than base"), ([0.4, 0.8], "not told apart"), ([0.1, 0.4], "worse")):
        figures = {"base": {}, "dpo": {"win_rate": 0.7, "win_rate_interval": interval}}
        assert words in evaluate.headline(figures, options)


def test_the_baseline_against_itself_and_a_moved_policy(
    make_run: MakeRun, tiny_model: str, moved_model: str, judge: str
) -> None:
    policies = [{"name": "twin", "model": tiny_model}, {"name": "moved", "model": moved_model}]
    run_dir = make_run(
        "evaluate",
        prompts=PROMPTS,
        comparisons=some_comparisons(4, 4),
        options={"policies": policies, "reward_model": judge, "samples_per_prompt": 2, "sampling": SAMPLING},
    )
    assert main(["evaluate", "--run", str(run_dir)]) == EXIT_DONE

    summary = summary_of(run_dir)
    assert summary["prompts"] == 4
    base, twin, moved = (summary["policies"][name] for name in ("base", "twin", "moved"))
    assert base["kl"] == twin["kl"] == 0.0
    assert "win_rate" not in base
    # The same weights and the same noise: the same answers, so every prompt is a draw.
    assert twin["win_rate"] == 0.5
    assert twin["win_rate_interval"] == [0.5, 0.5]
    assert twin["reward"] == base["reward"]
    assert moved["kl_k3"] > 0.01
    assert summary["held_out_accuracy"] > 0.5
    assert summary["held_out_accuracy_interval"][0] <= summary["held_out_accuracy"]

    samples = read_samples(run_dir / "samples.jsonl")
    assert [(row.policy, row.prompt_id, row.index) for row in samples] == [
        (name, f"p{n}", k) for name in ("base", "twin", "moved") for n in range(4) for k in range(2)
    ]
    rewards = [row.reward for row in samples if row.policy == "moved"]
    assert sum(value for value in rewards if value is not None) / 8 == pytest.approx(moved["reward"])
    asked, model = {row.id: row.messages for row in PROMPTS}, load_reward(judge, torch.float32, CPU)
    alone = score_texts(
        model,
        [asked[row.prompt_id] for row in samples],
        [row.text for row in samples],
        512,
        [row.finish_reason == "stop" for row in samples],
    )
    assert "length" in {row.finish_reason for row in samples}  # these are judged as they are, without an end
    assert [row.reward for row in samples] == pytest.approx(alone.tolist(), abs=1e-4)
    rows = read_lines(run_dir / "metrics.jsonl")
    assert [(row["step"], row["total_steps"], row["policy"]) for row in rows] == [
        (8, 24, "base"),
        (16, 24, "twin"),
        (24, 24, "moved"),
    ]
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    assert "win_rate.svg" in text
    assert "reward_by_kl.svg" in text


def test_a_gold_judge_a_regression_set_and_the_calibration_are_told_and_drawn(
    make_run: MakeRun, tiny_model: str, moved_model: str, judge: str, letter_judge: str
) -> None:
    policies = [{"name": name, "model": model} for name, model in (("twin", tiny_model), ("moved", moved_model))]
    run_dir = make_run(
        "evaluate",
        prompts=PROMPTS,
        comparisons=some_comparisons(4, 4),
        options={
            "policies": policies, "reward_model": judge, "gold_model": letter_judge, "samples_per_prompt": 2,
            "sampling": SAMPLING,
        },
    )  # fmt: skip
    rows = [{"text": "tell me 1 and 2 and 3"}, {"question": "tell 1", "choices": ["yes", "no no no"], "answer": 0}]
    write_jsonl(run_dir / "data" / "regression.jsonl", rows)
    assert main(["evaluate", "--run", str(run_dir)]) == EXIT_DONE
    summary = summary_of(run_dir)
    base, twin, moved = (summary["policies"][name] for name in ("base", "twin", "moved"))
    assert twin["gold"] == base["gold"] != moved["gold"]
    assert (twin["gold_win_rate"], summary["over_optimised"]) == (0.5, "none")
    assert twin["perplexity"] == base["perplexity"] != moved["perplexity"]
    assert base["choice_accuracy"] in (0.0, 1.0)
    assert 0 <= base["self_bleu"] <= 1
    assert sum(row["pairs"] for row in summary["agreement_by_probability"].values()) == summary["held_out_pairs"]
    assert 0 <= summary["calibration_error"] <= 1
    # Two of the three policies are at the same place, and a line wants three.
    assert "reward_by_sqrt_kl" not in summary
    plots = {path.stem for path in (run_dir / "plots").iterdir()}
    assert plots >= {"reward_by_kl", "win_rate", "calibration", "length", "choice_accuracy"}
    assert "gold judge" in (run_dir / "plots" / "reward_by_kl.svg").read_text(encoding="utf-8")
    lines = (run_dir / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[lines.index("## Agreement by probability") + 2] == "| certainty | pairs | probability | right |"
    assert lines[4] == (
        "| policy | reward | gold | KL | KL k3 | tokens | ended | length ratio | refusals | abusive words | distinct 1 "
        "| distinct 2 | self-BLEU | perplexity | choice accuracy | win rate | gold win rate |"
    )


def test_a_policy_that_pleases_the_reward_model_and_not_the_gold_judge_is_over_optimised() -> None:
    figures: dict[str, dict[str, Any]] = {
        "base": {"kl": 0.0, "reward": 0.0},
        "fair": {"kl": 1.0, "reward": 1.0, "gold_win_rate": 0.6, "win_rate_interval": [0.6, 0.8],
                 "gold_win_rate_interval": [0.45, 0.7]},
        "gamed": {"kl": 9.0, "reward": 3.0, "gold_win_rate": 0.3, "win_rate_interval": [0.9, 1.0],
                  "gold_win_rate_interval": [0.2, 0.4]},
    }  # fmt: skip
    found = evaluate.over_distance(figures)
    assert found["over_optimised"] == "gamed"
    # Rewards 0, 1, 3 at distances 0, 1, 3: the line is exact.
    line = found["reward_by_sqrt_kl"]["linear"]
    assert (line["start"], line["slope"], line["r_squared"]) == pytest.approx((0.0, 1.0, 1.0), abs=1e-12)


def test_the_same_seed_gives_the_same_figures(make_run: MakeRun, moved_model: str, judge: str) -> None:
    found = []
    for name in ("first", "second"):
        options = {"policies": [{"name": "m", "model": moved_model}], "reward_model": judge, "sampling": SAMPLING}
        run_dir = make_run("evaluate", name=name, prompts=PROMPTS, options=options)
        assert main(["evaluate", "--run", str(run_dir)]) == EXIT_DONE
        found.append((summary_of(run_dir), (run_dir / "samples.jsonl").read_bytes()))
    assert found[0] == found[1]


def test_without_a_reward_model_only_what_can_be_known_is_told(make_run: MakeRun, moved_model: str) -> None:
    options = {"policies": [{"name": "moved", "model": moved_model}], "sampling": SAMPLING}
    run_dir = make_run("evaluate", prompts=PROMPTS, options=options)
    assert main(["evaluate", "--run", str(run_dir)]) == EXIT_DONE
    moved = summary_of(run_dir)["policies"]["moved"]
    assert "reward" not in moved
    assert "win_rate" not in moved
    assert moved["kl"] is not None
    assert {row.reward for row in read_samples(run_dir / "samples.jsonl")} == {None}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"reward_model": "/no/such/judge"}, "holds no reward.json"),
        ({"policies": [{"name": "gone", "model": "/no/such/policy"}]}, "/no/such/policy does not exist"),
        ({"policies": [{"name": "base", "model": "/x"}]}, "must have different names"),
    ],
)
def test_a_missing_model_is_refused_in_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], change: dict[str, Any], sentence: str
) -> None:
    good = make_run("evaluate", name="good", prompts=PROMPTS, options={"sampling": SAMPLING})
    assert main(["evaluate", "--run", str(good)]) == EXIT_DONE
    run_dir = make_run("evaluate", name="bad", prompts=PROMPTS, options={"sampling": SAMPLING, **change})
    capsys.readouterr()
    assert main(["evaluate", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_split_without_prompts_is_refused_in_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run("evaluate", prompts=PROMPTS[4:], options={"sampling": SAMPLING})
    assert main(["evaluate", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "no prompt in the held_out split" in capsys.readouterr().err
