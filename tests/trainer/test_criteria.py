"""Heads for criteria beside the ranking's: what labelers said of single answers, learned, masked, told and mixed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, WORDS, MakeRun, ask, build_tokenizer, read_lines
from test_methods import FAST, StopAfter, assert_same, summary_of

from trainer import data, reward, reward_model
from trainer.__main__ import main
from trainer.config import ConfigError, RewardOptions, load_run, parse_run
from trainer.jsonl import RecordError
from trainer.layout import Layout
from trainer.rankings import Group, group_comparisons
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED, Comparison, read_comparisons
from trainer.reward_model import load_reward, score_texts

CRITERIA = {"criteria": ["short", "loud"], "optim": FAST}


def rankings(train: int, held_out: int) -> list[Comparison]:
    """Return rankings that prefer long answers, judged by two criteria: `short` says the opposite, `loud` is not judged
    on every second prompt."""
    return [
        Comparison(
            f"c{n}",
            ask(f"is it {WORDS[n % 10]} {n}"),
            ("ja", "nein nein nein!", "doch doch"),
            ((1,), (2,), (0,)),
            labeler="labeler 0",
            split="train" if n < train else "held_out",
            judgements=(
                {"short": 7},
                {"short": 1} | ({"loud": 1.0} if n % 2 else {}),
                {"short": 4} | ({"loud": 0.0} if n % 2 else {}),
            ),
        )
        for n in range(train + held_out)
    ]


def scores(run_dir: Path, mix: dict[str, float]) -> list[float]:
    model = load_reward(str(run_dir / "final"), torch.float32, CPU.device, mix)
    found: list[float] = score_texts(
        model, [ask("is it red 99")] * 3, ["ja", "nein nein nein!", "doch doch"], 128
    ).tolist()
    return found


def test_a_criterion_that_contradicts_the_ranking_is_learned_by_its_head_and_spoils_nothing(make_run: MakeRun) -> None:
    optim = {**FAST, "epochs": 12.0}
    settings = {"comparisons": rankings(8, 4), "lora": {"rank": 4}}
    plain = make_run("reward", name="plain", **settings, options={"optim": optim})
    both = make_run("reward", name="both", **settings, options={**CRITERIA, "optim": optim})
    assert [main(["reward", "--run", str(folder)]) for folder in (plain, both)] == [EXIT_DONE] * 2

    assert summary_of(both)["held_out_accuracy"] == summary_of(plain)["held_out_accuracy"] == 1.0
    by_criterion = summary_of(both)["accuracy_by_criterion"]
    assert by_criterion["short"]["accuracy"] == by_criterion["loud"]["accuracy"] == 1.0
    # Three pairs on each of four held-out prompts, and one on the two on which `loud` was judged.
    assert (by_criterion["short"]["pairs"], by_criterion["loud"]["pairs"]) == (12, 2)
    lines = (both / "report.md").read_text().splitlines()
    assert lines[lines.index("## Accuracy by criterion") + 2] == "| criterion | accuracy | pairs |"
    last = read_lines(both / "metrics.jsonl")[-1]
    assert [last[key] for key in ("accuracy_on_short", "accuracy_on_loud", "accuracy")] == pytest.approx([1.0] * 3)

    short, long, middle = scores(both, {})  # as it was trained: the ranking alone
    assert long > middle > short
    short, long, middle = scores(both, {"short": 1.0})
    assert short > middle > long
    mixed = scores(both, {"ranking": 1.0, "short": -0.5})
    wanted = [a - 0.5 * b for a, b in zip(scores(both, {"ranking": 1.0}), scores(both, {"short": 1.0}), strict=True)]
    assert mixed == pytest.approx(wanted, abs=1e-5)


def test_a_run_with_criteria_and_heads_resumes_exactly(make_run: MakeRun) -> None:
    options = {**CRITERIA, "criteria": ["short=0.5", "loud"], "heads": 2, "reward_mix": ["ranking", "short=0.25"]}
    settings = {"comparisons": rankings(8, 2), "lora": {"rank": 4}, "options": options, "checkpoint_steps": 5}
    whole, run_dir = make_run("reward", name="whole", **settings), make_run("reward", name="stopped", **settings)
    assert main(["reward", "--run", str(whole)]) == EXIT_DONE
    assert reward.run(run_dir, load_run(run_dir), StopAfter(run_dir, 5)) == EXIT_STOPPED
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)
    facts = json.loads((whole / "final" / "reward.json").read_text())
    assert (facts["heads"], facts["mix"]) == (["ranking", "short", "loud"], {"ranking": 1.0, "short": 0.25})
    assert len(facts["mean"]) == 6


def gathered(rows: list[Comparison]) -> list[Group]:
    return group_comparisons(build_tokenizer(), rows, 128, data.Truncation(), criteria=("short", "loud"))


def losses(groups: list[Group], options: dict[str, Any], scores: torch.Tensor) -> float:
    given = RewardOptions(**options)
    ones = torch.ones(len(groups), 1)
    weight = sum(group.weight for group in groups)
    return reward.step_loss(scores, groups, ones, weight, given, []).item()


def test_the_loss_adds_each_criterions_pairs_by_its_weight_and_passes_over_what_was_not_judged() -> None:
    groups = gathered(rankings(2, 0))
    drawn = torch.randn(6, 3, 1, generator=torch.Generator().manual_seed(0))
    alone = losses(groups, {}, drawn)
    # `short` prefers 0 to 2 to 1 on both prompts; of the second prompt alone `loud` prefers 1 to 2.
    first, second = drawn[:3, :, 0], drawn[3:, :, 0]

    def lost(better: torch.Tensor, worse: torch.Tensor) -> float:
        return -torch.nn.functional.logsigmoid(better - worse).item()

    short = [sum(lost(r[a, 1], r[b, 1]) for a, b in ((0, 2), (0, 1), (2, 1))) / 3 for r in (first, second)]
    loud = [0.0, lost(second[1, 2], second[2, 2])]
    wanted = alone + 0.5 * sum(short) / 2 + 2 * sum(loud) / 2
    assert losses(groups, {"criteria": ("short=0.5", "loud=2")}, drawn) == pytest.approx(wanted, rel=1e-5)


def test_no_gradient_reaches_the_head_of_a_criterion_that_was_not_judged() -> None:
    groups = gathered(rankings(1, 0))  # the first prompt was not judged by `loud`
    drawn = torch.randn(3, 3, 1, requires_grad=True)
    given = RewardOptions(criteria=("short", "loud"))
    reward.step_loss(drawn, groups, torch.ones(1, 1), 1.0, given, []).backward()  # type: ignore[no-untyped-call]
    assert drawn.grad is not None
    assert drawn.grad[:, 2].abs().sum() == 0
    assert drawn.grad[:, 1].abs().sum() > 0


def test_answers_that_only_a_criterion_tells_apart_are_learned_from(make_run: MakeRun) -> None:
    rows = [
        dataclasses.replace(row, ranking=((0, 1, 2),)) if 2 <= number < 8 else row
        for number, row in enumerate(rankings(8, 2))
    ]
    assert [len(group.pairs) for group in gathered(rows)] == [3] * 2 + [0] * 6 + [3] * 2
    run_dir = make_run("reward", comparisons=rows, options={**CRITERIA, "loss": "plackett_luce"})
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    assert summary_of(run_dir)["accuracy_by_criterion"]["short"]["accuracy"] == 1.0


def test_a_criterion_by_which_nothing_is_told_apart_is_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run("reward", comparisons=rankings(4, 0), options={"criteria": ["kind"]})
    assert main(["reward", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "names kind, by which no ranking" in capsys.readouterr().err
    without = [dataclasses.replace(row, judgements=()) for row in rankings(4, 0)]
    run_dir = make_run("reward", name="none", comparisons=without, options={"criteria": ["short"]})
    assert main(["reward", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "labelers judged by no criterion at all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"criteria": ["ranking"]}, "must not name ranking"),
        ({"criteria": ["short=0"]}, "must weigh more than 0"),
        ({"criteria": ["short=much"]}, "must be a name, or a name and its weight"),
        ({"criteria": ["short", "short=2"]}, "short is named twice"),
        ({"criteria": ["short"], "reward_mix": ["ranking", "loud"]}, "names loud, but options.criteria does not"),
    ],
)
def test_criteria_that_cannot_be_are_refused(options: dict[str, Any], sentence: str) -> None:
    given = {"run_id": "r", "method": "reward", "model": "m", "options": options}
    with pytest.raises(ConfigError, match=sentence):
        parse_run(given)
    parse_run({**given, "options": {"criteria": ["short=0.5"], "reward_mix": ["ranking", "short=-1"]}})


def test_a_mix_of_heads_that_the_model_has_not_is_one_sentence(two_headed_judge: str) -> None:
    load_reward(two_headed_judge, torch.float32, CPU.device, {"ranking": 2.0})
    with pytest.raises(
        ConfigError, match="names honest, of which the reward model has no head; it has heads for ranking"
    ):
        load_reward(two_headed_judge, torch.float32, CPU.device, {"honest": 1.0})


def test_the_reward_as_a_linear_map_of_hidden_states_is_the_mix_of_its_heads(tiny_model: str) -> None:
    config = parse_run(
        {
            "run_id": "r",
            "method": "reward",
            "model": tiny_model,
            "options": {"heads": 2, "models": 2, "criteria": ["a"]},
        }
    )
    model = reward_model.new_reward_model(config, CPU, build_tokenizer())
    model.mean.copy_(torch.randn(8))
    model.std.copy_(torch.rand(8) + 0.5)
    model.use({"ranking": 1.0, "a": -0.5})
    hidden = torch.randn(5, 64)
    raw = torch.cat([model.by_name(hidden @ one.score.weight.T) for one in model.members], dim=2).flatten(1)
    weights, bias = model.linear()
    wanted = model.reward((raw - model.mean) / model.std).mean(dim=1)
    torch.testing.assert_close(hidden @ weights + bias, wanted, rtol=1e-4, atol=1e-4)


def test_judgements_are_read_as_they_stand_and_what_they_cannot_be_is_refused(tmp_path: Path) -> None:
    line = {"id": "c", "messages": [{"role": "user", "content": "q"}], "completions": ["a", "b"], "ranking": [[0], [1]]}
    path = tmp_path / "comparisons.jsonl"

    def read(judgements: Any) -> Comparison:
        path.write_text(json.dumps({**line, "judgements": judgements}) + "\n")
        return read_comparisons(path)[0]

    assert read([{"kind": 3, "safe": True}, {}]).judgements == ({"kind": 3.0, "safe": 1.0}, {})
    assert read([{"kind": 3}, {"kind": 5}]).levels("kind") == [(1,), (0,)]
    assert read(None).judgements == ()
    for wrong, sentence in (
        ([{"kind": 3}], "one for each completion"),
        ([{"kind": "much"}, {}], "must be a number, true or false"),
        ({"0": {"kind": 3}}, "must be a list of objects"),
    ):
        with pytest.raises(RecordError, match=sentence):
            read(wrong)


def test_scores_of_several_heads_come_apart_by_name(tiny_model: str) -> None:
    options = {"criteria": ["a"], "heads": 2, "models": 2}
    config = parse_run({"run_id": "r", "method": "reward", "model": tiny_model, "options": options})
    model = reward_model.new_reward_model(config, CPU, build_tokenizer())
    trees = [data.encode(build_tokenizer(), ask("why"), ["so", "not so"], 64, data.Truncation())]
    (together,) = reward_model.score_all(model, trees, Layout("packed", 4096, CPU))
    assert (model.size, together.shape) == (4, (2, 8))
    named = model.by_name(together)
    (batch,) = [batch for _, batch in Layout("packed", 4096, CPU).batches(trees)]
    with torch.no_grad():
        for number in range(2):
            own = model.by_name(model(batch, number))
            torch.testing.assert_close(named[:, :, 2 * number : 2 * number + 2], own)
