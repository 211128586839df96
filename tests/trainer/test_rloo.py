"""RLOO and GRPO's advantages: by hand, against plain REINFORCE, and through the trainer's own command."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, OPTIM, PROMPTS, MakeRun, assert_same, kill_after, options, read_lines

from trainer import losses, modeling, rloo, rollout, tree
from trainer.__main__ import main
from trainer.config import RlooOptions, parse_run
from trainer.episodes import Actor, Episodes, measure
from trainer.layout import Layout
from trainer.manifest import verify_manifest
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE


def test_group_advantages_by_hand() -> None:
    # Rewards 1, 2, 6: the others' means are 4, 3.5, 1.5; the mean of all is 3; the standard deviation sqrt(14 / 2).
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    for way, expected in (
        ("leave_one_out", [-3.0, -1.5, 4.5]),
        ("group_mean", [-2.0, -1.0, 3.0]),
        ("group_normalised", [-0.7559003, -0.3779501, 1.1338504]),  # -2 / (2.6457513 + 0.0001), …
    ):
        found = losses.group_advantages(rewards, way)
        torch.testing.assert_close(found[0], torch.tensor(expected), rtol=1e-5, atol=1e-6)
        assert not found[1].any()


def some_groups() -> Episodes:
    """Three answers each, of lengths 1 to 4, to two prompts."""
    trees = [tree.Tree([5, 6, 7], [[12, 1], [13, 14, 15], [16]]), tree.Tree([8], [[20, 21, 22, 1], [20, 1], [23, 24]])]
    answers = [rollout.Answer(ids, "stop", [-1.0] * len(ids), 0.0) for one in trees for ids in one.completions]
    mask = torch.arange(4) < torch.tensor([len(answer.ids) for answer in answers])[:, None]
    scores = torch.tensor([1.0, 2.0, 6.0, 0.5, -0.5, 0.0])
    return Episodes(PROMPTS[:2], trees, answers, [""] * 6, scores[:, None], scores, mask)


def test_its_gradient_is_that_of_reinforce_with_the_others_as_baseline(tiny_model: str) -> None:
    given = options("judge", answers_per_prompt=3, importance_cap=None, optim={**OPTIM, "batch_size": 6})
    chosen = parse_run({"run_id": "r", "method": "rloo", "model": tiny_model, "options": given}).options
    assert isinstance(chosen, RlooOptions)
    rolled, layout = some_groups(), Layout("packed", 4096, CPU)
    policy = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    frozen = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    measures = measure(Actor(policy, frozen), rolled, [[0, 1]], chosen, layout)
    advantages = rloo.aim(rolled, measures, rolled.scores, 0.1, chosen)
    figures = rloo.backward(Actor(policy, frozen), rolled, measures, advantages, [0, 1], 0.1, chosen, layout)
    found = policy.get_input_embeddings().weight.grad.clone()
    assert figures["first_log_ratio"] == 0.0

    policy.zero_grad()
    total = torch.zeros(())
    for one, scores in zip(rolled.trees, rolled.scores.view(2, 3), strict=True):
        logps, penalised = [], []
        for completion, score in zip(one.completions, scores, strict=True):
            batch = tree.collate([tree.Tree(one.prompt, [completion])], CPU.device, "rows")
            logps.append(modeling.completion_logps(policy, batch).sum())
            with torch.no_grad():
                penalised.append(score - 0.1 * (logps[-1] - modeling.completion_logps(frozen, batch).sum()))
        for k, logp in enumerate(logps):
            others = torch.stack([value for j, value in enumerate(penalised) if j != k]).mean()
            total = total - (penalised[k] - others).detach() * logp / int(rolled.mask.sum())
    total.backward()
    torch.testing.assert_close(found, policy.get_input_embeddings().weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("adapters", "more"),
    [
        ({"rank": 4}, {}),
        (None, {"group_advantages": "group_normalised", "kl_in": "loss", "kl_estimator": "k3"}),
    ],
    ids=["leave_one_out", "grpo"],
)
def test_the_reward_rises(
    make_run: MakeRun, letter_judge: str, sharp_model: str, adapters: Any, more: dict[str, Any]
) -> None:
    # So many answers that the rise does not hang on which ones were drawn: of four seeds the least is 0.46.
    chosen = options(
        letter_judge, answers_per_prompt=8, **more, optim={**OPTIM, "learning_rate": 2e-2, "batch_size": 64}
    )
    run_dir = make_run("rloo", prompts=PROMPTS, model=sharp_model, lora=adapters, options=chosen, seed=1)
    assert main(["rloo", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    assert [row["first_log_ratio"] for row in rows] == [0.0] * 12
    assert rows[0]["kl"] == 0.0
    assert sum(row["reward"] for row in rows[-3:]) / 3 > rows[0]["reward"] + 0.2
    verify_manifest(run_dir / "final")
    assert "(plots/reward.svg)" in (run_dir / "report.md").read_text()


def test_groups_whose_answers_are_all_alike_teach_nothing_and_break_nothing(
    make_run: MakeRun, letter_judge: str
) -> None:
    # One token of answer that always is the likeliest one: every group is the same answer four times.
    sampling = {"max_new_tokens": 1, "temperature": 1e-4}
    chosen = options(letter_judge, answers_per_prompt=4, iterations=2, sampling=sampling)
    run_dir = make_run("rloo", prompts=PROMPTS, lora={"rank": 4}, options=chosen)
    assert main(["rloo", "--run", str(run_dir)]) == EXIT_DONE
    assert [row["groups_alike"] for row in read_lines(run_dir / "metrics.jsonl")] == [1.0, 1.0]


def test_a_run_killed_in_the_middle_of_anything_ends_as_an_uninterrupted_one(
    make_run: MakeRun, letter_judge: str
) -> None:
    more = {"kl_target": 0.5, "kl_horizon": 50, "kl_limit": 50.0, "keep": "best", "answers_per_prompt": 4}
    settings = {"prompts": PROMPTS, "lora": {"rank": 4}, "options": options(letter_judge, iterations=6, **more)}
    whole, run_dir = (make_run("rloo", name=name, checkpoint_steps=2, **settings) for name in ("whole", "killed"))
    assert main(["rloo", "--run", str(whole)]) == EXIT_DONE
    kill_after(run_dir, "rloo", 3)
    assert main(["rloo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)


def test_one_answer_a_prompt_is_no_group(
    make_run: MakeRun, letter_judge: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_dir = make_run("rloo", prompts=PROMPTS, options=options(letter_judge, answers_per_prompt=1))
    assert main(["rloo", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "at least 2: a group needs others" in capsys.readouterr().err
