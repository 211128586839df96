"""The score run: what a reward model's heads say of tasks that nobody has judged yet."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from builders import MakeRun, ask, read_lines, some_comparisons
from torch.testing import assert_close

from bench import race
from trainer import reward_model
from trainer.__main__ import main
from trainer.jsonl import RecordError
from trainer.layout import Layout
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, Comparison, read_scores
from trainer.reward_model import RewardModel
from trainer.score import describe, entropy, information
from trainer.tree import Tree

OPEN = [Comparison(f"t{n}", ask(f"is it {n}"), ("no", "yes!", "hm it is"), ()) for n in range(40)]


def test_heads_that_contradict_each_other_tell_more_than_heads_that_agree_on_a_toss_up() -> None:
    # Odds of 3 to 1 and 1 to 3: together 1/2, entropy ln 2 = 0.693147; each alone
    # -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.562335; the difference is 0.130812.
    ln3 = math.log(3)
    found = information(torch.tensor([[ln3, -ln3], [0.0, 0.0], [4.0, 4.0]], dtype=torch.float64))
    assert_close(found, torch.tensor([0.130812, 0.0, 0.0], dtype=torch.float64), rtol=1e-5, atol=1e-9)
    assert entropy(torch.tensor(ln3)).item() == pytest.approx(0.562335, rel=1e-5)
    # Heads that are sure of opposite things: the whole bit, and nothing that is not finite.
    assert information(torch.tensor([[60.0, -60.0]])).item() == pytest.approx(math.log(2), rel=1e-5)


def test_a_task_is_described_by_its_pairs() -> None:
    # Differences of the pairs (0,1), (0,2), (1,2) by head: (1, 3), (2, 2), (1, -1).
    # Spread: 1, 0, 1, mean 2/3. Margin: |2|, |2|, |0|, mean 4/3.
    found = describe("t", torch.tensor([[2.0, 2.0], [1.0, -1.0], [0.0, 0.0]]))
    assert found.scores == (2.0, 0.0, 0.0)
    assert found.spread == pytest.approx(2 / 3, rel=1e-6)
    assert found.margin == pytest.approx(4 / 3, rel=1e-6)


def test_every_open_task_gets_a_line_by_a_trained_ensemble(make_run: MakeRun) -> None:
    optim = {"max_steps": 4, "learning_rate": 1e-3}
    trained = make_run("reward", comparisons=some_comparisons(12), options={"heads": 3, "optim": optim})
    assert main(["reward", "--run", str(trained)]) == EXIT_DONE

    run_dir = make_run("score", name="score", comparisons=OPEN, model=str(trained / "final"))
    assert main(["score", "--run", str(run_dir)]) == EXIT_DONE
    scores = read_scores(run_dir / "scores.jsonl")
    assert [row.id for row in scores] == [row.id for row in OPEN]
    assert all(len(row.scores) == 3 and row.information > 0 and row.spread > 0 for row in scores)
    assert [(row["step"], row["total_steps"]) for row in read_lines(run_dir / "metrics.jsonl")] == [(32, 40), (40, 40)]
    assert "40 tasks scored by 3 heads." in (run_dir / "report.md").read_text(encoding="utf-8")

    before = (run_dir / "scores.jsonl").read_bytes()
    assert main(["score", "--run", str(run_dir)]) == EXIT_DONE
    assert (run_dir / "scores.jsonl").read_bytes() == before


def test_a_prompt_is_read_once_for_all_its_answers(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make_run("reward", comparisons=some_comparisons(4), options={"optim": {"max_steps": 1}})
    assert main(["reward", "--run", str(trained)]) == EXIT_DONE
    score_all, read, least = reward_model.score_all, [], []

    def counted(model: RewardModel, trees: Sequence[Tree], layout: Layout) -> list[torch.Tensor]:
        with race.counting(model.trunk) as positions:
            found = score_all(model, trees, layout)
        if len(trees[0].completions) > 1:  # else it is what a reward model is tried on when it is loaded
            read.append(sum(positions))
            least.append(sum(tree.length for tree in trees))
        return found

    monkeypatch.setattr(reward_model, "score_all", counted)
    run_dir = make_run("score", name="score", comparisons=OPEN, model=str(trained / "final"))
    assert main(["score", "--run", str(run_dir)]) == EXIT_DONE
    assert (len(read), read) == (2, least)


def test_what_is_no_reward_model_and_no_task_are_refused_in_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, comparisons, sentence in (("policy", OPEN, "holds no reward.json"), ("none", [], "no task to score")):
        run_dir = make_run("score", name=name, comparisons=comparisons)
        assert main(["score", "--run", str(run_dir)]) == EXIT_BAD_INPUT
        assert sentence in capsys.readouterr().err


def test_a_score_that_is_no_number_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('{"id": "t", "scores": [1], "information": NaN, "spread": 0, "margin": 0}\n')
    with pytest.raises(RecordError, match="not finite"):
        read_scores(path)
    path.write_text('{"id": "t", "scores": [1], "information": 0.1, "spread": 0, "margin": 0}\n')
    assert read_scores(path)[0].scores == (1,)
